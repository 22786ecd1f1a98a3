"""L5 engine that compares a snapshot with a repository: what an import would create, append, skip, refuse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any, Literal

from app.db.connection import DriverConnection
from app.domains.repository.drivers import snapshots as driver
from app.domains.repository.engines import snapshot_format as fmt
from app.domains.repository.engines import snapshot_reading
from app.domains.repository.engines.operation_runs import ENDED
from app.domains.repository.engines.snapshot_archive import Archive
from app.domains.repository.engines.snapshot_checks import Closure
from app.domains.repository.models.snapshots import MAX_SHOWN, Policy, Relation, SnapshotConflict

BATCH = 500
Deed = Literal["create", "append", "skip"]
Mode = Literal["adopt", "merge"]
Row = Mapping[str, Any]
Key = tuple[Any, ...]
# Kinds that stand or fall by themselves; the others go with the run, artifact or package they belong to.
COMPARED = (
    "collection", "artifact", "relationship", "input_bundle", "operation_run", "run_output", "run_manifest",
    "context_package",
)  # fmt: skip
_DIGESTS = {
    "input_bundle": "bundle_digest",
    "run_manifest": "manifest_digest",
    "context_package": "package_digest",
}
_CONFLICTS = {
    Relation.IDENTICAL: "IDENTICAL",
    Relation.SNAPSHOT_AHEAD: "SNAPSHOT_AHEAD",
    Relation.TARGET_AHEAD: "TARGET_AHEAD",
    Relation.DIVERGED: "DIVERGED",
}


@dataclass(frozen=True, slots=True)
class Chain:
    """The revisions of an artifact in the repository, and which of them are redacted."""

    digests: bytes
    redacted: frozenset[int]

    @property
    def length(self) -> int:
        """The number of revisions."""
        return len(self.digests) // 32


@dataclass(slots=True)
class Plan:
    """What an import does. A record without an entry in `deeds` is created."""

    mode: Mode
    policy: Policy
    empty: bool
    since_seq: int
    deeds: dict[tuple[str, Key], Deed] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    created: Counter[str] = field(default_factory=Counter)
    identical: Counter[str] = field(default_factory=Counter)
    behind: Counter[str] = field(default_factory=Counter)
    appended: Counter[str] = field(default_factory=Counter)
    conflicts: list[SnapshotConflict] = field(default_factory=list)
    conflicts_total: int = 0
    touched: set[str] = field(default_factory=set)
    takers: list[tuple[str, Key, str]] = field(default_factory=list)

    def deed(self, kind: str, key: Key) -> Deed:
        """Return what becomes of a record."""
        return self.deeds.get((kind, key), "create")

    def conflict(self, kind: str, key: Key, reason: str) -> None:
        """Note that a record does not fit."""
        self.conflicts_total += 1
        if len(self.conflicts) < MAX_SHOWN:
            self.conflicts.append(SnapshotConflict(kind=kind, key=list(key), reason=reason))


def decide_mode(closure: Closure, *, last_seq: int, last_hash: str) -> Mode:
    """Return adopt when the repository's chain is empty or a prefix of the snapshot's, else merge."""
    if not closure.whole:
        return "merge"
    return "adopt" if last_seq == 0 or closure.hash_at(last_seq) == last_hash else "merge"


def decide_deed(relation: Relation, policy: Policy) -> Deed | None:
    """Return what the policy does with a record; null is a conflict."""
    if relation is Relation.ABSENT:
        return "create"
    if policy == "fail" or relation is Relation.DIVERGED:
        return None
    if relation is Relation.IDENTICAL:
        return "skip"
    if policy != "fast_forward":
        return None
    return "append" if relation is Relation.SNAPSHOT_AHEAD else "skip"


def decide_relation(kind: str, mine: Row, theirs: Row, *, mode: Mode) -> Relation:
    """Return how a record stands to the one in the repository; artifacts have chains besides."""
    if kind in _DIGESTS:
        same = mine[_DIGESTS[kind]] == theirs[_DIGESTS[kind]]
        return Relation.IDENTICAL if same else Relation.DIVERGED
    if kind == "run_output":
        return Relation.IDENTICAL if mine["role"] == theirs["role"] else Relation.DIVERGED
    if fmt.record_line(kind, mine) == fmt.record_line(kind, theirs):
        return Relation.IDENTICAL
    if kind == "operation_run" and theirs["status"] in ENDED:
        return Relation.TARGET_AHEAD if mine["status"] not in ENDED else Relation.DIVERGED
    return _by_version(mine, theirs, mode)


def _by_version(mine: Row, theirs: Row, mode: Mode) -> Relation:
    buried = theirs.get("deleted_at") is not None and mine.get("deleted_at") is None
    if mine["version"] > theirs["version"]:
        # Only a common chain of changes tells that the snapshot knew of the deletion.
        return Relation.DIVERGED if buried and mode == "merge" else Relation.SNAPSHOT_AHEAD
    if mine["version"] < theirs["version"] and not buried:
        return Relation.TARGET_AHEAD
    return Relation.DIVERGED


def decide_artifact(mine: Row, chain: bytes, theirs: Row, known: Chain, *, mode: Mode) -> Relation:
    """Return the relation of two artifacts: by their revision digests, then by version."""
    shorter = min(len(chain), len(known.digests))
    if chain[:shorter] != known.digests[:shorter]:
        return Relation.DIVERGED
    relation = decide_relation("artifact", mine, theirs, mode=mode)
    ahead = len(chain) - len(known.digests)
    if (ahead > 0 and relation is not Relation.SNAPSHOT_AHEAD) or (
        ahead < 0 and relation is not Relation.TARGET_AHEAD
    ):
        return Relation.DIVERGED
    return relation


def compare(
    connection: DriverConnection,
    archive: Archive,
    closure: Closure,
    *,
    tenant_id: str,
    policy: Policy,
    counts: Mapping[str, int],
    head: Row,
) -> Plan:
    """Return what an import under this policy does; conflicts are part of the plan.

    `counts` are the snapshot's records of each kind, `head` is where the repository's chain ends.
    """
    last_seq = head["seq"]
    mode = decide_mode(closure, last_seq=last_seq, last_hash=head["hash"])
    plan = Plan(mode, policy, last_seq == 0, last_seq if mode == "adopt" else 0)
    if plan.empty:
        plan.created.update({kind: counts[kind] for kind in COMPARED if counts[kind]})
        plan.touched.update(head.collection_id for head in closure.artifacts.values())
        return plan
    for kind, batch in batches(archive, COMPARED):
        _compare_batch(connection, plan, closure, kind, batch, tenant_id=tenant_id)
    if plan.mode == "merge":
        _check_names(connection, plan, tenant_id=tenant_id)
    return plan


def batches(
    archive: Archive, kinds: Container[str] = fmt.KINDS, size: int = BATCH
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the rows of a verified snapshot kind by kind, up to `size` at a time."""
    for kind, group in groupby(snapshot_reading.rows(archive, kinds), key=lambda item: item[0]):
        while batch := [row for _, row in islice(group, size)]:
            yield kind, batch


