"""L6 SQL of the policy bindings of planes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import bytewise, insert
from app.domains.knowledge.tables import knowledge_plane_registry, plane_policy_bindings

_bindings = plane_policy_bindings


def get_live_binding(
    connection: DriverConnection, *, tenant_id: str, plane_id: str, policy_id: str
) -> Row | None:
    """Return the live binding of a policy to a plane."""
    statement = sa.select(*_bindings.c).where(
        _bindings.c.tenant_id == tenant_id,
        _bindings.c.plane_id == plane_id,
        _bindings.c.policy_id == policy_id,
        _bindings.c.unbound_at.is_(None),
    )
    return connection.execute(statement).mappings().one_or_none()


def insert_binding(connection: DriverConnection, *, tenant_id: str, row: Mapping[str, Any]) -> bool:
    """Insert a binding; return False when the policy is already bound to the plane."""
    statement = insert(connection, _bindings).on_conflict_do_nothing().returning(_bindings.c.binding_id)
    return connection.execute(statement, {**row, "tenant_id": tenant_id}).one_or_none() is not None


def set_unbound(
    connection: DriverConnection,
    *,
    tenant_id: str,
    binding_id: str,
    version: int,
    unbound_by: str,
    unbound_at: datetime,
    fact_id: str,
) -> bool:
    """End a live binding of this version; return False when it has ended."""
    statement = (
        sa.update(_bindings)
        .where(
            _bindings.c.tenant_id == tenant_id,
            _bindings.c.binding_id == binding_id,
            _bindings.c.version == version,
            _bindings.c.unbound_at.is_(None),
        )
        .values(unbound_by=unbound_by, unbound_at=unbound_at, fact_id=fact_id, version=version + 1)
    )
    return connection.execute(statement).rowcount == 1


def list_plane_policy_ids(connection: DriverConnection, *, tenant_id: str, plane_id: str) -> list[str]:
    """Return the ids of the policies bound to a plane, sorted."""
    statement = (
        sa.select(_bindings.c.policy_id)
        .where(
            _bindings.c.tenant_id == tenant_id,
            _bindings.c.plane_id == plane_id,
            _bindings.c.unbound_at.is_(None),
        )
        .order_by(_bindings.c.policy_id)
    )
    return list(connection.scalars(statement))


def list_bindings(connection: DriverConnection, *, tenant_id: str, plane_id: str) -> list[Row]:
    """Return every binding that a plane has or had, by id."""
    statement = (
        sa.select(*_bindings.c)
        .where(_bindings.c.tenant_id == tenant_id, _bindings.c.plane_id == plane_id)
        .order_by(bytewise(connection, _bindings.c.binding_id))
    )
    return list(connection.execute(statement).mappings())


def list_live_bindings(connection: DriverConnection, *, tenant_id: str) -> list[tuple[str, str]]:
    """Return (plane_id, policy_id) of the live bindings of planes that are neither PURGED nor FAILED."""
    statement = _with_plane(_bindings.c.plane_id, _bindings.c.policy_id).where(
        knowledge_plane_registry.c.tenant_id == tenant_id, _bindings.c.tenant_id == tenant_id
    )
    return [(row.plane_id, row.policy_id) for row in connection.execute(statement)]


def list_policy_planes(
    connection: DriverConnection, *, tenant_id: str, policy_id: str
) -> list[tuple[str, int]]:
    """Return (plane_id, state value) of the planes, neither PURGED nor FAILED, that a policy is bound to."""
    registry = knowledge_plane_registry
    statement = _with_plane(registry.c.plane_id, registry.c.lifecycle_state_value).where(
        registry.c.tenant_id == tenant_id,
        _bindings.c.tenant_id == tenant_id,
        _bindings.c.policy_id == policy_id,
    )
    return [(row.plane_id, row.lifecycle_state_value) for row in connection.execute(statement)]


def _with_plane(*columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    registry = knowledge_plane_registry
    return (
        sa.select(*columns)
        .select_from(
            _bindings.join(
                registry,
                sa.and_(
                    registry.c.tenant_id == _bindings.c.tenant_id, registry.c.plane_id == _bindings.c.plane_id
                ),
            )
        )
        .where(_bindings.c.unbound_at.is_(None), registry.c.lifecycle_state_value < 400)
    )
