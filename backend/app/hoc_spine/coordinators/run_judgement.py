"""Spine: what the proof of a run is made from, read at one moment, and the verdict on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.db.connection import DriverConnection, Row
from app.domains.logs.engines import (
    completeness,
    inclusion,
    operated_rows,
    recorded,
    row_check,
    row_reading,
)
from app.domains.logs.engines.completeness import FactsVerdict
from app.domains.logs.engines.inclusion import LogFacts, LogVerdict
from app.domains.logs.engines.keys import KeyRing
from app.domains.logs.engines.recorded import Recorded
from app.domains.logs.engines.row_check import RowFailure, RowsVerdict
from app.domains.logs.engines.row_reading import RowFacts
from app.domains.repository.engines import chain_check
from app.domains.traces.engines import steps, traces
from app.domains.traces.engines.verification import TraceVerdict, verify_traces

VALUES = ("intact", "erased", "tampered")
REPOSITORY_FACT = "repository.changed"


@dataclass(frozen=True, slots=True)
class ProofFacts:
    """All rows and leaves of a run; nothing of it is trusted."""

    tenant_id: str
    run_id: str
    traces: Sequence[Row]
    steps: Sequence[Row]
    leaves: Sequence[Row]
    counter: Row | None
    recorded: Sequence[Recorded]
    rows: RowFacts
    unlogged: Sequence[str]
    changes: Sequence[RowFailure]
    log: LogFacts


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdicts of all checks; `code` is the first failure that is not of a trace."""

    traces: Sequence[TraceVerdict]
    rows: RowsVerdict
    facts: FactsVerdict
    log: LogVerdict
    values: Mapping[str, int]
    code: str | None
    failures: Sequence[RowFailure]

    @property
    def failure_code(self) -> str | None:
        """The first failure of all, in the order of the checks."""
        return next((verdict.code for verdict in self.traces if verdict.code), self.code)


def read_proof_facts(
    connection: DriverConnection, *, tenant_id: str, run_id: str, keys: KeyRing | None
) -> ProofFacts | None:
    """Read what a run's proof is made from; None when neither a row nor a leaf names the run."""
    given = {"tenant_id": tenant_id, "run_id": run_id}
    run = row_reading.find_row(connection, "runs", run_id, tenant_id=tenant_id)
    leaves, counter = completeness.read_facts(connection, **given)
    if run is None and not leaves:
        return None
    said = recorded.read(leaves)
    snapshot = {"tenant_id": tenant_id, "policy_snapshot_id": _snapshot_of(run, said)}
    return ProofFacts(
        tenant_id=tenant_id,
        run_id=run_id,
        traces=[{**trace, **snapshot} for trace in traces.list_proof_traces(connection, **given)],
        steps=steps.list_run_steps(connection, **given),
        leaves=leaves,
        counter=counter,
        recorded=said,
        rows=read_subjects(connection, said, tenant_id=tenant_id, across=False),
        unlogged=row_reading.list_unlogged_of_run(connection, **given),
        changes=find_broken_changes(connection, said, tenant_id=tenant_id),
        log=inclusion.read_log(connection, leaves, tenant_id=tenant_id, keys=keys),
    )


def read_subjects(
    connection: DriverConnection, facts: Sequence[Recorded], *, tenant_id: str, across: bool
) -> RowFacts:
    """Read every governed row that these facts are about; `across`: also what the operator's ledger says."""
    found = row_reading.read_rows(connection, facts, tenant_id=tenant_id)
    operated = operated_rows.read_operated(connection, facts, tenant_id=tenant_id, across=across)
    erased = row_reading.commitments_named(connection, operated)
    return RowFacts((*found.subjects, *operated), found.erased | erased)


def find_broken_changes(
    connection: DriverConnection, facts: Sequence[Recorded], *, tenant_id: str
) -> list[RowFailure]:
    """Return the stretches of the repository's change chain that are not as these facts cover them."""
    broken = []
    for fact in facts:
        if fact.said is None or fact.said["type"] != REPOSITORY_FACT:
            continue
        body = fact.body
        if not chain_check.covers(
            connection,
            tenant_id=tenant_id,
            seq_from=body["seq_from"],
            seq_to=body["seq_to"],
            head_hash=body["change_head_hash"],
        ):
            broken.append(RowFailure("ROW_MISMATCH", "repository_changes", str(body["seq_to"]), fact.fact_id))
    return broken


def _snapshot_of(run: Row | None, facts: Sequence[Recorded]) -> Any:
    if run is not None:
        return run["policy_snapshot_id"]
    return next(
        (fact.body["policy_snapshot_id"] for fact in facts if "policy_snapshot_id" in fact.body), None
    )


def judge_run(facts: ProofFacts) -> Judgement:
    """Run every check over all traces, steps, rows and facts of a run."""
    found = verify_traces(facts.traces, facts.steps, facts.leaves)
    rows = row_check.check_rows(facts.rows)
    envelope = _envelope_code(facts)
    sound = all(fact.said is not None for fact in facts.recorded)
    counted = completeness.check_facts(facts.leaves, facts.counter, sound=sound)
    included = inclusion.verify_inclusion(facts.leaves, facts.log)
    unclaimed = next((verdict.unclaimed for verdict in found if verdict.unclaimed), None)
    codes = (
        *(failure.code for failure in rows.values),
        "FOREIGN_FACT" if envelope == "FOREIGN_FACT" else None,
        *(failure.code for failure in (*rows.rows, *facts.changes)),
        counted.code,
        envelope,
        included.code,
        "UNLOGGED_ROW" if facts.unlogged else None,
        unclaimed,
    )
    return Judgement(
        traces=found,
        rows=rows,
        facts=counted,
        log=included,
        values=_values(found, rows),
        code=next((code for code in codes if code is not None), None),
        failures=(*rows.values, *rows.rows, *facts.changes),
    )


def _envelope_code(facts: ProofFacts) -> str | None:
    codes = {
        recorded.check_envelope(fact, tenant_id=facts.tenant_id, run_id=facts.run_id)
        for fact in facts.recorded
    }
    return next((code for code in ("FOREIGN_FACT", "FACT_GAP", "LOG_MISMATCH") if code in codes), None)


def _values(found: Sequence[TraceVerdict], rows: RowsVerdict) -> dict[str, int]:
    totals = Counter(rows.states)
    for verdict in found:
        totals.update(verdict.values)
    return {name: totals[name] for name in VALUES}
