"""L5 rules of plane jobs: queue, claim under a lease, progress, end, and what follows a failed try."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from app.db.connection import DriverConnection
from app.domains.knowledge.drivers import plane_jobs as driver
from app.domains.knowledge.errors import conflict
from app.domains.knowledge.models.vocabulary import (
    JobStatus,
    JobType,
    KnowledgePlaneLifecycleState,
)
from app.kernel.canonical_json import dumps, loads
from app.kernel.errors import ErrorKind, HocError

LEASE_SECONDS: Final = 60
FIRST_DELAY_SECONDS: Final = 30
LONGEST_DELAY_SECONDS: Final = 3600
SPREAD: Final = 0.2
MESSAGE_CODE_POINTS: Final = 1000
# jobs.retry and jobs.cancel reach only these; the others end by the plane's own retry and fail actions.
RETRYABLE_TYPES: Final = frozenset({JobType.ARCHIVE_DATA, JobType.REFRESH_DATA, JobType.DELETE_ARCHIVE})
CANCELLABLE_TYPES: Final = frozenset({JobType.REFRESH_DATA})

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Lease:
    """A worker's hold on one job."""

    job_id: str
    token: str


@dataclass(frozen=True, slots=True)
class FailureDecision:
    """What a failed try means: the job's next status, when it is due again, and where the plane goes."""

    will_retry: bool
    next_attempt_at: datetime | None
    plane_to: KnowledgePlaneLifecycleState | None


def queue_job(
    connection: DriverConnection,
    *,
    tenant_id: str,
    plane_id: str,
    job_type: JobType,
    expected_state: int,
    target_state: int | None,
    config: Mapping[str, Any] | None,
    requested_by: str,
    now: datetime,
    job_id: str,
) -> Row:
    """Queue a job that is due at once and return it; refuse JOB_ACTIVE while the plane has an open one."""
    row = driver.insert_job(
        connection,
        tenant_id=tenant_id,
        values={
            "job_id": job_id,
            "plane_id": plane_id,
            "job_type": JobType(job_type).value,
            "status": JobStatus.QUEUED.value,
            "expected_state": int(expected_state),
            "target_state": None if target_state is None else int(target_state),
            "config": None if config is None else dumps(dict(config)),
            "next_attempt_at": now,
            "progress": "{}",
            "requested_by": requested_by,
            "created_at": now,
        },
    )
    if row is None:
        raise conflict("JOB_ACTIVE", "The plane has an open job.")
    return row


def get_open(connection: DriverConnection, *, tenant_id: str, plane_id: str) -> Row | None:
    """Return the plane's queued or running job, or None."""
    return driver.get_open_job(connection, tenant_id=tenant_id, plane_id=plane_id)


def get_newest(
    connection: DriverConnection, *, tenant_id: str, plane_id: str, job_type: JobType, since: datetime
) -> Row | None:
    """Return the newest job of a type that was queued at or after a moment, or None."""
    return driver.get_newest_job(
        connection, tenant_id=tenant_id, plane_id=plane_id, job_type=job_type.value, since=since
    )


def cancel_open(connection: DriverConnection, *, tenant_id: str, plane_id: str, now: datetime) -> Row | None:
    """Cancel the plane's open job and return it; None when there is none."""
    return driver.set_cancelled(connection, tenant_id=tenant_id, plane_id=plane_id, now=now)


def find_job(connection: DriverConnection, *, tenant_id: str, job_id: str) -> Row | None:
    """Return a job, or None."""
    return driver.get_job(connection, tenant_id=tenant_id, job_id=job_id)


def require_job(connection: DriverConnection, *, tenant_id: str, job_id: str) -> Row:
    """Return a job; refuse JOB_NOT_FOUND."""
    row = find_job(connection, tenant_id=tenant_id, job_id=job_id)
    if row is None:
        raise HocError(ErrorKind.NOT_FOUND, "JOB_NOT_FOUND", "There is no such job.")
    return row


def require_running(connection: DriverConnection, *, tenant_id: str, lease: Lease) -> Row:
    """Return a running job whose lease this is; refuse JOB_NOT_ACTIVE."""
    row = find_job(connection, tenant_id=tenant_id, job_id=lease.job_id)
    if row is None or row["status"] != JobStatus.RUNNING or row["lease_token"] != lease.token:
        raise job_not_active()
    return row


