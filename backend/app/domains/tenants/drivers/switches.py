"""Tenants L6: the system's kill switch and degraded mode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.domains.tenants.tables import system_state


def get_switches(connection: DriverConnection) -> Row:
    """Return the one row of the system's switches."""
    return connection.execute(sa.select(*system_state.columns)).mappings().one()


def set_switch(connection: DriverConnection, values: Mapping[str, Any], *, flag: str, engaged: bool) -> bool:
    """Set one switch if it stands the other way; return whether it changed."""
    statement = system_state.update().where(system_state.c[flag].is_(not engaged)).values(**values)
    return connection.execute(statement).rowcount == 1
