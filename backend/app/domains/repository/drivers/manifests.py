"""L6 SQL of run manifests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import insert
from app.domains.repository.tables import run_manifests

_M = run_manifests.c


def get_manifest(connection: DriverConnection, *, tenant_id: str, run_id: str) -> Row | None:
    """Return the manifest of a run."""
    statement = sa.select(_M.run_id, _M.body, _M.manifest_digest, _M.sealed_at, _M.sealed_by).where(
        _M.tenant_id == tenant_id, _M.run_id == run_id
    )
    return connection.execute(statement).mappings().one_or_none()


def get_digest(connection: DriverConnection, *, tenant_id: str, run_id: str) -> str | None:
    """Return the digest of a run's manifest."""
    statement = sa.select(_M.manifest_digest).where(_M.tenant_id == tenant_id, _M.run_id == run_id)
    return connection.scalars(statement).one_or_none()


def insert_manifest(connection: DriverConnection, *, tenant_id: str, row: Mapping[str, Any]) -> None:
    """Append a manifest."""
    connection.execute(insert(connection, run_manifests), {**row, "tenant_id": tenant_id})
