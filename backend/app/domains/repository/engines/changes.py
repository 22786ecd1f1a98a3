"""L5 engine of the change feed: the tenant's write lock, its gap-free numbers and its hash chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from app.db.connection import DriverConnection
from app.domains.repository.drivers import changes as driver
from app.domains.repository.models.vocabulary import Action, EntityType
from app.kernel.canonical_json import RawJson, dumps, dumps_object
from app.kernel.clock import format_time
from app.kernel.hashing import digest_of

GENESIS_HASH = "sha256:" + "0" * 64
_TAG = "hoc-chg-1\n"


@dataclass(frozen=True, slots=True)
class Origin:
    """Who makes the changes of one operation, and on behalf of what."""

    change_set_id: str
    actor_id: str
    reason: str | None = None
    run_id: str | None = None
    trace_id: str | None = None
    request_id: str | None = None


@dataclass(slots=True)
class ChangeSet:
    """The change records of one operation, chained in memory under the tenant's write lock."""

    origin: Origin
    at: datetime
    last_seq: int
    head_hash: str
    records: list[dict[str, Any]] = field(default_factory=list)
    revisions: int = 0

    @property
    def next_seq(self) -> int:
        """The number that the next record will bear."""
        return self.last_seq + 1

    @property
    def first_seq(self) -> int:
        """The number of the first record of this set."""
        return self.last_seq - len(self.records) + 1

    def add(
        self,
        change_id: str,
        entity_type: EntityType,
        entity_id: str,
        action: Action,
        *,
        old: Mapping[str, Any] | None = None,
        new: Mapping[str, Any] | None = None,
        changed_fields: Sequence[str] = (),
        detail: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Append one record; `old` and `new` may hold version, revision, digest and revision_digest."""
        row: dict[str, Any] = {
            "seq": self.next_seq,
            "change_id": change_id,
            "change_set_id": self.origin.change_set_id,
            "entity_type": str(entity_type),
            "entity_id": entity_id,
            "action": str(action),
            "changed_fields": dumps(sorted(changed_fields)),
            "actor_id": self.origin.actor_id,
            "reason": self.origin.reason,
            "run_id": self.origin.run_id,
            "trace_id": self.origin.trace_id,
            "request_id": self.origin.request_id,
            "occurred_at": self.at,
            "detail": dumps(dict(detail or {})),
        }
        for side, values in (("old", old or {}), ("new", new or {})):
            for member in ("version", "revision", "digest", "revision_digest"):
                row[f"{side}_{member}"] = values.get(member)
        row["prev_hash"] = self.head_hash
        row["hash"] = change_hash(row)
        self.head_hash = row["hash"]
        self.last_seq = row["seq"]
        self.records.append(row)
        return row


def change_hash(row: Mapping[str, Any]) -> str:
    """Return the hash of a record: over the previous hash and every other column but tenant_id."""
    members = {name: value for name, value in row.items() if name not in ("tenant_id", "prev_hash", "hash")}
    members["changed_fields"] = RawJson(row["changed_fields"])
    members["detail"] = RawJson(row["detail"])
    members["occurred_at"] = format_time(row["occurred_at"])
    return digest_of(f"{_TAG}{row['prev_hash']}\n{dumps_object(members)}".encode())


def open_change_set(
    connection: DriverConnection, *, tenant_id: str, now: datetime, origin: Origin
) -> ChangeSet:
    """Take the tenant's write lock and return an empty change set at the head of its chain.

    The clock never runs backwards here: the set's time is at least that of the record before it.
    """
    state = driver.lock_state(connection, tenant_id=tenant_id)
    if state is None:
        driver.insert_state(connection, tenant_id=tenant_id, genesis_hash=GENESIS_HASH)
        state = driver.lock_state(connection, tenant_id=tenant_id)
    if state is None:
        raise RuntimeError("the repository state of the tenant could not be made")
    last = state["last_occurred_at"]
    at = now if last is None else max(now, last)
    return ChangeSet(origin, at, state["last_seq"], state["last_hash"])


def write_change_set(connection: DriverConnection, change_set: ChangeSet, *, tenant_id: str) -> None:
    """Write the records of a set, and the new head of the chain."""
    if not change_set.records:
        return
    driver.insert_changes(connection, tenant_id=tenant_id, rows=change_set.records)
    driver.set_state(
        connection,
        tenant_id=tenant_id,
        last_seq=change_set.last_seq,
        last_hash=change_set.head_hash,
        last_occurred_at=change_set.at,
    )


def fact_body(change_set: ChangeSet) -> dict[str, Any]:
    """Return the body of the `repository.changed` fact of a set of at least one record."""
    only = change_set.records[0] if len(change_set.records) == 1 else {}
    return {
        "seq_from": change_set.first_seq,
        "seq_to": change_set.last_seq,
        "change_head_hash": change_set.head_hash,
        "revision_count": change_set.revisions,
        "change_set_id": change_set.origin.change_set_id,
        "actor_id": change_set.origin.actor_id,
        **{
            name: only.get(name)
            for name in ("entity_type", "entity_id", "action", "new_version", "new_revision_digest")
        },
    }


def merge_bodies(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """Return one body for two stretches of the feed that one transaction wrote, one after the other."""
    nothing = dict.fromkeys(("entity_type", "entity_id", "action", "new_version", "new_revision_digest"))
    return {
        **later,
        "seq_from": earlier["seq_from"],
        "revision_count": earlier["revision_count"] + later["revision_count"],
        **nothing,
    }


def list_run_revisions(
    connection: DriverConnection, *, tenant_id: str, run_ids: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Return artifact, revision and content digest of every revision that these runs wrote, by run."""
    written: dict[str, list[dict[str, Any]]] = {}
    for row in driver.list_run_revisions(connection, tenant_id=tenant_id, run_ids=run_ids):
        revision = {
            "artifact_id": row["entity_id"],
            "revision": row["new_revision"],
            "digest": row["new_digest"],
        }
        written.setdefault(row["run_id"], []).append(revision)
    return written


def list_changes(
    connection: DriverConnection,
    *,
    tenant_id: str,
    since_seq: int,
    filters: Mapping[str, str],
    limit: int,
) -> Sequence[Mapping[str, Any]]:
    """Return up to `limit` records after a number whose columns equal the filters, in order."""
    return driver.list_changes(
        connection, tenant_id=tenant_id, since_seq=since_seq, filters=filters, limit=limit
    )


def last_seqs(connection: DriverConnection, tenant_ids: Sequence[str]) -> Mapping[str, int]:
    """Return the number of the last record of each of these tenants that has one."""
    return {
        row["tenant_id"]: row["last_seq"] for row in driver.list_last_seqs(connection, tenant_ids=tenant_ids)
    }
