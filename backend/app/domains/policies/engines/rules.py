"""Policies L5: rules: what a well-formed rule is, what each state permits, and their storing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from app.db.connection import DriverConnection
from app.db.governed import GOVERNED, row_image
from app.domains.policies.drivers import rule_versions as version_rows
from app.domains.policies.drivers import rules as rule_rows
from app.domains.policies.engines.conditions import check_condition, names_at
from app.domains.policies.engines.conflicts import as_errors, find_blocking
from app.domains.policies.engines.dependencies import OpenRule, find_cycle
from app.domains.policies.engines.versions import as_json, from_row, sealed
from app.domains.policies.errors import (
    dependency_cycle,
    invalid_input,
    policy_conflict,
    reference_not_found,
    rule_exists,
    rule_not_found,
    rule_retired,
)
from app.domains.policies.models.rules import Constraints, CreateRule, RuleVersion, UpdateRule
from app.domains.policies.models.vocabulary import (
    EnforcementMode,
    RuleKind,
    RuleScope,
    RuleSource,
    RuleStatus,
)
from app.kernel.canonical_json import dumps

_STATED: Final = (
    "name",
    "description",
    "effect",
    "enforcement_mode",
    "moments",
    "scope",
    "scope_id",
    "condition",
    "constraints",
    "halts_run",
    "depends_on",
    "message",
)


class RuleOperation(StrEnum):
    """What a caller may do with a rule that exists."""

    UPDATE = "update"
    ACTIVATE = "activate"
    RETIRE = "retire"


class Step(StrEnum):
    """Whether an operation changes the rule or finds it already so."""

    APPLY = "apply"
    NO_OP = "no-op"


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule as stored: its head row, its current version, that version's row."""

    head: Mapping[str, Any]
    version: RuleVersion
    version_row: Mapping[str, Any]

    @property
    def rule_id(self) -> str:
        return self.version.rule_id

    @property
    def status(self) -> RuleStatus:
        return RuleStatus(self.head["status"])

    def image(self) -> dict[str, Any]:
        """Return the audit image: the head row, and beside it the row of its current version."""
        head = row_image(GOVERNED["policy_rules"].table, self.head)
        version = row_image(GOVERNED["policy_rule_versions"].table, self.version_row)
        return {**head, "rule_version": version}


@dataclass(frozen=True, slots=True)
class RuleFacts:
    """What another slice may know of a rule."""

    rule_id: str
    kind: str
    status: str
    effect: str | None


def decide_step(status: RuleStatus, operation: RuleOperation) -> Step:
    """Return what an operation does in a state; refuse RULE_RETIRED."""
    if status is RuleStatus.RETIRED:
        if operation is RuleOperation.RETIRE:
            return Step.NO_OP
        raise rule_retired()
    if status is RuleStatus.ACTIVE and operation is RuleOperation.ACTIVATE:
        return Step.NO_OP
    return Step.APPLY


def draft_version(tenant_id: str, given: CreateRule, *, rule_id: str) -> RuleVersion:
    """Return version 1 of a new rule; refuse what is not well-formed."""
    version = RuleVersion(
        rule_id=rule_id,
        rule_version=1,
        kind=given.kind,
        name=given.name,
        description=given.description,
        effect=given.effect,
        enforcement_mode=given.enforcement_mode,
        moments=_ordered(given.moments),
        scope=given.scope,
        scope_id=given.scope_id,
        condition=given.condition,
        constraints=_constraints(given.constraints),
        halts_run=given.halts_run,
        depends_on=tuple(dict.fromkeys(given.depends_on)),
        message=given.message,
        content_hash="",
    )
    check_version(version)
    return sealed(tenant_id, version)


def merge_version(tenant_id: str, current: RuleVersion, given: UpdateRule) -> RuleVersion | None:
    """Return the next version with the given members in place; None when nothing would differ."""
    changes = {name: getattr(given, name) for name in given.model_fields_set & set(_STATED)}
    for name in ("name", "moments", "scope", "constraints", "halts_run", "depends_on"):
        if name in changes and changes[name] is None:
            raise invalid_input(name, "cannot be null")
    if "moments" in changes:
        changes["moments"] = _ordered(changes["moments"])
    if "constraints" in changes:
        changes["constraints"] = _constraints(changes["constraints"])
    if "depends_on" in changes:
        changes["depends_on"] = tuple(dict.fromkeys(changes["depends_on"]))
    if changes.get("scope") is RuleScope.TENANT and "scope_id" not in changes:
        changes["scope_id"] = None
    changed = replace(current, **changes)
    if as_json(changed) == as_json(current):
        return None
    changed = replace(changed, rule_version=current.rule_version + 1)
    check_version(changed)
    return sealed(tenant_id, changed)


