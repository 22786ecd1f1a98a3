"""Spine: what is derived, recounted from what it is derived of: the checks that DERIVED columns name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from app.db.connection import DriverConnection, Row
from app.domains.activity.engines import projections
from app.domains.activity.engines.projections import Sources
from app.domains.controls.engines import breaches, ledger
from app.domains.controls.engines import recounting as limit_recounting
from app.domains.decisions.engines import recording
from app.domains.incidents.engines import run_incidents
from app.domains.knowledge.engines import recounting as plane_recounting
from app.domains.lessons.engines import lessons
from app.domains.logs.engines.recorded import Recorded
from app.domains.logs.engines.row_check import RowFailure
from app.domains.logs.engines.row_reading import RowFacts
from app.domains.policies.engines import preventions
from app.domains.retrieval.engines import evidence
from app.domains.traces.engines import recounting as trace_recounting
from app.hoc_spine.coordinators.recount_limits import recount_limits
from app.hoc_spine.coordinators.repository_check import recount_repository
from app.kernel.canonical_json import dumps

WRONG: Final = "RECOUNT_MISMATCH"
_PLANES = ("knowledge_plane_registry", "plane_lifecycle_events")
_EXTENDED = "trace.extended"
# So many traces are named in one statement.
_TRACES_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Stretch:
    """Facts of a stretch of the log with the rows that they are about, read at one moment."""

    connection: DriverConnection
    tenant_id: str
    facts: Sequence[Recorded]
    rows: RowFacts
    digest_key: Callable[..., bytes]
    tally: Counter[str] = field(default_factory=Counter)

    @property
    def given(self) -> dict[str, Any]:
        """What every reading begins with."""
        return {"connection": self.connection, "tenant_id": self.tenant_id}

    def key(self) -> bytes:
        """The tenant's digest key."""
        return self.digest_key(self.connection, tenant_id=self.tenant_id)

    def rows_of(self, table: str) -> list[Row]:
        """The rows of a table that the facts are about, as far as they are there."""
        found = [subject.row for subject in self.rows.subjects if subject.entry.table.name == table]
        return [row for row in found if row is not None]


Recount = Callable[[Stretch], Iterator[RowFailure]]
WholeRecount = Callable[[DriverConnection, str], Iterator[RowFailure]]


def recount(stretch: Stretch) -> list[RowFailure]:
    """Do every recount of a stretch; one that meets values which cannot be read finds just that."""
    found: list[RowFailure] = []
    for name, check in RECOUNTS.items():
        try:
            found += check(stretch)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            found.append(RowFailure(WRONG, "log", name))
    return found


def recount_whole(connection: DriverConnection, *, tenant_id: str) -> list[RowFailure]:
    """Do every recount that needs all rows of a tenant."""
    found: list[RowFailure] = []
    for name, check in WHOLE_RECOUNTS.items():
        try:
            found += check(connection, tenant_id)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            found.append(RowFailure(WRONG, "log", name))
    return found


def _failure(table: str, key: Any, column: str) -> RowFailure:
    return RowFailure(WRONG, table, key if isinstance(key, str) else dumps(key), column=column)


def run_projections(stretch: Stretch) -> Iterator[RowFailure]:
    """Recount what rows of runs tell, from incidents, lessons, breaches and records of rules."""
    run_ids = sorted({str(fact.said["run"]) for fact in stretch.facts if fact.said and fact.said["run"]})
    if not run_ids:
        return
    given = {**stretch.given, "run_ids": run_ids}
    incidents = run_incidents.count_by_run(**given)
    drafts, breached = lessons.count_drafts(**given), breaches.count_by_run(**given)
    stopped: dict[str, set[int]] = {}
    for run_id, attempt in preventions.list_stopped(**given):
        stopped.setdefault(run_id, set()).add(attempt)
    runs = projections.list_projections(**given)
    stretch.tally["recounted"] += len(runs)
    for run in runs:
        run_id = run["run_id"]
        count, is_violated = incidents.get(run_id, (0, False))
        sources = Sources(
            incidents=count,
            is_violated=is_violated,
            drafts=drafts.get(run_id, 0),
            breaches=breached.get(run_id, 0),
            stopped=frozenset(stopped.get(run_id, ())),
        )
        for column in projections.find_wrong(run, sources):
            yield _failure("runs", [run_id], column)


def step_digests(stretch: Stretch) -> Iterator[RowFailure]:
    """Recount content_hash of the steps that came in this stretch; erased ones are counted, not judged."""
    stretches: dict[str, tuple[int, int]] = {}
    for fact in stretch.facts:
        if fact.said is not None and fact.said["type"] == _EXTENDED:
            trace_id, first, last = (fact.body[name] for name in ("trace_id", "from_index", "to_index"))
            known = stretches.get(trace_id, (first, last))
            stretches[trace_id] = (min(known[0], first), max(known[1], last))
    names = sorted(stretches)
    for start in range(0, len(names), _TRACES_AT_ONCE):
        wanted = {name: stretches[name] for name in names[start : start + _TRACES_AT_ONCE]}
        for step in trace_recounting.list_stretches(**stretch.given, stretches=wanted):
            if _is_there(stretch, step, "params") and not trace_recounting.is_digest_of(step, stretch.key()):
                yield _failure("aos_trace_steps", [step["trace_id"], step["step_index"]], "content_hash")


