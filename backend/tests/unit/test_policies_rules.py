"""Rules: what is well-formed, what each state permits, hashes, conflicts, dependencies."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from app.domains.policies.engines import conflicts, dependencies, rules, versions
from app.domains.policies.engines.dependencies import OpenRule
from app.domains.policies.engines.rules import RuleOperation, Step
from app.domains.policies.models.rules import CreateRule, RuleVersion, UpdateRule
from app.domains.policies.models.vocabulary import (
    ConflictSeverity,
    ConflictType,
    Effect,
    EnforcementMode,
    Moment,
    RuleKind,
    RuleScope,
    RuleStatus,
)
from app.kernel.errors import HocError

TENANT = "tenant-1"


def given(**members: Any) -> CreateRule:
    return CreateRule.model_validate({"kind": "ACCESS", "name": "Rule", "effect": "ALLOW", **members})


def version(rule_id: str = "rule-1", **members: Any) -> RuleVersion:
    return rules.draft_version(TENANT, given(**members), rule_id=rule_id)


def guard(rule_id: str, mode: EnforcementMode, *moments: Moment, **members: Any) -> RuleVersion:
    base = replace(version(rule_id), kind=RuleKind.GUARD, effect=None, enforcement_mode=mode)
    return replace(base, moments=tuple(moments), **members)


GUARD = {"kind": "GUARD", "effect": None, "enforcement_mode": "BLOCK", "moments": ["STEP"]}
APPLY, NO_OP = Step.APPLY, Step.NO_OP


@pytest.mark.parametrize(
    ("status", "operation", "outcome"),
    [
        (RuleStatus.DRAFT, RuleOperation.UPDATE, APPLY),
        (RuleStatus.DRAFT, RuleOperation.ACTIVATE, APPLY),
        (RuleStatus.DRAFT, RuleOperation.RETIRE, APPLY),
        (RuleStatus.ACTIVE, RuleOperation.UPDATE, APPLY),
        (RuleStatus.ACTIVE, RuleOperation.ACTIVATE, NO_OP),
        (RuleStatus.ACTIVE, RuleOperation.RETIRE, APPLY),
        (RuleStatus.RETIRED, RuleOperation.UPDATE, "RULE_RETIRED"),
        (RuleStatus.RETIRED, RuleOperation.ACTIVATE, "RULE_RETIRED"),
        (RuleStatus.RETIRED, RuleOperation.RETIRE, NO_OP),
    ],
)
def test_each_state_permits_what_the_table_says(
    status: RuleStatus, operation: RuleOperation, outcome: Step | str
) -> None:
    if isinstance(outcome, Step):
        assert rules.decide_step(status, operation) is outcome
    else:
        with pytest.raises(HocError, match=outcome):
            rules.decide_step(status, operation)


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({**GUARD, "effect": "ALLOW"}, "/effect"),
        ({**GUARD, "enforcement_mode": None}, "/enforcement_mode"),
        ({**GUARD, "moments": []}, "/moments"),
        ({**GUARD, "constraints": {"max_tokens": 5}}, "/constraints"),
        ({**GUARD, "enforcement_mode": "WARN", "halts_run": True}, "/halts_run"),
        ({"effect": None}, "/effect"),
        ({"enforcement_mode": "BLOCK"}, "/enforcement_mode"),
        ({"moments": ["STEP"]}, "/moments"),
        ({"halts_run": True}, "/halts_run"),
        ({"scope": "PROJECT"}, "/scope_id"),
        ({"scope": "AGENT"}, "/scope_id"),
        ({"scope_id": "project-1"}, "/scope_id"),
    ],
)
def test_a_rule_that_is_not_well_formed_is_refused(members: dict[str, Any], field: str) -> None:
    with pytest.raises(HocError, match="INVALID_INPUT") as refused:
        version(**members)
    assert refused.value.errors[0]["field"] == field


def test_lists_of_a_rule_are_stored_without_doubles() -> None:
    made = version(depends_on=["b", "a", "b"], constraints={"actions": ["query", "list", "query"]})
    assert made.depends_on == ("b", "a")
    assert made.constraints == {"actions": ["list", "query"]}


@pytest.mark.parametrize(
    "change",
    [
        {"effect": Effect.DENY},
        {"scope": RuleScope.AGENT, "scope_id": "a"},
        {"condition": "true"},
        {"constraints": {"max_documents": 1}},
        {"rule_version": 2},
        {"rule_id": "rule-2"},
        {"kind": RuleKind.GUARD},
        {"enforcement_mode": EnforcementMode.WARN},
        {"moments": ("STEP",)},
        {"halts_run": True},
    ],
)
def test_the_content_hash_changes_with_everything_that_judges(change: dict[str, Any]) -> None:
    made = version()
    assert versions.is_intact(TENANT, made)
    assert not versions.is_intact(TENANT, replace(made, **change))
    with pytest.raises(HocError, match="POLICY_INTEGRITY"):
        versions.require_intact(TENANT, replace(made, **change))


def test_the_content_hash_belongs_to_one_tenant_and_not_to_texts_for_readers() -> None:
    made = version()
    assert not versions.is_intact("tenant-2", made)
    assert versions.is_intact(TENANT, replace(made, name="Other", description="text", message="text"))


def test_the_content_hash_is_the_documented_one() -> None:
    made = version(condition="true", constraints={"max_documents": 5})
    statement = (
        '{"condition":"true","constraints":{"max_documents":5},"effect":"ALLOW","enforcement_mode":null,'
        '"halts_run":false,"kind":"ACCESS","moments":[],"rule_id":"rule-1","rule_version":1,"scope":"TENANT",'
        '"scope_id":null,"tenant_id":"tenant-1","v":"policy-rule-1"}'
    )
    assert made.content_hash == hashlib.sha256(statement.encode()).hexdigest()


def test_an_update_changes_only_the_given_members() -> None:
    made = version(condition="true", message="kept", constraints={"max_documents": 5})
    changed = rules.merge_version(TENANT, made, UpdateRule(rule_id="rule-1", name="New", condition=None))
    assert changed is not None
    assert (changed.name, changed.condition, changed.message) == ("New", None, "kept")
    assert changed.constraints == {"max_documents": 5}
    assert changed.rule_version == 2
    assert versions.is_intact(TENANT, changed)


def test_an_update_that_changes_nothing_is_none() -> None:
    made = version(condition="true")
    same = UpdateRule(rule_id="rule-1", name="Rule", condition="true", change_reason="none")
    assert rules.merge_version(TENANT, made, same) is None


def test_a_rule_brought_back_to_the_tenant_loses_its_scope_id() -> None:
    made = version(scope="PROJECT", scope_id="project-1")
    changed = rules.merge_version(TENANT, made, UpdateRule(rule_id="rule-1", scope=RuleScope.TENANT))
    assert changed is not None
    assert changed.scope_id is None


@pytest.mark.parametrize("name", ["name", "moments", "scope", "constraints", "halts_run", "depends_on"])
def test_a_member_that_always_has_a_value_cannot_be_null(name: str) -> None:
    update = UpdateRule.model_validate({"rule_id": "rule-1", name: None})
    with pytest.raises(HocError, match="INVALID_INPUT"):
        rules.merge_version(TENANT, version(), update)


def test_an_update_is_judged_like_a_new_rule() -> None:
    with pytest.raises(HocError, match="INVALID_CONDITION"):
        rules.merge_version(TENANT, version(), UpdateRule(rule_id="rule-1", condition="nope"))
    with pytest.raises(HocError, match="INVALID_INPUT"):
        rules.merge_version(TENANT, version(), UpdateRule(rule_id="rule-1", effect=None))


def compare(one: RuleVersion, other: RuleVersion) -> tuple[ConflictType, ConflictSeverity] | None:
    conflict = conflicts.compare_rules(one, other)
    assert (conflict is None) == (conflicts.compare_rules(other, one) is None)
    return conflict and (conflict.conflict_type, conflict.severity)


OVERLAP = (ConflictType.SCOPE_OVERLAP, ConflictSeverity.BLOCKING)
OVERRIDE = (ConflictType.PRIORITY_OVERRIDE, ConflictSeverity.WARNING)
BLOCK, DISABLED, WARN = EnforcementMode.BLOCK, EnforcementMode.DISABLED, EnforcementMode.WARN


@pytest.mark.parametrize(
    ("one", "other", "conflict"),
    [
        (version("a"), version("b", effect="DENY"), OVERLAP),
        (version("a"), version("a", effect="DENY"), None),
        (version("a"), version("b"), None),
        (version("a", condition="true"), version("b", effect="DENY", condition="true"), OVERLAP),
        (version("a", condition="true"), version("b", effect="DENY"), None),
        (version("a"), version("b", effect="DENY", scope="PROJECT", scope_id="p"), OVERRIDE),
        (
            version("a", scope="AGENT", scope_id="x"),
            version("b", effect="DENY", scope="PROJECT", scope_id="p"),
            OVERRIDE,
        ),
        (
            version("a", scope="PROJECT", scope_id="p"),
            version("b", effect="DENY", scope="PROJECT", scope_id="q"),
            None,
        ),
        (
            version("a", scope="PROJECT", scope_id="p"),
            version("b", effect="DENY", scope="PROJECT", scope_id="p"),
            OVERLAP,
        ),
        (guard("a", BLOCK, Moment.STEP), guard("b", DISABLED, Moment.STEP), OVERLAP),
        (guard("a", BLOCK, Moment.STEP), guard("b", WARN, Moment.STEP), None),
        (guard("a", BLOCK, Moment.STEP), guard("b", DISABLED, Moment.USAGE), None),
        (
            guard("a", BLOCK, Moment.USAGE, Moment.STEP),
            guard("b", DISABLED, Moment.STEP, Moment.USAGE),
            OVERLAP,
        ),
        (guard("a", BLOCK), version("b", effect="DENY"), None),
    ],
)
def test_rules_that_say_the_opposite_of_one_case_conflict(
    one: RuleVersion, other: RuleVersion, conflict: tuple[ConflictType, ConflictSeverity] | None
) -> None:
    assert compare(one, other) == conflict


def test_all_conflicts_are_listed_blocking_first() -> None:
    found = conflicts.find_conflicts(
        [
            version("c", effect="DENY", scope="AGENT", scope_id="x"),
            version("b", effect="DENY"),
            version("a"),
        ]
    )
    assert [(item.severity.value, item.one_id, item.other_id) for item in found] == [
        ("BLOCKING", "a", "b"),
        ("WARNING", "a", "c"),
    ]


def test_only_an_active_opposite_forbids_activation() -> None:
    opposite = version("b", effect="DENY")
    rules.check_beside(version("a"), [OpenRule(opposite, RuleStatus.DRAFT)], active=True)
    rules.check_beside(version("a"), [OpenRule(opposite, RuleStatus.ACTIVE)], active=False)
    with pytest.raises(HocError, match="POLICY_CONFLICT") as refused:
        rules.check_beside(version("a"), [OpenRule(opposite, RuleStatus.ACTIVE)], active=True)
    assert refused.value.errors[0]["other_rule_id"] == "b"


@pytest.mark.parametrize(
    ("graph", "cycle"),
    [
        ({"a": ()}, None),
        ({"a": ("b", "c"), "b": ("c",), "c": ()}, None),
        ({"a": ("a",)}, ["a", "a"]),
        ({"a": ("b",), "b": ("a",)}, ["a", "b", "a"]),
        ({"a": ("x", "b"), "b": ("c",), "c": ("d",), "d": ("a",), "x": ()}, ["a", "b", "c", "d", "a"]),
        ({"a": ("b",), "b": ("c",), "c": ("b",)}, None),
    ],
)
def test_a_circle_through_the_rule_is_found(
    graph: dict[str, tuple[str, ...]], cycle: list[str] | None
) -> None:
    assert dependencies.find_cycle("a", graph) == cycle


def test_a_circle_of_dependencies_is_refused_with_its_path() -> None:
    others = [OpenRule(version("b", depends_on=["a"]), RuleStatus.DRAFT)]
    with pytest.raises(HocError, match="DEPENDENCY_CYCLE") as refused:
        rules.check_beside(version("a", depends_on=["b"]), others, active=False)
    assert refused.value.errors[0]["detail"] == "a -> b -> a"


def test_bound_planes_and_active_dependents_hinder_retirement() -> None:
    others = [
        OpenRule(version("b", depends_on=["a"]), RuleStatus.ACTIVE),
        OpenRule(version("c", depends_on=["a"]), RuleStatus.DRAFT),
    ]
    bindings = [("kp_2", "a"), ("kp_1", "a"), ("kp_3", "b")]
    found = dependencies.find_dependents("a", others, bindings, revoke=False)
    assert [(item["entity_type"], item["entity_id"]) for item in found] == [
        ("RULE", "b"),
        ("PLANE", "kp_1"),
        ("PLANE", "kp_2"),
    ]
    revoked = dependencies.find_dependents("a", others, bindings, revoke=True)
    assert [item["entity_id"] for item in revoked] == ["b"]


def test_the_ties_of_a_rule_are_listed() -> None:
    rule = version("a", depends_on=["b", "gone"], scope="PROJECT", scope_id="p")
    others = [
        OpenRule(rule, RuleStatus.ACTIVE),
        OpenRule(version("b"), RuleStatus.ACTIVE),
        OpenRule(version("c", depends_on=["a"]), RuleStatus.DRAFT),
        OpenRule(version("d", scope="PROJECT", scope_id="p"), RuleStatus.DRAFT),
        OpenRule(version("e", scope="AGENT", scope_id="p"), RuleStatus.DRAFT),
    ]
    ties = dependencies.list_dependencies(rule, others, [("kp_1", "a"), ("kp_2", "b")])
    assert [(tie.dependency_type.value, tie.direction, tie.entity_type, tie.entity_id) for tie in ties] == [
        ("EXPLICIT", "DEPENDS_ON", "RULE", "b"),
        ("EXPLICIT", "DEPENDS_ON", "RULE", "gone"),
        ("EXPLICIT", "REQUIRED_BY", "RULE", "c"),
        ("EXPLICIT", "REQUIRED_BY", "PLANE", "kp_1"),
        ("IMPLICIT_SCOPE", "RELATED", "RULE", "d"),
    ]
    assert (ties[0].name, ties[0].status) == ("Rule", RuleStatus.ACTIVE)
    assert (ties[1].name, ties[1].status) == (None, None)


def limit(limit_id: str, max_value: int, period: str | None = "DAILY", **members: Any) -> dict[str, Any]:
    base = {"limit_id": limit_id, "name": limit_id, "metric": "COST_USD", "scope": "TENANT", "scope_id": None}
    base |= {"category": "BUDGET", "reset_period": period, "window_seconds": None}
    return {**base, "max_value": max_value * 1_000_000, **members}


RATE = {"category": "RATE", "reset_period": None}


@pytest.mark.parametrize(
    ("one", "other", "conflict"),
    [
        (limit("a", 100), limit("b", 49), "THRESHOLD_CONTRADICTION"),
        (limit("a", 100), limit("b", 50), None),
        (limit("a", 100), limit("b", 10, metric="STEPS"), None),
        (limit("a", 100), limit("b", 10, scope="AGENT", scope_id="x"), None),
        (limit("a", 101), limit("b", 100, "WEEKLY"), "TEMPORAL_CONFLICT"),
        (limit("a", 101), limit("b", 100, "NONE"), "TEMPORAL_CONFLICT"),
        (limit("a", 100), limit("b", 101, "MONTHLY"), None),
        (limit("a", 9, None, **RATE, window_seconds=60), limit("b", 5), "TEMPORAL_CONFLICT"),
        (limit("a", 9, None, category="THRESHOLD"), limit("b", 5), None),
    ],
)
def test_limits_disagree_over_one_window_or_across_two(
    one: dict[str, Any], other: dict[str, Any], conflict: str | None
) -> None:
    for pair in ((one, other), (other, one)):
        found = conflicts.find_limit_conflicts(pair)
        assert [(item.conflict_type, item.one_id, item.other_id) for item in found] == (
            [] if conflict is None else [(conflict, "a", "b")]
        )
        assert all(item.severity is ConflictSeverity.WARNING for item in found)


def test_a_rule_that_reads_the_use_of_a_limited_metric_is_tied_to_the_limit() -> None:
    reader = guard("g", EnforcementMode.WARN, Moment.STEP, condition="usage.COST_USD > 5.0")
    limits = [limit("a", 100), limit("b", 5, metric="STEPS")]
    ties = dependencies.list_dependencies(reader, [], [], limits)
    assert [(tie.dependency_type, tie.entity_type, tie.entity_id) for tie in ties] == [
        ("IMPLICIT_LIMIT", "LIMIT", "a")
    ]
