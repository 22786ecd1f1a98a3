"""Connectors: the built-in one, over the passages of the plane's own pinned documents."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError

from app.connectors.values import (
    Caps,
    ConnectorDocument,
    ConnectorFailedError,
    ConnectorRefusedError,
    ConnectorResult,
    within_caps,
)
from app.kernel.errors import HocError
from app.kernel.inputs import Identifier, Input, Text
from app.kernel.pages import encode_cursor, read_cursor

_ACTIONS = frozenset({"search", "query", "retrieve", "list"})


class SearchPayload(Input):
    """Payload of search and query."""

    text: Annotated[Text, StringConstraints(min_length=1, max_length=4096)]
    limit: int = Field(10, ge=1, le=100)
    match: Literal["any", "all"] = "any"


class RetrievePayload(Input):
    """Payload of retrieve."""

    artifact_ids: Annotated[list[Identifier], Field(min_length=1, max_length=100)]


class ListPayload(Input):
    """Payload of list."""

    limit: int = Field(10, ge=1, le=100)
    cursor: Annotated[Text, StringConstraints(min_length=1, max_length=4096)] | None = None


@dataclass(frozen=True, slots=True)
class RepositoryReads:
    """The reads behind the connector, handed in by the spine: it joins two slices that never meet.

    find_documents, read_documents and list_documents are of the plane's search; query_tokens is
    the repository's tokenizer, list_live its look-up of which artifacts are neither deleted nor redacted.
    """

    find_documents: Callable[..., Any]
    read_documents: Callable[..., tuple[list[dict[str, Any]], set[str], bool]]
    list_documents: Callable[..., list[dict[str, Any]]]
    query_tokens: Callable[[str], list[str]]
    list_live: Callable[..., Collection[str]]


@dataclass(frozen=True, slots=True)
class _Access:
    """One call: the unit it reads in, whose plane it is, and until when."""

    connection: Any
    tenant_id: str
    plane: Mapping[str, Any]
    deadline: float

    def keys(self) -> dict[str, Any]:
        """Return the arguments every read takes; raise CONNECTOR_TIMEOUT when time is up."""
        if time.monotonic() > self.deadline:
            raise ConnectorFailedError("CONNECTOR_TIMEOUT", "the deadline passed between two statements")
        return {"tenant_id": self.tenant_id, "plane": self.plane}


class RepositoryConnector:
    """Serves search, query, retrieve and list; the pinned revision, even after the head moved on."""

    actions = _ACTIONS
    reads_database = True

    def __init__(self, reads: RepositoryReads) -> None:
        self._reads = reads

    def check(self, *, action: str, payload: Mapping[str, Any], config: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Raise ConnectorRefusedError for an unknown action, an unfit payload, or no search token."""
        parsed = self._parse(action, payload)
        if isinstance(parsed, SearchPayload):
            self._tokens(parsed)

    def execute(
        self,
        connection: Any,
        *,
        tenant_id: str,
        plane: Mapping[str, Any],
        action: str,
        payload: Mapping[str, Any],
        config: Mapping[str, Any],  # noqa: ARG002
        caps: Caps,
        deadline: float,
    ) -> ConnectorResult:
        """Return documents that the plane serves; a deleted or redacted artifact is withheld at once."""
        parsed = self._parse(action, payload)
        access = _Access(connection, tenant_id, plane, deadline)
        if isinstance(parsed, SearchPayload):
            return self._search(access, parsed, caps)
        if isinstance(parsed, RetrievePayload):
            return self._retrieve(access, parsed, caps)
        return self._list(access, parsed, caps)

    def _parse(
        self, action: str, payload: Mapping[str, Any]
    ) -> SearchPayload | RetrievePayload | ListPayload:
        if action not in _ACTIONS:
            raise ConnectorRefusedError("ACTION_NOT_SUPPORTED", "the repository connector has no such action")
        model: type[SearchPayload | RetrievePayload | ListPayload] = SearchPayload
        if action in ("retrieve", "list"):
            model = RetrievePayload if action == "retrieve" else ListPayload
        try:
            return model.model_validate(dict(payload), strict=True)
        except ValidationError as error:
            places = ", ".join(sorted({".".join(map(str, item["loc"])) for item in error.errors()}))
            raise ConnectorRefusedError("INVALID_PAYLOAD", f"does not fit at: {places}") from error

    def _tokens(self, payload: SearchPayload) -> list[str]:
        tokens = self._reads.query_tokens(payload.text)
        if not tokens:
            raise ConnectorRefusedError("INVALID_PAYLOAD", "text holds no word to search for")
        return tokens

    def _search(self, access: _Access, payload: SearchPayload, caps: Caps) -> ConnectorResult:
        # One more than the cap tells that there are more.
        found = self._reads.find_documents(
            access.connection,
            **access.keys(),
            wanted=self._tokens(payload),
            match_all=payload.match == "all",
            limit=min(payload.limit, caps.max_documents + 1),
        )
        hits = found.documents[: caps.max_documents]
        documents, dropped = within_caps([_document(row) for row in hits if row["live"]], caps)
        return ConnectorResult(
            documents,
            truncated=dropped or len(hits) < len(found.documents),
            candidates_capped=found.capped,
        )

    def _retrieve(self, access: _Access, payload: RetrievePayload, caps: Caps) -> ConnectorResult:
        wanted = tuple(dict.fromkeys(payload.artifact_ids))
        live = self._reads.list_live(access.connection, tenant_id=access.tenant_id, artifact_ids=wanted)
        rows, unserved, cut = self._reads.read_documents(
            access.connection,
            **access.keys(),
            artifact_ids=[artifact_id for artifact_id in wanted if artifact_id in live],
            max_documents=caps.max_documents,
            max_bytes=caps.max_response_bytes,
        )
        documents, dropped = within_caps([_document(row) for row in rows], caps)
        missing = tuple(item for item in wanted if item not in live or item in unserved)
        return ConnectorResult(documents, truncated=cut or dropped, missing=missing)

    def _list(self, access: _Access, payload: ListPayload, caps: Caps) -> ConnectorResult:
        binding = f"{access.tenant_id} {access.plane['plane_id']} list"
        try:
            (after,) = read_cursor(payload.cursor, binding, str) or (None,)
        except HocError as error:
            raise ConnectorRefusedError("INVALID_PAYLOAD", "cursor is of another list") from error
        limit = min(payload.limit, caps.max_documents)
        rows = self._reads.list_documents(access.connection, **access.keys(), after=after, limit=limit + 1)
        page = rows[:limit]
        live = self._live(access, page)
        cursor = encode_cursor(binding, [page[-1]["artifact_id"]]) if len(rows) > limit else None
        return ConnectorResult(
            tuple(_document(row) for row in page if row["artifact_id"] in live), next_cursor=cursor
        )

    def _live(self, access: _Access, rows: Sequence[Mapping[str, Any]]) -> Collection[str]:
        access.keys()
        ids = [row["artifact_id"] for row in rows]
        if not ids:
            return ()
        return self._reads.list_live(access.connection, tenant_id=access.tenant_id, artifact_ids=ids)


def _document(row: Mapping[str, Any]) -> ConnectorDocument:
    return ConnectorDocument(
        doc_ref=row["artifact_id"],
        digest=row["digest"],
        artifact_id=row["artifact_id"],
        revision=row["revision"],
        revision_digest=row["revision_digest"],
        name=row["name"],
        media_type=row["media_type"],
        score=row.get("score"),
        passages=tuple(row.get("passages", ())),
        text=row.get("text"),
    )
