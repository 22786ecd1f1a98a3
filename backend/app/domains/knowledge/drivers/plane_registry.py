"""L6 SQL of the plane registry: rows, conditional changes, and the views that answers are built from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import different, insert
from app.db.hot import HotStatement
from app.domains.knowledge.tables import (
    knowledge_plane_jobs,
    knowledge_plane_registry,
    plane_lifecycle_events,
    plane_policy_bindings,
    plane_purge_approvals,
)

_registry = knowledge_plane_registry
_ALL = tuple(_registry.c)
_WHOLE_ROW = sa.select(*_ALL).where(
    _registry.c.tenant_id == sa.bindparam("tenant"), _registry.c.plane_id == sa.bindparam("plane")
)
_ONE = HotStatement(_WHOLE_ROW)
# FOR NO KEY UPDATE: rows that merely refer to the plane do not wait for it.
_LOCK = HotStatement(_WHOLE_ROW.with_for_update(key_share=True))


def get_plane(connection: DriverConnection, *, tenant_id: str, plane_id: str) -> Row | None:
    """Return the whole row of a plane, without a lock."""
    return next(iter(connection.hot(_ONE, {"tenant": tenant_id, "plane": plane_id})), None)


def lock_plane(connection: DriverConnection, *, tenant_id: str, plane_id: str) -> Row | None:
    """Return the whole row of a plane and hold it against other writers until the end of the transaction."""
    return next(iter(connection.hot(_LOCK, {"tenant": tenant_id, "plane": plane_id})), None)


def insert_plane(connection: DriverConnection, *, tenant_id: str, row: Mapping[str, Any]) -> bool:
    """Insert a plane; return False when a live plane of the tenant has its type and name."""
    statement = insert(connection, _registry).on_conflict_do_nothing().returning(_registry.c.plane_id)
    return connection.execute(statement, {**row, "tenant_id": tenant_id}).one_or_none() is not None


def set_plane(
    connection: DriverConnection,
    *,
    tenant_id: str,
    plane_id: str,
    expected_state: int,
    expected_version: int,
    values: Mapping[str, Any],
    events: int,
) -> int | None:
    """Change a plane still in this state and version; return its new event_seq, None when it moved on."""
    statement = (
        sa.update(_registry)
        .where(
            _registry.c.tenant_id == tenant_id,
            _registry.c.plane_id == plane_id,
            _registry.c.lifecycle_state_value == expected_state,
            _registry.c.version == expected_version,
        )
        .values({**values, "version": _registry.c.version + 1, "event_seq": _registry.c.event_seq + events})
        .returning(_registry.c.event_seq)
    )
    seq: int | None = connection.execute(statement).scalar_one_or_none()
    return seq


def count_events(connection: DriverConnection, *, tenant_id: str, plane_id: str, events: int) -> Row | None:
    """Take the next event numbers of a plane and return it as it stands; nothing else of it changes."""
    statement = (
        sa.update(_registry)
        .where(_registry.c.tenant_id == tenant_id, _registry.c.plane_id == plane_id)
        .values(event_seq=_registry.c.event_seq + events)
        .returning(
            _registry.c.event_seq,
            _registry.c.version,
            _registry.c.lifecycle_state_value,
            _registry.c.config_digest,
        )
    )
    return connection.execute(statement).mappings().one_or_none()


def get_plane_view(
    connection: DriverConnection, *, tenant_id: str, plane_id: str, now: datetime
) -> Row | None:
    """Return a plane with its live policies, open job and consent, in one statement."""
    return next(iter(connection.hot(_VIEW, {"tenant": tenant_id, "now": now, "plane": plane_id})), None)


def list_plane_views(
    connection: DriverConnection,
    *,
    tenant_id: str,
    now: datetime,
    plane_type: str | None,
    plane_name: str | None,
    connector_type: str | None,
    state: int | None,
    after: str | None,
    limit: int,
) -> list[Row]:
    """Return planes by plane_id, after the given one."""
    statement = _VIEWS.order_by(_registry.c.plane_id).limit(limit)
    filters = (
        (_registry.c.plane_type, plane_type),
        (_registry.c.plane_name, plane_name),
        (_registry.c.connector_type, connector_type),
        (_registry.c.lifecycle_state_value, state),
    )
    for column, wanted in filters:
        if wanted is not None:
            statement = statement.where(column == wanted)
    if after is not None:
        statement = statement.where(_registry.c.plane_id > after)
    return list(connection.execute(statement, {"tenant": tenant_id, "now": now}).mappings())


def list_generations(
    connection: DriverConnection, *, tenant_id: str, plane_ids: Sequence[str]
) -> dict[str, int]:
    """Return the generation that each of these planes serves."""
    statement = sa.select(_registry.c.plane_id, _registry.c.generation).where(
        _registry.c.tenant_id == tenant_id, _registry.c.plane_id.in_(plane_ids)
    )
    return {row.plane_id: row.generation for row in connection.execute(statement)}


def list_moved(
    connection: DriverConnection, *, tenant_id: str, since: datetime, until: datetime
) -> list[Row]:
    """Return plane_id and generation of planes past their first one that changed between two moments."""
    statement = sa.select(_registry.c.plane_id, _registry.c.generation).where(
        _registry.c.tenant_id == tenant_id, _moved(since, until)
    )
    return list(connection.execute(statement).mappings())


def list_tenants_moved(
    connection: DriverConnection, *, since: datetime, until: datetime
) -> Sequence[str]:  # gate: DRV-006 - maintenance serves all tenants
    """Return the tenants of planes past their first generation that changed between two moments."""
    due = sa.select(_registry.c.tenant_id).where(_moved(since, until))  # gate: SCOPE-001 - all tenants
    return connection.scalars(different(due)).all()


def _moved(since: datetime, until: datetime) -> sa.ColumnElement[bool]:
    # Written out, as all constants here: a partial index serves no parameter.
    past_first = _registry.c.generation > sa.literal_column("1")
    return sa.and_(past_first, _registry.c.updated_at > since, _registry.c.updated_at <= until)


def list_refreshable(
    connection: DriverConnection,
    *,
    tenant_id: str,
    connector_type: str,
    lowest: int,
    highest: int,
    config_part: str,
) -> list[Row]:
    """Return planes of a type, in a range of states, whose configuration says this, without open job."""
    busy = sa.exists().where(
        knowledge_plane_jobs.c.tenant_id == tenant_id,
        knowledge_plane_jobs.c.plane_id == _registry.c.plane_id,
        knowledge_plane_jobs.c.status.in_([sa.literal_column("'QUEUED'"), sa.literal_column("'RUNNING'")]),
    )
    statement = sa.select(_registry.c.plane_id, _registry.c.generation, _registry.c.ingested_seq).where(
        _registry.c.tenant_id == tenant_id,
        _refreshable(connector_type, lowest, highest, config_part),
        ~busy,
    )
    return list(connection.execute(statement).mappings())


def list_ingested_seqs(  # gate: DRV-006 - maintenance serves all tenants
    connection: DriverConnection, *, connector_type: str, lowest: int, highest: int, config_part: str
) -> Sequence[Row]:
    """Return tenant_id and the lowest ingested_seq, 0 for none, of such planes of every tenant."""
    seq = sa.func.min(sa.func.coalesce(_registry.c.ingested_seq, 0)).label("ingested_seq")
    found = _refreshable(connector_type, lowest, highest, config_part)
    statement = sa.select(_registry.c.tenant_id, seq).where(found)  # gate: SCOPE-001 - all tenants
    return connection.execute(statement.group_by(_registry.c.tenant_id)).mappings().all()


def _refreshable(connector_type: str, lowest: int, highest: int, config_part: str) -> sa.ColumnElement[bool]:
    return sa.and_(
        _registry.c.connector_type == connector_type,
        _registry.c.lifecycle_state_value.between(lowest, highest),
        _registry.c.config.contains(config_part, autoescape=True),
    )


def _views() -> sa.Select[Any]:
    tenant_id = sa.bindparam("tenant", type_=sa.Text)
    bindings, jobs, approvals = plane_policy_bindings, knowledge_plane_jobs, plane_purge_approvals
    # Values of partial indexes are written out: a planner that sees a parameter cannot use the index.
    # Rule ids hold no comma, so a joined text is read back exactly.
    comma: Any = sa.literal_column("','")
    policies = (
        sa.select(sa.func.aggregate_strings(bindings.c.policy_id, comma))
        .where(
            bindings.c.tenant_id == tenant_id,
            bindings.c.plane_id == _registry.c.plane_id,
            bindings.c.unbound_at.is_(None),
        )
        .scalar_subquery()
        .label("bound_policies")
    )
    open_job = (
        sa.select(jobs.c.job_id)
        .where(
            jobs.c.tenant_id == tenant_id,
            jobs.c.plane_id == _registry.c.plane_id,
            jobs.c.status.in_([sa.literal_column("'QUEUED'"), sa.literal_column("'RUNNING'")]),
        )
        .scalar_subquery()
        .label("active_job_id")
    )
    consent = (
        sa.exists()
        .where(
            approvals.c.tenant_id == tenant_id,
            approvals.c.plane_id == _registry.c.plane_id,
            approvals.c.expires_at > sa.bindparam("now", type_=approvals.c.expires_at.type),
            ~sa.exists().where(
                plane_lifecycle_events.c.tenant_id == tenant_id,
                plane_lifecycle_events.c.approval_id == approvals.c.approval_id,
                plane_lifecycle_events.c.to_state_value == sa.literal_column("400"),
                plane_lifecycle_events.c.decision == sa.literal_column("'ALLOWED'"),
            ),
        )
        .label("purge_approved")
    )
    return sa.select(*_ALL, policies, open_job, consent).where(_registry.c.tenant_id == tenant_id)


_VIEWS = _views()
_VIEW = HotStatement(_VIEWS.where(_registry.c.plane_id == sa.bindparam("plane")))
