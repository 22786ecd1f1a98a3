"""Generated over every registered operation: another tenant's ids answer as ids that never existed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from app.bootstrap import HANDLERS
from app.hoc_spine.operation_registry import Operation
from app.hoc_spine.spine import Spine
from app.kernel.errors import ErrorKind, HocError
from tests.factories.tenants import Tenant
from tests.factories.worlds import make_world, step

OPERATIONS = sorted(
    (operation for module in HANDLERS for operation in module.OPERATIONS if operation.door == "tenant"),
    key=lambda operation: operation.name,
)
# Names that the caller owns, or labels; they point at nothing of another tenant.
LABELS = {
    "controls.limits.create": {"limit_id", "scope_id"},
    "controls.limits.update": {"scope_id"},
    "decisions.emit": {"request_id", "workflow_id"},
    "decisions.list": {"request_id"},
    "incidents.create": {"incident_id"},
    "keys.create": {"actor_id"},
    "knowledge.planes.register": {"connector_id"},
    "logs.audit_list": {"actor_id"},
    "repository.changes.list": {"actor_id", "change_set_id"},
    "policies.proposals.create": {"proposal_id"},
    "policies.rules.create": {"rule_id", "scope_id"},
    "policies.rules.update": {"scope_id"},
    "repository.artifacts.create": {"id"},
    "repository.artifacts.update": {"id"},
    "repository.collections.create": {"id"},
    "repository.relationships.create": {"id"},
    "repository.relationships.update": {"id", "source_id", "target_id"},
    "repository.runs.create": {"run_id", "trace_id"},
    "repository.steps.put": {"step_id"},
    "runs.start": {
        "run_id",
        "agent_id",
        "actor_id",
        "origin_system_id",
        "project_id",
        "synthetic_scenario_id",
    },
    "runs.check": {"check_id"},
    "runs.usage.record": {"usage_id"},
    "runs.list": {"agent_id", "project_id"},
}
# A value for each member that an input demands beside its ids.
SAMPLES: dict[str, Any] = {
    "name": "x",
    "reason": "x",
    "config": {},
    "suspended": True,
    "action": "search",
    "payload": {"text": "refund"},
    "items": [{"name": "x", "artifact_type": "document", "content": "x"}],
    "artifact_type": "document",
    "type": "cites",
    "revisions": "all",
    "legal_basis": "x",
    "goal": "x",
    "status": "succeeded",
    "from_attempt": 1,
    "attempt": 1,
    "revision": 1,
    "from_revision": 1,
    "to_revision": 1,
    "steps": [step(0)],
    "kind": "ACCESS",
    "actor_type": "HUMAN",
    "operation": "x",
    "worker": "w",
    "lease_seconds": 60,
    "role": "source",
    "decision_type": "MEMORY",
    "facts": {"queried": False},
    "decision_reason": "x",
    "severity": "HIGH",
    "title": "x",
    "rationale": "x",
    "proposed": {"kind": "ACCESS", "name": "x", "effect": "ALLOW"},
    "resolution_method": "MANUAL",
    "until": "2100-01-01T00:00:00Z",
    "moment": "START",
    "category": "BUDGET",
    "metric": "COST_USD",
    "max_value": 1,
    "override_value": 1,
    "expires_at": "2100-01-01T00:00:00Z",
    "usage": {"COST_USD": 1},
    "run": {"agent_id": "a"},
    "scope": "RUN",
}
MORE: dict[str, dict[str, Any]] = {
    "activity.discovery.emit_signal": {
        "artifact": "a",
        "signal_type": "t",
        "evidence": {"x": 1},
        "detected_by": "d",
    },
    "knowledge.planes.transition": {"action": "verify_knowledge_plane"},
    "knowledge.planes.approve_purge": {"reason": "x"},
    "policies.proposals.create": {"kind": "RULE"},
    "repository.artifacts.update": {"name": "renamed"},
    "repository.runs.publish": {"status": "cancelled"},
    "repository.steps.put": {"step_id": "s", "position": 0},
    "runs.check": {"action": {"kind": "TOOL", "name": "x"}},
    "runs.usage.record": {"usage_id": "u"},
    "runs.start": {"agent_id": "a", "actor_type": "SYSTEM", "origin_system_id": "tests"},
}

NO_SUCH_REFERENCE = ("REFERENCE_NOT_FOUND", "ENDPOINT_NOT_FOUND")


def ids_of(operation: Operation) -> list[str]:
    """Return the input's members that name an object of the tenant."""
    labels = LABELS.get(operation.name, set())
    named = [name for name in operation.input.model_fields if name == "id" or name.endswith("_id")]
    return [name for name in named if name not in labels]


