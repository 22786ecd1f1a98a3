"""Spine handlers: policies: rules and their states, conflicts, dependencies, snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.domains.controls.engines import limits
from app.domains.knowledge.engines import bindings as plane_bindings
from app.domains.policies.engines import conflicts as conflict_engine
from app.domains.policies.engines import dependencies, rule_views, rules, snapshots, versions
from app.domains.policies.engines.rules import Rule, RuleOperation, Step
from app.domains.policies.errors import invalid_input, policy_integrity, rule_has_dependents
from app.domains.policies.models.rules import (
    ActivateRule,
    ConflictList,
    CreateRule,
    DependencyList,
    ListConflicts,
    ListRules,
    ListRuleVersions,
    PlaneBinding,
    RetireRule,
    RuleRef,
    RuleVersionView,
    RuleView,
    SnapshotRef,
    SnapshotView,
    UpdateRule,
)
from app.domains.policies.models.vocabulary import RuleStatus
from app.domains.tenants.engines.state import bump_live_epoch, bump_policy_version
from app.hoc_spine.authority import insufficient_scope
from app.hoc_spine.coordinators.policy_integrity import record_broken_policy
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import OperationsOf, Refusal
from app.kernel.context import has_scope
from app.kernel.pages import Page

MAX_CONFLICTS = 1000


def create_rule(ctx: OperationContext, given: CreateRule) -> RuleView:
    """Make a rule, DRAFT or at once ACTIVE."""
    status = RuleStatus.ACTIVE if given.activate else RuleStatus.DRAFT
    if given.activate:
        _require_admin(ctx)
    version = rules.draft_version(ctx.tenant_id, given, rule_id=given.rule_id or ctx.new_id("rule"))
    rules.require_references(ctx.connection, version.depends_on, tenant_id=ctx.tenant_id, field="depends_on")
    rule = rules.insert(
        ctx.connection,
        version,
        tenant_id=ctx.tenant_id,
        status=status,
        by=ctx.actor.id,
        now=ctx.now,
        change_reason=given.change_reason,
    )
    _settle(ctx, rule)
    ctx.audit(
        "PolicyRuleCreated", "POLICY_RULE", rule.rule_id, after=rule.image(), reason=given.change_reason
    )
    return rule_views.view_of(rule, tenant_id=ctx.tenant_id)


def update_rule(ctx: OperationContext, given: UpdateRule) -> RuleView | Refusal:
    """Give a rule a new version; If-Match is demanded."""
    rule = rules.load(ctx.connection, tenant_id=ctx.tenant_id, rule_id=given.rule_id)
    ctx.require_version(rule.head["version"], required=True)
    rules.decide_step(rule.status, RuleOperation.UPDATE)
    if rule.status is RuleStatus.ACTIVE:
        _require_admin(ctx)
    current = rule.version
    if not versions.is_intact(ctx.tenant_id, current):
        return record_broken_policy(ctx, policy_integrity(current.rule_id, current.rule_version))
    version = rules.merge_version(ctx.tenant_id, current, given)
    if version is None:
        return rule_views.view_of(rule, tenant_id=ctx.tenant_id)
    added = [rule_id for rule_id in version.depends_on if rule_id not in current.depends_on]
    rules.require_references(ctx.connection, added, tenant_id=ctx.tenant_id, field="depends_on")
    changed = rules.change(
        ctx.connection,
        rule,
        version,
        tenant_id=ctx.tenant_id,
        by=ctx.actor.id,
        now=ctx.now,
        change_reason=given.change_reason,
    )
    _settle(ctx, changed)
    _audit_modified(ctx, rule, changed, given.change_reason)
    return rule_views.view_of(changed, tenant_id=ctx.tenant_id)


def activate_rule(ctx: OperationContext, given: ActivateRule) -> RuleView | Refusal:
    """Let a DRAFT judge every run that starts from now on."""
    rule = rules.load(ctx.connection, tenant_id=ctx.tenant_id, rule_id=given.rule_id)
    ctx.require_version(rule.head["version"])
    step = rules.decide_step(rule.status, RuleOperation.ACTIVATE)
    _require_admin(ctx)
    if step is Step.NO_OP:
        return rule_views.view_of(rule, tenant_id=ctx.tenant_id)
    if not versions.is_intact(ctx.tenant_id, rule.version):
        return record_broken_policy(ctx, policy_integrity(rule.rule_id, rule.version.rule_version))
    active = rules.activate(ctx.connection, rule, tenant_id=ctx.tenant_id, now=ctx.now)
    _settle(ctx, active)
    _audit_modified(ctx, rule, active, given.reason)
    return rule_views.view_of(active, tenant_id=ctx.tenant_id)


def retire_rule(ctx: OperationContext, given: RetireRule) -> RuleView:
    """End a rule; with `revoke` it also stops to allow or guard in running runs."""
    rule = rules.load(ctx.connection, tenant_id=ctx.tenant_id, rule_id=given.rule_id)
    ctx.require_version(rule.head["version"])
    if rules.decide_step(rule.status, RuleOperation.RETIRE) is Step.NO_OP:
        return rule_views.view_of(rule, tenant_id=ctx.tenant_id)
    if rule.status is RuleStatus.ACTIVE:
        _require_admin(ctx)
    if given.superseded_by is not None:
        if given.superseded_by == rule.rule_id:
            raise invalid_input("superseded_by", "a rule does not supersede itself")
        rules.require_references(
            ctx.connection, [given.superseded_by], tenant_id=ctx.tenant_id, field="superseded_by"
        )
    retired = rules.retire(
        ctx.connection,
        rule,
        tenant_id=ctx.tenant_id,
        by=ctx.actor.id,
        now=ctx.now,
        reason=given.reason,
        revoke=given.revoke,
        superseded_by=given.superseded_by,
    )
    # Whoever binds a plane or activates a rule meanwhile holds the tenant's state row or waits for it.
    bump = bump_live_epoch if retired.head["revoked"] else bump_policy_version
    bump(ctx.connection, tenant_id=ctx.tenant_id)
    _require_no_dependents(ctx, rule, revoke=given.revoke)
    ctx.audit(
        "PolicyRuleRetired",
        "POLICY_RULE",
        rule.rule_id,
        before=rule.image(),
        after=retired.image(),
        reason=given.reason,
    )
    return rule_views.view_of(retired, tenant_id=ctx.tenant_id)


def get_rule(ctx: OperationContext, given: RuleRef) -> RuleView:
    """Show a rule with what it says now."""
    return rule_views.get_view(ctx.connection, tenant_id=ctx.tenant_id, rule_id=given.rule_id)


def list_rules(ctx: OperationContext, given: ListRules) -> Page[RuleView]:
    """List the rules, newest first."""
    return rule_views.list_views(ctx.connection, given, tenant_id=ctx.tenant_id)


def list_rule_versions(ctx: OperationContext, given: ListRuleVersions) -> Page[RuleVersionView]:
    """List what a rule has said, newest first."""
    return rule_views.list_version_views(ctx.connection, given, tenant_id=ctx.tenant_id)


def list_dependencies(ctx: OperationContext, given: RuleRef) -> DependencyList:
    """List what a rule relies on and what relies on it."""
    rule = rules.get(ctx.connection, tenant_id=ctx.tenant_id, rule_id=given.rule_id)
    others = rules.list_open(ctx.connection, tenant_id=ctx.tenant_id)
    bindings = _bindings_of(ctx, rule.rule_id)
    ties = dependencies.list_dependencies(rule, others, bindings, _active_limits(ctx))
    return DependencyList(rule_id=rule.rule_id, items=ties)


def list_conflicts(ctx: OperationContext, _given: ListConflicts) -> ConflictList:
    """List every disagreement among the rules that are not retired, and among the ACTIVE limits."""
    others = rules.list_open(ctx.connection, tenant_id=ctx.tenant_id)
    found = conflict_engine.find_conflicts(other.version for other in others)
    found += conflict_engine.find_limit_conflicts(_active_limits(ctx))
    return ConflictList(
        items=[conflict_engine.conflict_view(conflict) for conflict in found[:MAX_CONFLICTS]],
        total=len(found),
        truncated=len(found) > MAX_CONFLICTS,
    )


def get_snapshot(ctx: OperationContext, given: SnapshotRef) -> SnapshotView:
    """Show a policy snapshot and whether its text has its hash."""
    return snapshots.get_view(ctx.connection, tenant_id=ctx.tenant_id, snapshot_id=given.snapshot_id)


def _require_admin(ctx: OperationContext) -> None:
    if ctx.request.door == "tenant" and not has_scope(ctx.request.scopes, "policies:admin"):
        raise insufficient_scope("policies:admin")


def _settle(ctx: OperationContext, rule: Rule) -> None:
    """Raise policy_version for an ACTIVE rule and judge the rule beside all others.

    A DRAFT that leans on others raises it too: the tenant's state row orders those writes, so that two of
    them cannot close a circle that neither sees.
    """
    active = rule.status is RuleStatus.ACTIVE
    if not active and not rule.version.depends_on:
        return
    bump_policy_version(ctx.connection, tenant_id=ctx.tenant_id)
    others = rules.list_open(ctx.connection, tenant_id=ctx.tenant_id)
    rules.check_beside(rule.version, others, active=active)


def _audit_modified(ctx: OperationContext, before: Rule, after: Rule, reason: str | None) -> None:
    ctx.audit(
        "PolicyRuleModified",
        "POLICY_RULE",
        after.rule_id,
        before=before.image(),
        after=after.image(),
        reason=reason,
    )


def _require_no_dependents(ctx: OperationContext, rule: Rule, *, revoke: bool) -> None:
    others = rules.list_open(ctx.connection, tenant_id=ctx.tenant_id)
    found = dependencies.find_dependents(
        rule.rule_id, others, [] if revoke else _bindings_of(ctx, rule.rule_id), revoke=revoke
    )
    if found:
        raise rule_has_dependents(found)


def _bindings_of(ctx: OperationContext, rule_id: str) -> Sequence[PlaneBinding]:
    planes = plane_bindings.list_bound_planes(ctx.connection, tenant_id=ctx.tenant_id, rule_id=rule_id)
    # A plane that is purged or was given up keeps its bindings as history; it needs no rule any more.
    return [(plane_id, rule_id) for plane_id, state in planes if not state.is_terminal]


def _active_limits(ctx: OperationContext) -> list[dict[str, Any]]:
    return [rule.as_json() for rule in limits.list_active_rules(ctx.connection, tenant_id=ctx.tenant_id)]


declare = OperationsOf("policies")
OPERATIONS = (
    declare.write("policies.rules.create", CreateRule, RuleView, create_rule, creates=True),
    declare.write("policies.rules.update", UpdateRule, RuleView, update_rule),
    declare.write("policies.rules.activate", ActivateRule, RuleView, activate_rule),
    declare.write("policies.rules.retire", RetireRule, RuleView, retire_rule),
    declare.read("policies.rules.list", ListRules, Page[RuleView], list_rules),
    declare.read("policies.rules.get", RuleRef, RuleView, get_rule),
    declare.read("policies.rules.versions", ListRuleVersions, Page[RuleVersionView], list_rule_versions),
    declare.read("policies.rules.dependencies", RuleRef, DependencyList, list_dependencies),
    declare.read("policies.conflicts", ListConflicts, ConflictList, list_conflicts),
    declare.read("policies.snapshots.get", SnapshotRef, SnapshotView, get_snapshot),
)
