"""Test policies: rows changed behind the triggers, and planes that a rule can be bound to."""

from __future__ import annotations

from uuid import uuid4

import sqlalchemy as sa

from tests.factories.tenants import Tenant


def tamper(connection: sa.Connection, statement: str, tenant_id: str) -> None:
    """Execute a statement over the tenant `:t` with the triggers of the policy tables out of the way."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SET session_replication_role = replica"))
        connection.execute(sa.text(statement), {"t": tenant_id})
        connection.execute(sa.text("SET session_replication_role = DEFAULT"))
        return
    kept = connection.execute(
        sa.text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name LIKE 'policy%'")
    ).all()
    for name, _ in kept:
        connection.exec_driver_sql(f"DROP TRIGGER {name}")
    try:
        connection.execute(sa.text(statement), {"t": tenant_id})
    finally:
        for _, definition in kept:
            connection.exec_driver_sql(definition)


PATH_TO_BINDING = (110, 120, 130, 140, 150, 160)


def bindable_plane(connection: sa.Connection, tenant: Tenant) -> str:
    """Register a plane and walk it along the legal edges to PENDING_ACTIVATE; return its id."""
    payload = {
        "plane_type": "docs",
        "plane_name": f"plane {uuid4().hex}",
        "connector_type": "repository",
        "connector_id": "repo",
        "config": {},
    }
    plane_id = str(tenant.call("knowledge.planes.register", payload).plane_id)
    for state in PATH_TO_BINDING:
        move_plane(connection, tenant, plane_id, state)
    return plane_id


def move_plane(connection: sa.Connection, tenant: Tenant, plane_id: str, state: int) -> None:
    """Set a plane's state by raw SQL; the database refuses an illegal edge."""
    connection.execute(
        sa.text(
            "UPDATE knowledge_plane_registry SET lifecycle_state_value = :s, version = version + 1"
            " WHERE tenant_id = :t AND plane_id = :p"
        ),
        {"s": state, "t": tenant.tenant_id, "p": plane_id},
    )
