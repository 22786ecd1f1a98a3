"""Access judgement: every outcome of the rules, with the order in which reasons win (step 6)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pytest

from app.domains.policies.engines.access import decide_access
from app.domains.policies.engines.snapshots import CompiledSnapshot, build_snapshot_content, compile_snapshot
from app.domains.policies.engines.versions import sealed
from app.domains.policies.models.rules import AccessDecision, RuleVersion
from app.domains.policies.models.vocabulary import AccessReason, Effect, RuleKind, RuleScope

TENANT = "tenant-1"
INPUTS: dict[str, Any] = {
    "run": {"run_id": "run-1", "agent_id": "agent-1", "labels": {}},
    "plane": {"plane_id": "kp_1", "sensitivity_level": "internal"},
    "request": {"action": "query"},
    "now": datetime(2026, 1, 31, tzinfo=UTC),
}
HOLDS, FAILS_TO_HOLD, ERRS = "run.agent_id == 'agent-1'", "run.agent_id == 'other'", "run.labels.missing == 1"


def rule(
    rule_id: str,
    effect: Effect = Effect.ALLOW,
    condition: str | None = None,
    *,
    scope: RuleScope = RuleScope.TENANT,
    scope_id: str | None = None,
    **constraints: Any,
) -> RuleVersion:
    version = RuleVersion(
        rule_id=rule_id,
        rule_version=1,
        kind=RuleKind.ACCESS,
        name=rule_id,
        description=None,
        effect=effect,
        enforcement_mode=None,
        moments=(),
        scope=scope,
        scope_id=scope_id,
        condition=condition,
        constraints=constraints,
        halts_run=False,
        depends_on=(),
        message=None,
        content_hash="",
    )
    return sealed(TENANT, version)


def snapshot(*rules: RuleVersion, bound: Iterable[str] | None = None) -> CompiledSnapshot:
    ids = [version.rule_id for version in rules] if bound is None else bound
    content = build_snapshot_content(rules, [("kp_1", rule_id) for rule_id in ids])
    return compile_snapshot(TENANT, content)


def decide(
    *rules: RuleVersion,
    action: str = "query",
    revoked: Iterable[str] = (),
    bound: Iterable[str] | None = None,
) -> AccessDecision:
    return decide_access(
        snapshot(*rules, bound=bound),
        plane_id="kp_1",
        action=action,
        condition_inputs=INPUTS,
        revoked_rule_ids=frozenset(revoked),
    )


DENY = Effect.DENY


@pytest.mark.parametrize(
    ("rules", "reason", "matched"),
    [
        ([], AccessReason.NO_POLICY_BOUND, []),
        ([rule("a")], AccessReason.OK, ["a"]),
        ([rule("a", condition=HOLDS)], AccessReason.OK, ["a"]),
        ([rule("a", condition=FAILS_TO_HOLD)], AccessReason.NO_MATCHING_RULE, []),
        ([rule("a", condition=ERRS)], AccessReason.POLICY_CONDITION_ERROR, []),
        (
            [rule("a", condition=ERRS), rule("b", condition=FAILS_TO_HOLD)],
            AccessReason.POLICY_CONDITION_ERROR,
            [],
        ),
        ([rule("a", condition=ERRS), rule("b")], AccessReason.OK, ["b"]),
        ([rule("a", actions=["list"])], AccessReason.ACTION_NOT_ALLOWED, []),
        ([rule("a", actions=["list", "query"])], AccessReason.OK, ["a"]),
        ([rule("a", condition=FAILS_TO_HOLD, actions=["list"])], AccessReason.NO_MATCHING_RULE, []),
        ([rule("a", condition=ERRS), rule("b", actions=["list"])], AccessReason.ACTION_NOT_ALLOWED, []),
        ([rule("a"), rule("b", DENY)], AccessReason.DENIED_BY_RULE, ["a", "b"]),
        ([rule("a"), rule("b", DENY, HOLDS)], AccessReason.DENIED_BY_RULE, ["a", "b"]),
        ([rule("a"), rule("b", DENY, FAILS_TO_HOLD)], AccessReason.OK, ["a"]),
        ([rule("a"), rule("b", DENY, ERRS)], AccessReason.DENIED_BY_RULE, ["a", "b"]),
        ([rule("a"), rule("b", DENY, actions=["list"])], AccessReason.OK, ["a"]),
        ([rule("a"), rule("b", DENY, ERRS, actions=["list"])], AccessReason.OK, ["a"]),
        ([rule("b", DENY, FAILS_TO_HOLD)], AccessReason.NO_MATCHING_RULE, []),
        ([rule("b", DENY)], AccessReason.DENIED_BY_RULE, ["b"]),
    ],
)
def test_an_access_is_judged_by_all_bound_rules(
    rules: list[RuleVersion], reason: AccessReason, matched: list[str]
) -> None:
    decision = decide(*rules)
    assert decision.reason_code is reason
    assert decision.allowed is (reason is AccessReason.OK)
    assert [named.rule_id for named in decision.matched_rules] == matched


def test_only_rules_bound_to_the_plane_judge() -> None:
    assert decide(rule("a"), rule("b", DENY), bound=["a"]).allowed
    assert decide(rule("a"), bound=[]).reason_code is AccessReason.NO_POLICY_BOUND


def test_a_revoked_allow_no_longer_allows_and_a_revoked_deny_still_denies() -> None:
    assert decide(rule("a"), revoked=["a"]).reason_code is AccessReason.POLICY_REVOKED
    assert decide(rule("a"), rule("b"), revoked=["a"]).allowed
    assert decide(rule("a"), rule("b"), revoked=["a", "b"]).reason_code is AccessReason.POLICY_REVOKED
    assert decide(rule("a"), rule("b", DENY), revoked=["b"]).reason_code is AccessReason.DENIED_BY_RULE


def test_a_revocation_elsewhere_does_not_hide_why_nothing_matched() -> None:
    revoked = decide(rule("a", condition=FAILS_TO_HOLD), revoked=["a"])
    assert revoked.reason_code is AccessReason.NO_MATCHING_RULE


def test_caps_are_the_smallest_of_the_matching_allow_rules() -> None:
    decision = decide(
        rule("a", max_documents=20, max_tokens=500),
        rule("b", max_documents=5),
        rule("c", condition=FAILS_TO_HOLD, max_documents=1, max_tokens=1),
    )
    assert (decision.max_documents, decision.max_tokens) == (5, 500)
    assert (decide(rule("a")).max_documents, decide(rule("a")).max_tokens) == (None, None)


def test_a_revocation_only_narrows_so_a_revoked_cap_still_caps() -> None:
    decision = decide(rule("a", max_documents=5), rule("b", max_documents=50), revoked=["a"])
    assert decision.allowed
    assert decision.max_documents == 5


def test_matched_rules_are_named_by_id_with_version_hash_and_effect() -> None:
    one, other = rule("b"), rule("a")
    decision = decide(one, other)
    assert decision.matched_json == [
        {"rule_id": "a", "version": 1, "content_hash": other.content_hash, "effect": "ALLOW"},
        {"rule_id": "b", "version": 1, "content_hash": one.content_hash, "effect": "ALLOW"},
    ]
