"""L5 rules of ingest: what is read, how a document is made ready, how a generation is written and settled.

An ingest writes for the generation after the one that the plane serves; nothing of it is visible until its
completion moves the generation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from app.db.connection import DriverConnection
from app.domains.knowledge.drivers import plane_documents, plane_passages, plane_terms
from app.domains.knowledge.engines.passages import (
    Passage,
    Tokenizer,
    cut_passages,
    encode_terms,
    term_changes,
)
from app.domains.knowledge.engines.scan import Scan, scan_text
from app.kernel.canonical_json import dumps
from app.kernel.hashing import text_hash

BATCH_DOCUMENTS: Final = 100
BATCH_BYTES: Final = 4 * 1024 * 1024
MAX_DOCUMENTS: Final = 100_000
MAX_TEXT_BYTES: Final = 100_000_000
MAX_FILE_BYTES: Final = 8 * 1024 * 1024
KEPT_DIAGNOSTICS: Final = 100
ARTIFACT_TYPE: Final = "document"
MEDIA_TYPES: Final[Mapping[str, str]] = {
    ".txt": "text/plain; charset=utf-8",
    ".md": "text/markdown; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
    ".json": "application/json",
    ".html": "text/html; charset=utf-8",
}


@dataclass(frozen=True, slots=True)
class Pin:
    """An artifact at the revision that a plane is to serve."""

    artifact_id: str
    revision: int
    revision_digest: str
    content_digest: str
    name: str
    media_type: str | None
    size_bytes: int


@dataclass(frozen=True, slots=True)
class IndexedDocument:
    """A pinned document with its passages and its scan, ready to be written."""

    pin: Pin
    passages: tuple[Passage, ...]
    scan: Scan


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a plane serves in one generation."""

    generation: int
    document_count: int
    passage_count: int
    token_total: int
    pins_digest: str


def media_type_of(name: str) -> str | None:
    """Return the media type of a file that is ingested by its suffix, or None."""
    dot = name.rfind(".")
    return MEDIA_TYPES.get(name[dot:].lower()) if dot >= 0 else None


