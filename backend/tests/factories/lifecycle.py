"""Test planes of the lifecycle: registered through the operation, then walked along legal edges."""

from __future__ import annotations

from collections import deque
from typing import Any
from uuid import uuid4

import sqlalchemy as sa

from app.domains.knowledge.engines.lifecycle import EDGES
from app.domains.knowledge.models.vocabulary import (
    KnowledgePlaneLifecycleState as State,
)
from tests.factories.tenants import Tenant

SQL_CONFIG: dict[str, Any] = {
    "driver": "postgresql",
    "credential_ref": "env://WAREHOUSE",
    "templates": [{"id": "orders", "sql": "SELECT order_id, total FROM orders", "key_columns": ["order_id"]}],
}
# Words in capitals are targets, the others actions.
WAY_IN = (
    "verify_knowledge_plane",
    "VERIFIED",
    "ingest_knowledge_plane",
    "index_knowledge_plane",
    "classify_knowledge_plane",
    "request_activation",
)


def register_plane(tenant: Tenant, **members: Any) -> Any:
    """Register a plane with a name nobody else has, over a database by default, and return its view."""
    payload = {
        "plane_type": "catalogue",
        "plane_name": f"plane {uuid4().hex}",
        "connector_type": "sql",
        "connector_id": "warehouse",
        "config": SQL_CONFIG,
    }
    return tenant.call("knowledge.planes.register", payload | members)


def path_to(target: State, source: State = State.DRAFT) -> list[State]:
    """Return the shortest walk along legal edges, without the state it starts in."""
    queue = deque([[source]])
    seen = {source}
    while queue:
        walk = queue.popleft()
        if walk[-1] is target:
            return walk[1:]
        for before, after in EDGES:
            if before is walk[-1] and after not in seen:
                seen.add(after)
                queue.append([*walk, after])
    raise LookupError(f"{target.name} is not reached from {source.name}")


def move_plane(connection: sa.Connection, tenant: Tenant, plane_id: str, *states: State) -> None:
    """Move a plane by raw SQL, one UPDATE for each state; the database refuses an illegal edge."""
    for state in states:
        connection.execute(
            sa.text(
                "UPDATE knowledge_plane_registry SET lifecycle_state_value = :state, version = version + 1"
                " WHERE tenant_id = :tenant AND plane_id = :plane"
            ),
            {"state": int(state), "tenant": tenant.tenant_id, "plane": plane_id},
        )


def plane_in(connection: sa.Connection, tenant: Tenant, state: State, **members: Any) -> str:
    """Register a plane and walk it to a state by raw SQL; return its id."""
    plane_id = str(register_plane(tenant, **members).plane_id)
    move_plane(connection, tenant, plane_id, *path_to(state))
    return plane_id


def state_in_database(connection: sa.Connection, tenant: Tenant, plane_id: str) -> State:
    """Return the state that a fresh connection reads."""
    value = connection.execute(
        sa.text(
            "SELECT lifecycle_state_value FROM knowledge_plane_registry"
            " WHERE tenant_id = :tenant AND plane_id = :plane"
        ),
        {"tenant": tenant.tenant_id, "plane": plane_id},
    ).scalar_one()
    return State(value)


def rows_of(connection: sa.Connection, table: str, tenant: Tenant, plane_id: str) -> list[dict[str, Any]]:
    """Return the rows of a table that belong to a plane, as a fresh connection reads them."""
    found = connection.execute(
        sa.text(f"SELECT * FROM {table} WHERE tenant_id = :tenant AND plane_id = :plane"),
        {"tenant": tenant.tenant_id, "plane": plane_id},
    )
    return [dict(row) for row in found.mappings()]


def events_of(connection: sa.Connection, tenant: Tenant, plane_id: str) -> list[dict[str, Any]]:
    """Return a plane's events by seq, as a fresh connection reads them."""
    found = rows_of(connection, "plane_lifecycle_events", tenant, plane_id)
    return sorted(found, key=lambda row: row["seq"])


def make_allow_rule(tenant: Tenant, rule_id: str = "rule-allow", **members: Any) -> str:
    """Create and activate an ACCESS rule that allows, and return its id."""
    payload = {
        "rule_id": rule_id,
        "name": rule_id,
        "kind": "ACCESS",
        "effect": "ALLOW",
        "scope": "TENANT",
        "activate": True,
    }
    tenant.call("policies.rules.create", payload | members)
    return rule_id


def bind(tenant: Tenant, plane_id: str, policy_id: str, **context: Any) -> Any:
    """Bind a policy to a plane and return the result, refused or not."""
    payload = {"plane_id": plane_id, "policy_id": policy_id}
    return tenant.dispatch("knowledge.planes.bind_policy", payload, **context)


def unbind(tenant: Tenant, plane_id: str, policy_id: str, **context: Any) -> Any:
    """End a binding and return the result, refused or not."""
    payload = {"plane_id": plane_id, "policy_id": policy_id}
    return tenant.dispatch("knowledge.planes.unbind_policy", payload, **context)


def transition(
    tenant: Tenant,
    plane_id: str,
    action: str | None = None,
    *,
    context: dict[str, Any] | None = None,
    **members: Any,
) -> Any:
    """Try an edge by action, or by `to_state=`, and return the result, refused or not."""
    payload = {"plane_id": plane_id, **members} | ({} if action is None else {"action": action})
    return tenant.dispatch("knowledge.planes.transition", payload, **(context or {}))


def end_job(connection: sa.Connection, tenant: Tenant, plane_id: str, status: str = "SUCCEEDED") -> None:
    """End the plane's open job by raw SQL, as its worker would."""
    connection.execute(
        sa.text(
            "UPDATE knowledge_plane_jobs SET status = :status, finished_at = created_at"
            " WHERE tenant_id = :tenant AND plane_id = :plane AND status IN ('QUEUED', 'RUNNING')"
        ),
        {"status": status, "tenant": tenant.tenant_id, "plane": plane_id},
    )


def make_waiting_plane(connection: sa.Connection, tenant: Tenant, **members: Any) -> str:
    """Take a plane to PENDING_ACTIVATE by operations alone but for its jobs; return its id."""
    config = {**SQL_CONFIG, "declared_sensitivity": "internal", "auto_advance": False}
    plane_id = str(register_plane(tenant, **({"config": config} | members)).plane_id)
    for step in WAY_IN:
        if step in ("VERIFIED", "index_knowledge_plane"):
            end_job(connection, tenant, plane_id)
        how = {"to_state": step} if step.isupper() else {"action": step}
        transition(tenant, plane_id, **how).unwrap()
    return plane_id


def make_active_plane(connection: sa.Connection, tenant: Tenant, **members: Any) -> str:
    """Take a plane to ACTIVE, with one rule of its own bound, `rule-<plane_id>`; return its id."""
    plane_id = make_waiting_plane(connection, tenant, **members)
    rule_id = make_allow_rule(tenant, f"rule-{plane_id}", condition=f"plane.plane_id == '{plane_id}'")
    bind(tenant, plane_id, rule_id).unwrap()
    transition(tenant, plane_id, "activate_knowledge_plane").unwrap()
    return plane_id
