"""L5 engine that writes a verified snapshot into a repository, kind by kind, in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.db.connection import DriverConnection
from app.domains.repository.drivers import changes as changes_driver
from app.domains.repository.drivers import projections
from app.domains.repository.drivers import snapshots as driver
from app.domains.repository.engines import snapshot_format as fmt
from app.domains.repository.engines import writing
from app.domains.repository.engines.changes import ChangeSet
from app.domains.repository.engines.documents import stored_document
from app.domains.repository.engines.search import index_entry
from app.domains.repository.engines.snapshot_archive import Archive
from app.domains.repository.engines.snapshot_checks import Closure
from app.domains.repository.engines.snapshot_comparison import Plan, batches, key_of
from app.domains.repository.engines.values import chunks, is_textual
from app.domains.repository.engines.writing import Batch
from app.domains.repository.models.vocabulary import Action, BlobState, EntityType, Redaction

Row = Mapping[str, Any]
AddFact = Callable[[str, Row], str]
NewId = Callable[[str], str]
_ROWS = 1000
_BLOB_BYTES = 4 * 1024 * 1024
_ENTITIES = {
    "collection": EntityType.COLLECTION,
    "artifact": EntityType.ARTIFACT,
    "relationship": EntityType.RELATIONSHIP,
    "input_bundle": EntityType.BUNDLE,
    "operation_run": EntityType.RUN,
    "context_package": EntityType.CONTEXT_PACKAGE,
}
_NUMBERED = ("collection", "artifact", "relationship", "context_package")
_FACTS = {
    "input_bundle": "run.input",
    "run_output": "run.output",
    "run_manifest": "run.manifest",
    "context_package": "context.package",
}
# What comes from another row of its own kind, which must be there first.
_PARENTS = {"operation_run": ("run_id", "parent_run_id"), "context_package": ("id", "supersedes")}
_ERASED = ("name", "metadata", "provenance", "redaction", "redacted_at")


@dataclass(slots=True)
class Importer:
    """One import at work."""

    connection: DriverConnection
    archive: Archive
    closure: Closure
    plan: Plan
    change_set: ChangeSet
    tenant_id: str
    snapshot_digest: str
    source_head: Mapping[str, Any] | None
    add_fact: AddFact
    new_id: NewId
    first_seq: int = 0
    records: int = 0
    revisions: int = 0
    only: Row = field(default_factory=dict)
    _written: set[tuple[str, str]] = field(default_factory=set)
    _waiting: list[dict[str, Any]] = field(default_factory=list)

    def run(self) -> None:
        """Write what the plan says; the change feed ends with the snapshot's or with new records."""
        self.first_seq = self.change_set.next_seq
        for kind, batch in batches(self.archive, size=_ROWS):
            if kind == "blob":
                self._blobs(batch)
            elif kind == "revision":
                self._revisions(batch)
            elif kind == fmt.CHANGE:
                self._changes(batch)
            elif kind in ("workflow_step", "run_output", "run_manifest"):
                self._of_runs(kind, batch)
            elif kind == "context_item":
                self._items(batch)
            else:
                self._entities(kind, batch)
        self._flush_records()
        if self.records:
            changes_driver.set_state(
                self.connection,
                tenant_id=self.tenant_id,
                last_seq=self.change_set.last_seq,
                last_hash=self.change_set.head_hash,
                last_occurred_at=self.change_set.at,
            )

    # Entities: what has a change record of its own.

    def _entities(self, kind: str, batch: Sequence[dict[str, Any]]) -> None:
        new: list[dict[str, Any]] = []
        changed: list[dict[str, Any]] = []
        for row in batch:
            deed = self.plan.deed(kind, key_of(kind, row))
            if deed == "skip":
                continue
            seqs = self._seqs(kind, row)
            if kind in _NUMBERED and deed == "create":
                row["created_seq"] = seqs[0]
            if kind == "artifact":
                row["updated_seq"] = seqs[1]
            (new if deed == "create" else changed).append(row)
        if changed:
            self._set(kind, changed)
        if kind in _PARENTS:
            self._insert_in_order(kind, new)
        elif new:
            self._insert(kind, new)

    def _seqs(self, kind: str, row: Row) -> tuple[int, int]:
        """Return the numbers of an entity's first and last record; in a merge it has one, IMPORTED."""
        identifier = key_of(kind, row)[0]
        if self.plan.mode == "adopt":
            first, last, _ = self.closure.records_of(_ENTITIES[kind], identifier)
            return first, last
        seq = self.change_set.next_seq
        self.change_set.add(
            self.new_id("chg"),
            _ENTITIES[kind],
            identifier,
            Action.IMPORTED,
            new=self._side(kind, row, identifier),
            detail={"snapshot_digest": self.snapshot_digest, "source_head": self.source_head},
        )
        self._count(self.change_set.records[-1])
        if len(self.change_set.records) == _ROWS:
            self._flush_records()
        return seq, seq

    def _side(self, kind: str, row: Row, identifier: str) -> dict[str, Any]:
        side = {"version": row["version"]} if "version" in row else {}
        if kind == "artifact":
            head = self.closure.artifacts[identifier]
            side |= {"revision": head.length, "revision_digest": head.digest(head.length)}
        return side

    def _count(self, record: Row) -> None:
        self.records += 1
        self.only = record if self.records == 1 else {}

    def _flush_records(self) -> None:
        records = self.change_set.records
        if records:
            changes_driver.insert_changes(self.connection, tenant_id=self.tenant_id, rows=records)
            records.clear()

    def _set(self, kind: str, rows: Sequence[Row]) -> None:
        members = [
            name
            for name in rows[0]
            if name not in (*fmt.KINDS[kind].key, "created_seq", "created_at", "created_by", "requested_by")
        ]
        driver.set_rows(self.connection, tenant_id=self.tenant_id, kind=kind, rows=rows, members=members)

    def park(self) -> None:
        """Free every live name and triple that the plan is about to change, so that they may be swapped."""
        for (kind, key), deed in self.plan.deeds.items():
            if deed != "append" or kind not in ("collection", "artifact", "relationship"):
                continue
            row: dict[str, Any] = {"id": key[0]}
            if kind == "relationship":
                row["deleted_at"] = self.change_set.at
            else:
                row["name_key"] = f"\x01{key[0]}"
            members = [name for name in row if name != "id"]
            driver.set_rows(self.connection, tenant_id=self.tenant_id, kind=kind, rows=[row], members=members)

    def _insert(self, kind: str, rows: Sequence[dict[str, Any]]) -> None:
        items: list[dict[str, Any]] = []
        for row in rows:
            if kind in _FACTS:
                row["fact_id"] = self.add_fact(_FACTS[kind], row)
            if kind == "input_bundle":
                items.extend({"bundle_id": row["id"], **item} for item in row.pop("items"))
        driver.insert_rows(self.connection, tenant_id=self.tenant_id, kind=kind, rows=rows)
        for part in chunks(items, _ROWS):
            driver.insert_rows(self.connection, tenant_id=self.tenant_id, kind="bundle_item", rows=part)

    def _insert_in_order(self, kind: str, rows: Sequence[dict[str, Any]]) -> None:
        """Insert rows after those they come from; what must wait for a later batch waits."""
        name, parent = _PARENTS[kind]
        links = self.closure.runs if kind == "operation_run" else self.closure.packages
        waiting = [*self._waiting, *rows]
        while waiting:
            ready = [
                row for row in waiting if row[parent] is None or self._is_there(kind, row[parent], links)
            ]
            if not ready:
                break
            self._insert(kind, ready)
            self._written.update((kind, row[name]) for row in ready)
            waiting = [row for row in waiting if (kind, row[name]) not in self._written]
        self._waiting = waiting

    def _is_there(self, kind: str, identifier: str, links: Mapping[str, Any]) -> bool:
        return (kind, identifier) in self._written or (
            identifier in links and self.plan.deed(kind, (identifier,)) != "create"
        )

    # Blobs, revisions, projections.

    def _blobs(self, batch: Sequence[dict[str, Any]]) -> None:
        known: dict[str, Row] = {}
        if not self.plan.empty:
            rows = driver.list_by_keys(
                self.connection,
                tenant_id=self.tenant_id,
                kind="blob",
                keys=[(row["digest"],) for row in batch],
            )
            known = {row["digest"]: row for row in rows}
        new: list[dict[str, Any]] = []
        size = 0
        for row in batch:
            theirs = known.get(row["digest"])
            if theirs is not None:
                self._merge_blob(row, theirs)
                continue
            present = row["state"] == BlobState.PRESENT
            data = self.archive.read_blob(row["digest"]) if present else None
            size += len(data or b"")
            new.append(
                {
                    **row,
                    "data": data,
                    "created_at": self.change_set.at,
                    "state_at": None if present else self.change_set.at,
                }
            )
            if size >= _BLOB_BYTES:
                driver.insert_rows(self.connection, tenant_id=self.tenant_id, kind="blob", rows=new)
                new, size = [], 0
        if new:
            driver.insert_rows(self.connection, tenant_id=self.tenant_id, kind="blob", rows=new)

    def _merge_blob(self, mine: Row, theirs: Row) -> None:
        """Fill in bytes that were collected; on a common chain, do what was done to them later."""
        adopts = self.plan.mode == "adopt"
        fills = mine["state"] == BlobState.PRESENT and theirs["state"] != BlobState.PRESENT
        erases = mine["state"] != BlobState.PRESENT and theirs["state"] == BlobState.PRESENT
        blocks = adopts and mine["blocked"] != theirs["blocked"]
        # Bytes that were redacted here come back by nobody's snapshot, unless the snapshot is our own future.
        if fills and not adopts and theirs["state"] == BlobState.REDACTED:
            return
        if not (fills or (adopts and (erases or mine["state"] != theirs["state"])) or blocks):
            return
        data = self.archive.read_blob(mine["digest"]) if mine["state"] == BlobState.PRESENT else None
        row = {**mine, "data": data, "state_at": self.change_set.at}
        if not adopts:
            row["blocked"] = theirs["blocked"]
        driver.set_rows(
            self.connection,
            tenant_id=self.tenant_id,
            kind="blob",
            rows=[row],
            members=("state", "data", "blocked", "state_at"),
        )

    def _revisions(self, batch: Sequence[dict[str, Any]]) -> None:
        new: list[dict[str, Any]] = []
        heads = Batch()
        gone: list[str] = []
        for row in batch:
            identifier = row["artifact_id"]
            deed = self.plan.deed("artifact", (identifier,))
            if deed == "skip":
                continue
            if row["revision"] > (self.plan.lengths.get(identifier, 0) if deed == "append" else 0):
                new.append(row)
            elif row["redaction"] is not None and self.plan.mode == "adopt":
                self._redact(row)
            if row["revision"] == self.closure.artifacts[identifier].head_revision:
                self._project(heads, gone, row, deed == "append")
        if new:
            self.revisions += len(new)
            driver.insert_rows(self.connection, tenant_id=self.tenant_id, kind="revision", rows=new)
        for part in chunks(gone):
            projections.delete_search(self.connection, tenant_id=self.tenant_id, artifact_ids=part)
        writing.write_batch(
            self.connection, heads, self.change_set, tenant_id=self.tenant_id, present=frozenset()
        )

    def _redact(self, row: Row) -> None:
        keys = [(row["artifact_id"], row["revision"])]
        known = driver.list_by_keys(self.connection, tenant_id=self.tenant_id, kind="revision", keys=keys)
        if known and known[0]["redaction"] != row["redaction"]:
            driver.set_rows(
                self.connection, tenant_id=self.tenant_id, kind="revision", rows=[row], members=_ERASED
            )

    def _project(self, heads: Batch, gone: list[str], row: Row, known: bool) -> None:
        """Put the head of a live artifact into projection and index, and take that of any other out."""
        identifier = row["artifact_id"]
        if known:
            heads.stale.append(identifier)
            gone.append(identifier)
        if not self.closure.artifacts[identifier].live or row["redaction"] == Redaction.FULL:
            return
        heads.documents.append((identifier, stored_document(row["metadata"])))
        heads.entries.append((identifier, index_entry(row["name"], self._text(row), row["media_type"])))

    def _text(self, row: Row) -> bytes | None:
        digest = row["content_digest"]
        if digest is None or row["redaction"] is not None or not is_textual(row["media_type"]):
            return None
        if self.closure.blob_state(digest) != BlobState.PRESENT:
            return None
        return self.archive.read_blob(digest)

    # What belongs to runs and packages, and the feed itself.

    def _of_runs(self, kind: str, batch: Sequence[dict[str, Any]]) -> None:
        wanted = [row for row in batch if self.plan.deed("operation_run", (row["run_id"],)) != "skip"]
        known: set[tuple[Any, ...]] = set()
        if wanted and not self.plan.empty:
            keys = [key_of(kind, row) for row in wanted]
            rows = driver.list_by_keys(self.connection, tenant_id=self.tenant_id, kind=kind, keys=keys)
            known = {key_of(kind, row) for row in rows}
        new = [row for row in wanted if key_of(kind, row) not in known]
        changed = [row for row in wanted if key_of(kind, row) in known]
        if changed and kind == "workflow_step":
            self._set(kind, changed)
        if new:
            self._insert(kind, new)

    def _items(self, batch: Sequence[dict[str, Any]]) -> None:
        new = [row for row in batch if self.plan.deed("context_package", (row["package_id"],)) == "create"]
        if new:
            driver.insert_rows(self.connection, tenant_id=self.tenant_id, kind="context_item", rows=new)

    def _changes(self, batch: Sequence[dict[str, Any]]) -> None:
        if self.plan.mode != "adopt":
            return
        new = [row for row in batch if row["seq"] > self.plan.since_seq]
        if not new:
            return
        changes_driver.insert_changes(self.connection, tenant_id=self.tenant_id, rows=new)
        for row in new:
            self._count(row)
        change_set = self.change_set
        change_set.last_seq, change_set.head_hash = new[-1]["seq"], new[-1]["hash"]
        change_set.at = new[-1]["occurred_at"]
