"""Logs L5: leaves as they are stored, and what the statements say that still have their hash; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.kernel.canonical_json import dumps, loads
from app.kernel.clock import format_time
from app.kernel.hashing import leaf_hash

Leaf = Mapping[str, Any]
# Statement member and the leaf's own column that repeats it.
_REPEATED = (
    ("type", "type"),
    ("v", "v"),
    ("table", "ref_table"),
    ("version", "ref_version"),
)
_FOREIGN = "FOREIGN_FACT"
_MISMATCH = "LOG_MISMATCH"


@dataclass(frozen=True, slots=True)
class Recorded:
    """One leaf; `said` holds the members of its statement, None when the statement lost its hash."""

    fact_id: str
    leaf: Leaf
    said: Mapping[str, Any] | None

    @property
    def body(self) -> Mapping[str, Any]:
        """What the statement says of the row."""
        body: Mapping[str, Any] = {} if self.said is None else self.said["body"]
        return body


def read(leaves: Sequence[Leaf]) -> list[Recorded]:
    """Return the leaves with their statements read; a statement that is not its hash's says nothing."""
    return [Recorded(str(leaf["fact_id"]), leaf, _said(leaf)) for leaf in leaves]


def stands(leaf: Leaf) -> bool:
    """Tell whether a leaf's hash is its statement's; bytes that are no text have none."""
    statement = leaf["statement"]
    if not isinstance(statement, str):
        return False
    try:
        return bool(leaf_hash(statement) == leaf["leaf_hash"])
    except UnicodeEncodeError:
        return False


def _said(leaf: Leaf) -> Mapping[str, Any] | None:
    if not stands(leaf):
        return None
    try:
        said = loads(leaf["statement"])
    except ValueError:
        return None
    well = isinstance(said, dict) and isinstance(said.get("body"), dict) and isinstance(said.get("key"), list)
    return said if well else None


def check_envelope(recorded: Recorded, *, tenant_id: str, run_id: str | None) -> str | None:
    """Return how a leaf's columns contradict its own statement, None when they repeat it.

    FOREIGN_FACT: the statement is another tenant's, run's or fact's. FACT_GAP: its number is another one.
    LOG_MISMATCH: anything else. `run_id` is the run that the leaf is read for.
    """
    said, leaf = recorded.said, recorded.leaf
    if said is None:
        return None
    wanted = {
        "tenant": tenant_id,
        "fact": leaf["fact_id"],
        "run": leaf["run_id"] if run_id is None else run_id,
    }
    if any(said.get(name) != value for name, value in wanted.items()):
        return _FOREIGN
    if (said.get("no"), said.get("late")) != (leaf["fact_no"], leaf["late"]):
        return "FACT_GAP"
    if said.get("attempt") != leaf["attempt"]:
        return _FOREIGN
    if any(said.get(member) != leaf[column] for member, column in _REPEATED):
        return _MISMATCH
    return None if _is_same(said, leaf) else _MISMATCH


def _is_same(said: Mapping[str, Any], leaf: Leaf) -> bool:
    try:
        return bool(format_time(leaf["created_at"]) == said["at"] and dumps(said["key"]) == leaf["ref_key"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