def decode_text(content: bytes) -> str | None:
    """Return strict UTF-8 as text; None for anything else and for U+0000, which no column holds."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    return None if "\x00" in text else text


def index_document(pin: Pin, text: str, *, tokenizer: Tokenizer) -> IndexedDocument:
    """Cut, tokenize and scan one text."""
    return IndexedDocument(pin, tuple(cut_passages(text, tokenizer)), scan_text(text))


def within_limits(*, documents: int, text_bytes: int) -> bool:
    """Tell whether a plane may serve this much."""
    return documents <= MAX_DOCUMENTS and text_bytes <= MAX_TEXT_BYTES


def first_batch(sizes: Iterable[int]) -> int:
    """Return how many of these items make one batch: 100 or 4 MiB, but at least one."""
    count = total = 0
    for size in sizes:
        total += size
        if count and (count >= BATCH_DOCUMENTS or total > BATCH_BYTES):
            break
        count += 1
    return count


def write_batch(
    connection: DriverConnection,
    *,
    tenant_id: str,
    plane_id: str,
    generation: int,
    documents: Sequence[IndexedDocument],
    now: datetime,
) -> int:
    """Write documents, passages and term changes of a generation that is not visible yet; return how many.

    A document that the generation already holds is left alone.
    """
    ids = [document.pin.artifact_id for document in documents]
    held = plane_documents.list_pins(
        connection, tenant_id=tenant_id, plane_id=plane_id, generation=generation, artifact_ids=ids
    )
    new = [document for document in documents if document.pin.artifact_id not in held]
    if not new:
        return 0
    plane_documents.insert_documents(
        connection,
        tenant_id=tenant_id,
        rows=[_document_row(plane_id, generation, document, now) for document in new],
    )
    plane_passages.insert_passages(
        connection,
        tenant_id=tenant_id,
        plane_id=plane_id,
        generation=generation,
        rows=[
            _passage_row(document.pin.artifact_id, passage)
            for document in new
            for passage in document.passages
        ],
    )
    plane_terms.set_staged_changes(
        connection,
        tenant_id=tenant_id,
        plane_id=plane_id,
        changes=term_changes((passage for document in new for passage in document.passages), sign=1),
    )
    return len(new)


def settle_generation(
    connection: DriverConnection, *, tenant_id: str, plane_id: str, generation: int
) -> Statistics:
    """Count what a generation will show and move its staged term changes into the frequencies."""
    keys: dict[str, Any] = {"tenant_id": tenant_id, "plane_id": plane_id}
    plane_terms.set_settled(connection, **keys)
    plane_passages.set_index_merged(connection, tenant_id=tenant_id)
    passages, tokens = plane_passages.count_visible(connection, **keys, generation=generation)
    pins = plane_documents.list_pin_digests(connection, **keys, generation=generation)
    return Statistics(generation, len(pins), passages, tokens, pins_digest(pins))


def pins_digest(pins: Iterable[tuple[str, int, str]]) -> str:
    """Return the hash of the pins: of the canonical list of [artifact, revision, revision digest], sorted."""
    return text_hash(dumps([list(pin) for pin in sorted(pins)]))


def set_statistics(
    connection: DriverConnection, *, tenant_id: str, plane_id: str, values: Mapping[str, Any]
) -> None:
    """Write the derived columns of the registry row; nothing that a fact holds changes."""
    plane_documents.set_statistics(connection, tenant_id=tenant_id, plane_id=plane_id, values=values)


def sweep_staged(connection: DriverConnection, *, tenant_id: str, plane_id: str, generation: int) -> None:
    """Take back whatever a failed or cancelled ingest wrote after the generation that is served."""
    keys: dict[str, Any] = {"tenant_id": tenant_id, "plane_id": plane_id}
    plane_terms.set_unstaged(connection, **keys)
    plane_passages.delete_staged(connection, **keys, generation=generation)
    plane_documents.delete_staged(connection, **keys, generation=generation)


def forget_artifacts(
    connection: DriverConnection,
    *,
    tenant_id: str,
    artifact_ids: Sequence[str],
    revisions: Sequence[int] | None = None,
) -> int:
    """Delete what planes hold of artifacts, at these revisions (None: all), as their redaction demands.

    Returns how many passages there were. The statistics of the planes stay as they are until their next
    refresh. The pins go too: they bear the name, and a document without its text must not be served.
    """
    wanted: dict[str, Any] = {"tenant_id": tenant_id, "artifact_ids": artifact_ids, "revisions": revisions}
    count = plane_passages.delete_artifact_passages(connection, **wanted)
    plane_documents.delete_artifact_documents(connection, **wanted)
    return count


def _document_row(plane_id: str, generation: int, document: IndexedDocument, now: datetime) -> dict[str, Any]:
    pin, scan = document.pin, document.scan
    return {
        "plane_id": plane_id,
        "artifact_id": pin.artifact_id,
        "gen_from": generation,
        "gen_to": None,
        "revision": pin.revision,
        "revision_digest": pin.revision_digest,
        "content_digest": pin.content_digest,
        "name": pin.name,
        "media_type": pin.media_type,
        "size_bytes": pin.size_bytes,
        "token_count": sum(len(passage.terms) for passage in document.passages),
        "passage_count": len(document.passages),
        "sensitivity_level": scan.level.value,
        "pii_counts": dumps(scan.pii_counts),
        "categories": dumps(list(scan.categories)),
        "pinned_at": now,
    }


def _passage_row(artifact_id: str, passage: Passage) -> dict[str, Any]:
    return {
        "artifact_id": artifact_id,
        "passage_no": passage.passage_no,
        "start_char": passage.start,
        "end_char": passage.end,
        "text": passage.text,
        "term_total": len(passage.terms),
        "terms": encode_terms(passage.terms),
    }
