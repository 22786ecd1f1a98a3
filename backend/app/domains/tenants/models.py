"""Tenants: vocabulary and views of tenants, API keys and switches."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from app.kernel.inputs import AwareTime, Identifier, Input, ListInput, Name, Output, OutputTime, Reason, Text


class Plan(StrEnum):
    FREE = "FREE"
    PRO = "PRO"
    ENTERPRISE = "ENTERPRISE"


class TenantStatus(StrEnum):
    ACTIVE = "ACTIVE"
    SUSPENDED = "SUSPENDED"
    CLOSED = "CLOSED"


class KeyStatus(StrEnum):
    ACTIVE = "ACTIVE"
    FROZEN = "FROZEN"
    REVOKED = "REVOKED"


class ActorType(StrEnum):
    HUMAN = "HUMAN"
    SYSTEM = "SYSTEM"
    AGENT = "AGENT"


@dataclass(frozen=True, slots=True)
class Quotas:
    """What a plan allows; counts, not times."""

    requests_per_minute: int
    concurrent_runs: int
    runs_per_day: int
    live_keys: int
    tokens_per_month: int


QUOTAS: dict[Plan, Quotas] = {
    Plan.FREE: Quotas(60, 5, 100, 5, 1_000_000),
    Plan.PRO: Quotas(1200, 20, 1000, 20, 10_000_000),
    Plan.ENTERPRISE: Quotas(6000, 100, 100_000, 100, 1_000_000_000),
}


@dataclass(frozen=True, slots=True)
class RunSlot:
    """A granted start: the run's number and the policy version it is judged under."""

    run_no: int
    policy_version: int


@dataclass(frozen=True, slots=True)
class Standing:
    """What the database says now about a tenant, its switches and, if asked, one key."""

    tenant_status: str
    plan: str
    allow_self_approval: bool
    tenant_frozen: bool
    policy_version: int
    live_epoch: int
    kill_engaged: bool
    degraded: bool
    key_status: str | None
    key_expires_at: datetime | None

    @property
    def halted(self) -> bool:
        """Whether the kill switch or the tenant's own switch stops governed work."""
        return self.kill_engaged or self.tenant_frozen


class Role(StrEnum):
    VIEWER = "VIEWER"
    MEMBER = "MEMBER"
    ADMIN = "ADMIN"
    OWNER = "OWNER"


AREAS = (
    "runs", "policies", "controls", "incidents", "lessons", "decisions", "signals", "logs", "knowledge",
    "retrieval", "repository", "tenant", "keys",
)  # fmt: skip
VERBS = ("read", "write", "admin")
_VIEWER = {f"{area}:read" for area in AREAS if area not in ("logs", "keys")}
_MEMBER = _VIEWER | {f"{area}:write" for area in AREAS} | {"logs:read"}
# A role is expanded into scopes when the key is made, and never read again.
ROLE_SCOPES: dict[Role, frozenset[str]] = {
    Role.VIEWER: frozenset(_VIEWER),
    Role.MEMBER: frozenset(_MEMBER),
    Role.ADMIN: frozenset(_MEMBER | {f"{area}:admin" for area in AREAS} | {"keys:read"}),
    Role.OWNER: frozenset({"*"}),
}


class TenantView(Output):
    tenant_id: str
    name: str
    slug: str
    plan: Plan
    status: TenantStatus
    status_reason: str | None
    allow_self_approval: bool
    frozen: bool
    frozen_at: OutputTime | None
    frozen_by: str | None
    frozen_reason: str | None
    created_at: OutputTime
    updated_at: OutputTime
    version: int


class TenantUsage(Output):
    """Use against the plan; counts of now, of the day and of the month (UTC)."""

    plan: Plan
    running_runs: int
    concurrent_runs: int
    runs_today: int
    runs_per_day: int
    live_keys: int
    max_live_keys: int
    requests_per_minute: int
    tokens_this_month: float
    tokens_per_month: int


class NoteUse(Input):
    """Note when keys of the tenant were last used."""

    used: dict[Identifier, AwareTime] = Field(max_length=1000)


class NotedUse(Output):
    """How many keys were noted."""

    keys: int


class KeyView(Output):
    key_id: str
    name: str
    prefix: str
    role: Role | None
    scopes: list[str]
    actor_type: ActorType
    actor_id: str
    rate_limit_rpm: int | None
    expires_at: OutputTime | None
    created_by: str
    status: KeyStatus
    frozen_at: OutputTime | None
    frozen_by: str | None
    frozen_reason: str | None
    revoked_at: OutputTime | None
    revoked_by: str | None
    revoked_reason: str | None
    last_used_at: OutputTime | None
    created_at: OutputTime
    updated_at: OutputTime
    version: int
    protected_state: Literal["INTACT", "ERASED"] = "INTACT"


class CreatedKey(KeyView):
    """A new key with its secret, which is shown this once; null when the request is replayed."""

    tenant_id: str
    api_key: str | None


class SwitchesView(Output):
    kill_engaged: bool
    kill_at: OutputTime | None
    kill_by: str | None
    kill_reason: str | None
    degraded: bool
    degraded_at: OutputTime | None
    degraded_by: str | None
    degraded_reason: str | None


class NoInput(Input):
    """An operation without input."""


class ReasonInput(Input):
    reason: Reason


class CreateTenant(Input):
    tenant_id: Identifier
    name: Name
    slug: Identifier | None = None
    plan: Plan = Plan.FREE
    allow_self_approval: bool = False


class TenantPath(Input):
    tenant_id: Identifier


class ListTenants(ListInput):
    status: TenantStatus | None = None


class UpdateTenant(Input):
    tenant_id: Identifier
    name: Name | None = None
    plan: Plan | None = None
    allow_self_approval: bool | None = None


class ChangeTenantStatus(Input):
    tenant_id: Identifier
    reason: Reason


class CreateKey(Input):
    name: Name
    role: Role | None = None
    scopes: list[Text] = Field(default_factory=list, max_length=100)
    actor_type: ActorType
    actor_id: Identifier
    expires_at: AwareTime | None = None
    rate_limit_rpm: int | None = Field(None, ge=1, le=1_000_000)


class CreateTenantKey(CreateKey):
    tenant_id: Identifier


class KeyPath(Input):
    key_id: Identifier


class ListKeys(ListInput):
    status: KeyStatus | None = None


class ChangeKey(Input):
    key_id: Identifier
    reason: Reason


class RevokeTenantKey(ChangeKey):
    tenant_id: Identifier


class ListDispatches(Input):
    operation: Identifier | None = None
    tenant_id: Text | None = None
    limit: int = Field(100, ge=1, le=1000)


class DispatchList(Output):
    items: list[dict[str, Any]]


class OperationMetrics(Output):
    items: list[dict[str, Any]]
