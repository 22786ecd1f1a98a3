"""L5 engine of workflow runs: their state table, leases, and conditional changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from app.db.connection import DriverConnection
from app.db.gather import Question
from app.domains.repository.drivers import operation_runs as driver
from app.domains.repository.engines import documents
from app.domains.repository.engines.documents import Document
from app.domains.repository.engines.values import check_id, chunks, is_id
from app.domains.repository.errors import (
    duplicate_id,
    invalid_input,
    invalid_transition,
    lease_held,
    not_found,
    reference_not_found,
    run_finished,
    run_not_running,
)
from app.domains.repository.models.runs import CreateOperationRun, OperationRunView, RunLease
from app.domains.repository.models.vocabulary import OperationRunStatus as Status
from app.kernel.canonical_json import loads
from app.kernel.clock import format_time

Row = Mapping[str, Any]

TRANSITIONS: Mapping[Status, tuple[Status, ...]] = {
    Status.PENDING: (Status.RUNNING, Status.CANCELLED),
    Status.RUNNING: (Status.WAITING, Status.SUCCEEDED, Status.FAILED, Status.CANCELLED),
    Status.WAITING: (Status.RUNNING, Status.FAILED, Status.CANCELLED),
    Status.SUCCEEDED: (),
    Status.FAILED: (),
    Status.CANCELLED: (),
}
OPEN = tuple(status for status, following in TRANSITIONS.items() if following)
ENDED = tuple(status for status, following in TRANSITIONS.items() if not following)
# The statuses in which a run brings about outputs.
PRODUCING = (Status.RUNNING, Status.WAITING)
# How the end of a governed run ends a running one of the same id; what does not run is cancelled.
_ENDINGS = {"succeeded": Status.SUCCEEDED, "failed": Status.FAILED}


@dataclass(frozen=True, slots=True)
class RunDraft:
    """A new run, checked and canonical."""

    run_id: str | None
    operation: str
    parameters: Document
    bundle_id: str | None
    parent_run_id: str | None
    trace_id: str | None


def read_run(request: CreateOperationRun) -> RunDraft:
    """Return the draft of a new run; refuse INVALID_ID and INVALID_METADATA."""
    return RunDraft(
        run_id=None if request.run_id is None else check_id(request.run_id),
        operation=request.operation,
        parameters=documents.read_document(request.parameters, field="parameters"),
        bundle_id=request.bundle_id,
        parent_run_id=request.parent_run_id,
        trace_id=request.trace_id,
    )


def create_run(
    connection: DriverConnection,
    draft: RunDraft,
    *,
    tenant_id: str,
    run_id: str,
    requested_by: str,
    trace_id: str | None,
    at: datetime,
) -> Row:
    """Insert a pending run; refuse REFERENCE_NOT_FOUND for the parent and DUPLICATE_ID.

    With a parent it is the next attempt of the same work.
    """
    named = [name for name in (run_id, draft.parent_run_id) if name is not None]
    known = list_statuses(connection, tenant_id=tenant_id, run_ids=named)
    attempt = 1
    if draft.parent_run_id is not None:
        if draft.parent_run_id not in known:
            raise reference_not_found("parent_run_id")
        attempt = known[draft.parent_run_id]["attempt"] + 1
    if run_id in known:
        raise duplicate_id(run_id)
    row = {
        "run_id": run_id,
        "operation": draft.operation,
        "status": str(Status.PENDING),
        "version": 1,
        "parameters": draft.parameters.text,
        "bundle_id": draft.bundle_id,
        "parent_run_id": draft.parent_run_id,
        "attempt": attempt,
        "requested_by": requested_by,
        "created_at": at,
        "started_at": None,
        "finished_at": None,
        "error_code": None,
        "error_message": None,
        "trace_id": trace_id,
        "lease_owner": None,
        "lease_until": None,
    }
    driver.insert_run(connection, tenant_id=tenant_id, row=row)
    return row


def get_run(connection: DriverConnection, *, tenant_id: str, run_id: str) -> Row:
    """Return a run; refuse RUN_NOT_FOUND."""
    row = find_run(connection, tenant_id=tenant_id, run_id=run_id)
    if row is None:
        raise not_found("RUN")
    return row


def find_run(connection: DriverConnection, *, tenant_id: str, run_id: str) -> Row | None:
    """Return a run, None when there is none of this id."""
    return driver.get_run(connection, tenant_id=tenant_id, run_id=run_id) if is_id(run_id) else None


def find_open_run(connection: DriverConnection, *, tenant_id: str, run_id: str) -> Row | None:
    """Return a run that has not ended, None when there is none of this id."""
    row = driver.get_run(connection, tenant_id=tenant_id, run_id=run_id)
    return row if row is not None and row["status"] in OPEN else None


def ask_open_run(connection: DriverConnection, *, tenant_id: str, run_id: str) -> Question:
    """Ask for the run of this id that has not ended: ref the run."""
    statuses = sorted(status.value for status in OPEN)
    return driver.ask_open_run(connection, tenant_id=tenant_id, run_id=run_id, statuses=statuses)


def lock_run(connection: DriverConnection, *, tenant_id: str, run_id: str) -> Row:
    """Return a run and hold its row; refuse RUN_NOT_FOUND."""
    row = driver.lock_run(connection, tenant_id=tenant_id, run_id=run_id) if is_id(run_id) else None
    if row is None:
        raise not_found("RUN")
    return row


def list_statuses(connection: DriverConnection, *, tenant_id: str, run_ids: Sequence[str]) -> dict[str, Row]:
    """Return status and attempt of those of the runs that exist."""
    return {
        row["run_id"]: row
        for part in chunks([name for name in dict.fromkeys(run_ids) if is_id(name)])
        for row in driver.list_statuses(connection, tenant_id=tenant_id, run_ids=part)
    }


def run_exists(connection: DriverConnection, *, tenant_id: str, run_id: str) -> bool:
    """Tell whether the tenant has a workflow run of this id."""
    return bool(list_statuses(connection, tenant_id=tenant_id, run_ids=[run_id]))


def list_runs(
    connection: DriverConnection,
    *,
    tenant_id: str,
    filters: Mapping[str, str],
    after: tuple[datetime, str] | None,
    limit: int,
) -> Sequence[Row]:
    """Return up to `limit` runs whose columns equal the filters, oldest first."""
    return driver.list_runs(connection, tenant_id=tenant_id, filters=filters, after=after, limit=limit)


def list_resumable(
    connection: DriverConnection,
    *,
    tenant_id: str,
    now: datetime,
    after: tuple[datetime | None, str] | None,
    limit: int,
) -> Sequence[Row]:
    """Return up to `limit` running and waiting runs that nobody holds, longest abandoned first."""
    return driver.list_resumable(
        connection, tenant_id=tenant_id, statuses=PRODUCING, now=now, after=after, limit=limit
    )


def decide_transition(current: Status, wanted: Status) -> bool:
    """Tell whether the status changes (False: it is that already); refuse INVALID_TRANSITION."""
    if current is wanted:
        return False
    if wanted not in TRANSITIONS[current]:
        raise invalid_transition(current, wanted, TRANSITIONS[current])
    return True


def decide_end(current: Status, ending: str) -> Status:
    """Return how the end of the governed run of the same id ends an open run."""
    return _ENDINGS.get(ending, Status.CANCELLED) if current is Status.RUNNING else Status.CANCELLED


def check_failure(status: str | None, error_code: str | None, error_message: str | None) -> None:
    """Refuse INVALID_INPUT for an error of a run that does not fail."""
    if status == Status.FAILED:
        return
    for field, value in (("error_code", error_code), ("error_message", error_message)):
        if value is not None:
            raise invalid_input(f"{field} goes with the status failed alone.", field)


def is_leased(row: Row, now: datetime) -> bool:
    """Tell whether a worker holds the run now."""
    return row["lease_until"] is not None and row["lease_until"] > now


def check_lease(row: Row, worker: str | None, now: datetime) -> None:
    """Refuse LEASE_HELD while another worker, or any when none is named, holds the run."""
    if is_leased(row, now) and row["lease_owner"] != worker:
        raise lease_held(format_time(row["lease_until"]))


def check_open(row: Row) -> None:
    """Refuse RUN_FINISHED."""
    if row["status"] in ENDED:
        raise run_finished()


def check_producing(status: str) -> None:
    """Refuse RUN_NOT_RUNNING: only a running or waiting run brings about outputs."""
    if status not in PRODUCING:
        raise run_not_running()


def check_running(producers: Mapping[str, str]) -> None:
    """Refuse RUN_NOT_RUNNING when one of these runs brings about no outputs."""
    for status in producers.values():
        check_producing(status)


def check_producer(run_id: str | None, producers: Mapping[str, str]) -> None:
    """Refuse REFERENCE_NOT_FOUND for a producing run that is not among them, and RUN_NOT_RUNNING."""
    if run_id is None:
        return
    if run_id not in producers:
        raise reference_not_found("produced_by_run")
    check_producing(producers[run_id])


def transition_values(
    row: Row,
    wanted: Status,
    *,
    at: datetime,
    error_code: str | None = None,
    error_message: str | None = None,
) -> dict[str, Any]:
    """Return what a change of status changes; an ended run has no lease."""
    values: dict[str, Any] = {"status": str(wanted)}
    if wanted is Status.RUNNING and row["started_at"] is None:
        values["started_at"] = at
    if wanted in ENDED:
        values |= {"finished_at": at, "lease_owner": None, "lease_until": None}
    if wanted is Status.FAILED:
        values |= {"error_code": error_code, "error_message": error_message}
    return values


def set_run(
    connection: DriverConnection,
    *,
    tenant_id: str,
    row: Row,
    values: Mapping[str, Any],
    rise: int = 1,
) -> Row:
    """Change a run whose row is held and raise its version; return the new row."""
    after = {**values, "version": row["version"] + rise}
    changed = driver.set_run(
        connection,
        tenant_id=tenant_id,
        run_id=row["run_id"],
        status=row["status"],
        version=row["version"],
        values=after,
    )
    if changed != 1:
        raise RuntimeError("a workflow run changed while its row was held")
    return {**row, **after}


def raise_version(connection: DriverConnection, *, tenant_id: str, run_id: str, rise: int) -> int:
    """Raise the version of a run that brings about outputs; return it, or refuse RUN_NOT_RUNNING."""
    version = driver.set_version(
        connection, tenant_id=tenant_id, run_id=run_id, statuses=PRODUCING, rise=rise
    )
    if version is None:
        raise run_not_running()
    return version


def claim(
    connection: DriverConnection,
    *,
    tenant_id: str,
    run_id: str,
    worker: str,
    lease_seconds: int,
    now: datetime,
) -> Row:
    """Give the lease to a worker; refuse RUN_NOT_FOUND, RUN_FINISHED and LEASE_HELD."""
    row = None
    if is_id(run_id):
        row = driver.set_lease(
            connection,
            tenant_id=tenant_id,
            run_id=run_id,
            statuses=OPEN,
            worker=worker,
            now=now,
            until=now + timedelta(seconds=lease_seconds),
        )
    if row is not None:
        return row
    row = get_run(connection, tenant_id=tenant_id, run_id=run_id)
    check_open(row)
    # What the row says now may be newer than what the statement met.
    raise lease_held(None if row["lease_until"] is None else format_time(row["lease_until"]))


def release(
    connection: DriverConnection, *, tenant_id: str, run_id: str, worker: str, now: datetime
) -> tuple[Row, bool]:
    """Take the lease from its worker; return the run and whether it had one, or refuse LEASE_HELD."""
    row = None
    if is_id(run_id):
        row = driver.clear_lease(connection, tenant_id=tenant_id, run_id=run_id, worker=worker)
    if row is not None:
        return row, True
    row = get_run(connection, tenant_id=tenant_id, run_id=run_id)
    check_lease(row, worker, now)
    return row, False


def run_view(row: Row, *, governed: bool) -> OperationRunView:
    """Return a run as it is shown."""
    return OperationRunView(**view_members(row), governed=governed)


def view_members(row: Row) -> dict[str, Any]:
    """Return the members of a view that stand in the row."""
    members = {name: row[name] for name in OperationRunView.model_fields if name != "governed"}
    return {**members, "parameters": loads(row["parameters"])}


def lease_view(row: Row, *, changed: bool) -> RunLease:
    """Return who holds a run."""
    return RunLease(
        **{name: row[name] for name in RunLease.model_fields if name != "changed"}, changed=changed
    )
