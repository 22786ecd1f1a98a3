"""Logs L5: leaves as they are stored, and what the statements say that still have their hash; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from app.kernel.canonical_json import is_text_of, loads
from app.kernel.clock import is_text_of as is_text_of_time
from app.kernel.hashing import leaf_hash

Leaf = Mapping[str, Any]
# Members of a statement beside tenant, run, key and time, and the leaf's own columns that repeat them.
_ENVELOPE = itemgetter("tenant", "run", "fact", "no", "late", "attempt", "type", "v", "table", "version")
_COLUMNS = itemgetter("fact_id", "fact_no", "late", "attempt", "type", "v", "ref_table", "ref_version")
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
    if not isinstance(said, dict) or not isinstance(said.get("body"), dict):
        return None
    # A fact without a row has no key.
    keyed = isinstance(said.get("key"), list) if said.get("table") is not None else said.get("key") is None
    return said if keyed else None


def check_envelope(recorded: Recorded, *, tenant_id: str, run_id: str | None) -> str | None:
    """Return how a leaf's columns contradict its own statement, None when they repeat it.

    FOREIGN_FACT: the statement is another tenant's, run's or fact's. FACT_GAP: its number is another one.
    LOG_MISMATCH: anything else. `run_id` is the run that the leaf is read for.
    """
    said, leaf = recorded.said, recorded.leaf
    if said is None:
        return None
    run = leaf["run_id"] if run_id is None else run_id
    if _is_repeated(said, (tenant_id, run, *_COLUMNS(leaf))) and _is_same(said, leaf):
        return None
    if (said.get("tenant"), said.get("fact"), said.get("run")) != (tenant_id, leaf["fact_id"], run):
        return _FOREIGN
    if (said.get("no"), said.get("late")) != (leaf["fact_no"], leaf["late"]):
        return "FACT_GAP"
    if said.get("attempt") != leaf["attempt"]:
        return _FOREIGN
    return _MISMATCH


def _is_repeated(said: Mapping[str, Any], columns: tuple[Any, ...]) -> bool:
    try:
        return bool(_ENVELOPE(said) == columns)
    except KeyError:
        return False


def _is_same(said: Mapping[str, Any], leaf: Leaf) -> bool:
    try:
        key, text = said["key"], leaf["ref_key"]
        same = text is None if key is None else is_text_of(text, key)
        return same and is_text_of_time(said["at"], leaf["created_at"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
