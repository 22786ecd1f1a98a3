"""Connectors: what every connector takes and gives: caps, documents, results, refusals and failures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from app.kernel.canonical_json import dumps

RefusalCode = Literal["ACTION_NOT_SUPPORTED", "INVALID_PAYLOAD", "TEMPLATE_NOT_ALLOWED"]
FailureCode = Literal[
    "CONNECTOR_ERROR",
    "CREDENTIAL_UNAVAILABLE",
    "HOST_NOT_ALLOWED",
    "RESPONSE_INVALID",
    "RESPONSE_TOO_LARGE",
    "CONNECTOR_TIMEOUT",
    "CONNECTOR_BUSY",
    "CONNECTOR_UNAVAILABLE",
]


class ConnectorRefusedError(Exception):
    """The request does not fit the connector; found before anything is read. `detail` is for the log."""

    def __init__(self, code: RefusalCode, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class ConnectorFailedError(Exception):
    """The source did not answer as it should; `detail` is for the log and holds no value.

    `lasting` tells that another try cannot help: somebody has to change the plane or its source.
    """

    def __init__(self, code: FailureCode, detail: str, *, lasting: bool = False) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.lasting = lasting


@dataclass(frozen=True, slots=True)
class Caps:
    """The most that one access returns; None is no limit."""

    max_documents: int
    max_response_bytes: int
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ConnectorDocument:
    """One document of an answer: a repository artifact at a revision, or a row of a foreign source.

    `digest` is `sha256:<hex>` of the content or the canonical row. The text is in `passages` ({passage_no,
    start, end, text}), in `text`, or in `row`; a reference has none of them.
    """

    doc_ref: str
    digest: str
    artifact_id: str | None = None
    revision: int | None = None
    revision_digest: str | None = None
    name: str | None = None
    media_type: str | None = None
    score: int | None = None
    passages: tuple[Mapping[str, Any], ...] = ()
    text: str | None = None
    row: Mapping[str, Any] | None = None

    def citation(self) -> dict[str, Any]:
        """Return what evidence keeps of the document: identity, digests and places, never text."""
        if self.artifact_id is None:
            return {"doc_ref": self.doc_ref, "digest": self.digest}
        return {
            "artifact_id": self.artifact_id,
            "revision": self.revision,
            "digest": self.digest,
            "revision_digest": self.revision_digest,
            "passages": [[part["passage_no"], part["start"], part["end"]] for part in self.passages],
        }

    def answer(self) -> dict[str, Any]:
        """Return the document as the answer shows it, without the members that do not apply."""
        if self.artifact_id is None:
            return {"doc_ref": self.doc_ref, "digest": self.digest, "row": dict(self.row or {})}
        shown: dict[str, Any] = {
            "artifact_id": self.artifact_id,
            "revision": self.revision,
            "digest": self.digest,
            "revision_digest": self.revision_digest,
            "name": self.name,
            "media_type": self.media_type,
        }
        if self.score is not None:
            shown["score"] = self.score
            shown["passages"] = [dict(part) for part in self.passages]
        if self.text is not None:
            shown["text"] = self.text
        return shown

    def texts(self) -> Iterator[str]:
        """Yield each text that the document gives away."""
        for part in self.passages:
            yield part["text"]
        if self.text is not None:
            yield self.text
        if self.row is not None:
            yield dumps(dict(self.row))

    def size(self) -> tuple[int, int]:
        """Return the UTF-8 bytes and the tokens (a quarter of each text's bytes, rounded up) given away."""
        sizes = [len(text.encode()) for text in self.texts()]
        return sum(sizes), sum(-(-size // 4) for size in sizes)


@dataclass(frozen=True, slots=True)
class ConnectorResult:
    """What an access returns, after caps.

    `missing` are asked-for ids that the plane does not serve (now), `candidates_capped` that a search left
    passages out, `next_cursor` where a list goes on.
    """

    documents: tuple[ConnectorDocument, ...]
    truncated: bool = False
    missing: tuple[str, ...] = ()
    candidates_capped: bool = False
    next_cursor: str | None = None


class PlaneConnector(Protocol):
    """The door to one kind of source. `reads_database` tells that it needs the spine's read unit."""

    @property
    def actions(self) -> frozenset[str]: ...

    @property
    def reads_database(self) -> bool: ...

    def check(self, *, action: str, payload: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """Raise ConnectorRefusedError when action or payload do not fit; reads nothing."""

    def execute(
        self,
        connection: Any,
        *,
        tenant_id: str,
        plane: Mapping[str, Any],
        action: str,
        payload: Mapping[str, Any],
        config: Mapping[str, Any],
        caps: Caps,
        deadline: float,
    ) -> ConnectorResult:
        """Return the documents within the caps; raise ConnectorRefusedError or ConnectorFailedError.

        `plane` holds plane_id, generation, passage_count, token_total, config_digest; `config` is its
        configuration with every default; `deadline` is of `time.monotonic()`.
        """


class ForeignConnector(PlaneConnector, Protocol):
    """The door to a source outside: its documents stay there, so it is verified and sampled through it."""

    def verify(
        self, *, tenant_id: str, plane: Mapping[str, Any], config: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Check that the source can be read as configured and tell its shape; raise ConnectorFailedError."""

    def sample(
        self, *, tenant_id: str, plane: Mapping[str, Any], config: Mapping[str, Any], rows: int
    ) -> Sequence[str]:
        """Return the text of at most `rows` rows that the source serves; raise ConnectorFailedError."""


def within_caps(
    documents: Sequence[ConnectorDocument], caps: Caps
) -> tuple[tuple[ConnectorDocument, ...], bool]:
    """Return the longest head of the documents that fits the caps, and whether anything was dropped."""
    kept: list[ConnectorDocument] = []
    total_bytes = total_tokens = 0
    for document in documents[: caps.max_documents]:
        size, tokens = document.size()
        total_bytes += size
        total_tokens += tokens
        if total_bytes > caps.max_response_bytes or (
            caps.max_tokens is not None and total_tokens > caps.max_tokens
        ):
            break
        kept.append(document)
    return tuple(kept), len(kept) < len(documents)
