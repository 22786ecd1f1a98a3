"""Activity: the refusals of runs, each with its stable code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.kernel.errors import ErrorKind, HocError


def run_not_found() -> HocError:
    """A run that this tenant does not have."""
    return HocError(ErrorKind.NOT_FOUND, "RUN_NOT_FOUND", "No such run.")


def run_validation_failure(broken: Sequence[Mapping[str, str]]) -> HocError:
    """A start whose attribution breaks rules R1-R5; every broken rule is named."""
    lines = ["RUN_VALIDATION_FAILURE"]
    for item in broken:
        lines += [f"  {label}: {value}" for label, value in item.items()]
    return HocError(ErrorKind.INVALID, "RUN_VALIDATION_FAILURE", "\n".join(lines), errors=broken)


def run_exists(run_id: str) -> HocError:
    """A run id that another start has taken."""
    return HocError(ErrorKind.CONFLICT, "RUN_EXISTS", f"Run {run_id} was started with other content.")


def parent_not_found() -> HocError:
    """A parent that this tenant does not have."""
    return HocError(
        ErrorKind.INVALID,
        "REFERENCE_NOT_FOUND",
        "parent_run_id cites a run that does not exist.",
        errors=[{"field": "/parent_run_id", "code": "reference", "detail": "no such run"}],
        extra={"field": "parent_run_id"},
    )


def cited_run_not_found(field: str = "run_id") -> HocError:
    """A run that a body names and this tenant does not have."""
    return HocError(
        ErrorKind.INVALID,
        "REFERENCE_NOT_FOUND",
        f"{field} cites a run that does not exist.",
        errors=[{"field": f"/{field}", "code": "reference", "detail": "no such run"}],
        extra={"field": field},
    )


def quota_exceeded(quota: str, *, retry_after: int) -> HocError:
    """A start above the plan's concurrent or daily runs; no run number is used up."""
    return HocError(
        ErrorKind.LIMITED,
        "QUOTA_EXCEEDED",
        f"The tenant's plan allows no further run now ({quota}).",
        extra={"quota": quota},
        retry_after=retry_after,
    )


def run_not_running(run_id: str, status: str) -> HocError:
    """A call that only a running run takes."""
    return HocError(
        ErrorKind.CONFLICT, "RUN_NOT_RUNNING", f"Run {run_id} is {status}.", extra={"status": status}
    )


def run_not_terminal(run_id: str) -> HocError:
    """A question about the end of a run that still runs."""
    return HocError(ErrorKind.CONFLICT, "RUN_NOT_TERMINAL", f"Run {run_id} is still running.")


def evaluation_conflict(run_id: str, status: str) -> HocError:
    """An evaluation asked for under another ending than the run's."""
    return HocError(
        ErrorKind.CONFLICT,
        "EVALUATION_CONFLICT",
        f"Run {run_id} ended as {status}.",
        extra={"status": status},
    )


def run_terminal(run_id: str, status: str) -> HocError:
    """An end of a run that ended otherwise."""
    return HocError(
        ErrorKind.CONFLICT,
        "RUN_TERMINAL",
        f"Run {run_id} has already ended as {status}, with other content.",
        extra={"status": status},
    )


def invalid_termination(status: str, reason: str, allowed: Sequence[str]) -> HocError:
    """A termination reason that does not go with the status."""
    return HocError(
        ErrorKind.INVALID,
        "INVALID_TERMINATION",
        f"A {status} run does not end by {reason[:64]}; allowed: {', '.join(allowed)}.",
        errors=[
            {"field": "/termination_reason", "code": "vocabulary", "detail": f"one of {', '.join(allowed)}"}
        ],
    )


def step_count_mismatch(expected: int, actual: int) -> HocError:
    """A completion whose caller counted other steps than the trace holds."""
    return HocError(
        ErrorKind.CONFLICT,
        "STEP_COUNT_MISMATCH",
        f"The trace holds {actual} steps, not {expected}.",
        extra={"expected_steps": expected, "step_count": actual},
    )


def attempt_mismatch(from_attempt: int, attempt: int) -> HocError:
    """A retry from an attempt that is neither the current one nor the one before it."""
    return HocError(
        ErrorKind.CONFLICT,
        "ATTEMPT_MISMATCH",
        f"The run is in attempt {attempt}, not {from_attempt}.",
        extra={"attempt": attempt},
    )


def max_attempts_reached(max_attempts: int) -> HocError:
    """A retry of the last attempt."""
    return HocError(
        ErrorKind.CONFLICT,
        "MAX_ATTEMPTS_REACHED",
        f"The run has used its {max_attempts} attempts.",
        extra={"max_attempts": max_attempts},
    )


def missing_member(code: str, name: str) -> HocError:
    """A sighting that does not say what was seen, where, by whom or on what grounds."""
    return HocError(
        ErrorKind.INVALID,
        code,
        f"A signal needs {name}.",
        errors=[{"field": f"/{name}", "code": "missing", "detail": "must not be empty"}],
    )


def signal_not_found() -> HocError:
    """A signal that this tenant does not have."""
    return HocError(ErrorKind.NOT_FOUND, "SIGNAL_NOT_FOUND", "No such signal.")


def signal_promoted(incident_id: str) -> HocError:
    """A signal that an incident has taken over."""
    return HocError(
        ErrorKind.CONFLICT,
        "SIGNAL_PROMOTED",
        "The signal was escalated; go on with its incident.",
        extra={"incident_id": incident_id},
    )