def key_of(kind: str, row: Row) -> Key:
    """Return the key of a row."""
    return tuple(row[name] for name in fmt.KINDS[kind].key)


def _compare_batch(
    connection: DriverConnection,
    plan: Plan,
    closure: Closure,
    kind: str,
    batch: Sequence[Row],
    *,
    tenant_id: str,
) -> None:
    keys = [key_of(kind, row) for row in batch]
    known = {
        key_of(kind, row): row
        for row in driver.list_by_keys(connection, tenant_id=tenant_id, kind=kind, keys=keys)
    }
    chains: dict[str, Chain] = {}
    if kind == "artifact" and known:
        chains = _chains(connection, [key[0] for key in known], tenant_id=tenant_id)
    taken = _taken(connection, kind, batch, tenant_id=tenant_id)
    for key, row in zip(keys, batch, strict=True):
        theirs = known.get(key)
        if theirs is None:
            relation = Relation.ABSENT
        elif kind == "artifact":
            relation = decide_artifact(
                row, closure.artifacts[key[0]].chain, theirs, chains[key[0]], mode=plan.mode
            )
        else:
            relation = decide_relation(kind, row, theirs, mode=plan.mode)
        _note(plan, closure, kind, key, row, relation, chains.get(key[0]))
        if theirs is None and _taking(kind, row) in taken:
            plan.conflict(kind, key, "DIGEST_TAKEN" if kind == "input_bundle" else "ALREADY_PRODUCED")


