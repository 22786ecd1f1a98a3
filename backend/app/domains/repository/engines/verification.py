"""L5 engine of the repository check: blobs, revisions, heads, links and sealed records, page by page."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from app.db.connection import DriverConnection
from app.domains.repository.drivers import verification as driver
from app.domains.repository.engines.bundles import bundle_digest
from app.domains.repository.engines.context_packages import package_digest
from app.domains.repository.engines.findings import Code, Findings
from app.domains.repository.engines.manifests import manifest_digest
from app.domains.repository.engines.redaction import redacted_name
from app.domains.repository.engines.revisions import revision_digest
from app.domains.repository.engines.values import groups
from app.domains.repository.models.vocabulary import Action, BlobState, Redaction
from app.kernel.hashing import digest_of

PAGE = 1000
# Bytes of content that are in memory at one time.
BUDGET = 32 * 1024 * 1024
Row = Mapping[str, Any]
Scope = str | None


def pages(
    read: Callable[..., Sequence[Row]], key: Callable[[Row], Any], **given: Any
) -> Iterator[Sequence[Row]]:
    """Yield pages of 1000 rows by key until there are no more."""
    after: Any = None
    while True:
        rows = read(**given, after=after, limit=PAGE)
        if rows:
            yield rows
        if len(rows) < PAGE:
            return
        after = key(rows[-1])


def verify_blobs(
    connection: DriverConnection, found: Findings, *, tenant_id: str, scope: Scope, read_content: bool
) -> None:
    """Check that bytes have their digest and size (E01, E02), and that something cites them (W01)."""
    for rows in pages(
        lambda **given: driver.list_blobs(connection, tenant_id=tenant_id, artifact_id=scope, **given),
        lambda row: row["digest"],
    ):
        found.count("blobs", len(rows))
        present = []
        for row in rows:
            found.collected += row["state"] == BlobState.COLLECTED
            if not row["cited"]:
                found.add(Code.UNCITED_BLOB, row["digest"], "no revision has these bytes")
            if row["length"] is not None:
                present.append(row)
                if row["length"] != row["size"]:
                    detail = f"{row['length']} bytes are stored, the row says {row['size']}"
                    found.add(Code.BLOB_SIZE, row["digest"], detail)
        if read_content:
            for group in groups(present, lambda row: row["length"], BUDGET):
                _check_bytes(connection, found, [row["digest"] for row in group], tenant_id=tenant_id)


def _check_bytes(
    connection: DriverConnection, found: Findings, digests: Sequence[str], *, tenant_id: str
) -> None:
    data = driver.list_data(connection, tenant_id=tenant_id, digests=digests)
    for digest, stored in data.items():
        if digest_of(stored) != digest:
            found.add(Code.BLOB_DIGEST, digest, "the bytes have another digest")
            found.doubtful.add(digest)


def verify_revisions(connection: DriverConnection, found: Findings, *, tenant_id: str, scope: Scope) -> None:
    """Check numbers, parents and digests of revisions, and that their bytes are here (E03, E04, E06-E08)."""
    before: Row | None = None
    for rows in pages(
        lambda **given: driver.list_revisions(connection, tenant_id=tenant_id, artifact_id=scope, **given),
        lambda row: (row["artifact_id"], row["revision"]),
    ):
        found.count("revisions", len(rows))
        for row in rows:
            first = before is None or before["artifact_id"] != row["artifact_id"]
            _check_revision(found, None if first else before, row)
            before = row


def _check_revision(found: Findings, before: Row | None, row: Row) -> None:
    entity = f"{row['artifact_id']}@{row['revision']}"
    faults = list(_revision_faults(before, row))
    for code, detail in faults:
        found.add(code, entity, detail)
    if faults:
        found.doubtful.add(row["artifact_id"])
    found.redacted += row["redaction"] is not None


def _revision_faults(before: Row | None, row: Row) -> Iterator[tuple[Code, str]]:
    expected = 1 if before is None else before["revision"] + 1
    if row["revision"] != expected:
        yield Code.REVISION_GAP, f"revision {expected} is missing"
    if (
        before is not None
        and row["revision"] == expected
        and row["parent_digest"] != before["revision_digest"]
    ):
        # The parent is part of the digest, so the digest says nothing more.
        yield Code.PARENT, "the parent is not the revision before"
    elif revision_digest(row) != row["revision_digest"]:
        yield Code.REVISION_DIGEST, "the revision has another digest"
    elif row["recorded_digest"] not in (None, row["revision_digest"]):
        yield Code.REVISION_DIGEST, "its change record names another digest"
    for name, column in (("metadata", "metadata_text"), ("name", "name"), ("provenance", "provenance")):
        text = row[column]
        lost = text is None and row["redaction"] != Redaction.FULL
        if lost or (text is not None and digest_of(text.encode()) != row[f"{name}_digest"]):
            yield Code.VALUE_DIGEST, f"the {name} has another digest"
    readable = row["content_digest"] is not None and row["redaction"] is None
    if readable and row["blob_state"] in (None, BlobState.REDACTED):
        yield Code.BLOB_MISSING, f"{row['content_digest']} is not here"


def verify_heads(
    connection: DriverConnection, found: Findings, *, tenant_id: str, scope: Scope
) -> Iterator[list[Row]]:
    """Check heads against revisions and records (E05, E10); yield the sound ones that are indexed."""
    twins = set(driver.list_artifact_twins(connection, tenant_id=tenant_id, artifact_id=scope))
    for twin in sorted(twins):
        found.add(Code.TWIN_NAME, twin, "another live artifact of the collection bears its name")
    for rows in pages(
        lambda **given: driver.list_heads(connection, tenant_id=tenant_id, artifact_id=scope, **given),
        lambda row: row["id"],
    ):
        found.count("artifacts", len(rows))
        sound = []
        for row in rows:
            if row["id"] in found.doubtful:
                continue
            fault = _head_fault(row, twin=row["id"] in twins)
            if fault is not None:
                found.add(Code.HEAD, row["id"], fault)
            elif _is_indexed(row) and row["content_digest"] not in found.doubtful:
                sound.append(row)
        yield sound


def _is_indexed(row: Row) -> bool:
    return row["deleted_at"] is None and row["redaction"] != Redaction.FULL


def _head_fault(row: Row, *, twin: bool) -> str | None:
    if row["head_revision"] != row["last_revision"]:
        return f"the head is revision {row['head_revision']}, the last one {row['last_revision']}"
    if row["artifact_type"] != row["revision_type"]:
        return "the type is not that of the last revision"
    if row["collection_id"] != row["revision_collection_id"]:
        return "the collection is not that of the last revision"
    name = redacted_name(row["id"]) if row["revision_name"] is None else row["revision_name"]
    if not twin and (row["name"] != name or row["name_key"] != unicodedata.normalize("NFC", name)):
        return "the name is not that of the last revision"
    if row["record_entity"] is None:
        # A record that is missing shows in the chain of changes.
        return None
    if row["record_entity"] != row["id"]:
        return "its newest record is about another entity"
    return _record_fault(row, deleted=row["record_revision"] is None)


def _record_fault(row: Row, *, deleted: bool) -> str | None:
    if row["record_version"] is None or row["record_action"] == Action.IMPORTED:
        return None
    if row["record_version"] != row["version"]:
        return f"version {row['version']} is not the {row['record_version']} of its newest record"
    if deleted != (row["deleted_at"] is not None):
        return "its newest record says otherwise about its deletion"
    return None


def verify_plain_heads(
    connection: DriverConnection, found: Findings, *, tenant_id: str, scope: Scope
) -> None:
    """Check relationships and collections against records and each other (E05, E09, E10)."""
    given: dict[str, Any] = {"tenant_id": tenant_id}
    named: set[str] = set()
    for edge, end in driver.list_dangling_edges(connection, **given, artifact_id=scope):
        found.add(Code.DANGLING_EDGE, edge, f"the edge is live, its end {end} is deleted")
        named.add(edge)
    for rows in pages(
        lambda **page: driver.list_relationship_heads(connection, **given, artifact_id=scope, **page),
        lambda row: row["id"],
    ):
        found.count("relationships", len(rows))
        _compare(found, rows, named)
    if scope is not None:
        return
    twins = set(driver.list_collection_twins(connection, **given))
    for twin in sorted(twins):
        found.add(Code.TWIN_NAME, twin, "another live collection bears its name")
    for rows in _by_id(driver.list_collection_heads, connection, **given):
        found.count("collections", len(rows))
        _compare(found, rows, twins)


def _compare(found: Findings, rows: Sequence[Row], named: set[str]) -> None:
    gone = {Action.DELETED, Action.UNLINKED}
    for row in rows:
        fault = _record_fault(row, deleted=row["record_action"] in gone)
        if fault is not None and row["id"] not in named:
            found.add(Code.HEAD, row["id"], fault)


def verify_links(connection: DriverConnection, found: Findings, *, tenant_id: str, scope: Scope) -> None:
    """Check that links to revisions lead somewhere (E16)."""
    for row in driver.list_missing_revisions(connection, tenant_id=tenant_id, artifact_id=scope):
        there = f"{row['artifact_id']}@{row['revision']}"
        found.add(Code.MISSING_REVISION, f"{row['kind']} {row['owner']}", f"{there} is not there")


def verify_sealed(connection: DriverConnection, found: Findings, *, tenant_id: str) -> None:
    """Check the digests of manifests, bundles and packages (E15)."""
    given: dict[str, Any] = {"tenant_id": tenant_id}
    for rows in _by_id(driver.list_manifests, connection, **given):
        found.count("manifests", len(rows))
        for row in rows:
            if manifest_digest(row["body"]) != row["manifest_digest"]:
                found.add(Code.SEALED_DIGEST, f"manifest {row['id']}", "the body has another digest")
    for rows in _by_id(driver.list_bundles, connection, **given):
        found.count("bundles", len(rows))
        items = _by_owner(driver.list_bundle_items(connection, **given, ids=[row["id"] for row in rows]))
        for row in rows:
            if bundle_digest(items.get(row["id"], [])) != row["bundle_digest"]:
                found.add(Code.SEALED_DIGEST, f"bundle {row['id']}", "the items have another digest")
    for rows in _by_id(driver.list_packages, connection, **given):
        found.count("context_packages", len(rows))
        items = _by_owner(driver.list_package_items(connection, **given, ids=[row["id"] for row in rows]))
        for row in rows:
            said = {**row, "metadata": row["metadata_text"]}
            if package_digest(said, items.get(row["id"], [])) != row["package_digest"]:
                entity = f"context package {row['id']}"
                found.add(Code.SEALED_DIGEST, entity, "the package has another digest")


def _by_id(read: Any, connection: DriverConnection, *, tenant_id: str) -> Iterator[Sequence[Row]]:
    return pages(lambda **given: read(connection, tenant_id=tenant_id, **given), lambda row: row["id"])


def _by_owner(rows: Sequence[Row]) -> dict[str, list[Row]]:
    items: dict[str, list[Row]] = {}
    for row in rows:
        items.setdefault(row["owner"], []).append(row)
    return items