def list_jobs(
    connection: DriverConnection, *, tenant_id: str, equal: Mapping[str, str], after: str | None, limit: int
) -> list[Row]:
    """Return jobs newest first by id, filtered by equality."""
    return list(driver.list_jobs(connection, tenant_id=tenant_id, equal=equal, after=after, limit=limit))


def list_due(
    connection: DriverConnection, *, now: datetime, limit: int, tenant_id: str | None = None
) -> list[tuple[str, str]]:
    """Return (tenant, job id) of due jobs, of one tenant or of all (on a maintenance connection)."""
    rows = driver.list_due_jobs(connection, tenant_id=tenant_id, now=now, limit=limit)
    return [(row["tenant_id"], row["job_id"]) for row in rows]


def claim_job(
    connection: DriverConnection, *, tenant_id: str, job_id: str, owner: str, token: str, now: datetime
) -> Row | None:
    """Take a due job, or one whose lease ran out, as its next try; None when another worker was first."""
    return driver.lock_due_job(
        connection,
        tenant_id=tenant_id,
        job_id=job_id,
        now=now,
        lease_owner=owner,
        lease_token=token,
        lease_until=now + timedelta(seconds=LEASE_SECONDS),
    )


def save_progress(
    connection: DriverConnection, *, tenant_id: str, lease: Lease, progress: Mapping[str, Any], now: datetime
) -> None:
    """Write a batch's progress and renew the lease, first of all in the batch; refuse JOB_NOT_ACTIVE."""
    changed = driver.set_progress(
        connection,
        tenant_id=tenant_id,
        job_id=lease.job_id,
        lease_token=lease.token,
        progress=dumps(dict(progress)),
        lease_until=now + timedelta(seconds=LEASE_SECONDS),
    )
    if not changed:
        raise job_not_active()


def succeed(
    connection: DriverConnection, *, tenant_id: str, lease: Lease, result: Mapping[str, Any], now: datetime
) -> Row:
    """End a running job as SUCCEEDED and return it; refuse JOB_NOT_ACTIVE."""
    values = {
        "status": JobStatus.SUCCEEDED.value,
        "result": dumps(dict(result)),
        "error_code": None,
        "error_message": None,
        "retryable": None,
        "finished_at": now,
    }
    return _ended(driver.set_ended(connection, tenant_id=tenant_id, **_keys(lease), values=values))


def fail(
    connection: DriverConnection,
    *,
    tenant_id: str,
    lease: Lease,
    error_code: str,
    message: str,
    retryable: bool,
    now: datetime,
) -> Row:
    """End a running job as FAILED and return it; refuse JOB_NOT_ACTIVE."""
    values = {
        "status": JobStatus.FAILED.value,
        "error_code": error_code,
        "error_message": message[:MESSAGE_CODE_POINTS],
        "retryable": retryable,
        "finished_at": now,
    }
    return _ended(driver.set_ended(connection, tenant_id=tenant_id, **_keys(lease), values=values))


def requeue(
    connection: DriverConnection,
    *,
    tenant_id: str,
    lease: Lease,
    error_code: str,
    message: str,
    next_attempt_at: datetime,
) -> Row:
    """Put a running job back into the queue for its next try; refuse JOB_NOT_ACTIVE."""
    row = driver.set_requeued(
        connection,
        tenant_id=tenant_id,
        **_keys(lease),
        next_attempt_at=next_attempt_at,
        error_code=error_code,
        error_message=message[:MESSAGE_CODE_POINTS],
    )
    return _ended(row)


def retry_failed(
    connection: DriverConnection,
    *,
    tenant_id: str,
    job: Row,
    state: KnowledgePlaneLifecycleState,
    now: datetime,
) -> Row:
    """Queue a failed job of a plane in this state again, from its beginning and with all its tries.

    Refuses JOB_NOT_RETRYABLE, JOB_ACTIVE.
    """
    if job["job_type"] not in RETRYABLE_TYPES or job["status"] != JobStatus.FAILED:
        raise conflict(
            "JOB_NOT_RETRYABLE", "Only a failed archive, refresh or archive deletion is retried here."
        )
    if not fits_state(JobType(job["job_type"]), state):
        raise conflict("JOB_NOT_RETRYABLE", f"The plane is in {state.name}, where this work has no place.")
    if get_open(connection, tenant_id=tenant_id, plane_id=job["plane_id"]) is not None:
        raise conflict("JOB_ACTIVE", "The plane has an open job.")
    row = driver.set_queued_again(
        connection, tenant_id=tenant_id, job_id=job["job_id"], expected_state=int(state), now=now
    )
    if row is None:
        raise conflict("JOB_NOT_RETRYABLE", "The job is not FAILED any more.")
    return row


