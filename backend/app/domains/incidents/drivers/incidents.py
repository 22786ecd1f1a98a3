"""Incidents L6: rows of incidents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import insert
from app.db.gather import Question, finding
from app.db.newest import newest
from app.domains.incidents.tables import incidents

_C = incidents.c
_ALL = tuple(incidents.columns)


def insert_incident(
    connection: DriverConnection, *, tenant_id: str, row: Mapping[str, Any], since: datetime
) -> Row | None:
    """Insert an incident that counts the like ones `since`; return it, None when its id or key is taken."""
    earlier = incidents.alias("earlier")
    like = (
        earlier.c.tenant_id == tenant_id,
        earlier.c.recurrence_signature == row["recurrence_signature"],
        earlier.c.created_at >= since,
    )
    latest = sa.select(earlier.c.incident_id).where(*like)
    latest = latest.order_by(earlier.c.created_at.desc(), earlier.c.incident_id.desc()).limit(1)
    statement = (
        insert(connection, incidents)
        .values(
            {
                **row,
                "tenant_id": tenant_id,
                "recurrence_count": sa.select(sa.func.count()).where(*like).scalar_subquery(),
                "recurrence_of": latest.scalar_subquery(),
            }
        )
        .on_conflict_do_nothing()
        .returning(*_ALL)
    )
    return connection.execute(statement).mappings().one_or_none()


def get_incident(connection: DriverConnection, *, tenant_id: str, incident_id: str) -> Row | None:
    """Return the whole row of an incident, without a lock."""
    statement = sa.select(*_ALL).where(_C.tenant_id == tenant_id, _C.incident_id == incident_id)
    return connection.execute(statement).mappings().one_or_none()


def get_by_dedupe_key(connection: DriverConnection, *, tenant_id: str, dedupe_key: str) -> Row | None:
    """Return the whole row of the incident with this dedupe key."""
    statement = sa.select(*_ALL).where(_C.tenant_id == tenant_id, _C.dedupe_key == dedupe_key)
    return connection.execute(statement).mappings().one_or_none()


def lock_incident(connection: DriverConnection, *, tenant_id: str, incident_id: str) -> Row | None:
    """Return the whole row of an incident and hold it until the transaction ends."""
    statement = (
        sa.select(*_ALL)
        .where(_C.tenant_id == tenant_id, _C.incident_id == incident_id)
        .with_for_update(key_share=True)
    )
    return connection.execute(statement).mappings().one_or_none()


def set_incident(
    connection: DriverConnection,
    *,
    tenant_id: str,
    incident_id: str,
    version: int,
    values: Mapping[str, Any],
) -> Row | None:
    """Change the incident that has this version and return it as it now is; None when it has not."""
    statement = (
        sa.update(incidents)
        .where(_C.tenant_id == tenant_id, _C.incident_id == incident_id, _C.version == version)
        .values({**values, "version": version + 1})
        .returning(*_ALL)
    )
    return connection.execute(statement).mappings().one_or_none()


def list_incidents(
    connection: DriverConnection,
    *,
    tenant_id: str,
    equal: Mapping[str, Any],
    before: tuple[datetime, str] | None,
    limit: int,
) -> Sequence[Row]:
    """Return whole rows, newest first, before a (created_at, incident_id)."""
    mine = sa.select(*_ALL).where(_C.tenant_id == tenant_id)
    page = newest(mine, _C.created_at, _C.incident_id, equal=equal, before=before, limit=limit)
    return connection.execute(page).mappings().all()


def list_signatures(
    connection: DriverConnection,
    *,
    tenant_id: str,
    since: datetime,
    min_count: int,
    after: tuple[int, str] | None,
    limit: int,
) -> Sequence[Row]:
    """Return the signatures seen at least `min_count` times, most often first, each with its latest row."""
    count = sa.func.count().label("count")
    counted = (
        sa.select(
            _C.recurrence_signature,
            count,
            sa.func.min(_C.created_at).label("first_at"),
            sa.func.max(_C.created_at).label("last_at"),
        )
        .where(_C.tenant_id == tenant_id, _C.created_at >= since)
        .group_by(_C.recurrence_signature)
        .having(count >= min_count)
        .subquery()
    )
    later = incidents.alias("later")
    latest = sa.select(sa.func.max(later.c.incident_id)).where(
        later.c.tenant_id == tenant_id,
        later.c.recurrence_signature == counted.c.recurrence_signature,
        later.c.created_at == counted.c.last_at,
    )
    newest = latest.correlate(counted).scalar_subquery()
    statement = (
        sa.select(*counted.c, _C.incident_id, _C.category, _C.error_code, _C.affected_agent_id)
        .select_from(counted.join(incidents, _C.incident_id == newest))
        .where(_C.tenant_id == tenant_id)
    )
    if after is not None:
        fewer, signature = after
        statement = statement.where(
            sa.or_(
                counted.c.count < fewer,
                sa.and_(counted.c.count == fewer, counted.c.recurrence_signature > signature),
            )
        )
    statement = statement.order_by(counted.c.count.desc(), counted.c.recurrence_signature).limit(limit)
    return connection.execute(statement).mappings().all()


def ask_attempt(connection: DriverConnection, *, tenant_id: str, run_id: str, attempt: int) -> Question:  # noqa: ARG001
    """Ask how many incidents of each category an attempt has: word the category, number the count."""
    return Question(
        sa.select(*finding("incident", word=_C.category, number=sa.func.count()))
        .where(_C.tenant_id == tenant_id, _C.source_run_id == run_id, _C.attempt == attempt)
        .group_by(_C.category)
    )
