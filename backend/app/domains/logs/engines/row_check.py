"""Logs L5: does every governed row equal its fact, and do its values open their commitment; pure checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.db.connection import Row
from app.db.governed import Governed, column_default, difference, differences
from app.domains.logs.engines.row_reading import Claim, RowFacts, Subject
from app.kernel.canonical_json import dumps, loads
from app.kernel.clock import is_text_of as is_text_of_time
from app.kernel.hashing import protected_commit

COMMIT = "protected_commit"
_STANDING = ("version", "created_at", "updated_at")


@dataclass(frozen=True, slots=True)
class RowFailure:
    """One row that is not as recorded; `column` is the first that differs."""

    code: str
    table: str
    key: str
    fact_id: str | None = None
    column: str | None = None


@dataclass(frozen=True, slots=True)
class RowsVerdict:
    """What the check found: failures of values and of rows, and how many values there are of each state."""

    values: Sequence[RowFailure] = ()
    rows: Sequence[RowFailure] = ()
    states: Mapping[str, int] = field(default_factory=dict)
    checked: int = 0


def check_rows(facts: RowFacts) -> RowsVerdict:
    """Check 11 and 12 of a run's proof over rows of all tables: VALUE_TAMPERED, VALUE_MISSING, ROW_*."""
    states: Counter[str] = Counter()
    values: list[RowFailure] = []
    rows: list[RowFailure] = []
    for subject in facts.subjects:
        if subject.unknown:
            continue
        if subject.row is None:
            rows.append(_failure("ROW_MISSING", subject))
            continue
        column = next(_differing(subject, subject.row), None)
        if column is not None:
            rows.append(_failure("ROW_MISMATCH", subject, column))
        state, code = _value_state(subject, subject.row, facts.erased)
        if state is not None:
            states[state] += 1
        if code is not None:
            values.append(_failure(code, subject, COMMIT))
    return RowsVerdict(values, rows, dict(states), len(facts.subjects))


def _failure(code: str, subject: Subject, column: str | None = None) -> RowFailure:
    fact_id = None if subject.fact is None else subject.fact.fact_id
    return RowFailure(code, subject.entry.table.name, dumps(list(subject.key)), fact_id, column)


def _differing(subject: Subject, row: Row) -> Iterator[str]:
    """Yield the columns of a row that are not as the log has them."""
    entry = subject.entry
    if subject.fact is not None and subject.fact.said is not None:
        said = subject.fact.said
        if row["fact_id"] != subject.fact.fact_id:
            yield "fact_id"
        yield from (name for name, part in zip(entry.key, said["key"], strict=False) if row[name] != part)
        yield from _unlike(entry, row, said)
        yield from _unlike_envelope(subject, row, said)
        return
    yield from _unlike_claims(entry, row, _newest_first(subject.claims))


def _unlike(entry: Governed, row: Row, said: Mapping[str, Any]) -> Iterator[str]:
    """Yield the columns that differ from a whole-row statement.

    A column that did not exist yet when the statement was written must hold its declared default.
    """
    body = said["body"]
    if said["type"] not in entry.bodies and body.keys() >= entry.hashed_names:
        yield from differences(entry, row, body)
        return
    for name in entry.hashed:
        if name in body:
            if difference(entry, row, name, body[name]):
                yield name
        elif said["type"] not in entry.bodies and row[name] != column_default(entry, name):
            yield name


def _unlike_envelope(subject: Subject, row: Row, said: Mapping[str, Any]) -> Iterator[str]:
    """Yield standing columns that are not as the envelope says."""
    head = subject.entry.mode == "HEAD"
    if head and row["version"] != said["version"]:
        yield "version"
    if head and "updated_at" in row and not is_text_of_time(said["at"], row["updated_at"]):
        yield "updated_at"
    since = subject.since if head else said["at"]
    if since is not None and "created_at" in row and not is_text_of_time(since, row["created_at"]):
        yield "created_at"


def _newest_first(claims: Sequence[Claim]) -> list[Claim]:
    return sorted(claims, key=lambda claim: (claim.at, claim.fact_id), reverse=True)


def _unlike_claims(entry: Governed, row: Row, claims: Sequence[Claim]) -> Iterator[str]:
    """Yield columns that differ from the newest fact that carries them."""
    for name in entry.hashed:
        newest = next((claim for claim in claims if name in claim.stated), None)
        if newest is not None and difference(entry, row, name, newest.stated[name]):
            yield name
    if entry.mode == "AUDITED":
        # The ledger holds the whole row. In an EVENTED one these move with what no fact speaks for.
        for name in _STANDING:
            image = next((claim for claim in claims if claim.is_image and name in claim.stated), None)
            if image is not None and difference(entry, row, name, image.stated[name]):
                yield name
    elif (
        "created_at" in row
        and claims
        and not entry.bodies
        and not is_text_of_time(claims[-1].at, row["created_at"])
    ):
        yield "created_at"


def _value_state(subject: Subject, row: Row, erased: frozenset[str]) -> tuple[str | None, str | None]:
    """Return the state of a row's protected members, None when it has none, and the failure code."""
    entry = subject.entry
    if not entry.protected:
        return None, None
    commit = _commitment(subject)
    values = [row[name] for name in entry.protected]
    salt = row["protected_salt"]
    if salt is None and all(value is None for value in values):
        if commit is None:
            return None, None
        return ("erased", None) if commit in erased else ("tampered", "VALUE_MISSING")
    if salt is not None and commit is not None and _opens(entry, row, str(salt), commit):
        return "intact", None
    return "tampered", "VALUE_TAMPERED"


def _commitment(subject: Subject) -> str | None:
    if subject.fact is not None:
        found = subject.fact.body.get(COMMIT)
    else:
        carrying = (claim for claim in _newest_first(subject.claims) if COMMIT in claim.stated)
        newest = next(carrying, None)
        found = None if newest is None else newest.stated[COMMIT]
    return None if found is None else str(found)


def _opens(entry: Governed, row: Row, salt: str, commit: str) -> bool:
    try:
        members = {name: _value(entry, name, row[name]) for name in entry.protected}
        return protected_commit(salt, members) == commit
    except (TypeError, ValueError):
        return False


def _value(entry: Governed, name: str, value: Any) -> Any:
    """Return a protected member as it was committed to: a JSON column as its value."""
    return loads(value) if name in entry.json and value is not None else value
