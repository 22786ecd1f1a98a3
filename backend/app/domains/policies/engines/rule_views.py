"""Policies L5: rules as their readers see them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from app.db.connection import DriverConnection
from app.domains.policies.drivers import rule_versions as version_rows
from app.domains.policies.drivers import rules as rule_rows
from app.domains.policies.engines.rules import Rule
from app.domains.policies.engines.versions import from_row, is_intact
from app.domains.policies.errors import rule_not_found
from app.domains.policies.models.rules import (
    ListRules,
    ListRuleVersions,
    RuleVersion,
    RuleVersionView,
    RuleView,
)
from app.domains.policies.models.vocabulary import RuleKind
from app.kernel.canonical_json import dumps
from app.kernel.clock import format_time
from app.kernel.pages import Page, encode_cursor, read_cursor

_HEAD = (
    "rule_id",
    "kind",
    "source",
    "source_proposal_id",
    "created_by",
    "name",
    "status",
    "current_version",
    "superseded_by",
    "revoked",
    "activated_at",
    "retired_at",
    "retired_by",
    "retired_reason",
    "created_at",
    "updated_at",
    "version",
)


def view_of(rule: Rule, *, tenant_id: str) -> RuleView:
    """Return the view of a rule that was just loaded or stored."""
    return _view(rule.head, rule.version, tenant_id=tenant_id)


def get_view(connection: DriverConnection, *, tenant_id: str, rule_id: str) -> RuleView:
    """Return a rule; refuse RULE_NOT_FOUND."""
    row = rule_rows.get_rule(connection, tenant_id=tenant_id, rule_id=rule_id)
    if row is None:
        raise rule_not_found()
    return _view(row, from_row(row), tenant_id=tenant_id)


def list_views(connection: DriverConnection, given: ListRules, *, tenant_id: str) -> Page[RuleView]:
    """Return one page of the tenant's rules, newest first."""
    filters = {
        "status": given.status.value if given.status else None,
        "kind": given.kind.value if given.kind else None,
        "scope": given.scope.value if given.scope else None,
    }
    binding = dumps([tenant_id, "policies.rules.list", filters])
    after = read_cursor(given.cursor, binding, datetime, str)
    rows = rule_rows.list_rules(
        connection, tenant_id=tenant_id, **filters, after=after, limit=given.limit + 1
    )
    shown = rows[: given.limit]
    more = len(rows) > given.limit
    return Page(
        items=[_view(row, from_row(row), tenant_id=tenant_id) for row in shown],
        next_cursor=encode_cursor(binding, [format_time(shown[-1]["created_at"]), shown[-1]["rule_id"]])
        if more
        else None,
    )


def list_version_views(
    connection: DriverConnection, given: ListRuleVersions, *, tenant_id: str
) -> Page[RuleVersionView]:
    """Return one page of a rule's versions, newest first; refuse RULE_NOT_FOUND."""
    head = rule_rows.get_rule(connection, tenant_id=tenant_id, rule_id=given.rule_id)
    if head is None:
        raise rule_not_found()
    binding = dumps([tenant_id, "policies.rules.versions", given.rule_id])
    (below,) = read_cursor(given.cursor, binding, int) or (None,)
    rows = version_rows.list_versions(
        connection, tenant_id=tenant_id, rule_id=given.rule_id, below=below, limit=given.limit + 1
    )
    shown = rows[: given.limit]
    return Page(
        items=[_version_view(row, RuleKind(head["kind"]), tenant_id=tenant_id) for row in shown],
        next_cursor=encode_cursor(binding, [shown[-1]["rule_version"]]) if len(rows) > given.limit else None,
    )


def _view(head: Mapping[str, Any], version: RuleVersion, *, tenant_id: str) -> RuleView:
    return RuleView(
        **{name: head[name] for name in _HEAD},
        **_says(version),
        verified=is_intact(tenant_id, version),
    )


def _version_view(row: Mapping[str, Any], kind: RuleKind, *, tenant_id: str) -> RuleVersionView:
    version = from_row({**row, "kind": kind})
    return RuleVersionView(
        rule_id=version.rule_id,
        rule_version=version.rule_version,
        name=version.name,
        **_says(version),
        changed_by=row["changed_by"],
        change_reason=row["change_reason"],
        created_at=row["created_at"],
        verified=is_intact(tenant_id, version),
    )


def _says(version: RuleVersion) -> dict[str, Any]:
    return {
        "description": version.description,
        "effect": version.effect,
        "enforcement_mode": version.enforcement_mode,
        "moments": list(version.moments),
        "scope": version.scope,
        "scope_id": version.scope_id,
        "condition": version.condition,
        "constraints": dict(version.constraints),
        "halts_run": version.halts_run,
        "depends_on": list(version.depends_on),
        "message": version.message,
        "content_hash": version.content_hash,
    }
