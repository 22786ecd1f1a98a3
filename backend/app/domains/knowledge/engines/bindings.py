"""L5 policy bindings of planes: who may bind what when, and the bindings that snapshots are built from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.db.connection import DriverConnection
from app.domains.knowledge.drivers import plane_bindings as driver
from app.domains.knowledge.errors import conflict, policy_not_bindable
from app.domains.knowledge.models.vocabulary import (
    KnowledgePlaneLifecycleState,
)
from app.kernel.errors import HocError

State = KnowledgePlaneLifecycleState
MAX_BINDINGS = 64
UNBIND_STATES = frozenset({State.PENDING_ACTIVATE, State.ACTIVE, State.PENDING_DEACTIVATE})
_ACTIVE = "ACTIVE"


@dataclass(frozen=True, slots=True)
class RuleFacts:
    """What a binding must know of a policy rule."""

    rule_id: str
    kind: str
    status: str
    effect: str | None

    @property
    def allows(self) -> bool:
        """Tell whether the rule can allow an access now."""
        return self.kind == "ACCESS" and self.status == _ACTIVE and self.effect == "ALLOW"


def check_binding_open(state: State) -> HocError | None:
    """Return BINDING_NOT_ALLOWED outside PENDING_ACTIVATE and ACTIVE."""
    if state.allows_policy_binding:
        return None
    return conflict("BINDING_NOT_ALLOWED", f"No policy is bound in {state.name}.")


def check_unbinding_open(state: State) -> HocError | None:
    """Return BINDING_NOT_ALLOWED outside PENDING_ACTIVATE, ACTIVE and PENDING_DEACTIVATE."""
    if state in UNBIND_STATES:
        return None
    return conflict("BINDING_NOT_ALLOWED", f"No policy is unbound in {state.name}.")


def check_bindable(rule: RuleFacts, *, bound: int) -> HocError | None:
    """Return why the rule cannot be bound: POLICY_NOT_BINDABLE, POLICY_NOT_ACTIVE or TOO_MANY_BINDINGS."""
    if rule.kind != "ACCESS":
        return policy_not_bindable()
    if rule.status != _ACTIVE:
        return conflict("POLICY_NOT_ACTIVE", "Only an ACTIVE rule is bound.")
    if bound >= MAX_BINDINGS:
        return conflict(
            "TOO_MANY_BINDINGS", f"A plane has at most {MAX_BINDINGS} bindings.", limit=MAX_BINDINGS
        )
    return None


def check_last_binding(state: State, rule_id: str, bound: Iterable[RuleFacts]) -> HocError | None:
    """Return LAST_BINDING when an ACTIVE plane would lose its last rule that allows (LIFECYCLE-004)."""
    allowing = {rule.rule_id for rule in bound if rule.allows}
    if state is State.ACTIVE and allowing == {rule_id}:
        return conflict("LAST_BINDING", "An ACTIVE plane keeps its last rule that allows access.")
    return None


def count_allowing(rules: Iterable[RuleFacts]) -> int:
    """Return how many rules can allow an access now."""
    return sum(rule.allows for rule in rules)


def find_binding(
    connection: DriverConnection, *, tenant_id: str, plane_id: str, policy_id: str
) -> Mapping[str, Any] | None:
    """Return the live binding of a policy to a plane, or None."""
    return driver.get_live_binding(connection, tenant_id=tenant_id, plane_id=plane_id, policy_id=policy_id)


def insert_binding(connection: DriverConnection, *, tenant_id: str, row: Mapping[str, Any]) -> bool:
    """Insert a binding; return False when the policy is bound already."""
    return driver.insert_binding(connection, tenant_id=tenant_id, row=row)


def end_binding(
    connection: DriverConnection,
    *,
    tenant_id: str,
    binding: Mapping[str, Any],
    unbound_by: str,
    unbound_at: datetime,
    fact_id: str,
) -> bool:
    """End a live binding; return False when it has ended."""
    return driver.set_unbound(
        connection,
        tenant_id=tenant_id,
        binding_id=binding["binding_id"],
        version=binding["version"],
        unbound_by=unbound_by,
        unbound_at=unbound_at,
        fact_id=fact_id,
    )


def list_policy_ids(connection: DriverConnection, *, tenant_id: str, plane_id: str) -> list[str]:
    """Return the ids of the policies bound to a plane, sorted."""
    return sorted(driver.list_plane_policy_ids(connection, tenant_id=tenant_id, plane_id=plane_id))


def list_live(connection: DriverConnection, *, tenant_id: str) -> list[tuple[str, str]]:
    """Return (plane_id, rule_id) of the live bindings of planes that can still serve, sorted."""
    return sorted(driver.list_live_bindings(connection, tenant_id=tenant_id))


def list_bound_planes(
    connection: DriverConnection, *, tenant_id: str, rule_id: str
) -> list[tuple[str, State]]:
    """Return the planes that a rule is bound to, with their states: what hinders its retirement.

    A binding of a FAILED plane is a record: the plane serves nothing and never will.
    """
    rows = driver.list_policy_planes(connection, tenant_id=tenant_id, policy_id=rule_id)
    return [(plane_id, State(value)) for plane_id, value in sorted(rows)]
