"""Test worlds: a tenant with an ACTIVE plane over real documents, a bound policy and a running run."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from app.hoc_spine.operation_registry import OperationResult
from app.hoc_spine.spine import Spine
from tests.factories.planes import index_plane, move
from tests.factories.tenants import Tenant

DOCUMENTS = {
    "handbook.md": "# Handbook\n\nA governed run retrieves through the mediator and leaves evidence.",
    "refunds.md": "Refunds are paid within fourteen days. A refund needs the order number.",
    "holidays.md": "The office is closed on public holidays.",
}


@dataclass(slots=True)
class World:
    """What an access needs; `access()` asks as the run."""

    tenant: Tenant
    plane_id: str
    rule_id: str
    run_id: str
    artifacts: dict[str, str]

    def access(self, text: str = "refund", /, **members: Any) -> OperationResult:
        """Search the plane as the run; members replace those of the request."""
        payload = {
            "run_id": self.run_id,
            "plane_id": self.plane_id,
            "action": "search",
            "payload": {"text": text},
            "purpose": "support",
        }
        return self.tenant.dispatch("retrieval.access", payload | members)

    def with_run_of_its_own(self) -> World:
        """Return the same tenant and plane with another run: what a test that disturbs neither needs."""
        return replace(self, run_id=start_run(self.tenant))

    def append(self, *steps: dict[str, Any]) -> Any:
        """Append steps to the run's trace."""
        return self.tenant.call("traces.steps.append", {"run_id": self.run_id, "steps": list(steps)})

    def complete(self, status: str = "succeeded") -> Any:
        """Complete the run."""
        return self.tenant.call("runs.complete", {"run_id": self.run_id, "status": status})

    def proof(self, **members: Any) -> Any:
        """Return the run's proof."""
        return self.tenant.call("runs.proof", {"run_id": self.run_id, **members})


def make_rule(tenant: Tenant, name: str = "Support may search", **members: Any) -> str:
    """Make an ACTIVE ACCESS rule and return its id."""
    rule = {
        "kind": "ACCESS",
        "name": name,
        "effect": "ALLOW",
        "scope": "TENANT",
        "condition": 'request.purpose == "support"',
        "activate": True,
    }
    return str(tenant.call("policies.rules.create", rule | members).rule_id)


def make_plane(
    spine: Spine,
    tenant: Tenant,
    *,
    rule_ids: tuple[str, ...],
    documents: dict[str, str] | None = None,
    active: bool = True,
    **config: Any,
) -> tuple[str, dict[str, str]]:
    """Make a repository plane with documents, bind the rules, activate it; return its id and artifact ids."""
    collection = tenant.call("repository.collections.create", {"name": "handbook"}).id
    items = [
        {"name": name, "artifact_type": "document", "content": text}
        for name, text in (documents or DOCUMENTS).items()
    ]
    made = tenant.call("repository.artifacts.create_bulk", {"collection_id": collection, "items": items})
    payload = {
        "plane_type": "docs",
        "plane_name": "handbook",
        "connector_type": "repository",
        "connector_id": "repo",
        "config": {"owned_collection": collection, **config},
    }
    plane_id = str(tenant.call("knowledge.planes.register", payload).plane_id)
    index_plane(spine, tenant, plane_id)
    move(tenant, plane_id, "classify_knowledge_plane")
    move(tenant, plane_id, "request_activation")
    for rule_id in rule_ids:
        tenant.call("knowledge.planes.bind_policy", {"plane_id": plane_id, "policy_id": rule_id})
    if active:
        move(tenant, plane_id, "activate_knowledge_plane")
    return plane_id, dict(zip(documents or DOCUMENTS, (item.id for item in made.items), strict=True))


def start_run(tenant: Tenant, **members: Any) -> str:
    """Start a run and return its id."""
    run = {
        "agent_id": "support-agent",
        "goal": "Answer a customer",
        "actor_type": "SYSTEM",
        "origin_system_id": "tests",
    }
    return str(tenant.call("runs.start", run | members).run_id)


def make_world(spine: Spine, tenant: Tenant, *, rule: dict[str, Any] | None = None, **config: Any) -> World:
    """Make a whole world; `rule` replaces members of its one rule, the rest is the plane's config."""
    rule_id = make_rule(tenant, **(rule or {}))
    plane_id, artifacts = make_plane(spine, tenant, rule_ids=(rule_id,), **config)
    return World(tenant, plane_id, rule_id, start_run(tenant), artifacts)


def step(index: int, **members: Any) -> dict[str, Any]:
    """Return one step as a caller reports it."""
    plain = {"step_index": index, "skill_id": "s", "skill_name": f"step {index}", "status": "success"}
    return plain | {"params": {"n": index}, "outcome_data": {"ok": True}} | members


_WRITTEN = re.compile(r"\s*(?:UPDATE|DELETE FROM|INSERT INTO)\s+(\w+)")


def without_triggers(connection: sa.Connection, *statements: str, **parameters: Any) -> None:
    """Execute statements as a superuser would who drops the triggers; they are put back afterwards."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SET session_replication_role = replica"))
        for statement in statements:
            connection.execute(sa.text(statement), parameters)
        connection.execute(sa.text("SET session_replication_role = DEFAULT"))
        return
    # All the others would be made anew too, and every connection would read the whole schema again.
    tables = {match[1] for match in map(_WRITTEN.match, statements) if match}
    triggers = "SELECT name, sql, tbl_name FROM sqlite_master WHERE type = 'trigger'"
    found = connection.execute(sa.text(triggers)).all()
    kept = [(name, definition) for name, definition, table in found if table in tables]
    connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
    for name, _ in kept:
        connection.exec_driver_sql(f"DROP TRIGGER {name}")
    try:
        for statement in statements:
            connection.execute(sa.text(statement), parameters)
    finally:
        for _, definition in kept:
            connection.exec_driver_sql(definition)
