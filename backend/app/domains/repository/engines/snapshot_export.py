"""L5 engine of exports: reads one moment of a repository, whole or in part, into a snapshot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from app.db.connection import DriverConnection
from app.domains.repository.drivers import snapshots as driver
from app.domains.repository.drivers.snapshots import Part
from app.domains.repository.engines import snapshot_format as fmt
from app.domains.repository.engines.changes import GENESIS_HASH
from app.domains.repository.engines.snapshot_writing import SnapshotWriter
from app.domains.repository.engines.values import chunks, is_id
from app.domains.repository.errors import content_corrupt, not_found
from app.domains.repository.models.vocabulary import BlobState
from app.kernel.hashing import digest_of

WHOLE = "repository"
# Bytes of blobs that are in memory at once, but for one that is larger by itself.
_BLOB_BATCH_BYTES = 4 * 1024 * 1024
_BLOB_BATCH = 500
Row = Mapping[str, Any]


def export(
    connection: DriverConnection,
    writer: SnapshotWriter,
    *,
    tenant_id: str,
    collection_ids: Sequence[str] | None,
) -> tuple[dict[str, Any], dict[str, int]]:
    """Write everything, or what belongs to these collections; return the manifest and what is left out.

    Refuses COLLECTION_NOT_FOUND, CONTENT_CORRUPT and TOO_LARGE.
    """
    part = None
    scope: str | list[str] = WHOLE
    omitted: dict[str, int] = {}
    head = None
    if collection_ids is None:
        head = read_head(connection, tenant_id=tenant_id)
    else:
        part = _part(connection, tenant_id=tenant_id, collection_ids=collection_ids)
        scope = list(part.collection_ids)
        omitted = _omitted(connection, tenant_id=tenant_id, part=part)
    writer.add(fmt.HEADER, fmt.header_line(scope, omitted, head))
    for kind in fmt.KINDS:
        rows = driver.list_rows(connection, tenant_id=tenant_id, kind=kind, part=part)
        if kind == "blob":
            _write_blobs(connection, writer, rows, tenant_id=tenant_id)
            continue
        if kind == "input_bundle":
            items = driver.list_rows(connection, tenant_id=tenant_id, kind="bundle_item", part=part)
            rows = _with_items(rows, items)
        for row in rows:
            writer.add(kind, fmt.record_line(kind, row))
    return writer.finish(scope=scope, change_head=head), omitted


def read_head(connection: DriverConnection, *, tenant_id: str) -> dict[str, Any]:
    """Return number and hash of the last change record, 0 and the first hash of all where there is none."""
    row = driver.get_head(connection, tenant_id=tenant_id)
    if row is None:
        return {"seq": 0, "hash": GENESIS_HASH}
    return {"seq": row["last_seq"], "hash": row["last_hash"]}


def _part(connection: DriverConnection, *, tenant_id: str, collection_ids: Sequence[str]) -> Part:
    wanted = sorted(set(collection_ids), key=str.encode)
    known: set[str] = set()
    for keys in chunks([(identifier,) for identifier in wanted if is_id(identifier)]):
        rows = driver.list_by_keys(connection, tenant_id=tenant_id, kind="collection", keys=keys)
        known.update(row["id"] for row in rows)
    if known != set(wanted):
        raise not_found("COLLECTION")
    runs = {
        row["run_id"]: row
        for row in driver.list_whole_runs(connection, tenant_id=tenant_id, part=Part(wanted))
    }
    # A run whose parent stays behind stays behind too: nothing may dangle.
    while orphans := [name for name, row in runs.items() if (row["parent_run_id"] or name) not in runs]:
        for name in orphans:
            del runs[name]
    bundles = {row["bundle_id"] for row in runs.values() if row["bundle_id"] is not None}
    return Part(wanted, sorted(runs), sorted(bundles))


def _omitted(connection: DriverConnection, *, tenant_id: str, part: Part) -> dict[str, int]:
    left: dict[str, int] = {}
    for kind in fmt.KINDS:
        total = driver.count_rows(connection, tenant_id=tenant_id, kind=kind)
        if total:
            inside = driver.count_rows(connection, tenant_id=tenant_id, kind=kind, part=part)
            left[kind] = total - inside
    return {kind: count for kind, count in left.items() if count}


def _with_items(bundles: Iterator[Row], items: Iterator[Row]) -> Iterator[Row]:
    """Yield each bundle with its items; both come in order of the bundle's id."""
    groups = groupby(items, key=lambda item: item["bundle_id"])
    waiting = next(groups, None)
    for bundle in bundles:
        mine: list[Row] = []
        if waiting is not None and waiting[0] == bundle["id"]:
            mine = list(waiting[1])
            waiting = next(groups, None)
        yield {**bundle, "items": mine}


def _write_blobs(
    connection: DriverConnection, writer: SnapshotWriter, rows: Iterator[Row], *, tenant_id: str
) -> None:
    waiting: list[str] = []
    size = 0
    for row in rows:
        writer.add("blob", fmt.record_line("blob", row))
        if row["state"] != BlobState.PRESENT:
            continue
        if waiting and (size + row["size"] > _BLOB_BATCH_BYTES or len(waiting) == _BLOB_BATCH):
            _write_bytes(connection, writer, waiting, tenant_id=tenant_id)
            waiting, size = [], 0
        waiting.append(row["digest"])
        size += row["size"]
    if waiting:
        _write_bytes(connection, writer, waiting, tenant_id=tenant_id)


def _write_bytes(
    connection: DriverConnection, writer: SnapshotWriter, digests: list[str], *, tenant_id: str
) -> None:
    for row in driver.list_bytes(connection, tenant_id=tenant_id, digests=digests):
        data = bytes(row["data"])
        if digest_of(data) != row["digest"]:
            raise content_corrupt(row["digest"])
        writer.add_blob(row["digest"], data)
