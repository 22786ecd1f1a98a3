"""Policies L6: SQL of rule heads, alone and joined with their current version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection
from app.db.dialect import insert
from app.db.newest import newest
from app.domains.policies.tables import policy_rule_versions, policy_rules

_R, _V = policy_rules.c, policy_rule_versions.c
_HEAD = tuple(policy_rules.columns)
_SAYS: tuple[sa.ColumnElement[Any], ...] = (
    _V.rule_version,
    _V.description,
    _V.effect,
    _V.enforcement_mode,
    _V.moments,
    _V.scope,
    _V.scope_id,
    _V.condition,
    _V.constraints,
    _V.halts_run,
    _V.depends_on,
    _V.message,
    _V.content_hash,
)
_CURRENT = policy_rules.join(
    policy_rule_versions,
    sa.and_(_V.tenant_id == _R.tenant_id, _V.rule_id == _R.rule_id, _V.rule_version == _R.current_version),
)


def get_rule(connection: DriverConnection, *, tenant_id: str, rule_id: str) -> Mapping[str, Any] | None:
    """Return a rule with what its current version says."""
    statement = (
        sa.select(*_HEAD, *_SAYS)
        .select_from(_CURRENT)
        .where(_R.tenant_id == tenant_id, _R.rule_id == rule_id)
    )
    return connection.execute(statement).mappings().one_or_none()


def lock_rule(connection: DriverConnection, *, tenant_id: str, rule_id: str) -> Mapping[str, Any] | None:
    """Return a rule's head row and hold it until the transaction ends."""
    statement = (
        sa.select(*_HEAD)
        .where(_R.tenant_id == tenant_id, _R.rule_id == rule_id)
        .with_for_update(key_share=True)
    )
    return connection.execute(statement).mappings().one_or_none()


def insert_rule(connection: DriverConnection, *, tenant_id: str, row: Mapping[str, Any]) -> bool:
    """Insert a head row; False when its id or name is taken."""
    statement = insert(connection, policy_rules).on_conflict_do_nothing().returning(_R.rule_id)
    return connection.scalars(statement, {**row, "tenant_id": tenant_id}).one_or_none() is not None


def set_rule(
    connection: DriverConnection, *, tenant_id: str, rule_id: str, version: int, values: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """Change the head row that has this version and return it as it now is; None when it has not.

    None too when another open rule has the new name; on PostgreSQL the transaction can only be rolled
    back then.
    """
    statement = (
        policy_rules.update()
        .where(_R.tenant_id == tenant_id, _R.rule_id == rule_id, _R.version == version)
        .values({**values, "version": version + 1})
        .returning(*_HEAD)
    )
    try:
        return connection.execute(statement).mappings().one_or_none()
    except sa.exc.IntegrityError as error:
        if "uq_policy_rules_name" in str(error.orig) or "policy_rules.name" in str(error.orig):
            return None
        raise


def list_rules(
    connection: DriverConnection,
    *,
    tenant_id: str,
    status: str | None = None,
    kind: str | None = None,
    scope: str | None = None,
    after: tuple[datetime, str] | None = None,
    limit: int,
) -> Sequence[Mapping[str, Any]]:
    """Return rules with their current versions, newest first, after a (created_at, rule_id)."""
    statement = sa.select(*_HEAD, *_SAYS).select_from(_CURRENT).where(_R.tenant_id == tenant_id)
    if scope is not None:
        statement = statement.where(_V.scope == scope)
    equal = {"status": status, "kind": kind}
    page = newest(statement, _R.created_at, _R.rule_id, equal=equal, before=after, limit=limit)
    return connection.execute(page).mappings().all()


def list_active_versions(connection: DriverConnection, *, tenant_id: str) -> Sequence[Mapping[str, Any]]:
    """Return the current version of every ACTIVE rule with its kind, by rule_id."""
    return _list_versions(connection, _R.status == "ACTIVE", tenant_id=tenant_id)


def list_open_versions(connection: DriverConnection, *, tenant_id: str) -> Sequence[Mapping[str, Any]]:
    """Return the current version of every rule that is not retired with kind and status, by rule_id."""
    return _list_versions(connection, _R.status != "RETIRED", tenant_id=tenant_id)


def _list_versions(
    connection: DriverConnection, condition: sa.ColumnElement[bool], *, tenant_id: str
) -> Sequence[Mapping[str, Any]]:
    statement = (
        sa.select(_R.rule_id, _R.kind, _R.status, _V.name, *_SAYS)
        .select_from(_CURRENT)
        .where(_R.tenant_id == tenant_id, condition)
        .order_by(_R.rule_id)
    )
    return connection.execute(statement).mappings().all()


def list_rules_by_id(
    connection: DriverConnection, *, tenant_id: str, rule_ids: Sequence[str]
) -> Sequence[Mapping[str, Any]]:
    """Return kind, status and current effect of these rules, by rule_id."""
    statement = (
        sa.select(_R.rule_id, _R.kind, _R.status, _V.effect)
        .select_from(_CURRENT)
        .where(_R.tenant_id == tenant_id, _R.rule_id.in_(rule_ids))
        .order_by(_R.rule_id)
    )
    return connection.execute(statement).mappings().all()


def list_rule_ids(connection: DriverConnection, *, tenant_id: str, rule_ids: Sequence[str]) -> Sequence[str]:
    """Return which of these ids name a rule that is not retired."""
    statement = sa.select(_R.rule_id).where(
        _R.tenant_id == tenant_id, _R.rule_id.in_(rule_ids), _R.status != "RETIRED"
    )
    return connection.scalars(statement).all()


def list_revoked_ids(connection: DriverConnection, *, tenant_id: str) -> Sequence[str]:
    """Return the ids of all revoked rules."""
    return connection.scalars(sa.select(_R.rule_id).where(_R.tenant_id == tenant_id, _R.revoked)).all()
