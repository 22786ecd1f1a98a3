"""Incidents: the refusals of incidents, each with its stable code."""

from __future__ import annotations

from app.kernel.errors import ErrorKind, HocError


def incident_not_found() -> HocError:
    """An incident that this tenant does not have."""
    return HocError(ErrorKind.NOT_FOUND, "INCIDENT_NOT_FOUND", "No such incident.")


def incident_exists(incident_id: str) -> HocError:
    """An incident id that other content has taken."""
    return HocError(
        ErrorKind.CONFLICT, "INCIDENT_EXISTS", f"Incident {incident_id} was reported with other content."
    )


def incident_resolved() -> HocError:
    """A change of an incident that is over."""
    return HocError(
        ErrorKind.CONFLICT, "INCIDENT_RESOLVED", "The incident is resolved, and nothing reopens it."
    )


def severity_not_higher(current: str, wanted: str) -> HocError:
    """An escalation that does not raise the severity."""
    return HocError(
        ErrorKind.INVALID,
        "SEVERITY_NOT_HIGHER",
        f"The incident is {current} already; {wanted} is not higher.",
        errors=[{"field": "/severity", "code": "not_higher", "detail": f"higher than {current}"}],
        extra={"severity": current},
    )


def cited_incident_not_found(field: str) -> HocError:
    """An incident that a body names and this tenant does not have."""
    return HocError(
        ErrorKind.INVALID,
        "REFERENCE_NOT_FOUND",
        f"{field} cites an incident that does not exist.",
        errors=[{"field": f"/{field}", "code": "reference", "detail": "no such incident"}],
        extra={"field": field},
    )
