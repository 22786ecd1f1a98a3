"""Logs L5: what the log says about numbered rows and about itself, for those who wrote it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from app.db.connection import DriverConnection
from app.domains.logs.drivers import leaf_keys as driver
from app.kernel.canonical_json import dumps, loads

Statement = Mapping[str, Any]
SHOWN = 100
LOG_KEY = "log.key"
LOG_EPOCH = "log.epoch"
LOG_ANCHOR = "log.anchor"


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


def newest_key_fact(connection: DriverConnection, *, tenant_id: str) -> tuple[str, Statement] | None:
    """Return id and statement of the newest rotation that the log records."""
    row = driver.find_newest(connection, tenant_id=tenant_id, type_name=LOG_KEY)
    return None if row is None else (row["fact_id"], loads(row["statement"]))


def last_anchored_at(connection: DriverConnection, *, tenant_id: str) -> datetime | None:
    """Return when heads of other logs were last written into this one."""
    row = driver.find_newest(connection, tenant_id=tenant_id, type_name=LOG_ANCHOR)
    return None if row is None else row["created_at"]