def decision_digests(stretch: Stretch) -> Iterator[RowFailure]:
    """Recount inputs_digest of decisions; erased ones are counted, not judged."""
    for record in stretch.rows_of("decision_records"):
        if _is_there(stretch, record, "decision_inputs") and not recording.is_digest_of(
            record, stretch.key()
        ):
            yield _failure("decision_records", [record["decision_id"]], "inputs_digest")


def _is_there(stretch: Stretch, row: Row, member: str) -> bool:
    # A value that is gone without an erasure is what the check of values finds.
    there = row[member] is not None
    stretch.tally["recounted" if there else "recounts_erased"] += 1
    return there


def trace_totals(stretch: Stretch) -> Iterator[RowFailure]:
    """Recount the totals of open traces, which no fact carries before the seal."""
    named = {str(fact.body["trace_id"]) for fact in stretch.facts if "trace_id" in fact.body}
    started = (fact.body.get("trace") for fact in stretch.facts)
    named |= {str(trace["trace_id"]) for trace in started if isinstance(trace, dict)}
    opened = trace_recounting.list_open(**stretch.given, trace_ids=sorted(named)) if named else ()
    if not opened:
        return
    run_ids = sorted({str(trace["run_id"]) for trace in opened})
    recorded = limit_recounting.list_recorded(**stretch.given, run_ids=run_ids)
    stretch.tally["recounted"] += len(opened)
    for trace_id, column in trace_recounting.find_wrong_totals(
        stretch.connection, opened, recorded, tenant_id=stretch.tenant_id
    ):
        yield _failure("aos_traces", [trace_id], column)


def evidence_documents(stretch: Stretch) -> Iterator[RowFailure]:
    """Recount the rows of documents from the evidence that cites them."""
    rows = stretch.rows_of("retrieval_evidence")
    stretch.tally["recounted"] += len(rows)
    for evidence_id in evidence.find_miscited(stretch.connection, rows, tenant_id=stretch.tenant_id):
        yield _failure("retrieval_evidence_documents", [evidence_id], "position")


def plane_statistics(stretch: Stretch) -> Iterator[RowFailure]:
    """Recount the statistics of planes from the event that ended their last ingest."""
    plane_ids = _plane_ids(stretch)
    if plane_ids:
        for plane_id, column in plane_recounting.find_wrong_statistics(**stretch.given, plane_ids=plane_ids):
            yield _failure("knowledge_plane_registry", [plane_id], column)


def plane_events(stretch: Stretch) -> Iterator[RowFailure]:
    """Recount event_seq of planes from their events."""
    plane_ids = _plane_ids(stretch)
    stretch.tally["recounted"] += len(plane_ids)
    if plane_ids:
        for plane_id in plane_recounting.find_wrong_seqs(**stretch.given, plane_ids=plane_ids):
            yield _failure("knowledge_plane_registry", [plane_id], "event_seq")


def _plane_ids(stretch: Stretch) -> list[str]:
    # The key of a plane, and of an event of one, begins with the plane's id.
    return sorted(
        {
            str(fact.said["key"][0])
            for fact in stretch.facts
            if fact.said is not None and fact.said["table"] in _PLANES
        }
    )


def limit_counters(connection: DriverConnection, tenant_id: str) -> Iterator[RowFailure]:
    """Recount the counters of limits from their entries."""
    for drift in ledger.find_drift(connection, tenant_id=tenant_id):
        column = "reserved" if drift["committed"] == drift["entered_committed"] else "committed"
        yield _failure("limit_counters", [drift["limit_id"], drift["window_key"]], column)


def limit_ledger(connection: DriverConnection, tenant_id: str) -> Iterator[RowFailure]:
    """Recount entries of limits and reservations from steps, recorded use and decisions."""
    for table, key, column in recount_limits(connection, tenant_id=tenant_id):
        yield _failure(table, [key], column)


# The register: a DERIVED column, or an exemption that says so, names one of these.
RECOUNTS: Final[Mapping[str, Recount]] = {
    "run_projections": run_projections,
    "step_digests": step_digests,
    "decision_digests": decision_digests,
    "trace_totals": trace_totals,
    "evidence_documents": evidence_documents,
    "plane_statistics": plane_statistics,
    "plane_events": plane_events,
}
# These read all rows of a tenant, however few facts have made them.
WHOLE_RECOUNTS: Final[Mapping[str, WholeRecount]] = {
    "limit_counters": limit_counters,
    "limit_ledger": limit_ledger,
    "repository_check": recount_repository,
}
