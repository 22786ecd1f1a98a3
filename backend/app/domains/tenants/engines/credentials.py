"""Tenants L5: find the key behind a credential."""

from __future__ import annotations

from app.db.connection import DriverConnection, Row
from app.domains.tenants.drivers import credentials as driver


def find_credential(connection: DriverConnection, *, key_hash: str) -> Row | None:
    """Return the key row with its tenant's status and plan; None when unknown."""
    return driver.get_credential(connection, key_hash=key_hash)
