"""Tenants L5: leases that let one of many workers do a job; economy, never safety."""

from __future__ import annotations

from app.db.connection import DriverConnection
from app.domains.tenants.drivers import leases as driver


def take(connection: DriverConnection, *, name: str, holder: str, seconds: int) -> bool:
    """Take or renew a lease; return False while somebody else holds it."""
    return driver.set_lease(connection, name=name, holder=holder, seconds=seconds) is not None


def release(connection: DriverConnection, *, name: str, holder: str) -> None:
    """Give a lease back."""
    driver.set_released(connection, name=name, holder=holder)
