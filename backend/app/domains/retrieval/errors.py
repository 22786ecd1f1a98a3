"""Retrieval: what a denied or failed access says outside; the cause stays in the log."""

from __future__ import annotations

from app.kernel.errors import ErrorKind, HocError

_DETAIL = {
    "TENANT_INACTIVE": "The tenant is not active.",
    "KILL_SWITCH": "The kill switch is engaged.",
    "RUN_NOT_FOUND": "There is no such run.",
    "RUN_NOT_RUNNING": "The run is not running.",
    "ATTEMPT_MISMATCH": "The run is at another attempt.",
    "PLANE_NOT_FOUND": "There is no such knowledge plane.",
    "PLANE_NOT_ACTIVE": "The knowledge plane is not active.",
    "PLANE_SUSPENDED": "The knowledge plane is suspended.",
    "PLANE_CHANGED": "The knowledge plane changed during the access.",
    "SNAPSHOT_INVALID": "The policy snapshot of the run does not verify.",
    "NO_POLICY_BOUND": "No policy of the run's snapshot is bound to the plane.",
    "DENIED_BY_RULE": "A rule denies this access.",
    "ACTION_NOT_ALLOWED": "No rule allows this action.",
    "POLICY_CONDITION_ERROR": "A rule's condition could not be judged.",
    "NO_MATCHING_RULE": "No rule allows this access.",
    "POLICY_REVOKED": "The rules that allowed this access are revoked.",
    "ACTION_NOT_SUPPORTED": "The plane's connector has no such action.",
    "INVALID_PAYLOAD": "The payload does not fit the connector's action.",
    "TEMPLATE_NOT_ALLOWED": "The plane offers no such template.",
    "CONNECTOR_ERROR": "The source answered with an error.",
    "CREDENTIAL_UNAVAILABLE": "The source's credential is not available.",
    "HOST_NOT_ALLOWED": "The source's host is not allowed.",
    "RESPONSE_INVALID": "The source's answer was not valid.",
    "RESPONSE_TOO_LARGE": "The source's answer was too large.",
    "CONNECTOR_TIMEOUT": "The source did not answer in time.",
    "CONNECTOR_BUSY": "The source is busy.",
    "CONNECTOR_UNAVAILABLE": "The source is not available now.",
    "INTERNAL_ERROR": "The access failed.",
}
_KIND = {
    "INVALID_PAYLOAD": ErrorKind.INVALID,
    "CONNECTOR_TIMEOUT": ErrorKind.UPSTREAM_TIMEOUT,
    "CONNECTOR_BUSY": ErrorKind.UNAVAILABLE,
    "CONNECTOR_UNAVAILABLE": ErrorKind.UNAVAILABLE,
}


def access_refused(outcome: str, reason: str, *, evidence_id: str) -> HocError:
    """The refusal of a recorded attempt; the same for unknown and for foreign ids."""
    default = ErrorKind.FORBIDDEN if outcome == "DENIED" else ErrorKind.UPSTREAM_FAILED
    kind = _KIND.get(reason, default)
    return HocError(
        kind,
        reason,
        _DETAIL[reason],
        extra={"evidence_id": evidence_id, "outcome": outcome},
        retry_after=1 if kind is ErrorKind.UNAVAILABLE else None,
    )


def evidence_not_found() -> HocError:
    """No such evidence in this tenant."""
    return HocError(ErrorKind.NOT_FOUND, "EVIDENCE_NOT_FOUND", "No such evidence.")


def evidence_not_recorded() -> HocError:
    """Nothing leaves before its evidence is committed, and it could not be."""
    return HocError(
        ErrorKind.UNAVAILABLE, "EVIDENCE_NOT_RECORDED", "The access could not be recorded.", retry_after=1
    )


def invalid_query(detail: str) -> HocError:
    """The parameters do not go together."""
    return HocError(ErrorKind.MALFORMED, "INVALID_QUERY", detail)


def payload_too_large(size: int, limit: int) -> HocError:
    """The payload is no attempt at all: it is refused before it is judged."""
    return HocError(
        ErrorKind.TOO_LARGE,
        "TOO_LARGE",
        f"The payload has {size} bytes; {limit} is the most.",
        extra={"limit": limit, "actual": size},
    )


def idempotency_not_supported() -> HocError:
    """A repeated access is a new attempt, judged and recorded anew."""
    return HocError(
        ErrorKind.MALFORMED,
        "IDEMPOTENCY_NOT_SUPPORTED",
        "An access is judged anew each time; send it without Idempotency-Key.",
    )
