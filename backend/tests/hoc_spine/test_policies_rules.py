"""Policy rules through the spine: states, versions, ledger entries, version counters, refusals."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from app.domains.policies.engines import rules
from app.hoc_spine.operation_registry import OperationResult
from app.kernel.canonical_json import loads
from app.kernel.context import Precondition
from tests.factories.policies import bindable_plane, move_plane, tamper
from tests.factories.tenants import Tenant

WRITER = ("policies:read", "policies:write")
ADMIN = (*WRITER, "policies:admin")


def allow(tenant: Tenant, rule_id: str = "rule-1", **members: Any) -> Any:
    payload = {"rule_id": rule_id, "kind": "ACCESS", "name": rule_id, "effect": "ALLOW", **members}
    return tenant.call("policies.rules.create", payload)


def update(tenant: Tenant, rule: Any, **members: Any) -> OperationResult:
    context = {"precondition": Precondition(frozenset({rule.version}))}
    return tenant.dispatch("policies.rules.update", {"rule_id": rule.rule_id, **members}, **context)


def counters(connection: sa.Connection, tenant: Tenant) -> tuple[int, int]:
    row = connection.execute(
        sa.text("SELECT policy_version, live_epoch FROM tenant_state WHERE tenant_id = :t"),
        {"t": tenant.tenant_id},
    ).one()
    return row[0], row[1]


def entries(connection: sa.Connection, tenant: Tenant, rule_id: str) -> list[dict[str, Any]]:
    rows = connection.execute(
        sa.text(
            "SELECT event_type, before_state, after_state, action_reason, fact_id FROM audit_ledger"
            " WHERE tenant_id = :t AND entity_type = 'POLICY_RULE' AND entity_id = :r ORDER BY entry_id"
        ),
        {"t": tenant.tenant_id, "r": rule_id},
    ).mappings()
    return [dict(row) for row in rows]


def test_a_new_rule_is_a_draft_with_version_one(tenant: Tenant) -> None:
    rule = allow(tenant, condition="run.attempt == 1", constraints={"max_documents": 5}, message="why")
    assert (rule.status, rule.current_version, rule.version, rule.source) == ("DRAFT", 1, 1, "MANUAL")
    assert rule.created_by == "user-1"
    assert rule.constraints == {"max_documents": 5}
    assert rule.verified
    assert rule.activated_at is None
    assert tenant.call("policies.rules.get", {"rule_id": "rule-1"}) == rule


def test_a_rule_without_an_id_gets_one(tenant: Tenant) -> None:
    rule = tenant.call("policies.rules.create", {"kind": "ACCESS", "name": "n", "effect": "DENY"})
    assert rule.rule_id.startswith("rule_")


def test_a_draft_changes_no_counter_and_an_active_rule_raises_policy_version(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    before, epoch = counters(second_connection, tenant)
    rule = allow(tenant)
    assert update(tenant, rule, message="m").success
    assert counters(second_connection, tenant) == (before, epoch)
    rule = tenant.call("policies.rules.activate", {"rule_id": "rule-1"})
    assert rule.activated_at is not None
    assert counters(second_connection, tenant) == (before + 1, epoch)
    assert update(tenant, rule, message="n").success
    assert counters(second_connection, tenant) == (before + 2, epoch)
    tenant.call("policies.rules.retire", {"rule_id": "rule-1", "reason": "done"})
    assert counters(second_connection, tenant) == (before + 3, epoch)


def test_revoking_an_active_rule_raises_live_epoch_too(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    allow(tenant, activate=True)
    before, epoch = counters(second_connection, tenant)
    rule = tenant.call("policies.rules.retire", {"rule_id": "rule-1", "reason": "leak", "revoke": True})
    assert (rule.status, rule.revoked, rule.retired_reason) == ("RETIRED", True, "leak")
    assert counters(second_connection, tenant) == (before + 1, epoch + 1)


def test_a_discarded_draft_is_not_revoked(tenant: Tenant, second_connection: sa.Connection) -> None:
    allow(tenant)
    epoch = counters(second_connection, tenant)[1]
    rule = tenant.call("policies.rules.retire", {"rule_id": "rule-1", "reason": "no", "revoke": True})
    assert (rule.status, rule.revoked) == ("RETIRED", False)
    assert counters(second_connection, tenant)[1] == epoch


def test_every_change_is_in_the_ledger_with_the_whole_row(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    rule = allow(tenant, condition="run.attempt == 1", change_reason="first")
    update(tenant, rule, condition=None, change_reason="always").unwrap()
    tenant.call("policies.rules.activate", {"rule_id": "rule-1", "reason": "go"})
    tenant.call("policies.rules.retire", {"rule_id": "rule-1", "reason": "end"})
    created, modified, activated, retired = entries(second_connection, tenant, "rule-1")
    assert [item["event_type"] for item in (created, modified, activated, retired)] == [
        "PolicyRuleCreated",
        "PolicyRuleModified",
        "PolicyRuleModified",
        "PolicyRuleRetired",
    ]
    assert created["before_state"] is None
    assert [item["action_reason"] for item in (created, modified, activated, retired)] == [
        "first",
        "always",
        "go",
        "end",
    ]
    for earlier, later in ((created, modified), (modified, activated), (activated, retired)):
        assert later["before_state"] == earlier["after_state"]
        assert later["fact_id"]
    state = loads(retired["after_state"])
    row = second_connection.execute(
        sa.text("SELECT * FROM policy_rules WHERE tenant_id = :t"), {"t": tenant.tenant_id}
    ).mappings()
    stored = dict(row.one())
    assert set(state) == set(stored) - {"tenant_id"} | {"rule_version"}
    assert (state["status"], state["version"], state["retired_reason"]) == ("RETIRED", 4, "end")
    assert state["rule_version"]["rule_version"] == 2
    assert state["rule_version"]["condition"] is None
    assert state["rule_version"]["constraints"] == {}


def test_the_newest_entry_of_a_rule_equals_its_rows(tenant: Tenant, second_connection: sa.Connection) -> None:
    def check() -> None:
        newest = loads(entries(second_connection, tenant, "rule-1")[-1]["after_state"])
        with tenant.spine.transactions.write(tenant.tenant_id) as connection:
            assert rules.load(connection, tenant_id=tenant.tenant_id, rule_id="rule-1").image() == newest

    rule = allow(tenant, constraints={"actions": ["query"], "max_tokens": 100}, depends_on=[])
    check()
    rule = update(tenant, rule, condition="run.attempt == 1", scope="AGENT", scope_id="a").unwrap()
    check()
    tenant.call("policies.rules.activate", {"rule_id": "rule-1"})
    check()
    tenant.call("policies.rules.retire", {"rule_id": "rule-1", "reason": "end", "revoke": True})
    check()


def test_a_refusal_writes_nothing(tenant: Tenant, second_connection: sa.Connection) -> None:
    allow(tenant, "rule-a", activate=True)
    allow(tenant, "rule-b", effect="DENY")
    before = counters(second_connection, tenant)
    refused = tenant.dispatch("policies.rules.activate", {"rule_id": "rule-b"})
    assert (refused.error_code, refused.committed) == ("POLICY_CONFLICT", False)
    assert counters(second_connection, tenant) == before
    assert len(entries(second_connection, tenant, "rule-b")) == 1
    assert tenant.call("policies.rules.get", {"rule_id": "rule-b"}).status == "DRAFT"


def test_an_active_rule_that_would_contradict_another_is_refused_at_each_door(tenant: Tenant) -> None:
    allow(tenant, "rule-a", condition="run.attempt == 1", activate=True)
    payload = {"kind": "ACCESS", "name": "b", "effect": "DENY", "condition": "run.attempt == 1"}
    refused = tenant.dispatch("policies.rules.create", {**payload, "activate": True})
    assert refused.error_code == "POLICY_CONFLICT"
    assert refused.error is not None
    assert refused.error.errors[0]["code"] == "SCOPE_OVERLAP"
    other = allow(tenant, "rule-c", effect="DENY", condition="run.attempt == 2", activate=True)
    assert update(tenant, other, condition="run.attempt == 1").error_code == "POLICY_CONFLICT"
    assert update(tenant, other, condition="run.attempt == 3").success


def test_conflicts_are_listed_for_drafts_too(tenant: Tenant) -> None:
    allow(tenant, "rule-a", activate=True)
    allow(tenant, "rule-b", effect="DENY")
    allow(tenant, "rule-c", effect="DENY", scope="AGENT", scope_id="agent-1", activate=True)
    found = tenant.call("policies.conflicts")
    assert (found.total, found.truncated) == (2, False)
    assert [(item.severity, item.rule_id, item.other_rule_id) for item in found.items] == [
        ("BLOCKING", "rule-a", "rule-b"),
        ("WARNING", "rule-a", "rule-c"),
    ]


def test_activating_twice_and_retiring_twice_change_nothing(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    allow(tenant)
    first = tenant.call("policies.rules.activate", {"rule_id": "rule-1"})
    assert tenant.call("policies.rules.activate", {"rule_id": "rule-1"}) == first
    ended = tenant.call("policies.rules.retire", {"rule_id": "rule-1", "reason": "end"})
    again = tenant.call("policies.rules.retire", {"rule_id": "rule-1", "reason": "other", "revoke": True})
    assert again == ended
    assert len(entries(second_connection, tenant, "rule-1")) == 3


def test_a_retired_rule_is_final(tenant: Tenant) -> None:
    allow(tenant)
    rule = tenant.call("policies.rules.retire", {"rule_id": "rule-1", "reason": "end"})
    assert update(tenant, rule, message="m").error_code == "RULE_RETIRED"
    assert tenant.dispatch("policies.rules.activate", {"rule_id": "rule-1"}).error_code == "RULE_RETIRED"


def test_an_update_needs_the_current_version(tenant: Tenant) -> None:
    rule = allow(tenant)
    bare = tenant.dispatch("policies.rules.update", {"rule_id": "rule-1", "message": "m"})
    assert bare.error_code == "PRECONDITION_REQUIRED"
    assert update(tenant, rule, message="m").success
    stale = update(tenant, rule, message="n")
    assert stale.error_code == "VERSION_MISMATCH"
    assert stale.error is not None
    assert stale.error.extra["current_version"] == 2


@pytest.mark.parametrize("operation", ["activate", "retire"])
def test_a_stale_version_is_refused_where_one_is_given(tenant: Tenant, operation: str) -> None:
    allow(tenant)
    payload = {"rule_id": "rule-1", **({"reason": "r"} if operation == "retire" else {})}
    context = {"precondition": Precondition(frozenset({7}))}
    refused = tenant.dispatch(f"policies.rules.{operation}", payload, **context)
    assert refused.error_code == "VERSION_MISMATCH"


def test_an_update_that_changes_nothing_writes_nothing(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    rule = allow(tenant, message="m")
    same = update(tenant, rule, message="m", change_reason="nothing").unwrap()
    assert same == rule
    assert len(entries(second_connection, tenant, "rule-1")) == 1


def test_versions_are_kept_and_listed_newest_first(tenant: Tenant) -> None:
    rule = allow(tenant, condition="run.attempt == 1")
    rule = update(tenant, rule, condition="run.attempt == 2", change_reason="two").unwrap()
    rule = update(tenant, rule, name="renamed").unwrap()
    assert (rule.name, rule.current_version, rule.condition) == ("renamed", 3, "run.attempt == 2")
    page = tenant.call("policies.rules.versions", {"rule_id": "rule-1", "limit": 2})
    assert [item.rule_version for item in page.items] == [3, 2]
    assert [item.change_reason for item in page.items] == [None, "two"]
    rest = tenant.call(
        "policies.rules.versions", {"rule_id": "rule-1", "limit": 2, "cursor": page.next_cursor}
    )
    assert [(item.rule_version, item.condition) for item in rest.items] == [(1, "run.attempt == 1")]
    assert rest.next_cursor is None
    assert all(item.verified for item in [*page.items, *rest.items])


def test_an_active_rule_is_changed_by_admins_alone(tenant: Tenant) -> None:
    payload = {"rule_id": "rule-1", "kind": "ACCESS", "name": "n", "effect": "ALLOW"}
    refused = tenant.dispatch("policies.rules.create", {**payload, "activate": True}, scopes=WRITER)
    assert refused.error_code == "INSUFFICIENT_SCOPE"
    draft = tenant.dispatch("policies.rules.create", payload, scopes=WRITER).unwrap()
    named = {"rule_id": "rule-1"}
    assert tenant.dispatch("policies.rules.activate", named, scopes=WRITER).error_code == "INSUFFICIENT_SCOPE"
    active = tenant.dispatch("policies.rules.activate", named, scopes=ADMIN).unwrap()
    match = {"precondition": Precondition(None)}
    change = {**named, "message": "m"}
    assert tenant.dispatch("policies.rules.update", change, scopes=WRITER, **match).error_code == (
        "INSUFFICIENT_SCOPE"
    )
    end = {**named, "reason": "r"}
    assert tenant.dispatch("policies.rules.retire", end, scopes=WRITER).error_code == "INSUFFICIENT_SCOPE"
    assert tenant.dispatch("policies.rules.update", change, scopes=ADMIN, **match).success
    assert tenant.dispatch("policies.rules.retire", end, scopes=ADMIN).success
    assert (draft.status, active.status) == ("DRAFT", "ACTIVE")


def test_a_draft_is_changed_and_discarded_by_writers(tenant: Tenant) -> None:
    rule = allow(tenant)
    match = {"precondition": Precondition(frozenset({rule.version}))}
    change = {"rule_id": "rule-1", "message": "m"}
    assert tenant.dispatch("policies.rules.update", change, scopes=WRITER, **match).success
    end = {"rule_id": "rule-1", "reason": "r"}
    assert tenant.dispatch("policies.rules.retire", end, scopes=WRITER).success


def test_a_taken_id_and_a_taken_name_are_refused(tenant: Tenant) -> None:
    allow(tenant, "rule-1", name="one")
    rule = allow(tenant, "rule-2", name="two")
    for members, field in (({"rule_id": "rule-1", "name": "x"}, "/rule_id"), ({"name": "one"}, "/name")):
        refused = tenant.dispatch("policies.rules.create", {"kind": "ACCESS", "effect": "ALLOW", **members})
        assert refused.error_code == "RULE_EXISTS"
        assert refused.error is not None
        assert refused.error.errors[0]["field"] == field
    assert update(tenant, rule, name="one").error_code == "RULE_EXISTS"


def test_a_retired_rule_frees_its_name_and_keeps_its_id(tenant: Tenant) -> None:
    allow(tenant, "rule-1", name="one")
    tenant.call("policies.rules.retire", {"rule_id": "rule-1", "reason": "end"})
    assert allow(tenant, "rule-2", name="one").name == "one"
    again = {"rule_id": "rule-1", "kind": "ACCESS", "name": "x", "effect": "ALLOW"}
    assert tenant.dispatch("policies.rules.create", again).error_code == "RULE_EXISTS"


def test_a_guard_rule_lives_like_any_other(tenant: Tenant) -> None:
    rule = {"rule_id": "g-1", "kind": "GUARD", "name": "g", "enforcement_mode": "BLOCK"}
    rule |= {"moments": ["USAGE", "STEP"], "condition": "usage.COST_USD > 5.0", "halts_run": True}
    made = tenant.call("policies.rules.create", rule)
    assert (made.status, made.moments, made.halts_run) == ("DRAFT", ["STEP", "USAGE"], True)
    active = tenant.call("policies.rules.activate", {"rule_id": "g-1"})
    assert (active.status, active.verified) == ("ACTIVE", True)
    versions = Precondition(frozenset({active.version}))
    narrowed = tenant.dispatch(
        "policies.rules.update",
        {"rule_id": "g-1", "moments": ["START"]},
        precondition=versions,
    )
    # What it reads is not there at the start of a run.
    assert narrowed.error_code == "INVALID_CONDITION"
    opposite = {**rule, "rule_id": "g-2", "name": "g 2", "enforcement_mode": "DISABLED", "halts_run": False}
    assert (
        tenant.dispatch("policies.rules.create", {**opposite, "activate": True}).error_code
        == "POLICY_CONFLICT"
    )
    tenant.call("policies.rules.create", opposite)
    found = tenant.call("policies.conflicts").items
    assert [(item.conflict_type, item.severity, item.other_rule_id) for item in found] == [
        ("SCOPE_OVERLAP", "BLOCKING", "g-2")
    ]
    retired = tenant.call("policies.rules.retire", {"rule_id": "g-1", "reason": "r", "revoke": True})
    assert (retired.status, retired.revoked) == ("RETIRED", True)


@pytest.mark.parametrize(
    ("moments", "condition", "column"),
    [
        (["START"], "run.agent_id == 'a' && action.name == 'b'", 24),
        (["STEP", "USAGE"], "action.name == 'b'", 1),
        (["STEP"], "usage.REQUESTS > 1.0", 7),
        (["COMPLETION"], "outcome.status == 'failed' && incident.title == ''", 31),
        (["INCIDENT"], "incident.code == ''", 10),
    ],
)
def test_a_guard_condition_names_what_its_moments_have(
    tenant: Tenant, moments: list[str], condition: str, column: int
) -> None:
    rule = {"kind": "GUARD", "name": "g", "enforcement_mode": "WARN", "moments": moments}
    refused = tenant.dispatch("policies.rules.create", {**rule, "condition": condition})
    assert refused.error is not None
    assert (refused.error.code, refused.error.errors[0]["column"]) == ("INVALID_CONDITION", column)


def test_a_condition_that_cannot_be_compiled_is_refused_with_its_position(tenant: Tenant) -> None:
    payload = {"kind": "ACCESS", "name": "n", "effect": "ALLOW", "condition": "run.attempt == nope"}
    refused = tenant.dispatch("policies.rules.create", payload)
    assert refused.error_code == "INVALID_CONDITION"
    assert refused.error is not None
    assert (refused.error.errors[0]["line"], refused.error.errors[0]["column"]) == (1, 16)


def test_dependencies_must_exist_and_form_no_circle(tenant: Tenant) -> None:
    payload = {"kind": "ACCESS", "name": "n", "effect": "ALLOW", "depends_on": ["ghost"]}
    refused = tenant.dispatch("policies.rules.create", payload)
    assert refused.error_code == "REFERENCE_NOT_FOUND"
    assert refused.error is not None
    assert refused.error.extra["field"] == "depends_on"
    first = allow(tenant, "rule-a")
    second = allow(tenant, "rule-b", depends_on=["rule-a"])
    allow(tenant, "rule-c", depends_on=["rule-b"])
    assert update(tenant, first, depends_on=["rule-c"]).error_code == "DEPENDENCY_CYCLE"
    assert update(tenant, second, depends_on=["rule-b"]).error_code == "DEPENDENCY_CYCLE"
    assert update(tenant, second, depends_on=[]).success
    assert update(tenant, first, depends_on=["rule-c"]).success


def test_a_rule_that_active_rules_depend_on_is_not_retired(tenant: Tenant) -> None:
    allow(tenant, "rule-a", activate=True)
    allow(tenant, "rule-b", depends_on=["rule-a"], condition="run.attempt == 1", activate=True)
    payload = {"rule_id": "rule-a", "reason": "end"}
    refused = tenant.dispatch("policies.rules.retire", payload)
    assert refused.error_code == "RULE_HAS_DEPENDENTS"
    assert refused.error is not None
    assert [item["entity_id"] for item in refused.error.errors] == ["rule-b"]
    # A revocation overrides plane bindings, not rules that lean on this one.
    assert tenant.dispatch("policies.rules.retire", {**payload, "revoke": True}).error_code == (
        "RULE_HAS_DEPENDENTS"
    )
    tenant.call("policies.rules.retire", {"rule_id": "rule-b", "reason": "end"})
    assert tenant.dispatch("policies.rules.retire", payload).success


def test_a_rule_bound_to_a_plane_is_retired_by_revocation_alone(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    allow(tenant, "rule-a", activate=True)
    plane_id = bindable_plane(second_connection, tenant)
    tenant.call("knowledge.planes.bind_policy", {"plane_id": plane_id, "policy_id": "rule-a"})
    ties = tenant.call("policies.rules.dependencies", {"rule_id": "rule-a"})
    assert [(tie.entity_type, tie.entity_id) for tie in ties.items] == [("PLANE", plane_id)]
    payload = {"rule_id": "rule-a", "reason": "leak"}
    refused = tenant.dispatch("policies.rules.retire", payload)
    assert refused.error_code == "RULE_HAS_DEPENDENTS"
    assert refused.error is not None
    assert [(item["entity_type"], item["entity_id"]) for item in refused.error.errors] == [
        ("PLANE", plane_id)
    ]
    assert tenant.call("policies.rules.get", {"rule_id": "rule-a"}).status == "ACTIVE"
    assert tenant.call("policies.rules.retire", {**payload, "revoke": True}).revoked


def test_a_plane_that_was_given_up_hinders_no_retirement(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    allow(tenant, "rule-a", activate=True)
    plane_id = bindable_plane(second_connection, tenant)
    tenant.call("knowledge.planes.bind_policy", {"plane_id": plane_id, "policy_id": "rule-a"})
    move_plane(second_connection, tenant, plane_id, 500)
    assert tenant.dispatch("policies.rules.retire", {"rule_id": "rule-a", "reason": "end"}).success


def test_the_ties_of_a_rule_are_shown(tenant: Tenant) -> None:
    allow(tenant, "rule-a")
    allow(tenant, "rule-b", depends_on=["rule-a"])
    ties = tenant.call("policies.rules.dependencies", {"rule_id": "rule-a"})
    assert [(tie.direction, tie.entity_id, tie.status) for tie in ties.items] == [
        ("REQUIRED_BY", "rule-b", "DRAFT")
    ]


def test_a_rule_is_superseded_by_one_that_exists(tenant: Tenant) -> None:
    allow(tenant, "rule-a", activate=True)
    allow(tenant, "rule-b")
    payload = {"rule_id": "rule-a", "reason": "newer"}
    for wrong, code in (("ghost", "REFERENCE_NOT_FOUND"), ("rule-a", "INVALID_INPUT")):
        refused = tenant.dispatch("policies.rules.retire", {**payload, "superseded_by": wrong})
        assert refused.error_code == code
    rule = tenant.call("policies.rules.retire", {**payload, "superseded_by": "rule-b"})
    assert rule.superseded_by == "rule-b"


def test_rules_are_listed_newest_first_and_filtered(tenant: Tenant, clock: Any) -> None:
    for number in range(5):
        clock.advance(seconds=1)
        allow(tenant, f"rule-{number}", condition=f"run.attempt == {number}", activate=number % 2 == 0)
    allow(tenant, "rule-5", scope="AGENT", scope_id="agent-1")
    page = tenant.call("policies.rules.list", {"limit": 4})
    assert [rule.rule_id for rule in page.items] == ["rule-5", "rule-4", "rule-3", "rule-2"]
    rest = tenant.call("policies.rules.list", {"limit": 4, "cursor": page.next_cursor})
    assert [rule.rule_id for rule in rest.items] == ["rule-1", "rule-0"]
    assert rest.next_cursor is None

    def listed(**filters: Any) -> list[str]:
        return [rule.rule_id for rule in tenant.call("policies.rules.list", filters).items]

    assert listed(status="ACTIVE") == ["rule-4", "rule-2", "rule-0"]
    assert listed(scope="AGENT") == ["rule-5"]
    assert listed(kind="GUARD") == []
    assert listed(status="DRAFT", kind="ACCESS", scope="TENANT") == ["rule-3", "rule-1"]
    foreign = tenant.dispatch("policies.rules.list", {"cursor": page.next_cursor, "status": "ACTIVE"})
    assert foreign.error_code == "INVALID_CURSOR"


@pytest.mark.parametrize("operation", ["get", "versions", "dependencies", "update", "activate", "retire"])
def test_a_rule_of_another_tenant_does_not_exist(
    tenant: Tenant, other_tenant: Tenant, operation: str
) -> None:
    allow(other_tenant, activate=True)
    payload = {"rule_id": "rule-1", **({"reason": "r"} if operation == "retire" else {})}
    context = {"precondition": Precondition(None)}
    refused = tenant.dispatch(f"policies.rules.{operation}", payload, **context)
    assert refused.error_code == "RULE_NOT_FOUND"
    assert other_tenant.call("policies.rules.get", {"rule_id": "rule-1"}).status == "ACTIVE"


def test_names_conditions_and_dependencies_do_not_reach_across_tenants(
    tenant: Tenant, other_tenant: Tenant
) -> None:
    allow(other_tenant, activate=True)
    allow(tenant, effect="DENY", activate=True)
    payload = {"kind": "ACCESS", "name": "n", "effect": "DENY", "depends_on": ["rule-2"]}
    allow(other_tenant, "rule-2", condition="false")
    assert tenant.dispatch("policies.rules.create", payload).error_code == "REFERENCE_NOT_FOUND"
    assert [rule.rule_id for rule in tenant.call("policies.rules.list").items] == ["rule-1"]
    assert tenant.call("policies.conflicts").total == 0


def test_a_create_with_an_idempotency_key_is_replayed(tenant: Tenant) -> None:
    payload = {"kind": "ACCESS", "name": "n", "effect": "ALLOW"}
    first = tenant.dispatch("policies.rules.create", payload, idempotency_key="k-1")
    again = tenant.dispatch("policies.rules.create", payload, idempotency_key="k-1")
    assert again.replayed
    assert again.unwrap() == first.unwrap()
    other = tenant.dispatch("policies.rules.create", {**payload, "name": "m"}, idempotency_key="k-1")
    assert other.error_code == "IDEMPOTENCY_KEY_REUSED"


def test_two_opposite_activations_at_once_end_with_one_active(tenant: Tenant) -> None:
    allow(tenant, "rule-a")
    allow(tenant, "rule-b", effect="DENY")
    with ThreadPoolExecutor(2) as pool:
        results = list(
            pool.map(
                lambda rule_id: tenant.dispatch("policies.rules.activate", {"rule_id": rule_id}),
                ["rule-a", "rule-b"],
            )
        )
    codes = [result.error_code for result in results]
    assert sorted(code or "" for code in codes) == ["", "POLICY_CONFLICT"]


def test_two_changes_at_once_that_would_close_a_circle_end_with_one(tenant: Tenant) -> None:
    made = {name: allow(tenant, name) for name in ("rule-a", "rule-b")}
    wishes = [("rule-a", "rule-b"), ("rule-b", "rule-a")]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda wish: update(tenant, made[wish[0]], depends_on=[wish[1]]), wishes))
    assert sorted(result.error_code or "" for result in results) == ["", "DEPENDENCY_CYCLE"]


def test_a_tampered_rule_is_shown_and_no_longer_changed_or_activated(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    rule = allow(tenant)
    change = "UPDATE policy_rule_versions SET effect = 'DENY' WHERE tenant_id = :t"
    tamper(second_connection, change, tenant.tenant_id)
    assert tenant.call("policies.rules.get", {"rule_id": "rule-1"}).verified is False
    assert update(tenant, rule, message="m").error_code == "POLICY_INTEGRITY"
    refused = tenant.dispatch("policies.rules.activate", {"rule_id": "rule-1"})
    assert (refused.error_code, refused.committed) == ("POLICY_INTEGRITY", True)
    # One incident for one damage, however often somebody runs into it.
    (incident,) = tenant.call("incidents.list", {"category": "INTEGRITY"}).items
    assert (incident.severity, incident.error_code) == ("HIGH", "POLICY_INTEGRITY")
    assert tenant.dispatch("policies.rules.retire", {"rule_id": "rule-1", "reason": "bad"}).success
