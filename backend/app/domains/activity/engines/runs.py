"""Activity L5: runs: start and end rows, locks, replays, views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from app.db.connection import DriverConnection
from app.domains.activity.drivers import runs as driver
from app.domains.activity.errors import (
    attempt_mismatch,
    max_attempts_reached,
    parent_not_found,
    run_not_found,
    run_not_running,
    step_count_mismatch,
)
from app.domains.activity.errors import (
    run_exists as run_id_taken,
)
from app.domains.activity.models.facts import Ending, Projections
from app.domains.activity.models.runs import ListRuns, RunKey, RunView, StartRun
from app.domains.activity.models.vocabulary import RiskLevel, RunStatus
from app.kernel.canonical_json import dumps, loads
from app.kernel.hashing import keyed_digest

Row = Mapping[str, Any]
FILTERS = ("status", "agent_id", "project_id", "risk_level", "actor_type", "parent_run_id")


def run_exists(connection: DriverConnection, *, tenant_id: str, run_id: str) -> bool:
    """Tell whether the tenant has this run."""
    return driver.count_run(connection, tenant_id=tenant_id, run_id=run_id) == 1


def require_run(connection: DriverConnection, *, tenant_id: str, run_id: str) -> Row:
    """Return a run's row, or refuse RUN_NOT_FOUND."""
    row = driver.get_run(connection, tenant_id=tenant_id, run_id=run_id)
    if row is None:
        raise run_not_found()
    return row


def lock_run(connection: DriverConnection, *, tenant_id: str, run_id: str) -> Row:
    """Lock and return a run's row (first of all locks), or refuse RUN_NOT_FOUND."""
    row = driver.lock_run(connection, tenant_id=tenant_id, run_id=run_id)
    if row is None:
        raise run_not_found()
    return row


def find_and_lock(connection: DriverConnection, *, tenant_id: str, run_id: str) -> Row | None:
    """Lock and return a run's row (first of all locks), None when the tenant has no such run."""
    return driver.lock_run(connection, tenant_id=tenant_id, run_id=run_id)


def lock_run_state(connection: DriverConnection, *, tenant_id: str, run_id: str) -> tuple[RunStatus, int]:
    """Lock a run and return its status and attempt, or refuse RUN_NOT_FOUND."""
    row = driver.lock_run_state(connection, tenant_id=tenant_id, run_id=run_id)
    if row is None:
        raise run_not_found()
    return RunStatus(row["status"]), row["attempt"]


def lock_known_state(connection: DriverConnection, *, tenant_id: str, run_id: str) -> RunStatus | None:
    """Lock a run and return its status, None when the tenant has no such run."""
    row = driver.lock_run_state(connection, tenant_id=tenant_id, run_id=run_id)
    return None if row is None else RunStatus(row["status"])


def list_statuses(
    connection: DriverConnection, *, tenant_id: str, run_ids: Sequence[str]
) -> dict[str, RunStatus]:
    """Return the status of those of the runs that exist, without a lock."""
    rows = driver.list_statuses(connection, tenant_id=tenant_id, run_ids=run_ids) if run_ids else ()
    return {row["run_id"]: RunStatus(row["status"]) for row in rows}


def start_digest(command: StartRun, key: bytes) -> str:
    """Return the keyed digest of a start's canonical input, which tells a replay."""
    return keyed_digest(key, "runs.start\n" + dumps(command.model_dump(mode="json")))


def end_digest(kind: str, content: Mapping[str, Any], key: bytes) -> str:
    """Return the keyed digest of an ending's canonical input, which tells a replay."""
    return keyed_digest(key, f"runs.{kind}\n" + dumps(dict(content)))


def find_start(
    connection: DriverConnection,
    *,
    tenant_id: str,
    run_id: str | None,
    digest: str,
    parent_run_id: str | None,
) -> Row | None:
    """Return the run that the same start made before, None for a new one; one statement at most.

    Refuses RUN_EXISTS when another start took the id, REFERENCE_NOT_FOUND for an unknown parent.
    """
    wanted = [name for name in (run_id, parent_run_id) if name is not None]
    if not wanted:
        return None
    known = {row["run_id"]: row for row in driver.list_known(connection, tenant_id=tenant_id, run_ids=wanted)}
    if run_id is not None and run_id in known:
        if known[run_id]["start_digest"] != digest:
            raise run_id_taken(run_id)
        return known[run_id]
    if parent_run_id is not None and parent_run_id not in known:
        raise parent_not_found()
    return None


def start_row(
    command: StartRun,
    *,
    run_id: str,
    run_no: int,
    protected: Mapping[str, Any],
    policy_snapshot_id: str,
    authorization: Mapping[str, Any],
    digest: str,
    created_by_key: str,
    request_id: str,
    traceparent: str | None,
    now: datetime,
) -> dict[str, Any]:
    """Return the whole row of a run that starts; `protected` holds the redacted goal with its commitment."""
    return {
        "run_id": run_id,
        "run_no": run_no,
        "agent_id": command.agent_id,
        "project_id": command.project_id,
        "parent_run_id": command.parent_run_id,
        "actor_type": command.actor_type,
        "actor_id": command.actor_id,
        "origin_system_id": command.origin_system_id,
        "labels": dumps(command.labels),
        "source": command.source.value,
        "provider_type": command.provider_type,
        "model": command.model,
        "is_synthetic": command.is_synthetic,
        "synthetic_scenario_id": command.synthetic_scenario_id,
        "max_attempts": command.max_attempts,
        "policy_snapshot_id": policy_snapshot_id,
        "authorization": dumps(dict(authorization)),
        "start_digest": digest,
        "started_at": now,
        "deadline_at": now + timedelta(seconds=command.timeout_seconds),
        "created_by_key": created_by_key,
        "request_id": request_id,
        "traceparent": traceparent,
        "subject_ref": command.subject_ref,
        "status": RunStatus.RUNNING.value,
        "attempt": 1,
        "termination_reason": None,
        "stopped_at_step": None,
        "violation_rule_id": None,
        "error_code": None,
        "completed_at": None,
        "complete_digest": None,
        "risk_level": RiskLevel.NORMAL.value,
        "policy_violation": False,
        "policy_draft_count": 0,
        "incident_count": 0,
        "last_seen_at": now,
        "created_at": now,
        "updated_at": now,
        "version": 1,
        **protected,
    }


