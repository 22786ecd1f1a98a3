"""Logs L5: what the log says about numbered rows, for the checks of those who wrote them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.db.connection import DriverConnection
from app.domains.logs.drivers import leaf_keys as driver
from app.kernel.canonical_json import dumps, loads

Statement = Mapping[str, Any]
SHOWN = 100


def list_statements(
    connection: DriverConnection, *, tenant_id: str, table: str, type_name: str, numbers: Sequence[int]
) -> list[Statement]:
    """Return the statements of one type about rows with these numbers as their key."""
    rows = driver.list_by_keys(
        connection,
        tenant_id=tenant_id,
        table=table,
        type_name=type_name,
        keys=[dumps([number]) for number in numbers],
    )
    return [loads(row["statement"]) for row in rows]


def list_beyond(
    connection: DriverConnection, *, tenant_id: str, table: str, type_name: str, number: int
) -> list[Statement]:
    """Return up to 100 statements of one type about rows with a higher number."""
    rows = driver.list_beyond(
        connection, tenant_id=tenant_id, table=table, type_name=type_name, key=dumps([number]), limit=SHOWN
    )
    return [loads(row["statement"]) for row in rows]
