"""The whole product behind HTTP on a database of its own, with one of each thing that a path can name."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from schemathesis.python import asgi

from app.api.application import build_application
from app.api.routing import Route
from app.api.table import ROUTES
from app.api.worker_pool import DispatchPool
from app.bootstrap import build_spine
from app.domains.retrieval.engines.observations import record_observations
from app.hoc_spine.coordinators.log_files import write_new_key
from app.hoc_spine.log_verifier import LogVerifier
from app.hoc_spine.sequencer import LogSequencer
from app.kernel.context import Precondition
from app.settings import Settings
from tests.api.probes import probe_routes, with_probes
from tests.factories.tenants import Tenant, make_tenant


@dataclass(frozen=True)
class ProductServer:
    """A client of the application, headers for both doors, and ids that exist."""

    session: Any
    tenant: Mapping[str, str]
    operator: Mapping[str, str]
    known: Mapping[str, Any]

    def headers_for(self, route: Route) -> dict[str, str]:
        """Return the headers that open the door of a route."""
        return dict(self.operator if route.operator else self.tenant)

    def path_of(self, route: Route, **other: Any) -> str | None:
        """Return the path of a route to things that exist; None where there is no such thing."""
        path = route.template
        for name in route.path_parameters:
            value = other.get(name, self.known.get(name))
            if value is None:
                return None
            path = path.replace("{" + name + "}", str(value))
        return path

    def request(self, route: Route, path: str, **more: Any) -> Any:
        """Send a request through a route's door."""
        headers = self.headers_for(route)
        return self.session.request(route.method, f"http://testserver{path}", headers=headers, **more)


@contextmanager
def serve_product(database_url: str, folder: Path) -> Iterator[ProductServer]:
    """Serve the product and the probes without rate limits."""
    spine = build_spine(
        Settings.model_validate(
            {
                "database_url": database_url,
                "operator_token": "the-operator",
                "rate_limit_enabled": False,
                "log_key_file": folder / "log-key.pem",
                "checkpoint_dir": folder / "checkpoints",
                "credential_key": base64.b64encode(bytes(32)).decode(),
            }
        )
    )
    write_new_key(folder / "log-key.pem")
    pool = DispatchPool(4)
    tenant, victim = make_tenant(spine), make_tenant(spine)
    application = build_application(with_probes(spine), pool=pool, routes=(*ROUTES, *probe_routes()))
    with asgi.get_client(application) as session:
        known = {**_seed(tenant), "tenant_id": victim.tenant_id}
        LogSequencer(spine).drain()
        known["size"] = tenant.call("log.status").size
        for _ in range(2):
            # Whatever the product wrote for all these requests is as its facts say.
            assert LogVerifier(spine).verify_all(tenant.tenant_id).failures == []
        yield ProductServer(session, tenant.headers(), {"Authorization": "Bearer the-operator"}, known)
    pool.close()
    spine.close()


def _seed(tenant: Tenant) -> dict[str, Any]:
    # Three of each list, so that every list of one item has a next page.
    for number in range(3):
        tenant.call("repository.collections.create", {"name": f"collection {number}"})
    artifacts = [
        tenant.call("repository.artifacts.create", {"name": f"a{n}", "artifact_type": "note", "content": "x"})
        for n in range(3)
    ]
    artifact_id = artifacts[0].id
    for number in range(2):
        tenant.call("repository.artifacts.update", {"artifact_id": artifact_id, "content": f"y{number}"})
    _seed_graph(tenant, [artifact.id for artifact in artifacts])
    planes = [tenant.call("knowledge.planes.register", _plane(number)) for number in range(3)]
    runs = [tenant.call("runs.start", _run()) for _ in range(3)]
    retry = {"run_id": runs[0].run_id, "from_attempt": 1, "reason": "again"}
    tenant.call("runs.retry", retry)
    tenant.call("traces.steps.append", {"run_id": runs[0].run_id, "steps": [_step(n) for n in range(3)]})
    _seed_work(tenant, runs[0].run_id, artifact_id)
    _seed_judgements(tenant, runs[1].run_id)
    incident_id = _seed_incidents(tenant)
    limited = _seed_limits(tenant)
    proposals = [tenant.call("policies.proposals.create", _proposal(number)) for number in range(3)]
    recorded = _seed_records(tenant, runs[0].run_id)
    held = _seed_holds(tenant)
    _seed_archives(tenant)
    rules = [tenant.call("policies.rules.create", _rule(number)) for number in range(3)]
    for number in range(2):
        head = tenant.call("policies.rules.get", {"rule_id": rules[0].rule_id})
        change = {"rule_id": rules[0].rule_id, "message": f"m{number}"}
        expected = Precondition(frozenset((head.version,)))
        tenant.call("policies.rules.update", change, precondition=expected)
    for plane in planes:
        tenant.call(
            "knowledge.planes.transition", {"plane_id": plane.plane_id, "action": "verify_knowledge_plane"}
        )
        attempt = {"run_id": runs[0].run_id, "plane_id": plane.plane_id, "action": "query", "payload": {}}
        assert tenant.dispatch("retrieval.access", attempt).committed
    _seed_observations(tenant, runs[0].run_id)
    keys = [tenant.call("keys.create", _key()) for _ in range(3)]
    return {
        **recorded,
        **limited,
        **held,
        "artifact_id": artifact_id,
        "collection_id": artifacts[0].collection_id,
        "plane_id": planes[0].plane_id,
        "rule_id": rules[0].rule_id,
        "policy_id": rules[0].rule_id,
        "run_id": runs[0].run_id,
        "incident_id": incident_id,
        "lesson_id": tenant.call("lessons.list").items[0].lesson_id,
        "proposal_id": proposals[0].proposal_id,
        "key_id": keys[0].key_id,
        "attempt": 1,
        "revision": 1,
        "level": "0",
        "tile": "000.p/1",
    }


