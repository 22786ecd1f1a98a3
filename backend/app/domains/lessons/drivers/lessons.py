"""Lessons L6: rows of lessons, and of what keeps them from repeating themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import among, different, insert
from app.db.newest import newest
from app.domains.lessons.tables import lesson_debounce, lessons_learned

_C, _D = lessons_learned.c, lesson_debounce.c
_ALL = tuple(lessons_learned.columns)
# Written out: the partial index of what is due serves no parameter.
_DEFERRED = _C.status == sa.literal_column("'DEFERRED'")


def insert_lessons(
    connection: DriverConnection, *, tenant_id: str, rows: Sequence[Mapping[str, Any]]
) -> Sequence[str]:
    """Insert lessons in one statement; return the ids of those whose event had not taught that before."""
    statement = (
        insert(connection, lessons_learned)
        .on_conflict_do_nothing(index_elements=[_C.tenant_id, _C.source_event_id, _C.lesson_type])
        .returning(_C.lesson_id)
    )
    return connection.scalars(statement, [{**row, "tenant_id": tenant_id} for row in rows]).all()


def count_debounced(
    connection: DriverConnection, *, tenant_id: str, keys: Sequence[str], now: datetime, since: datetime
) -> Sequence[str]:
    """Mark these keys as used now; return those that were not used after `since`."""
    rows = [{"tenant_id": tenant_id, "debounce_key": key, "last_at": now, "created_at": now} for key in keys]
    made = insert(connection, lesson_debounce)
    statement = made.on_conflict_do_update(
        index_elements=[_D.tenant_id, _D.debounce_key],
        set_={"last_at": made.excluded.last_at},
        where=_D.last_at <= since,
    ).returning(_D.debounce_key)
    return connection.scalars(statement, rows).all()


def get_lesson(connection: DriverConnection, *, tenant_id: str, lesson_id: str) -> Row | None:
    """Return the whole row of a lesson, without a lock."""
    statement = sa.select(*_ALL).where(_C.tenant_id == tenant_id, _C.lesson_id == lesson_id)
    return connection.execute(statement).mappings().one_or_none()


def get_by_source(
    connection: DriverConnection, *, tenant_id: str, source_event_id: str, lesson_type: str
) -> Row | None:
    """Return the whole row of the lesson that an event taught."""
    statement = sa.select(*_ALL).where(
        _C.tenant_id == tenant_id, _C.source_event_id == source_event_id, _C.lesson_type == lesson_type
    )
    return connection.execute(statement).mappings().one_or_none()


def lock_lesson(connection: DriverConnection, *, tenant_id: str, lesson_id: str) -> Row | None:
    """Return the whole row of a lesson and hold it until the transaction ends."""
    statement = (
        sa.select(*_ALL)
        .where(_C.tenant_id == tenant_id, _C.lesson_id == lesson_id)
        .with_for_update(key_share=True)
    )
    return connection.execute(statement).mappings().one_or_none()


def set_lesson(
    connection: DriverConnection,
    *,
    tenant_id: str,
    lesson_id: str,
    version: int,
    values: Mapping[str, Any],
) -> Row | None:
    """Change the lesson that has this version and return it as it now is; None when it has not."""
    statement = (
        sa.update(lessons_learned)
        .where(_C.tenant_id == tenant_id, _C.lesson_id == lesson_id, _C.version == version)
        .values({**values, "version": version + 1})
        .returning(*_ALL)
    )
    return connection.execute(statement).mappings().one_or_none()


def list_lessons(
    connection: DriverConnection,
    *,
    tenant_id: str,
    equal: Mapping[str, Any],
    before: tuple[datetime, str] | None,
    limit: int,
) -> Sequence[Row]:
    """Return whole rows, newest first, before a (created_at, lesson_id)."""
    mine = sa.select(*_ALL).where(_C.tenant_id == tenant_id)
    page = newest(mine, _C.created_at, _C.lesson_id, equal=equal, before=before, limit=limit)
    return connection.execute(page).mappings().all()


def list_due(connection: DriverConnection, *, tenant_id: str, now: datetime, limit: int) -> Sequence[Row]:
    """Lock and return deferred lessons that are due; those that others hold are left out."""
    statement = (
        sa.select(*_ALL)
        .where(_C.tenant_id == tenant_id, _DEFERRED, _C.deferred_until <= now)
        .order_by(_C.deferred_until, _C.lesson_id)
        .limit(limit)
        .with_for_update(key_share=True, skip_locked=True)
    )
    return connection.execute(statement).mappings().all()


def list_tenants_due(
    connection: DriverConnection, *, now: datetime
) -> Sequence[str]:  # gate: DRV-006 - maintenance serves all tenants
    """Return the tenants that have deferred lessons that are due."""
    due = sa.select(_C.tenant_id).where(_DEFERRED, _C.deferred_until <= now)  # gate: SCOPE-001 - all tenants
    return connection.scalars(different(due)).all()


def count_lessons(connection: DriverConnection, *, tenant_id: str, include_synthetic: bool) -> Sequence[Row]:
    """Return how many lessons there are of each type, status and severity."""
    statement = sa.select(_C.lesson_type, _C.status, _C.severity, sa.func.count().label("count")).where(
        _C.tenant_id == tenant_id
    )
    if not include_synthetic:
        statement = statement.where(sa.not_(_C.is_synthetic))
    statement = statement.group_by(_C.lesson_type, _C.status, _C.severity)
    return connection.execute(statement).mappings().all()


def count_drafts(connection: DriverConnection, *, tenant_id: str, run_ids: Sequence[str]) -> Sequence[Row]:
    """Return, by run, how many of its lessons were made proposals."""
    statement = (
        sa.select(_C.source_run_id.label("run_id"), sa.func.count().label("drafts"))
        .where(
            _C.tenant_id == tenant_id,
            among(connection, _C.source_run_id, run_ids),
            _C.draft_proposal_id.is_not(None),
        )
        .group_by(_C.source_run_id)
    )
    return connection.execute(statement).mappings().all()


def list_runs_in(connection: DriverConnection, *, tenant_id: str, states: Sequence[str]) -> Sequence[str]:
    """Return the runs with a lesson in one of these states."""
    statement = (
        sa.select(_C.source_run_id)
        .where(_C.tenant_id == tenant_id, _C.source_run_id.is_not(None), _C.status.in_(states))
        .distinct()
    )
    return connection.scalars(statement).all()