WITH_IDS = [operation for operation in OPERATIONS if ids_of(operation)]


@pytest.fixture(scope="module")
def foreign(spine: Spine) -> dict[str, str]:
    """The ids of a tenant that has one of everything."""
    from tests.factories.tenants import make_tenant

    tenant = make_tenant(spine)
    world = make_world(spine, tenant)
    evidence_id = world.access().unwrap().evidence_id
    world.append(step(0))
    plane = tenant.call("knowledge.planes.get", {"plane_id": world.plane_id})
    run = tenant.call("runs.get", {"run_id": world.run_id})
    artifact_id, other_id = list(world.artifacts.values())[:2]
    edge = {"source_id": artifact_id, "target_id": other_id, "type": "mentions"}
    artifact = tenant.call("repository.artifacts.get", {"artifact_id": artifact_id})
    tenant.call("repository.runs.create", {"operation": "x", "run_id": run.run_id})
    item = {"artifact_id": artifact_id, "role": "source"}
    bundle = tenant.call("repository.bundles.create", {"items": [item]})
    package = tenant.call("repository.context_packages.for_artifact", {"artifact_id": artifact_id})
    with spine.transactions.read(tenant.tenant_id) as connection:
        leaves = sa.text("SELECT min(fact_id) FROM log_leaves WHERE tenant_id = :t")
        fact_id = connection.execute(leaves, {"t": tenant.tenant_id}).scalar_one()
    seen = {"artifact": "a", "signal_type": "t", "evidence": {"x": 1}, "detected_by": "d"}
    decision = {"decision_type": "MEMORY", "facts": {"queried": False}, "decision_reason": "x"}
    decided = tenant.call("decisions.emit", decision | {"run_id": run.run_id}).decision
    incident = tenant.call("incidents.create", {"title": "x", "source_run_id": run.run_id}).incident
    proposal = {"kind": "RULE", "title": "x", "rationale": "x", "proposed": SAMPLES["proposed"]}
    budget = {"category": "BUDGET", "metric": "COST_USD", "reset_period": "NONE", "max_value": 9}
    limit_id = tenant.call("controls.limits.create", {"name": "x", **budget}).limit_id
    later = datetime.now(UTC) + timedelta(hours=1)
    wish = {"limit_id": limit_id, "override_value": 9, "expires_at": later.isoformat(), "reason": "x"}
    governed = tenant.call("runs.start", {"goal": "x", **MORE["runs.start"]})
    asked = {"action": {"kind": "TOOL", "name": "x"}, "estimate": {"COST_USD": 1}}
    held = tenant.call("runs.check", {"run_id": governed.run_id, **asked}).reservation
    placed = {"scope": "RUN", "scope_id": run.run_id, "reason": "x"}
    key_payload = {"name": "k", "actor_type": "HUMAN", "actor_id": "u"}
    return {
        "tenant_id": tenant.tenant_id,
        "plane_id": plane.plane_id,
        "policy_id": world.rule_id,
        "rule_id": world.rule_id,
        "run_id": run.run_id,
        "parent_run_id": run.run_id,
        "snapshot_id": run.policy_snapshot_id,
        "evidence_id": evidence_id,
        "artifact_id": artifact_id,
        "entity_id": artifact_id,
        "source_id": artifact_id,
        "target_id": other_id,
        "relationship_id": tenant.call("repository.relationships.create", edge).id,
        "bundle_id": bundle.id,
        "package_id": package.id,
        "collection_id": artifact.collection_id,
        "key_id": tenant.call("keys.create", key_payload).key_id,
        "job_id": tenant.call("knowledge.jobs.list", {}).items[0].job_id,
        "entry_id": tenant.call("logs.audit_list", {}).items[0].entry_id,
        "fact_id": fact_id,
        "scope_id": run.run_id,
        "hold_id": tenant.call("evidence.holds.place", placed).hold_id,
        "decision_id": decided.decision_id,
        "incident_id": incident.incident_id,
        "source_incident_id": incident.incident_id,
        "source_run_id": run.run_id,
        "limit_id": limit_id,
        "override_id": tenant.call("controls.overrides.request", wish).override_id,
        "reservation_id": held.reservation_id,
        "lesson_id": tenant.call("lessons.list").items[0].lesson_id,
        "proposal_id": tenant.call("policies.proposals.create", proposal).proposal_id,
        "signal_id": tenant.call("activity.discovery.emit_signal", seen).signal_id,
    }