def check_version(version: RuleVersion) -> None:
    """Refuse a version that is not well-formed: INVALID_INPUT, INVALID_CONDITION."""
    (_check_guard if version.kind is RuleKind.GUARD else _check_access)(version)
    if version.scope is RuleScope.TENANT and version.scope_id is not None:
        raise invalid_input("scope_id", "the scope TENANT has none")
    if version.scope is not RuleScope.TENANT and version.scope_id is None:
        raise invalid_input("scope_id", f"the scope {version.scope.value} needs one")
    check_condition(version.condition, names_at(version.kind, version.moments))


def _check_access(version: RuleVersion) -> None:
    if version.effect is None:
        raise invalid_input("effect", "an ACCESS rule says ALLOW or DENY")
    if version.enforcement_mode is not None:
        raise invalid_input("enforcement_mode", "only GUARD rules have one")
    if version.moments:
        raise invalid_input("moments", "only GUARD rules have moments")
    if version.halts_run:
        raise invalid_input("halts_run", "only GUARD rules halt a run")


def _check_guard(version: RuleVersion) -> None:
    if version.effect is not None:
        raise invalid_input("effect", "only ACCESS rules have one")
    if version.enforcement_mode is None:
        raise invalid_input("enforcement_mode", "a GUARD rule says BLOCK, WARN, AUDIT or DISABLED")
    if not version.moments:
        raise invalid_input("moments", "a GUARD rule is judged at one moment at least")
    if version.constraints:
        raise invalid_input("constraints", "only ACCESS rules have constraints")
    if version.halts_run and version.enforcement_mode is not EnforcementMode.BLOCK:
        raise invalid_input("halts_run", "only a rule that blocks halts a run")


def _ordered(moments: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted({str(moment) for moment in moments}))


def _constraints(given: Constraints) -> dict[str, Any]:
    stated = given.model_dump(exclude_none=True)
    if "actions" in stated:
        stated["actions"] = sorted(set(stated["actions"]))
    return stated


def load(connection: DriverConnection, *, tenant_id: str, rule_id: str) -> Rule:
    """Return a rule and hold its head row until the transaction ends; refuse RULE_NOT_FOUND."""
    head = rule_rows.lock_rule(connection, tenant_id=tenant_id, rule_id=rule_id)
    if head is None:
        raise rule_not_found()
    row = version_rows.get_version(
        connection, tenant_id=tenant_id, rule_id=rule_id, rule_version=head["current_version"]
    )
    if row is None:
        raise LookupError(f"rule {rule_id} has no version {head['current_version']}")
    return Rule(head, from_row({**row, "kind": head["kind"]}), row)


def get(connection: DriverConnection, *, tenant_id: str, rule_id: str) -> RuleVersion:
    """Return what a rule says now; refuse RULE_NOT_FOUND."""
    row = rule_rows.get_rule(connection, tenant_id=tenant_id, rule_id=rule_id)
    if row is None:
        raise rule_not_found()
    return from_row(row)


def insert(
    connection: DriverConnection,
    version: RuleVersion,
    *,
    tenant_id: str,
    status: RuleStatus,
    by: str,
    now: datetime,
    change_reason: str | None,
    source: RuleSource = RuleSource.MANUAL,
    source_proposal_id: str | None = None,
) -> Rule:
    """Store a new rule with its first version; refuse RULE_EXISTS for a taken id or name."""
    head = {
        "tenant_id": tenant_id,
        "rule_id": version.rule_id,
        "kind": version.kind.value,
        "source": source.value,
        "source_proposal_id": source_proposal_id,
        "created_by": by,
        "name": version.name,
        "status": status.value,
        "current_version": version.rule_version,
        "superseded_by": None,
        "revoked": False,
        "activated_at": now if status is RuleStatus.ACTIVE else None,
        "retired_at": None,
        "retired_by": None,
        "retired_reason": None,
        "created_at": now,
        "updated_at": now,
        "version": 1,
    }
    if not rule_rows.insert_rule(connection, tenant_id=tenant_id, row=head):
        known = rule_rows.get_rule(connection, tenant_id=tenant_id, rule_id=version.rule_id)
        raise rule_exists("rule_id" if known is not None else "name")
    row = _append(connection, version, tenant_id=tenant_id, by=by, now=now, change_reason=change_reason)
    return Rule(head, version, row)


def change(
    connection: DriverConnection,
    rule: Rule,
    version: RuleVersion,
    *,
    tenant_id: str,
    by: str,
    now: datetime,
    change_reason: str | None,
) -> Rule:
    """Store the next version of a rule; refuse RULE_EXISTS for a name that another rule bears."""
    row = _append(connection, version, tenant_id=tenant_id, by=by, now=now, change_reason=change_reason)
    values = {"name": version.name, "current_version": version.rule_version, "updated_at": now}
    head = _set_head(connection, rule, tenant_id=tenant_id, values=values)
    return Rule(head, version, row)


