"""Logs L5: the governance log of a run, and the ledger read by its tenant."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from app.db.connection import DriverConnection, Row
from app.domains.logs.drivers import ledger as driver
from app.domains.logs.drivers import ledger_windows
from app.domains.logs.errors import entry_not_found
from app.domains.logs.models.ledger import (
    GOVERNANCE_ENTITIES,
    AuditEntry,
    AuditEntryDetail,
    GovernanceEvent,
    ListAudit,
)
from app.kernel.canonical_json import loads
from app.kernel.pages import Page, newest_first


def list_events(
    connection: DriverConnection,
    *,
    tenant_id: str,
    run_id: str,
    after: tuple[datetime, str] | None,
    limit: int,
) -> list[GovernanceEvent]:
    """Return a run's governance events, oldest first."""
    rows = driver.list_run_entries(
        connection,
        tenant_id=tenant_id,
        run_id=run_id,
        entity_types=GOVERNANCE_ENTITIES,
        after=after,
        limit=limit,
    )
    return [_event(row) for row in rows]


def count_events(connection: DriverConnection, *, tenant_id: str, run_id: str) -> int:
    """Return how many governance events a run has."""
    return driver.count_run_entries(
        connection, tenant_id=tenant_id, run_id=run_id, entity_types=GOVERNANCE_ENTITIES
    )


def list_between(
    connection: DriverConnection,
    *,
    tenant_id: str,
    run_id: str,
    since: datetime,
    until: datetime,
    limit: int,
) -> Sequence[Row]:
    """Return the ledger's entries of a run in [since, until], oldest first, without their states."""
    return ledger_windows.list_run_events(
        connection, tenant_id=tenant_id, run_id=run_id, since=since, until=until, limit=limit
    )


def _event(row: Row) -> GovernanceEvent:
    state = loads(row["after_state"]) if row["after_state"] else {}
    decision = state.get("decision")
    return GovernanceEvent(
        timestamp=row["created_at"],
        event_type=row["event_type"],
        policy_id=row["entity_id"] if row["entity_type"] == "POLICY_RULE" else None,
        rule_id=row["entity_id"],
        decision=decision if isinstance(decision, str) else None,
        entity_type=row["entity_type"],
        entity_id=row["entity_id"],
        run_id=row["run_id"],
        entry_id=row["entry_id"],
    )


def list_entries(connection: DriverConnection, query: ListAudit, *, tenant_id: str) -> Page[AuditEntry]:
    """Return one page of ledger entries, newest first, without their states."""
    names = {"event_type", "entity_type", "entity_id", "actor_type", "actor_id", "run_id"}
    return newest_first(
        query,
        tenant_id=tenant_id,
        operation="logs.audit_list",
        columns=("created_at", "entry_id"),
        fetch=lambda before, limit: driver.list_entries(
            connection,
            tenant_id=tenant_id,
            equal=query.model_dump(include=names),
            created_after=query.created_after,
            created_before=query.created_before,
            before=before,
            limit=limit,
        ),
        view=lambda row: AuditEntry.model_validate(_members(row)),
    )


def get_entry(connection: DriverConnection, *, tenant_id: str, entry_id: str) -> AuditEntryDetail:
    """Return one entry with its states; refuse ENTRY_NOT_FOUND."""
    row = driver.get_entry(connection, tenant_id=tenant_id, entry_id=entry_id)
    if row is None:
        raise entry_not_found()
    states = {
        name: None if row[name] is None else loads(row[name]) for name in ("before_state", "after_state")
    }
    return AuditEntryDetail.model_validate({**_members(row), **states})


def _members(row: Row) -> dict[str, Any]:
    members = {name: row[name] for name in AuditEntry.model_fields if name != "protected_state"}
    held = "INTACT" if row["erased_fact_id"] is None else "ERASED"
    return {**members, "protected_state": None if row["protected_commit"] is None else held}
