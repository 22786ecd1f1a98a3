"""Logs L5: what below a cut of the log stays, and what is needed by what stays: the rest goes."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from app.db.connection import DriverConnection, Row
from app.db.governed import GOVERNED, PROTECTED_SET, Governed
from app.db.row_links import Node, list_links, list_of_planes
from app.db.run_rows import KEPT, run_column
from app.domains.logs.drivers import retention_rows as rows
from app.domains.logs.engines.heads import SYSTEM
from app.domains.logs.models.retention import Pin, Plan
from app.kernel import merkle
from app.kernel.canonical_json import dumps, loads

BLOCK = 256
# Ledger entries that stay for themselves, by entity and by event.
RECORDS = ("LEGAL_HOLD", "RETENTION", "EvidenceArchived", "EvidencePurged")
_SNAPSHOTS, _PLANES = "policy.snapshot", "knowledge_plane_registry"
_STAYS: Node = (None, None)
_AT_ONCE = 500


@dataclass(slots=True)
class Below:
    """What stands below a cut: entries with their leaves, and the runs that may go."""

    epoch: int
    cut: int
    over_age: datetime
    leaves: Sequence[Row]
    runs: Sequence[Row]
    # Why a run, or a fact of no run, stays; what is not named goes.
    pins: dict[Node, Pin] = field(default_factory=dict)


def read_below(
    connection: DriverConnection, head: Row, *, tenant_id: str, over_age: datetime, most: int | None
) -> Below:
    """Return what stands below the cut: the largest multiple of 256 with nothing younger below it.

    It is signed, and not above `most`. What was written at `over_age` or before is not young any more.
    """
    given: dict[str, Any] = {"tenant_id": tenant_id, "epoch": head["epoch"]}
    young = rows.first_young(connection, **given, over_age=over_age)
    limits = [head["signed_size"], *(limit for limit in (young, most) if limit is not None)]
    cut = min(limits) // BLOCK * BLOCK
    return Below(
        epoch=head["epoch"],
        cut=cut,
        over_age=over_age,
        leaves=rows.list_leaves(connection, **given, cut=cut) if cut else (),
        runs=rows.list_runs(connection, tenant_id=tenant_id, over_age=over_age) if cut else (),
    )


def lock_runs(connection: DriverConnection, *, tenant_id: str, over_age: datetime) -> None:
    """Let nothing refer to a run of that age from now on until this transaction ends."""
    rows.lock_runs(connection, tenant_id=tenant_id, over_age=over_age)


def lock_counters(connection: DriverConnection, *, tenant_id: str, over_age: datetime) -> None:
    """Let no late fact come to a run of that age before this transaction ends; the last lock of all."""
    rows.lock_counters(connection, tenant_id=tenant_id, over_age=over_age)


def pin(below: Below, nodes: Iterable[Node], why: Pin) -> None:
    """Let runs and facts stay, for the first reason that they were given."""
    for node in nodes:
        below.pins.setdefault(node, why)


def pin_runs(below: Below, run_ids: Iterable[str], why: Pin) -> None:
    """Let runs stay."""
    pin(below, ((run_id, None) for run_id in run_ids), why)


def pin_all(below: Below, why: Pin) -> None:
    """Let everything stay."""
    pin(below, map(_node, below.leaves), why)


def pin_own(connection: DriverConnection, below: Below, *, tenant_id: str) -> None:
    """Let stay what is not over, what is the log's own, and what says how heads are."""
    pin_runs(below, (run["run_id"] for run in below.runs if not _is_over(run)), Pin.RUNNING)
    recent = rows.list_recent_runs(
        connection,
        tenant_id=tenant_id,
        epoch=below.epoch,
        cut=below.cut,
        over_age=below.over_age,
        records=RECORDS,
    )
    pin_runs(below, recent, Pin.RECENT)
    pin_runs(below, rows.list_runs_of_records(connection, tenant_id=tenant_id, records=RECORDS), Pin.NEEDED)
    heads = _facts_of_heads(connection, below, tenant_id=tenant_id)
    for leaf in below.leaves:
        if leaf["fact_id"] in heads:
            pin(below, [_node(leaf)], Pin.HEAD)