def _seed_observations(tenant: Tenant, run_id: str) -> None:
    """Three retrieval spans, as the ingest of spans records them."""
    span = {"trace_id": "a" * 32, "run_id": run_id, "operation": "retrieval"}
    moment = datetime.now(UTC)
    rows = [span | {"span_id": f"{n:016x}", "started_at": moment, "ended_at": moment} for n in range(3)]
    with tenant.spine.transactions.write(tenant.tenant_id) as connection:
        record_observations(connection, tenant_id=tenant.tenant_id, rows=rows)


def _seed_judgements(tenant: Tenant, retried: str) -> None:
    """Three evaluations by retries, three prevention records by a check in a run of its own."""
    for attempt in (1, 2):
        tenant.call("runs.retry", {"run_id": retried, "from_attempt": attempt, "reason": "again"})
    for number in range(3):
        rule = {"kind": "GUARD", "name": f"guard {number}", "enforcement_mode": "WARN", "activate": True}
        rule |= {"moments": ["STEP"], "scope": "AGENT", "scope_id": "guarded"}
        tenant.call("policies.rules.create", rule)
    run = tenant.call("runs.start", _run() | {"agent_id": "guarded"})
    tenant.call("runs.check", {"run_id": run.run_id, "action": {"kind": "TOOL", "name": "x"}})


def _seed_limits(tenant: Tenant) -> dict[str, str]:
    """Three limits that one use exceeds, three overrides of them, and what a check has reserved."""
    budget = {"category": "BUDGET", "metric": "COST_USD", "scope": "AGENT", "scope_id": "spender"}
    budget |= {"reset_period": "NONE", "max_value": 5}
    made = [tenant.call("controls.limits.create", {"name": f"limit {n}", **budget}) for n in range(3)]
    expires_at = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    wish = {"override_value": 9, "expires_at": expires_at, "reason": "month end"}
    asked = [tenant.call("controls.overrides.request", {"limit_id": item.limit_id, **wish}) for item in made]
    run = tenant.call("runs.start", _run() | {"agent_id": "spender"})
    check = {"action": {"kind": "TOOL", "name": "x"}, "estimate": {"COST_USD": 1}}
    held = tenant.call("runs.check", {"run_id": run.run_id, **check}).reservation
    used = {"run_id": run.run_id, "usage_id": "u-1", "usage": {"COST_USD": 9}}
    tenant.call("runs.usage.record", used)
    return {
        "limit_id": made[0].limit_id,
        "override_id": asked[0].override_id,
        "reservation_id": held.reservation_id,
    }


def _seed_holds(tenant: Tenant) -> dict[str, str]:
    """Three erased runs, and three holds of which the last is still in force."""
    held = []
    for _ in range(3):
        run = tenant.call("runs.start", _run())
        named = {"scope": "RUN", "scope_id": run.run_id, "reason": "x"}
        tenant.call("evidence.erase", named)
        held.append(tenant.call("evidence.holds.place", named).hold_id)
    return {"hold_id": held[-1]}