def payload_of(operation: Operation, ids: dict[str, str]) -> dict[str, Any]:
    """Return an input that fits, with these ids."""
    fields = operation.input.model_fields
    payload = {
        field.alias or name: SAMPLES[name]
        for name, field in fields.items()
        if field.is_required() and name in SAMPLES
    }
    return payload | MORE.get(operation.name, {}) | {name: ids[name] for name in ids_of(operation)}


def footprint(connection: sa.Connection, tenant_id: str) -> tuple[Any, ...]:
    """Return what any governed change of the tenant would move."""
    counts = ", ".join(
        f"(SELECT count(*) FROM {table} WHERE tenant_id = :t)"
        for table in ("log_leaves", "audit_ledger", "retrieval_evidence", "repository_changes", "outbox")
    )
    found = sa.text(f"SELECT {counts}, policy_version, live_epoch FROM tenant_state WHERE tenant_id = :t")
    return tuple(connection.execute(found, {"t": tenant_id}).one())


@pytest.mark.parametrize("operation", WITH_IDS, ids=lambda operation: operation.name)
def test_ids_of_another_tenant_are_ids_that_never_existed(
    operation: Operation,
    tenant: Tenant,
    foreign: dict[str, str],
    second_connection: sa.Connection,
) -> None:
    before = footprint(second_connection, foreign["tenant_id"])
    unknown = {name: f"{value[:-4]}zzzz" for name, value in foreign.items()}
    theirs = tenant.dispatch(operation.name, payload_of(operation, foreign))
    nobodys = tenant.dispatch(operation.name, payload_of(operation, unknown))
    assert footprint(second_connection, foreign["tenant_id"]) == before
    assert theirs.success == nobodys.success
    if theirs.error is None:
        _shows_nothing(operation, theirs.data)
        return
    assert nobodys.error is not None
    assert said(theirs.error, foreign) == said(nobodys.error, unknown)
    missing = theirs.error.kind is ErrorKind.NOT_FOUND or theirs.error.code in NO_SUCH_REFERENCE
    denied = operation.name == "retrieval.access" and theirs.error.code.endswith("_NOT_FOUND")
    assert missing or denied, theirs.error


def said(error: HocError, ids: dict[str, str]) -> tuple[Any, ...]:
    """Return what a refusal says, with the asked-for ids and its own evidence taken out."""
    detail = error.detail
    for value in ids.values():
        detail = detail.replace(value, "<id>")
    return error.kind, error.code, detail


def _shows_nothing(operation: Operation, data: Any) -> None:
    if operation.name == "retrieval.explain":
        assert (data.allowed, data.reason_code.value) == (False, "RUN_NOT_FOUND")
    elif operation.name == "retrieval.affected_runs":
        assert data.runs == []
    elif hasattr(data, "count"):
        assert data.count == 0
    else:
        assert list(data.items) == []


def test_every_demanded_member_has_a_sample() -> None:
    for operation in WITH_IDS:
        demanded = {name for name, field in operation.input.model_fields.items() if field.is_required()}
        assert demanded <= set(SAMPLES) | set(ids_of(operation)) | set(LABELS.get(operation.name, ())), (
            operation.name
        )