def insert_run(connection: DriverConnection, *, tenant_id: str, row: Row) -> bool:
    """Insert a run; return False when a racing start took its id."""
    return driver.insert_run(connection, tenant_id=tenant_id, row=row)


def decide_retry(run: Row, from_attempt: int) -> bool:
    """Tell whether a retry opens an attempt (False: it was done before), or refuse it."""
    if run["status"] != RunStatus.RUNNING:
        raise run_not_running(run["run_id"], run["status"])
    if from_attempt == run["attempt"] - 1:
        return False
    if from_attempt != run["attempt"]:
        raise attempt_mismatch(from_attempt, run["attempt"])
    if run["attempt"] >= run["max_attempts"]:
        raise max_attempts_reached(run["max_attempts"])
    return True


def check_step_count(expected: int | None, actual: int) -> None:
    """Refuse STEP_COUNT_MISMATCH when the caller counted other steps than the trace holds."""
    if expected is not None and expected != actual:
        raise step_count_mismatch(expected, actual)


def attempt_values(
    run: Row, *, error_code: str | None, protected: Mapping[str, Any], now: datetime
) -> dict[str, Any]:
    """Return what a retry changes of its run."""
    return {
        "attempt": run["attempt"] + 1,
        "error_code": error_code,
        "last_seen_at": now,
        "updated_at": now,
        **protected,
    }


def end_values(
    ending: Ending, *, digest: str, step_count: int, protected: Mapping[str, Any], now: datetime
) -> dict[str, Any]:
    """Return what an ending changes of its run; a halted run names the step that it stopped at."""
    stopped = step_count if ending.stopped_at_step is None else ending.stopped_at_step
    return {
        "status": ending.status.value,
        "termination_reason": ending.termination_reason.value,
        "stopped_at_step": stopped if ending.status is RunStatus.HALTED else None,
        "violation_rule_id": ending.violation_rule_id,
        "error_code": ending.error_code,
        "completed_at": now,
        "complete_digest": digest,
        "last_seen_at": now,
        "updated_at": now,
        **protected,
    }


def set_run(
    connection: DriverConnection,
    *,
    tenant_id: str,
    run: Row,
    values: Row,
    raised: Projections | None = None,
) -> Row:
    """Change a locked running run and return its row as it now is; RuntimeError when it moved."""
    changed = driver.set_run(
        connection,
        tenant_id=tenant_id,
        run_id=run["run_id"],
        expected_status=RunStatus.RUNNING,
        expected_attempt=run["attempt"],
        values=values,
        raised=_raised(raised or Projections()),
    )
    if changed is None:
        raise RuntimeError(f"run {run['run_id']} moved under its own lock")
    return changed


def raise_projections(
    connection: DriverConnection, *, tenant_id: str, run_id: str, raised: Projections, now: datetime
) -> None:
    """Raise what a run's row tells of its incidents, lessons and risk, also when the run has ended.

    The update takes the run's lock, which comes before all others: hold it before the first of them.
    """
    driver.raise_projections(connection, tenant_id=tenant_id, run_id=run_id, raised=_raised(raised), now=now)


def _raised(raised: Projections) -> dict[str, Any]:
    ranks = {level.value: rank for rank, level in enumerate(RiskLevel)}
    risk = RiskLevel.VIOLATED if raised.violation else raised.risk
    return {
        "incidents": raised.incidents,
        "drafts": raised.drafts,
        "violation": raised.violation,
        "ranks": ranks,
        "risk": risk.value,
    }


def list_runs(
    connection: DriverConnection, *, tenant_id: str, query: ListRuns, after: RunKey | None
) -> Sequence[Row]:
    """Return one row more than the page holds, newest first."""
    filters = {name: value for name in FILTERS if (value := getattr(query, name)) is not None}
    return driver.list_runs(
        connection,
        tenant_id=tenant_id,
        filters=filters,
        started_after=query.started_after,
        started_before=query.started_before,
        after=None if after is None else (after.started_at, after.run_id),
        limit=query.limit + 1,
    )


def lock_due(connection: DriverConnection, *, tenant_id: str, now: datetime, limit: int) -> Sequence[Row]:
    """Lock and return running runs past their deadline that nobody else holds."""
    return driver.list_due(connection, tenant_id=tenant_id, now=now, limit=limit)


def list_tenants_due(connection: DriverConnection, *, now: datetime) -> Sequence[str]:
    """Return the tenants that have running runs past their deadline."""
    return driver.list_tenants_due(connection, now=now)


def view_members(row: Row) -> dict[str, Any]:
    """Return the members of a run view."""
    plain = {
        name: row[name]
        for name in RunView.model_fields
        if name not in ("labels", "authorization", "protected_state")
    }
    erased = row["erased_fact_id"] is not None
    return {
        **plain,
        "labels": loads(row["labels"]),
        "authorization": loads(row["authorization"]),
        "protected_state": "ERASED" if erased else "INTACT",
    }


def run_view(row: Row) -> RunView:
    """Return what a caller sees of a run."""
    return RunView(**view_members(row))
