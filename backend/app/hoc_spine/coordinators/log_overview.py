"""Spine: how it stands with all logs, on a connection that may see every tenant."""

from __future__ import annotations

from app.db.connection import DriverConnection
from app.domains.logs.engines import heads
from app.domains.logs.engines.heads import LogOverview

__all__ = ["LogOverview", "read_overview"]


def read_overview(connection: DriverConnection, *, limit: int) -> LogOverview:
    """Return how many facts wait, since when, how many logs are halted, what no checkpoint covers."""
    return heads.get_overview(connection, limit=limit)