def fits_state(job_type: JobType, state: KnowledgePlaneLifecycleState) -> bool:
    """Tell whether a retryable job may run in a state of its plane."""
    if job_type is JobType.REFRESH_DATA:
        return can_refresh(state)
    own = {
        JobType.ARCHIVE_DATA: KnowledgePlaneLifecycleState.ARCHIVED,
        JobType.DELETE_ARCHIVE: KnowledgePlaneLifecycleState.PURGED,
    }
    return own.get(job_type) is state


def can_refresh(state: KnowledgePlaneLifecycleState) -> bool:
    """Tell whether a plane in this state is refreshed: from INDEXED to ACTIVE."""
    return KnowledgePlaneLifecycleState.INDEXED <= state <= KnowledgePlaneLifecycleState.ACTIVE


def read_candidate(job: Row) -> str | None:
    """Return the text of the configuration that waits for the job's success, None without one."""
    return None if job["config"] is None else str(job["config"])


def get_newest_data(
    connection: DriverConnection, *, tenant_id: str, plane_id: str, job_types: Sequence[JobType]
) -> dict[str, Any] | None:
    """Return the data of the newest job of these types that succeeded, or None."""
    row = driver.get_newest_result(
        connection, tenant_id=tenant_id, plane_id=plane_id, job_types=[kind.value for kind in job_types]
    )
    if row is None or row["result"] is None:
        return None
    data: dict[str, Any] = loads(row["result"])["data"]
    return data


def check_cancellable(job: Row) -> None:
    """Refuse JOB_NOT_CANCELLABLE unless the job is an open refresh."""
    if job["job_type"] not in CANCELLABLE_TYPES or job["status"] not in (JobStatus.QUEUED, JobStatus.RUNNING):
        raise job_not_cancellable()


def decide_failure(
    *, attempt: int, max_attempts: int, state: int, retryable: bool, spread: float, now: datetime
) -> FailureDecision:
    """Decide what follows the failure of try number `attempt`; `spread` is a random number from -1 to 1.

    A retryable failure with tries left waits 30 s x 2^(n-1), +-20 %, at most an hour, and the plane stays.
    Any other ends the job: the plane goes back over its retry edge when trying again is pointless, and to
    FAILED when the tries are used up. Only the onboarding states move.
    """
    if retryable and attempt < max_attempts:
        return FailureDecision(True, now + timedelta(seconds=retry_delay(attempt, spread=spread)), None)
    back = {
        KnowledgePlaneLifecycleState.PENDING_VERIFY: KnowledgePlaneLifecycleState.DRAFT,
        KnowledgePlaneLifecycleState.INGESTING: KnowledgePlaneLifecycleState.VERIFIED,
    }.get(KnowledgePlaneLifecycleState(state))
    if back is not None and retryable:
        back = KnowledgePlaneLifecycleState.FAILED
    return FailureDecision(False, None, back)


def retry_delay(attempt: int, *, spread: float) -> float:
    """Return the seconds between a failed try and the next one; never more than an hour."""
    delay = float(min(FIRST_DELAY_SECONDS * 2 ** (attempt - 1), LONGEST_DELAY_SECONDS))
    return min(delay * (1 + SPREAD * spread), LONGEST_DELAY_SECONDS)


def read_progress(job: Row) -> dict[str, Any]:
    """Return a job's progress as a value."""
    progress = loads(job["progress"])
    return progress if isinstance(progress, dict) else {}


def job_not_active() -> HocError:
    """Return the refusal of a job that is finished, cancelled, or under another worker's lease."""
    return conflict("JOB_NOT_ACTIVE", "The job is not running under this lease.")


def job_not_cancellable() -> HocError:
    """Return the refusal of a job that is no open refresh."""
    return conflict("JOB_NOT_CANCELLABLE", "Only an open refresh is cancelled here.")


def _keys(lease: Lease) -> dict[str, str]:
    return {"job_id": lease.job_id, "lease_token": lease.token}


def _ended(row: Row | None) -> Row:
    if row is None:
        raise job_not_active()
    return row