def _note(
    plan: Plan, closure: Closure, kind: str, key: Key, row: Row, relation: Relation, chain: Chain | None
) -> None:
    deed = decide_deed(relation, plan.policy)
    if deed is None:
        plan.conflict(kind, key, _CONFLICTS[relation])
        return
    if kind == "artifact" and chain is not None:
        erased = closure.artifacts[key[0]].redacted - chain.redacted
        if plan.mode == "merge" and any(number <= chain.length for number in erased):
            plan.conflict(kind, key, "REDACTED_IN_SNAPSHOT")
            return
        plan.lengths[key[0]] = chain.length
    if deed != "create":
        plan.deeds[kind, key] = deed
    counter = {"create": plan.created, "append": plan.appended}.get(deed)
    if counter is None:
        counter = plan.behind if relation is Relation.TARGET_AHEAD else plan.identical
    counter[kind] += 1
    if deed == "skip":
        return
    if kind == "artifact":
        plan.touched.add(row["collection_id"])
    if kind in ("artifact", "collection") and row["deleted_at"] is None:
        plan.takers.append((kind, (row.get("collection_id", ""), row["name_key"]), key[0]))


def _chains(connection: DriverConnection, artifact_ids: Sequence[str], *, tenant_id: str) -> dict[str, Chain]:
    digests = dict.fromkeys(artifact_ids, b"")
    redacted: dict[str, set[int]] = {identifier: set() for identifier in artifact_ids}
    for row in driver.list_chains(connection, tenant_id=tenant_id, artifact_ids=artifact_ids):
        digests[row["artifact_id"]] += fmt.raw_digest(row["revision_digest"])
        if row["redaction"] is not None:
            redacted[row["artifact_id"]].add(row["revision"])
    return {name: Chain(found, frozenset(redacted[name])) for name, found in digests.items()}


def _taking(kind: str, row: Row) -> Any:
    if kind == "input_bundle":
        return row["bundle_digest"]
    return (row["artifact_id"], row["revision"]) if kind == "run_output" else None


def _taken(connection: DriverConnection, kind: str, batch: Sequence[Row], *, tenant_id: str) -> set[Any]:
    """Return which bundle digests and produced revisions of a batch the repository holds."""
    wanted = [_taking(kind, row) for row in batch]
    if kind == "input_bundle":
        return set(driver.list_bundle_digests(connection, tenant_id=tenant_id, digests=wanted))
    if kind == "run_output":
        rows = driver.list_produced(connection, tenant_id=tenant_id, revisions=wanted)
        return {(row["artifact_id"], row["revision"]) for row in rows}
    return set()


def _check_names(connection: DriverConnection, plan: Plan, *, tenant_id: str) -> None:
    """Note live names that another object of the repository bears and keeps."""
    for kind in ("collection", "artifact"):
        takers = {place: identifier for of, place, identifier in plan.takers if of == kind}
        places = list(takers)
        for start in range(0, len(places), BATCH):
            rows = driver.list_name_holders(
                connection, tenant_id=tenant_id, kind=kind, places=places[start : start + BATCH]
            )
            for row in rows:
                taker = takers[row["collection_id"], row["name_key"]]
                # A holder that becomes what the snapshot says leaves the name: there, live names are unique.
                if row["id"] != taker and plan.deeds.get((kind, (row["id"],))) != "append":
                    plan.conflict(kind, (taker,), "NAME_TAKEN")
