"""L5 engine of what serves queries: compares projection and index with the heads, and makes them anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app.db.connection import DriverConnection
from app.domains.repository.drivers import projections
from app.domains.repository.drivers import verification as driver
from app.domains.repository.engines import documents
from app.domains.repository.engines.findings import Code, Findings
from app.domains.repository.engines.search import IndexEntry, index_entry
from app.domains.repository.engines.values import chunks, groups, is_textual
from app.domains.repository.engines.verification import BUDGET, PAGE, Scope
from app.domains.repository.models.vocabulary import BlobState, Redaction

Row = Mapping[str, Any]
# Heads whose projection is in memory at one time: each may have thousands of values.
_HEADS = 100
_PROJECTED = ("ptr", "elem", "ord", "vtype", "vkey", "vfull")


def verify_index(
    connection: DriverConnection, found: Findings, heads: Sequence[Row], *, tenant_id: str, read_content: bool
) -> None:
    """Compare projection and index with sound live heads (E14); without content, only who is indexed."""
    for part in chunks(heads, _HEADS):
        _verify_projection(connection, found, part, tenant_id=tenant_id)
        known = projections.list_entries(
            connection, tenant_id=tenant_id, artifact_ids=[row["id"] for row in part]
        )
        if not read_content:
            for row in part:
                if row["id"] not in known:
                    found.add(Code.INDEX, row["id"], "the artifact is not indexed")
            continue
        for row, entry in list_index_entries(connection, part, tenant_id=tenant_id):
            words = projections.indexed_words(connection, tenant_id=tenant_id, tokens=entry.tokens)
            if known.get(row["id"]) != (entry.token_count, entry.truncated, words):
                found.add(Code.INDEX, row["id"], "the text index is out of step")


def _verify_projection(
    connection: DriverConnection, found: Findings, heads: Sequence[Row], *, tenant_id: str
) -> None:
    stored: dict[str, set[tuple[Any, ...]]] = {}
    for row in driver.list_projection(
        connection, tenant_id=tenant_id, artifact_ids=[row["id"] for row in heads]
    ):
        stored.setdefault(row["artifact_id"], set()).add(tuple(row[name] for name in _PROJECTED))
    for head in heads:
        if head["metadata_text"] is None:
            # A revision that lost its metadata without a redaction is a fault of its own.
            continue
        value = documents.stored_document(head["metadata_text"]).value
        expected = {tuple(row[name] for name in _PROJECTED) for row in documents.project(value)}
        if stored.get(head["id"], set()) != expected:
            found.add(Code.INDEX, head["id"], "the metadata projection is out of step")


def verify_tombstones(connection: DriverConnection, found: Findings, *, tenant_id: str, scope: Scope) -> None:
    """Note what is deleted or redacted and can still be found (E14)."""
    for artifact_id in driver.list_indexed_tombstones(connection, tenant_id=tenant_id, artifact_id=scope):
        found.add(Code.INDEX, artifact_id, "it is deleted or redacted, and still indexed")


def list_index_entries(
    connection: DriverConnection, heads: Sequence[Row], *, tenant_id: str
) -> Iterator[tuple[Row, IndexEntry]]:
    """Yield each head with the entry that it should have; content is read in bounded portions."""
    for group in groups(heads, _weight, BUDGET):
        wanted = [row["content_digest"] for row in group if _weight(row)]
        data = driver.list_data(connection, tenant_id=tenant_id, digests=wanted) if wanted else {}
        for row in group:
            content = data.get(row["content_digest"]) if _weight(row) else None
            yield row, index_entry(row["revision_name"] or "", content, row["media_type"])


def _weight(row: Row) -> int:
    """Return how many bytes must be read to index a head."""
    readable = row["redaction"] is None and row["blob_state"] == BlobState.PRESENT
    return int(row["size"] or 0) if readable and is_textual(row["media_type"]) else 0


def rebuild(connection: DriverConnection, *, tenant_id: str) -> int:
    """Make projection and index of the tenant anew, 1000 heads at a time; return how many are indexed."""
    count = 0
    after: str | None = None
    while True:
        heads = driver.list_heads(connection, tenant_id=tenant_id, artifact_id=None, after=after, limit=PAGE)
        if heads:
            after = heads[-1]["id"]
            count += _rebuild_batch(connection, heads, tenant_id=tenant_id)
        if len(heads) < PAGE:
            return count


def _rebuild_batch(connection: DriverConnection, heads: Sequence[Row], *, tenant_id: str) -> int:
    ids = [row["id"] for row in heads]
    projections.delete_metadata(connection, tenant_id=tenant_id, artifact_ids=ids)
    projections.delete_search(connection, tenant_id=tenant_id, artifact_ids=ids)
    live = [row for row in heads if row["deleted_at"] is None and row["redaction"] != Redaction.FULL]
    for part in chunks(live, _HEADS):
        rows = [
            {"artifact_id": head["id"], **row}
            for head in part
            for row in documents.project(documents.stored_document(head["metadata_text"]).value)
        ]
        if rows:
            projections.insert_metadata(connection, tenant_id=tenant_id, rows=rows)
        projections.insert_search(
            connection,
            tenant_id=tenant_id,
            rows=[
                {
                    "artifact_id": row["id"],
                    "tokens": entry.tokens,
                    "token_count": entry.token_count,
                    "truncated": entry.truncated,
                }
                for row, entry in list_index_entries(connection, part, tenant_id=tenant_id)
            ],
        )
    return len(live)
