"""Traces: the refusals of traces and steps, each with its stable code."""

from __future__ import annotations

from app.kernel.errors import ErrorKind, HocError


def trace_not_found() -> HocError:
    """An attempt that this tenant's run does not have."""
    return HocError(ErrorKind.NOT_FOUND, "TRACE_NOT_FOUND", "No such trace.")


def batch_not_contiguous(position: int, expected: int, actual: int) -> HocError:
    """A batch whose indices do not rise by one."""
    return HocError(
        ErrorKind.INVALID,
        "STEP_BATCH_NOT_CONTIGUOUS",
        f"Step {position + 1} of the batch has index {actual}, not {expected}.",
        errors=[
            {"field": f"/steps/{position}/step_index", "code": "index", "detail": f"expected {expected}"}
        ],
    )


def duplicate_external_id(position: int, external_id: str) -> HocError:
    """A batch that gives one external id to two steps."""
    return HocError(
        ErrorKind.INVALID,
        "INVALID_INPUT",
        "Two steps of the batch have the same external_id.",
        errors=[
            {
                "field": f"/steps/{position}/external_id",
                "code": "repeated",
                "detail": f"repeated: {external_id[:64]}",
            }
        ],
    )


def payload_refused(position: int, member: str, message: str) -> HocError:
    """A payload that has no canonical text, or too long a one."""
    return HocError(
        ErrorKind.INVALID,
        "INVALID_INPUT",
        "A payload of a step does not fit.",
        errors=[{"field": f"/steps/{position}/{member}", "code": "payload", "detail": message}],
    )


def decision_not_found(position: int) -> HocError:
    """A step that cites a decision which is not of this run."""
    field = f"/steps/{position}/decision_id"
    return HocError(
        ErrorKind.INVALID,
        "REFERENCE_NOT_FOUND",
        "A step cites a decision that is not of this run.",
        errors=[{"field": field, "code": "reference", "detail": "no such decision of this run"}],
        extra={"field": field},
    )


def step_conflict(step_index: int, detail: str) -> HocError:
    """A step that is recorded already with other content."""
    return HocError(ErrorKind.CONFLICT, "STEP_CONFLICT", detail, extra={"step_index": step_index})


def step_gap(expected_index: int, actual: int) -> HocError:
    """A batch that begins beyond the end of the trace."""
    return HocError(
        ErrorKind.CONFLICT,
        "STEP_GAP",
        f"The next step has index {expected_index}, not {actual}.",
        extra={"expected_index": expected_index},
    )


def attempt_closed(attempt: int, current: int) -> HocError:
    """New steps for an attempt that a retry has ended."""
    return HocError(
        ErrorKind.CONFLICT,
        "ATTEMPT_CLOSED",
        f"Attempt {attempt} is closed; the run is in attempt {current}.",
        extra={"attempt": current},
    )


def trace_sealed(run_id: str) -> HocError:
    """New or other steps for a run that has ended."""
    return HocError(
        ErrorKind.CONFLICT, "TRACE_SEALED", f"Run {run_id} has ended; its trace takes no further step."
    )
