"""Snapshots: one text for one state, what they contain, what is refused, the cache."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from app.domains.policies.engines import rules, versions
from app.domains.policies.engines.snapshot_cache import ScopeKey, SnapshotCache
from app.domains.policies.engines.snapshots import (
    build_snapshot_content,
    compile_snapshot,
    is_applicable,
    snapshot_id_of,
)
from app.domains.policies.errors import SnapshotInvalidError
from app.domains.policies.models.rules import CreateRule, RuleVersion
from app.domains.policies.models.vocabulary import RuleKind
from app.kernel.canonical_json import dumps, loads
from app.kernel.hashing import text_hash

TENANT = "tenant-1"


def version(rule_id: str, **members: Any) -> RuleVersion:
    given = CreateRule.model_validate({"kind": "ACCESS", "name": rule_id, "effect": "ALLOW", **members})
    return rules.draft_version(TENANT, given, rule_id=rule_id)


def test_the_text_does_not_depend_on_the_order_of_what_is_given() -> None:
    one, other = version("a", condition="true"), version("b", constraints={"max_documents": 5})
    bindings = [("kp_2", "a"), ("kp_1", "b"), ("kp_1", "a")]
    limits = [{"limit_id": "l2"}, {"limit_id": "l1"}]
    text = build_snapshot_content([one, other], bindings, limits)
    assert text == build_snapshot_content([other, one], [*reversed(bindings), bindings[0]], limits[::-1])
    members = loads(text)
    assert members["v"] == "policy-snapshot-1"
    assert [rule["rule_id"] for rule in members["rules"]] == ["a", "b"]
    assert members["bindings"] == [
        {"plane_id": "kp_1", "rule_id": "a"},
        {"plane_id": "kp_1", "rule_id": "b"},
        {"plane_id": "kp_2", "rule_id": "a"},
    ]
    assert [limit["limit_id"] for limit in members["limits"]] == ["l1", "l2"]
    assert text == dumps(members)


def test_a_rule_stands_in_the_snapshot_with_its_full_text() -> None:
    (rule,) = loads(build_snapshot_content([version("a", condition="true", message="m")], []))["rules"]
    assert rule == {
        "rule_id": "a",
        "rule_version": 1,
        "kind": "ACCESS",
        "name": "a",
        "description": None,
        "effect": "ALLOW",
        "enforcement_mode": None,
        "moments": [],
        "scope": "TENANT",
        "scope_id": None,
        "condition": "true",
        "constraints": {},
        "halts_run": False,
        "depends_on": [],
        "message": "m",
        "content_hash": version("a", condition="true").content_hash,
    }
    assert versions.from_json(rule) == version("a", condition="true", message="m")


def test_bindings_of_rules_outside_the_snapshot_are_left_out() -> None:
    guard = replace(version("g"), kind=RuleKind.GUARD)
    members = loads(build_snapshot_content([version("a"), guard], [("kp", "a"), ("kp", "b"), ("kp", "g")]))
    assert members["bindings"] == [{"plane_id": "kp", "rule_id": "a"}]


def test_the_id_is_the_beginning_of_the_hash_of_the_text() -> None:
    text = build_snapshot_content([version("a")], [])
    snapshot = compile_snapshot(TENANT, text)
    assert snapshot.content_hash == text_hash(text)
    assert snapshot.snapshot_id == snapshot_id_of(text_hash(text)) == "snap_" + text_hash(text)[:32]


def test_rules_are_found_by_plane_in_order_of_their_ids() -> None:
    text = build_snapshot_content([version("b"), version("a")], [("kp_1", "b"), ("kp_1", "a"), ("kp_2", "b")])
    snapshot = compile_snapshot(TENANT, text)
    assert [rule.version.rule_id for rule in snapshot.rules_bound_to("kp_1")] == ["a", "b"]
    assert [rule.version.rule_id for rule in snapshot.rules_bound_to("kp_2")] == ["b"]
    assert snapshot.rules_bound_to("kp_3") == ()


@pytest.mark.parametrize(
    ("members", "project_id", "applies"),
    [
        ({}, None, True),
        ({"scope": "PROJECT", "scope_id": "p"}, "p", True),
        ({"scope": "PROJECT", "scope_id": "p"}, "q", False),
        ({"scope": "PROJECT", "scope_id": "p"}, None, False),
        ({"scope": "AGENT", "scope_id": "x"}, "x", False),
        ({"scope": "AGENT", "scope_id": "agent"}, None, True),
    ],
)
def test_a_rule_applies_to_the_runs_of_its_scope(
    members: dict[str, Any], project_id: str | None, applies: bool
) -> None:
    assert is_applicable(version("a", **members), project_id=project_id, agent_id="agent") is applies


def tampered(**changes: Any) -> str:
    members = loads(build_snapshot_content([version("a")], []))
    members["rules"][0] |= changes
    return dumps(members)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"v":"policy-snapshot-2","rules":[],"bindings":[],"limits":[]}',
        '{"v":"policy-snapshot-1","rules":[{}],"bindings":[],"limits":[]}',
        tampered(effect="DENY"),
        tampered(condition="true"),
        tampered(effect="MAYBE"),
    ],
)
def test_a_text_that_is_no_snapshot_or_holds_a_changed_rule_is_refused(text: str) -> None:
    with pytest.raises(SnapshotInvalidError) as refused:
        compile_snapshot(TENANT, text)
    assert refused.value.code == "SNAPSHOT_INVALID"


def test_a_snapshot_of_another_tenant_is_refused() -> None:
    with pytest.raises(SnapshotInvalidError):
        compile_snapshot("tenant-2", build_snapshot_content([version("a")], []))


def test_the_cache_compiles_a_condition_once() -> None:
    cache = SnapshotCache()
    rule = version("a", condition="true")
    first = cache.program(rule.content_hash, rule.condition)
    assert cache.program(rule.content_hash, rule.condition) is first
    snapshot = compile_snapshot(TENANT, build_snapshot_content([rule], []), cache)
    assert snapshot.rules[0].condition is first


def test_the_cache_forgets_what_was_least_recently_used() -> None:
    cache = SnapshotCache(snapshots=2)
    snapshots = [compile_snapshot(TENANT, build_snapshot_content([version(name)], [])) for name in "abc"]
    keys = [ScopeKey(TENANT, number, None, "agent") for number in range(3)]
    cache.remember(keys[0], snapshots[0])
    cache.remember(keys[1], snapshots[1])
    assert cache.for_scope(keys[0]) is snapshots[0]
    cache.remember(keys[2], snapshots[2])
    assert cache.for_scope(keys[1]) is None
    assert cache.for_scope(keys[0]) is snapshots[0]
    assert cache.verified(TENANT, snapshots[2].snapshot_id) is snapshots[2]
    assert cache.verified("tenant-2", snapshots[2].snapshot_id) is None


def test_the_cache_serves_many_threads() -> None:
    cache = SnapshotCache(snapshots=4, programs=4)
    with ThreadPoolExecutor(4) as pool:
        given = list(pool.map(lambda turn: cache.program(f"{turn % 9}", "true"), range(1200)))
    assert all(condition.program is not None for condition in given)