def activate(connection: DriverConnection, rule: Rule, *, tenant_id: str, now: datetime) -> Rule:
    """Store that a rule judges from now on."""
    values = {"status": RuleStatus.ACTIVE.value, "activated_at": now, "updated_at": now}
    return replace(rule, head=_set_head(connection, rule, tenant_id=tenant_id, values=values))


def retire(
    connection: DriverConnection,
    rule: Rule,
    *,
    tenant_id: str,
    by: str,
    now: datetime,
    reason: str,
    revoke: bool,
    superseded_by: str | None,
) -> Rule:
    """Store the end of a rule; only one that could have judged a running run is revoked."""
    values = {
        "status": RuleStatus.RETIRED.value,
        "revoked": revoke and rule.status is RuleStatus.ACTIVE,
        "superseded_by": superseded_by,
        "retired_at": now,
        "retired_by": by,
        "retired_reason": reason,
        "updated_at": now,
    }
    return replace(rule, head=_set_head(connection, rule, tenant_id=tenant_id, values=values))


def _set_head(
    connection: DriverConnection, rule: Rule, *, tenant_id: str, values: Mapping[str, Any]
) -> Mapping[str, Any]:
    head = rule_rows.set_rule(
        connection, tenant_id=tenant_id, rule_id=rule.rule_id, version=rule.head["version"], values=values
    )
    if head is None:
        # The row is held since it was loaded, so its version stands; what can be taken is the name.
        raise rule_exists("name")
    return head


def _append(
    connection: DriverConnection,
    version: RuleVersion,
    *,
    tenant_id: str,
    by: str,
    now: datetime,
    change_reason: str | None,
) -> dict[str, Any]:
    row: dict[str, Any] = {"tenant_id": tenant_id, **as_json(version)}
    del row["kind"]
    for name in ("moments", "constraints", "depends_on"):
        row[name] = dumps(row[name])
    row |= {"changed_by": by, "change_reason": change_reason, "created_at": now}
    version_rows.append_version(connection, tenant_id=tenant_id, row=row)
    return row


def list_open(connection: DriverConnection, *, tenant_id: str) -> list[OpenRule]:
    """Return every rule that is not retired with what it says, by rule_id."""
    rows = rule_rows.list_open_versions(connection, tenant_id=tenant_id)
    return [OpenRule(from_row(row), RuleStatus(row["status"])) for row in rows]


def require_references(
    connection: DriverConnection, rule_ids: Sequence[str], *, tenant_id: str, field: str
) -> None:
    """Refuse REFERENCE_NOT_FOUND for an id that names no rule, or a retired one."""
    if not rule_ids:
        return
    known = set(rule_rows.list_rule_ids(connection, tenant_id=tenant_id, rule_ids=rule_ids))
    for rule_id in rule_ids:
        if rule_id not in known:
            raise reference_not_found(field, rule_id)


def check_beside(version: RuleVersion, others: Sequence[OpenRule], *, active: bool) -> None:
    """Refuse DEPENDENCY_CYCLE, and for a rule that is ACTIVE the POLICY_CONFLICT with other ACTIVE rules.

    `others` are all rules not retired, read after the tenant's state row is held: a change that runs at
    the same time has been committed before, or waits.
    """
    graph = {other.version.rule_id: other.version.depends_on for other in others}
    cycle = find_cycle(version.rule_id, {**graph, version.rule_id: version.depends_on})
    if cycle is not None:
        raise dependency_cycle(cycle)
    if active:
        beside = [other.version for other in others if other.status is RuleStatus.ACTIVE]
        blocking = find_blocking(version, beside)
        if blocking:
            raise policy_conflict(as_errors(blocking))


def list_revoked(connection: DriverConnection, *, tenant_id: str) -> frozenset[str]:
    """Return the ids of all revoked rules; it changes only with live_epoch."""
    return frozenset(rule_rows.list_revoked_ids(connection, tenant_id=tenant_id))


def get_facts(connection: DriverConnection, *, tenant_id: str, rule_id: str) -> RuleFacts | None:
    """Return what another slice may know of a rule, or None."""
    row = rule_rows.get_rule(connection, tenant_id=tenant_id, rule_id=rule_id)
    return None if row is None else _facts(row)


def list_facts(connection: DriverConnection, *, tenant_id: str, rule_ids: Sequence[str]) -> list[RuleFacts]:
    """Return what another slice may know of these rules, by rule_id; unknown ids are left out."""
    if not rule_ids:
        return []
    rows = rule_rows.list_rules_by_id(connection, tenant_id=tenant_id, rule_ids=rule_ids)
    return [_facts(row) for row in rows]


def _facts(row: Mapping[str, Any]) -> RuleFacts:
    return RuleFacts(row["rule_id"], row["kind"], row["status"], row["effect"])
