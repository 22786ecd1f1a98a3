"""Database: which rows are of runs, or go by their facts, as the register and the foreign keys have it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import sqlalchemy as sa

from app.db.governed import EXEMPT, GOVERNED
from app.db.metadata import metadata

# Their facts stay for themselves, and keep nothing else: no timer removes knowledge, or what says that values
# and records went.
KEPT = frozenset(
    {
        "artifact_revisions",
        "context_packages",
        "erasures",
        "input_bundles",
        "log_archives",
        "repository_changes",
        "run_manifests",
        "run_outputs",
    }
)
# A row stays, and forgets what it named.
FORGETTING = "discovery_ledger"
# The counter of a run's facts goes with the run.
COUNTERS = "run_fact_counters"
# Their run is told, and no key demands that it is there.
_TOLD_BY = {"retrieval_observations": "run_id"}


@cache
def run_column(name: str) -> str | None:
    """Return the column of a table that names the run which a row is of."""
    if name == "runs":
        return "run_id"
    for key in metadata.tables[name].foreign_key_constraints:
        if key.referred_table.name == "runs" and name != FORGETTING:
            return next(column.name for column in key.columns if column.name != "tenant_id")
    return _TOLD_BY.get(name)


def _is_part(name: str) -> bool:
    """Tell whether rows are of runs and have no fact: they go with the run, or with what they refer to."""
    if name in EXEMPT:
        return name != FORGETTING and (run_column(name) is not None or owner_key(name) is not None)
    return GOVERNED[name].mode == "CHAINED" and owner_key(name) is not None


@cache
def owner_key(name: str) -> sa.ForeignKeyConstraint | None:
    """Return the key, part of a row's own, to the row that it is a part of."""
    table = metadata.tables[name]
    own = [column.name for column in table.primary_key]
    for key in table.foreign_key_constraints:
        names = [column.name for column in key.columns]
        owned = GOVERNED.get(key.referred_table.name)
        if owned is not None and own[: len(names)] == names and may_go(key.referred_table.name):
            return key
    return None


def owner_of(name: str) -> tuple[Sequence[tuple[str, str]], sa.Table]:
    """Return what the rows of a table are parts of, and by which columns; the table has no run of its own."""
    key = owner_key(name)
    if key is None:
        raise LookupError(f"{name} is a part of nothing")
    return [(part.parent.name, part.column.name) for part in key.elements], key.referred_table


def may_go(name: str) -> bool:
    """Tell whether the rows of a governed table are of runs, or go with their facts."""
    entry = GOVERNED[name]
    return name not in KEPT and bool(entry.types) and (entry.mode == "APPEND" or run_column(name) is not None)


@cache
def purged_tables() -> tuple[str, ...]:
    """Return the tables that rows go from, those that refer before those that are referred to."""
    found = []
    for table in reversed(metadata.sorted_tables):
        governed = table.name in GOVERNED and may_go(table.name)
        if table.info.get("tenant") and table.name != "log_leaves" and (governed or _has_parts(table.name)):
            found.append(table.name)
    return tuple(found)


def _has_parts(name: str) -> bool:
    return (name in EXEMPT or name in GOVERNED) and name not in KEPT and _is_part(name)


def has_facts(name: str) -> bool:
    """Tell whether the rows of a table go by their facts."""
    return name in GOVERNED and GOVERNED[name].mode != "CHAINED"


@cache
def parts_of(name: str) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    """Return the tables whose rows go with the rows of a table that they refer to, and by which columns."""
    found = []
    for child in purged_tables():
        for key in metadata.tables[child].foreign_key_constraints:
            if key.referred_table.name == name and name != "runs" and child in EXEMPT:
                pairs = tuple((part.parent.name, part.column.name) for part in key.elements)
                found.append((child, pairs))
    return tuple(found)
