"""Snapshots in the database: stored once with their fact, verified on first load, blocked when changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from app.domains.logs.engines import facts
from app.domains.policies.engines import rules, snapshots
from app.domains.policies.engines.snapshot_cache import SnapshotCache
from app.domains.policies.engines.snapshots import CompiledSnapshot
from app.domains.policies.errors import SnapshotInvalidError
from app.hoc_spine.operation_context import FactRecorder
from app.kernel.errors import HocError
from app.kernel.hashing import text_hash
from tests.factories.policies import tamper
from tests.factories.tenants import Tenant


def ensure(
    tenant: Tenant,
    *,
    project_id: str | None = None,
    agent_id: str = "agent-1",
    bindings: Sequence[tuple[str, str]] = (),
    cache: SnapshotCache | None = None,
) -> CompiledSnapshot:
    """Do what the start of a run does: make the snapshot and flush its fact in one unit."""
    spine = tenant.spine
    now = spine.services.clock.now()
    recorder = FactRecorder(spine.services, tenant.context())
    with spine.transactions.write(tenant.tenant_id) as connection:
        snapshot = snapshots.ensure(
            connection,
            tenant_id=tenant.tenant_id,
            project_id=project_id,
            agent_id=agent_id,
            bindings=bindings,
            facts=recorder,
            now=now,
            programs=cache,
        )
        facts.flush(connection, recorder.queued, tenant_id=tenant.tenant_id, now=now)
    return snapshot


def load(tenant: Tenant, snapshot_id: str, cache: SnapshotCache) -> CompiledSnapshot | None:
    with tenant.spine.transactions.read(tenant.tenant_id) as connection:
        return snapshots.load_verified(
            connection, tenant_id=tenant.tenant_id, snapshot_id=snapshot_id, cache=cache
        )


def allow(tenant: Tenant, rule_id: str, **members: Any) -> Any:
    payload = {"rule_id": rule_id, "kind": "ACCESS", "name": rule_id, "effect": "ALLOW", "activate": True}
    return tenant.call("policies.rules.create", {**payload, **members})


def stored(connection: sa.Connection, tenant: Tenant) -> list[dict[str, Any]]:
    rows = connection.execute(
        sa.text(
            "SELECT s.*, l.statement FROM policy_snapshots s JOIN log_leaves l"
            " ON l.tenant_id = s.tenant_id AND l.fact_id = s.fact_id WHERE s.tenant_id = :t"
        ),
        {"t": tenant.tenant_id},
    ).mappings()
    return [dict(row) for row in rows]


def test_a_snapshot_is_stored_once_with_its_fact(tenant: Tenant, second_connection: sa.Connection) -> None:
    allow(tenant, "rule-a", condition="run.attempt == 1")
    first = ensure(tenant, bindings=[("kp_1", "rule-a")])
    assert ensure(tenant, bindings=[("kp_1", "rule-a")]).snapshot_id == first.snapshot_id
    (row,) = stored(second_connection, tenant)
    assert row["content_hash"] == text_hash(row["content"]) == first.content_hash
    assert row["snapshot_id"] == f"snap_{row['content_hash'][:32]}"
    assert (row["rule_count"], row["limit_count"]) == (1, 0)
    assert '"type":"policy.snapshot"' in row["statement"]
    assert f'"sha256":"{first.content_hash}"' in row["statement"]


def test_only_active_rules_of_the_runs_scope_are_in_its_snapshot(tenant: Tenant) -> None:
    allow(tenant, "tenant-wide")
    allow(tenant, "draft", activate=False)
    allow(tenant, "of-project", scope="PROJECT", scope_id="p")
    allow(tenant, "of-agent", scope="AGENT", scope_id="agent-1")
    allow(tenant, "of-other", scope="AGENT", scope_id="agent-2")
    allow(tenant, "ended")
    tenant.call("policies.rules.retire", {"rule_id": "ended", "reason": "end"})

    def ids(snapshot: CompiledSnapshot) -> list[str]:
        return [rule.version.rule_id for rule in snapshot.rules]

    assert ids(ensure(tenant)) == ["of-agent", "tenant-wide"]
    assert ids(ensure(tenant, project_id="p")) == ["of-agent", "of-project", "tenant-wide"]
    assert ids(ensure(tenant, agent_id="agent-3")) == ["tenant-wide"]


def test_a_snapshot_keeps_what_the_rules_said_then(tenant: Tenant) -> None:
    allow(tenant, "rule-a", condition="run.attempt == 1")
    earlier = ensure(tenant, bindings=[("kp_1", "rule-a")])
    tenant.call("policies.rules.retire", {"rule_id": "rule-a", "reason": "end", "revoke": True})
    later = ensure(tenant, bindings=[("kp_1", "rule-a")])
    assert later.snapshot_id != earlier.snapshot_id
    assert later.rules_bound_to("kp_1") == ()
    kept = load(tenant, earlier.snapshot_id, SnapshotCache())
    assert kept is not None
    assert kept.rules_bound_to("kp_1")[0].version.condition == "run.attempt == 1"


def test_a_snapshot_is_hashed_when_a_process_first_loads_it(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    snapshot = ensure(tenant)
    cache = SnapshotCache()
    first = load(tenant, snapshot.snapshot_id, cache)
    assert load(tenant, snapshot.snapshot_id, cache) is first
    tamper(
        second_connection,
        "UPDATE policy_snapshots SET content = replace(content, 'policy-snapshot-1', 'policy-snapshot-9')"
        " WHERE tenant_id = :t",
        tenant.tenant_id,
    )
    with pytest.raises(SnapshotInvalidError):
        load(tenant, snapshot.snapshot_id, SnapshotCache())
    with pytest.raises(SnapshotInvalidError):
        ensure(tenant)
    view = tenant.call("policies.snapshots.get", {"snapshot_id": snapshot.snapshot_id})
    assert view.verified is False


def test_an_unknown_snapshot_and_one_of_another_tenant_are_none(tenant: Tenant, other_tenant: Tenant) -> None:
    allow(other_tenant, "rule-a")
    foreign = ensure(other_tenant)
    assert load(tenant, foreign.snapshot_id, SnapshotCache()) is None
    refused = tenant.dispatch("policies.snapshots.get", {"snapshot_id": foreign.snapshot_id})
    assert refused.error_code == "SNAPSHOT_NOT_FOUND"


def test_a_snapshot_is_shown_with_its_content_and_verified(tenant: Tenant) -> None:
    allow(tenant, "rule-a")
    snapshot = ensure(tenant, bindings=[("kp_1", "rule-a")])
    view = tenant.call("policies.snapshots.get", {"snapshot_id": snapshot.snapshot_id})
    assert view.verified
    assert view.content["bindings"] == [{"plane_id": "kp_1", "rule_id": "rule-a"}]
    assert (view.content_hash, view.rule_count) == (snapshot.content_hash, 1)


def test_a_rule_that_lost_its_hash_blocks_every_new_snapshot(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    allow(tenant, "rule-a")
    change = "UPDATE policy_rule_versions SET condition = 'true' WHERE tenant_id = :t"
    tamper(second_connection, change, tenant.tenant_id)
    with pytest.raises(HocError, match="POLICY_INTEGRITY"):
        ensure(tenant)


def test_revoked_rules_are_listed_for_the_tenant_alone(tenant: Tenant, other_tenant: Tenant) -> None:
    for owner in (tenant, other_tenant):
        allow(owner, "rule-a")
        allow(owner, "rule-b")
    tenant.call("policies.rules.retire", {"rule_id": "rule-a", "reason": "leak", "revoke": True})
    tenant.call("policies.rules.retire", {"rule_id": "rule-b", "reason": "done"})

    def revoked(owner: Tenant) -> frozenset[str]:
        with owner.spine.transactions.read(owner.tenant_id) as connection:
            return rules.list_revoked(connection, tenant_id=owner.tenant_id)

    assert revoked(tenant) == {"rule-a"}
    assert revoked(other_tenant) == frozenset()


def test_a_cached_program_serves_the_snapshots_of_a_process(tenant: Tenant) -> None:
    rule = allow(tenant, "rule-a", condition="run.attempt == 1")
    cache = SnapshotCache()
    snapshot = ensure(tenant, cache=cache)
    assert snapshot.rules[0].condition is cache.program(rule.content_hash, rule.condition)