def _is_over(run: Row) -> bool:
    return bool(run["closed"]) and run["status"] != "running"


def _facts_of_heads(connection: DriverConnection, below: Below, *, tenant_id: str) -> set[str]:
    """Return the facts below the cut by which heads are checked: the first and the newest of each."""
    found: set[str] = set()
    bounds: dict[tuple[str, str], tuple[int, int]] = {}
    for name, entry in GOVERNED.items():
        if entry.mode == "HEAD":
            for row in rows.list_versions(connection, name, tenant_id=tenant_id):
                bounds[name, row["ref_key"]] = (row["first"], row["newest"])
    heads = {name for name, entry in GOVERNED.items() if entry.mode in ("EVENTED", "AUDITED")}
    newest = rows.newest_of_type(connection, tenant_id=tenant_id, type_name=_SNAPSHOTS)
    for leaf in below.leaves:
        of = bounds.get((leaf["ref_table"], leaf["ref_key"]), ())
        if leaf["ref_version"] in of or leaf["fact_id"] == newest:
            found.add(leaf["fact_id"])
        elif leaf["run_id"] is None and leaf["ref_table"] in heads:
            # A head that no run caused is never taken.
            found.add(leaf["fact_id"])
    return found


def pin_planes(
    connection: DriverConnection, below: Below, plane_ids: Collection[str], *, tenant_id: str
) -> None:
    """Let stay all that is about planes which are held."""
    if not plane_ids:
        return
    pin(below, list_of_planes(connection, tenant_id=tenant_id, plane_ids=sorted(plane_ids)), Pin.HELD)
    keys = {dumps([plane_id]) for plane_id in plane_ids}
    about = (leaf for leaf in below.leaves if leaf["ref_table"] == _PLANES and leaf["ref_key"] in keys)
    pin(below, map(_node, about), Pin.HELD)


def pin_needed(connection: DriverConnection, below: Below, *, tenant_id: str) -> None:
    """Let stay what something that stays needs, and so on until nothing else is needed."""
    needs: dict[Node, list[Node]] = {}
    found = list_links(connection, tenant_id=tenant_id, epoch=below.epoch, cut=below.cut)
    for needing, needed in found:
        needs.setdefault(needing, []).append(needed)
    for needing, needed in _ledger_needs(connection, tenant_id=tenant_id):
        needs.setdefault(needing, []).append(needed)
    may_go = {(run["run_id"], None) for run in below.runs} | {_node(leaf) for leaf in below.leaves}
    waiting = deque(node for node in needs if node not in may_go or node in below.pins)
    while waiting:
        for needed in needs.pop(waiting.popleft(), ()):
            if needed in may_go and needed not in below.pins:
                below.pins[needed] = Pin.NEEDED
                waiting.append(needed)


def _node(leaf: Row) -> Node:
    return (leaf["run_id"], None) if leaf["run_id"] is not None else (None, leaf["fact_id"])


@dataclass(slots=True)
class _Image:
    """A row that the ledger speaks for, and the columns that no entry has told yet."""

    node: Node
    missing: set[str]


def _ledger_needs(connection: DriverConnection, *, tenant_id: str) -> Iterator[tuple[Node, Node]]:
    """Yield rows and the newest ledger entries that together tell all of their columns."""
    entities: dict[str, list[Governed]] = {}
    for entry in GOVERNED.values():
        if entry.mode == "AUDITED":
            entities.setdefault(entry.entity, []).append(entry)
    for entity, entries in sorted(entities.items()):
        told: dict[str, deque[str]] = {}
        for row in rows.list_ledger(connection, entity, tenant_id=tenant_id):
            told.setdefault(row["entity_id"], deque()).append(row["fact_id"])
        if tenant_id == SYSTEM and any(entry.operated for entry in entries):
            # These rows are in other tenants; what this ledger says of them stays.
            yield from ((_STAYS, (None, fact_id)) for facts in told.values() for fact_id in facts)
            continue
        images = _images(connection, entries, tenant_id=tenant_id) if told else {}
        yield from _newest_told(connection, entries, images, told, tenant_id=tenant_id)


