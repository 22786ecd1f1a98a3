"""Incidents L5: incidents as their readers ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from app.db.connection import DriverConnection, Row
from app.domains.incidents.drivers import incident_parts as part_rows
from app.domains.incidents.drivers import incidents as incident_rows
from app.domains.incidents.errors import incident_not_found
from app.domains.incidents.models.records import (
    CreateIncident,
    IncidentEventView,
    IncidentLinkView,
    IncidentView,
    ListIncidentParts,
    ListIncidents,
    ListSignatures,
    SignatureView,
)
from app.kernel.canonical_json import dumps, loads
from app.kernel.pages import Page, newest_first, page_of, read_cursor
from app.kernel.redaction import redact_text

_PLAIN = tuple(name for name in IncidentView.model_fields if name != "protected_state")


def require(connection: DriverConnection, *, tenant_id: str, incident_id: str) -> Row:
    """Return an incident's row; refuse INCIDENT_NOT_FOUND."""
    row = incident_rows.get_incident(connection, tenant_id=tenant_id, incident_id=incident_id)
    if row is None:
        raise incident_not_found()
    return row


def is_same_report(connection: DriverConnection, row: Row, given: CreateIncident, *, tenant_id: str) -> bool:
    """Tell whether a stored incident came of this very report; its severity may have risen since."""
    stated = {
        "title": redact_text(given.title)[0],
        "description": None if given.description is None else redact_text(given.description)[0],
        "category": given.category,
        "error_code": given.error_code,
        "source_run_id": given.source_run_id,
    }
    if any(row[name] != value for name, value in stated.items()):
        return False
    if given.impact_scope is not None and row["impact_scope"] != given.impact_scope:
        return False
    if given.severity is None:
        return True
    created = part_rows.get_event(connection, tenant_id=tenant_id, incident_id=row["incident_id"], seq=1)
    data = None if created is None or created["data"] is None else loads(created["data"])
    return data is None or data["severity"] == given.severity


def view(row: Row) -> IncidentView:
    """Return what a caller sees of an incident."""
    state = "INTACT" if row["erased_fact_id"] is None else "ERASED"
    return IncidentView.model_validate({**{name: row[name] for name in _PLAIN}, "protected_state": state})


def list_page(connection: DriverConnection, query: ListIncidents, *, tenant_id: str) -> Page[IncidentView]:
    """Return one page of incidents, newest first."""
    equal = query.model_dump(mode="json", exclude={"limit", "cursor", "signature"})
    equal["recurrence_signature"] = query.signature
    return newest_first(
        query,
        tenant_id=tenant_id,
        operation="incidents.list",
        columns=("created_at", "incident_id"),
        fetch=lambda before, count: incident_rows.list_incidents(
            connection, tenant_id=tenant_id, equal=equal, before=before, limit=count
        ),
        view=view,
    )


def list_events(
    connection: DriverConnection, query: ListIncidentParts, *, tenant_id: str
) -> Page[IncidentEventView]:
    """Return one page of what happened to an incident; refuse INCIDENT_NOT_FOUND."""
    require(connection, tenant_id=tenant_id, incident_id=query.incident_id)
    binding = dumps([tenant_id, "incidents.events", query.incident_id])
    (after,) = read_cursor(query.cursor, binding, int) or (0,)
    rows = part_rows.list_events(
        connection,
        tenant_id=tenant_id,
        incident_id=query.incident_id,
        after=after,
        limit=query.limit + 1,
    )
    return page_of(rows, limit=query.limit, binding=binding, key=lambda row: (row["seq"],), view=_event_view)


def list_links(
    connection: DriverConnection, query: ListIncidentParts, *, tenant_id: str
) -> Page[IncidentLinkView]:
    """Return one page of what an incident points at; refuse INCIDENT_NOT_FOUND."""
    require(connection, tenant_id=tenant_id, incident_id=query.incident_id)
    binding = dumps([tenant_id, "incidents.links", query.incident_id])
    rows = part_rows.list_links(
        connection,
        tenant_id=tenant_id,
        incident_id=query.incident_id,
        after=read_cursor(query.cursor, binding, str, str),
        limit=query.limit + 1,
    )
    return page_of(
        rows,
        limit=query.limit,
        binding=binding,
        key=lambda row: (row["kind"], row["ref"]),
        view=lambda row: IncidentLinkView(**{name: row[name] for name in IncidentLinkView.model_fields}),
    )


def list_signatures(
    connection: DriverConnection, query: ListSignatures, *, tenant_id: str, now: datetime
) -> Page[SignatureView]:
    """Return one page of what recurs, most often first."""
    binding = dumps([tenant_id, "incidents.signatures", query.days, query.min_count])
    rows: Sequence[Row] = incident_rows.list_signatures(
        connection,
        tenant_id=tenant_id,
        since=now - timedelta(days=query.days),
        min_count=query.min_count,
        after=read_cursor(query.cursor, binding, int, str),
        limit=query.limit + 1,
    )
    return page_of(
        rows,
        limit=query.limit,
        binding=binding,
        key=lambda row: (row["count"], row["recurrence_signature"]),
        view=lambda row: SignatureView.model_validate({**row, "latest_incident_id": row["incident_id"]}),
    )


def _event_view(row: Row) -> IncidentEventView:
    plain = {
        name: row[name] for name in IncidentEventView.model_fields if name not in ("data", "protected_state")
    }
    return IncidentEventView(
        **plain,
        data=None if row["data"] is None else loads(row["data"]),
        protected_state="INTACT" if row["erased_fact_id"] is None else "ERASED",
    )
