"""Controls: the refusals of limits, their use and their overrides, each with its stable code."""

from __future__ import annotations

from app.kernel.errors import ErrorKind, HocError


def limit_not_found() -> HocError:
    """A limit that this tenant does not have."""
    return HocError(ErrorKind.NOT_FOUND, "LIMIT_NOT_FOUND", "No such limit.")


def override_not_found() -> HocError:
    """An override that this tenant does not have."""
    return HocError(ErrorKind.NOT_FOUND, "OVERRIDE_NOT_FOUND", "No such override.")


def reservation_not_found() -> HocError:
    """A reservation that this run does not have."""
    return HocError(ErrorKind.NOT_FOUND, "RESERVATION_NOT_FOUND", "No such reservation of this run.")


def limit_exists(field: str) -> HocError:
    """A limit id that is taken, or a name that an ACTIVE limit bears."""
    return HocError(
        ErrorKind.CONFLICT,
        "LIMIT_EXISTS",
        f"Another limit already has this {field}.",
        errors=[{"field": f"/{field}", "code": "taken", "detail": f"Another limit has this {field}."}],
    )


def immutable_field(fields: list[str]) -> HocError:
    """A change of what a limit counts, or for whom."""
    return HocError(
        ErrorKind.INVALID,
        "IMMUTABLE_FIELD",
        f"Fixed when the limit is made: {', '.join(fields)}. Make another limit.",
        errors=[{"field": f"/{name}", "code": "immutable", "detail": "fixed"} for name in fields],
    )


def halts_without_block() -> HocError:
    """A limit that would halt runs without blocking them."""
    return HocError(
        ErrorKind.INVALID,
        "INVALID_INPUT",
        "Only a BLOCK limit halts a run.",
        errors=[{"field": "/halts_run", "code": "invalid", "detail": "only with enforcement BLOCK"}],
    )


def limit_system() -> HocError:
    """A change of a limit that the plan sets."""
    return HocError(
        ErrorKind.FORBIDDEN, "LIMIT_SYSTEM", "The limits of the plan are not for tenants to change."
    )


def limit_integrity(limit_id: str, limit_version: int) -> HocError:
    """A stored limit whose columns do not have its content hash."""
    return HocError(
        ErrorKind.CONFLICT,
        "POLICY_INTEGRITY",
        f"The stored version {limit_version} of limit {limit_id} does not have its content hash.",
        extra={"limit_id": limit_id, "limit_version": limit_version},
    )


def usage_conflict(usage_id: str) -> HocError:
    """A usage id that was recorded with other content."""
    return HocError(
        ErrorKind.CONFLICT, "USAGE_CONFLICT", f"Usage {usage_id} of this run is recorded with other content."
    )


def override_reference(limit_id: str) -> HocError:
    """An override of a limit that is not there."""
    return HocError(
        ErrorKind.INVALID,
        "REFERENCE_NOT_FOUND",
        "limit_id cites a limit that does not exist.",
        errors=[{"field": "/limit_id", "code": "reference", "detail": f"no such limit: {limit_id}"}],
        extra={"field": "limit_id"},
    )


def override_stacking(override_id: str) -> HocError:
    """A second live override of one limit."""
    return HocError(
        ErrorKind.CONFLICT,
        "OVERRIDE_STACKING",
        "The limit has an override that is pending or approved.",
        extra={"override_id": override_id},
    )


def override_quota(most: int) -> HocError:
    """More live overrides than a tenant may have."""
    return HocError(
        ErrorKind.CONFLICT, "OVERRIDE_QUOTA", f"The tenant has {most} live overrides, the most there may be."
    )


def override_too_long(hours: int) -> HocError:
    """An override that would last too long."""
    return HocError(
        ErrorKind.INVALID,
        "OVERRIDE_TOO_LONG",
        f"An override lasts at most {hours} hours.",
        errors=[{"field": "/expires_at", "code": "too_long", "detail": f"at most {hours} hours"}],
    )


def override_window(detail: str) -> HocError:
    """An override that ends before it begins, or is over already."""
    return HocError(
        ErrorKind.INVALID,
        "INVALID_INPUT",
        f"expires_at: {detail}",
        errors=[{"field": "/expires_at", "code": "window", "detail": detail}],
    )


def self_approval() -> HocError:
    """A decision over one's own request."""
    return HocError(ErrorKind.FORBIDDEN, "SELF_APPROVAL", "Somebody else than the requester decides.")


def invalid_transition(status: str, wanted: str) -> HocError:
    """A step that the override's state does not allow."""
    return HocError(
        ErrorKind.CONFLICT,
        "INVALID_TRANSITION",
        f"An override that is {status} cannot become {wanted}.",
        extra={"state": status},
    )
