"""Policies L6: SQL of rule versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection
from app.domains.policies.tables import policy_rule_versions

_V = policy_rule_versions.c


def append_version(connection: DriverConnection, *, tenant_id: str, row: Mapping[str, Any]) -> None:
    """Insert one version."""
    connection.execute(policy_rule_versions.insert(), {**row, "tenant_id": tenant_id})


def get_version(
    connection: DriverConnection, *, tenant_id: str, rule_id: str, rule_version: int
) -> Mapping[str, Any] | None:
    """Return one version of a rule."""
    statement = sa.select(*policy_rule_versions.columns).where(
        _V.tenant_id == tenant_id, _V.rule_id == rule_id, _V.rule_version == rule_version
    )
    return connection.execute(statement).mappings().one_or_none()


def list_versions(
    connection: DriverConnection, *, tenant_id: str, rule_id: str, below: int | None = None, limit: int
) -> Sequence[Mapping[str, Any]]:
    """Return the versions of a rule, newest first, below a version number."""
    statement = sa.select(*policy_rule_versions.columns).where(
        _V.tenant_id == tenant_id, _V.rule_id == rule_id
    )
    if below is not None:
        statement = statement.where(_V.rule_version < below)
    return connection.execute(statement.order_by(_V.rule_version.desc()).limit(limit)).mappings().all()
