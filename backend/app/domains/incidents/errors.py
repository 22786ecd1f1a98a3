"""Incidents: the refusals of incidents, each with its stable code."""

from __future__ import annotations

from app.kernel.errors import ErrorKind, HocError


def incident_not_found() -> HocError:
    """An incident that this tenant does not have."""
    return HocError(ErrorKind.NOT_FOUND, "INCIDENT_NOT_FOUND", "No such incident.")