def _seed_archives(tenant: Tenant) -> None:
    """Three records of archives, of which there is no file."""
    counts = {"statements": 1, "runs": 0, "steps": 0, "values": 0, "root": "0" * 64}
    for number in range(3):
        archive = {"archive_id": f"arc_{number}", "epoch": 1, "from_idx": 0, "to_idx": 256, "size": 1}
        archive |= {"sha256": "0" * 64, "path": "/archives/x.hoclog", "counts": counts}
        tenant.call("ops.retention.record_archive", archive, door="worker")


def _seed_incidents(tenant: Tenant) -> str:
    """Three kinds of trouble that came back; the incident of a failed run with three events and links."""
    for number in range(6):
        tenant.call("incidents.create", {"title": "x", "error_code": f"E{number % 3}"})
    rule = {"kind": "GUARD", "name": "guard of one agent", "enforcement_mode": "BLOCK", "activate": True}
    rule |= {"moments": ["STEP"], "scope": "AGENT", "scope_id": "failing"}
    tenant.call("policies.rules.create", rule)
    for _ in range(3):
        run = tenant.call("runs.start", _run() | {"agent_id": "failing"})
        for _ in range(3):
            tenant.call("runs.check", {"run_id": run.run_id, "action": {"kind": "TOOL", "name": "x"}})
        ended = tenant.call("runs.complete", {"run_id": run.run_id, "status": "failed"})
    incident_id = str(ended.evaluation.outcome_ref)
    tenant.call("incidents.acknowledge", {"incident_id": incident_id})
    tenant.call("incidents.escalate", {"incident_id": incident_id, "severity": "HIGH", "reason": "x"})
    return incident_id


def _proposal(number: int) -> dict[str, Any]:
    proposed = {"kind": "ACCESS", "name": f"proposed {number}", "effect": "ALLOW"}
    return {"kind": "RULE", "title": "x", "rationale": "x", "proposed": proposed}


def _seed_records(tenant: Tenant, run_id: str) -> dict[str, str]:
    """Three decisions, three signals, and what the governance log of their run says of them."""
    decision = {"decision_type": "MEMORY", "facts": {"queried": False}, "decision_reason": "none is there"}
    signal = {"signal_type": "drift", "evidence": {"score": 1}, "detected_by": "tests", "run_id": run_id}
    decided = [tenant.call("decisions.emit", decision | {"run_id": run_id}) for _ in range(3)]
    seen = [
        tenant.call("activity.discovery.emit_signal", signal | {"artifact": f"a{n}"}).signal_id
        for n in range(3)
    ]
    for signal_id in seen:
        tenant.call("activity.signals.acknowledge", {"signal_id": signal_id})
    return {
        "decision_id": decided[0].decision.decision_id,
        "signal_id": seen[0],
        "entry_id": tenant.call("logs.audit_list").items[0].entry_id,
    }


def _seed_graph(tenant: Tenant, ids: list[str]) -> None:
    for kind in ("cites", "answers", "mentions"):
        edge = {"source_id": ids[0], "target_id": ids[1], "type": kind}
        tenant.call("repository.relationships.create", edge)
    for number in range(3):
        run_id = f"work-{number}"
        tenant.call("repository.runs.create", {"run_id": run_id, "operation": "index"})
        tenant.call("repository.runs.transition", {"run_id": run_id, "status": "running"})
        tenant.call("repository.context_packages.create", {"name": f"package {number}"})


def _seed_work(tenant: Tenant, run_id: str, artifact_id: str) -> None:
    steps = [{"step_id": f"s{n}", "position": n} for n in range(3)]
    tenant.call("repository.runs.create", {"run_id": run_id, "operation": "answer", "steps": steps})
    for role in ("source", "background", "example"):
        item = {"artifact_id": artifact_id, "revision": 1, "role": role}
        tenant.call("repository.bundles.create", {"items": [item]})


def _plane(number: int) -> dict[str, Any]:
    return {
        "plane_type": "docs",
        "plane_name": f"plane {number}",
        "connector_type": "repository",
        "connector_id": "repo",
        "config": {},
    }


def _rule(number: int) -> dict[str, Any]:
    return {"kind": "ACCESS", "name": f"rule {number}", "effect": "ALLOW"}


def _run() -> dict[str, Any]:
    return {
        "goal": "Try everything.",
        "agent_id": "agent-1",
        "actor_type": "SYSTEM",
        "origin_system_id": "tests",
        "max_attempts": 20,
    }


def _step(index: int) -> dict[str, Any]:
    return {"step_index": index, "skill_id": "s", "skill_name": "n", "params": {}, "status": "success"}


def _key() -> dict[str, Any]:
    return {"name": "k", "scopes": ["*"], "actor_type": "AGENT", "actor_id": "a"}
