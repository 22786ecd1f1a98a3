"""Tenants L6: leases of workers that serve all tenants, by the database's clock."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection
from app.db.dialect import insert
from app.domains.tenants.tables import worker_leases

_MOMENT: sa.types.TypeEngine[Any] = sa.DateTime(timezone=True)


def set_lease(connection: DriverConnection, *, name: str, holder: str, seconds: int) -> int | None:
    """Take or renew a lease for some seconds and return its token; None while somebody else holds it."""
    mine = worker_leases.c.holder == holder
    statement = insert(connection, worker_leases).values(
        name=name, holder=holder, token=1, expires_at=_after(connection, seconds)
    )
    taken = statement.on_conflict_do_update(
        index_elements=["name"],
        set_={
            "holder": holder,
            "token": worker_leases.c.token + sa.case((mine, 0), else_=1),
            "expires_at": statement.excluded.expires_at,
        },
        where=sa.or_(mine, worker_leases.c.expires_at <= _after(connection, 0)),
    ).returning(worker_leases.c.token)
    return connection.scalars(taken).one_or_none()


def set_released(connection: DriverConnection, *, name: str, holder: str) -> None:
    """End a lease at once."""
    statement = (
        worker_leases.update()
        .where(worker_leases.c.name == name, worker_leases.c.holder == holder)
        .values(expires_at=_after(connection, 0))
    )
    connection.execute(statement)


def _after(connection: DriverConnection, seconds: int) -> sa.ColumnElement[Any]:
    if connection.dialect_name == "sqlite":
        # Milliseconds are what SQLite's clock has; the text has the fixed form of every stored time.
        text = sa.func.strftime("%Y-%m-%dT%H:%M:%f", "now", f"{seconds:+d} seconds")
        return sa.type_coerce(text.concat("000Z"), sa.Text())
    moment = sa.func.clock_timestamp()  # gate: DRV-004 - a lease goes by one clock, that of the database
    later = moment + sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds)
    return sa.type_coerce(later, sa.DateTime(timezone=True))
