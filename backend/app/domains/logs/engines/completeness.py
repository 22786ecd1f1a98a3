"""Logs L5: are a run's facts all there, and does each leaf carry its statement's hash; pure checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from app.db.connection import DriverConnection, Row
from app.domains.logs.drivers import leaves as driver
from app.domains.logs.engines.recorded import stands
from app.domains.logs.engines.row_reading import tolerant
from app.kernel.canonical_json import loads

Leaf = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FactsVerdict:
    """What the checks of a run's proof found on its facts, as far as they need no tree."""

    status: Literal["COMPLETE", "OPEN", "INCOMPLETE"]
    expected: int
    found: int
    late: int
    code: str | None = None


def read_facts(
    connection: DriverConnection, *, tenant_id: str, run_id: str
) -> tuple[Sequence[Row], Row | None]:
    """Return a run's leaves in order, and its counter; damaged values come as they are."""
    return (
        tolerant(driver.list_leaves, connection, tenant_id=tenant_id, run_id=run_id),
        tolerant(driver.get_counter, connection, tenant_id=tenant_id, run_id=run_id),
    )


def check_facts(
    leaves: Sequence[Leaf], counter: Mapping[str, Any] | None, *, sound: bool | None = None
) -> FactsVerdict:
    """Return whether facts are numbered 1..N without a gap, close as they say, and hash as they should.

    `sound` is whether all leaves have their statement's hash, where that was found out already.
    """
    main = [leaf for leaf in leaves if not leaf["late"]]
    late = [leaf for leaf in leaves if leaf["late"]]
    expected, expected_late = _counted(counter, "fact_count"), _counted(counter, "late_count")
    closing = [leaf for leaf in main if leaf["type"] == "run.completed"]
    code = None
    closed = counter is not None and counter["closed"]
    if not _is_counted(main, expected) or not _is_counted(late, expected_late):
        code = "FACT_GAP"
    elif (counter is not None and closed is not bool(closing)) or (closing and not _closes(main, closing)):
        code = "CLOSURE_MISMATCH"
    elif not (all(stands(leaf) for leaf in leaves) if sound is None else sound):
        code = "LOG_MISMATCH"
    status: Literal["COMPLETE", "OPEN", "INCOMPLETE"] = "COMPLETE" if closing else "OPEN"
    return FactsVerdict("INCOMPLETE" if code else status, max(0, expected), len(main), len(late), code)


def _counted(counter: Mapping[str, Any] | None, name: str) -> int:
    """Return a count; one that is no number any more counts nothing, so that facts are left over."""
    value = 0 if counter is None else counter[name]
    return value if isinstance(value, int) else -1


def _is_counted(leaves: Sequence[Leaf], expected: int) -> bool:
    return [leaf["fact_no"] for leaf in leaves] == list(range(1, expected + 1))


def _closes(main: Sequence[Leaf], closing: Sequence[Leaf]) -> bool:
    if len(closing) != 1 or closing[0] is not main[-1]:
        return False
    counts = Counter(leaf["type"] for leaf in main)
    try:
        closure = loads(closing[0]["statement"])["body"]["closure"]
        return bool(closure["fact_count"] == len(main) and closure["type_counts"] == dict(counts))
    except (ValueError, KeyError, TypeError):  # somebody edited the statement
        return False