def _images(
    connection: DriverConnection, entries: Sequence[Governed], *, tenant_id: str
) -> dict[str, dict[tuple[str, str], _Image]]:
    """Return the rows of an entity by its id, and by table and key."""
    found: dict[str, dict[tuple[str, str], _Image]] = {}
    for entry in entries:
        hidden = {"tenant_id", "fact_id", *entry.protected, *PROTECTED_SET, *entry.unhashed}
        columns = {column.name for column in entry.table.columns} - hidden
        run = run_column(entry.table.name) if entry.types else None
        for row in rows.list_keys(connection, entry.table.name, run, tenant_id=tenant_id):
            key = [row[name] for name in entry.key]
            node = _STAYS if row["of_run"] is None else (row["of_run"], None)
            name = str(key[0]) if key else tenant_id
            found.setdefault(name, {})[entry.table.name, dumps(key)] = _Image(node, set(columns))
    return found


def _newest_told(
    connection: DriverConnection,
    entries: Sequence[Governed],
    images: Mapping[str, dict[tuple[str, str], _Image]],
    told: Mapping[str, deque[str]],
    *,
    tenant_id: str,
) -> Iterator[tuple[Node, Node]]:
    asked = [name for name in images if name in told]
    while asked:
        names, asked = asked[:_AT_ONCE], asked[_AT_ONCE:]
        newest = {name: told[name].popleft() for name in names}
        states = rows.list_states(connection, list(newest.values()), tenant_id=tenant_id)
        for name, fact_id in newest.items():
            run_id, text = states.get(fact_id, (None, None))
            fact: Node = (run_id, None) if run_id is not None else (None, fact_id)
            for image in _told_by(entries, images[name], {} if text is None else loads(text)):
                yield image.node, fact
            if told[name] and any(image.missing for image in images[name].values()):
                asked.append(name)


def _told_by(
    entries: Sequence[Governed], images: Mapping[tuple[str, str], _Image], state: Any
) -> Iterator[_Image]:
    """Yield the rows of which a ledger entry is the newest to tell some column."""
    for entry in entries:
        said = state.get(entry.image) if entry.image is not None and isinstance(state, dict) else state
        if not isinstance(said, dict) or any(name not in said for name in entry.key):
            continue
        image = images.get((entry.table.name, dumps([said[name] for name in entry.key])))
        if image is not None and image.missing & said.keys():
            image.missing -= said.keys()
            yield image


def plan_of(connection: DriverConnection, below: Below, *, tenant_id: str) -> Plan:
    """Return the plan: what nothing keeps."""
    records = rows.list_records(connection, tenant_id=tenant_id, records=RECORDS)
    going = {run["run_id"] for run in below.runs if (run["run_id"], None) not in below.pins}
    begun = {leaf["run_id"] for leaf in below.leaves if leaf["type"] == "run.started"}
    going &= begun
    facts: list[tuple[int, str]] = []
    hashes: list[bytes] = []
    pinned: Counter[str] = Counter()
    for leaf in below.leaves:
        table, run_id, node = leaf["ref_table"], leaf["run_id"], _node(leaf)
        if table is None or table in KEPT or leaf["fact_id"] in records:
            pinned[Pin.RECORD.value] += 1
        elif node in below.pins or (run_id is not None and run_id not in going):
            pinned[below.pins.get(node, Pin.RECENT).value] += 1
        else:
            facts.append((leaf["idx"], leaf["fact_id"]))
            hashes.append(bytes.fromhex(leaf["leaf_hash"]))
    return Plan(
        epoch=below.epoch,
        cut=below.cut,
        run_ids=[run["run_id"] for run in below.runs if run["run_id"] in going],
        facts=facts,
        pinned=dict(pinned),
        root=merkle.root(hashes).hex(),
    )


def count_over_age_values(connection: DriverConnection, *, tenant_id: str, over_age: datetime) -> int:
    """Return how many rows hold values and were last written at a moment or before."""
    return sum(
        rows.count_over_age_values(connection, name, tenant_id=tenant_id, over_age=over_age)
        for name, entry in GOVERNED.items()
        if entry.protected
    )
