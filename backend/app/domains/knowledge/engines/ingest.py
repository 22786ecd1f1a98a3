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
from app.domains.knowledge.drivers import plane_documents, plane_passages, plane_registry, plane_terms
from app.domains.knowledge.engines.passages import (
    Passage,
    Tokenizer,
    cut_passages,
    encode_terms,
    stored_term_counts,
    term_counts,
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

    A document that the generation already holds at this revision is left alone; one that an earlier
    generation holds at another revision ends with it.
    """
    keys: dict[str, Any] = {"tenant_id": tenant_id, "plane_id": plane_id, "generation": generation}
    ids = [document.pin.artifact_id for document in documents]
    held = plane_documents.list_pins(connection, **keys, artifact_ids=ids)
    new = [document for document in documents if not _is_held(document.pin, held)]
    if not new:
        return 0
    replaced = [document.pin.artifact_id for document in new if document.pin.artifact_id in held]
    retire(connection, **keys, artifact_ids=replaced)
    plane_documents.insert_documents(
        connection,
        tenant_id=tenant_id,
        rows=[_document_row(plane_id, generation, document, now) for document in new],
    )
    plane_passages.insert_passages(
        connection,
        **keys,
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
        changes=term_counts(passage for document in new for passage in document.passages),
    )
    return len(new)


def list_held(
    connection: DriverConnection,
    *,
    tenant_id: str,
    plane_id: str,
    generation: int,
    artifact_ids: Sequence[str],
) -> dict[str, int]:
    """Return the revision at which a generation holds each of these artifacts, as far as it does."""
    pins = plane_documents.list_pins(
        connection, tenant_id=tenant_id, plane_id=plane_id, generation=generation, artifact_ids=artifact_ids
    )
    return {artifact_id: row["revision"] for artifact_id, row in pins.items()}


def list_page(
    connection: DriverConnection, *, tenant_id: str, plane_id: str, generation: int, after: str | None
) -> list[str]:
    """Return one batch of the artifacts that a generation holds by id, after one of them."""
    rows = plane_documents.list_served(
        connection,
        tenant_id=tenant_id,
        plane_id=plane_id,
        generation=generation,
        after=after,
        limit=BATCH_DOCUMENTS,
    )
    return [row["artifact_id"] for row in rows]


def retire(
    connection: DriverConnection,
    *,
    tenant_id: str,
    plane_id: str,
    generation: int,
    artifact_ids: Sequence[str],
) -> None:
    """Let what earlier generations hold of these artifacts end before this one, terms included."""
    if not artifact_ids:
        return
    keys: dict[str, Any] = {"tenant_id": tenant_id, "plane_id": plane_id}
    plane_documents.set_retired(connection, **keys, generation=generation, artifact_ids=artifact_ids)
    ended = plane_passages.set_retired(connection, **keys, generation=generation, artifact_ids=artifact_ids)
    counts = stored_term_counts(ended)
    plane_terms.set_staged_changes(
        connection, **keys, changes={term: -count for term, count in counts.items()}
    )


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


def count_changes(
    connection: DriverConnection, *, tenant_id: str, plane_id: str, generation: int
) -> dict[str, int]:
    """Return how many documents a generation adds, changes and removes against the one before it."""
    added, changed, removed = plane_documents.count_changes(
        connection, tenant_id=tenant_id, plane_id=plane_id, generation=generation
    )
    return {"added": added, "changed": changed, "removed": removed}


def sweep_ended(connection: DriverConnection, *, tenant_id: str, plane_id: str, generation: int) -> int:
    """Delete what no access can see any more: what ended with or before the generation that is served."""
    keys: dict[str, Any] = {"tenant_id": tenant_id, "plane_id": plane_id, "generation": generation}
    plane_passages.delete_ended(connection, **keys)
    return plane_documents.delete_ended(connection, **keys)


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

    Returns how many passages there were. The terms of each plane stay exact; its statistics stay as they are
    until its next refresh. The pins go too: they bear the name, and a document without its text must not be
    served. Under the tenant's repository lock, as is every move of a generation.
    """
    wanted: dict[str, Any] = {"tenant_id": tenant_id, "artifact_ids": artifact_ids, "revisions": revisions}
    gone = plane_passages.delete_artifact_passages(connection, **wanted)
    plane_documents.delete_artifact_documents(connection, **wanted)
    by_plane: dict[str, list[Mapping[str, Any]]] = {}
    for row in gone:
        by_plane.setdefault(row["plane_id"], []).append(row)
    served = plane_registry.list_generations(connection, tenant_id=tenant_id, plane_ids=list(by_plane))
    for plane_id, rows in by_plane.items():
        changes = _lost_terms(rows, generation=served[plane_id])
        plane_terms.set_changed(connection, tenant_id=tenant_id, plane_id=plane_id, changes=changes)
    return len(gone)


def _lost_terms(rows: Sequence[Mapping[str, Any]], *, generation: int) -> dict[str, tuple[int, int]]:
    """Return by how much the loss of passages changes each frequency, and what is staged for it."""
    now = [row["terms"] for row in rows if _is_visible(row, generation)]
    then = [row["terms"] for row in rows if _is_visible(row, generation + 1)]
    served, next_served = stored_term_counts(now), stored_term_counts(then)
    return {
        term: (-served[term], served[term] - next_served[term]) for term in served.keys() | next_served.keys()
    }


def _is_visible(row: Mapping[str, Any], generation: int) -> bool:
    ended = row["gen_to"]
    return bool(row["gen_from"] <= generation and (ended is None or ended > generation))


def _is_held(pin: Pin, held: Mapping[str, Mapping[str, Any]]) -> bool:
    row = held.get(pin.artifact_id)
    return row is not None and row["revision"] == pin.revision


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
