"""Test tenants: made through the operator's operations, as in production."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from app.hoc_spine.operation_registry import OperationResult
from app.hoc_spine.spine import Spine
from app.kernel.context import Actor, RequestContext

SYSTEM_TENANT = "_system"


def operator_context(**members: Any) -> RequestContext:
    """Return the context of an operator's request."""
    members.setdefault("request_id", f"req-{uuid4().hex}")
    return RequestContext(
        tenant_id=SYSTEM_TENANT, actor=Actor("HUMAN", "operator"), door="operator", **members
    )


@dataclass(slots=True)
class Tenant:
    """One tenant of one test, and the two ways in: dispatch in process, headers for HTTP."""

    spine: Spine
    tenant_id: str
    _headers: dict[tuple[Any, ...], dict[str, str]] = field(default_factory=dict)

    def context(
        self,
        *,
        scopes: Iterable[str] = ("*",),
        actor_type: str = "HUMAN",
        actor_id: str = "user-1",
        **members: Any,
    ) -> RequestContext:
        """Return a request context of this tenant; further members go to it as they are."""
        members.setdefault("request_id", f"req-{uuid4().hex}")
        return RequestContext(
            tenant_id=self.tenant_id, actor=Actor(actor_type, actor_id), scopes=frozenset(scopes), **members
        )

    def dispatch(self, name: str, payload: Any = None, **context: Any) -> OperationResult:
        """Dispatch an operation as this tenant and return its result, refused or not."""
        return self.spine.dispatch(name, self.context(**context), {} if payload is None else payload)

    def call(self, name: str, payload: Any = None, **context: Any) -> Any:
        """Dispatch an operation and return its data; a refusal raises."""
        return self.dispatch(name, payload, **context).unwrap()

    def headers(
        self,
        *,
        scopes: Iterable[str] = ("*",),
        actor_type: str = "HUMAN",
        actor_id: str = "user-1",
        **more: str,
    ) -> dict[str, str]:
        """Return the headers of a real API key with these scopes; `x_run_id="r"` adds `X-Run-Id: r`."""
        key = (tuple(sorted(scopes)), actor_type, actor_id)
        if key not in self._headers:
            wanted = {
                "name": "A key of a test",
                "scopes": key[0],
                "actor_type": actor_type,
                "actor_id": actor_id,
            }
            made = self._operate("ops.keys.create", wanted)
            self._headers[key] = {"Authorization": f"Bearer {made.api_key}"}
        return self._headers[key] | {_header(name): value for name, value in more.items()}

    def suspend(self, reason: str = "suspended by a test") -> None:
        """Suspend the tenant through the operator's operation."""
        self._operate("ops.tenants.suspend", {"reason": reason})

    def _operate(self, operation: str, members: Mapping[str, Any]) -> Any:
        payload = {"tenant_id": self.tenant_id, **members}
        return self.spine.dispatch(operation, operator_context(), payload).unwrap()


def make_tenant(spine: Spine, *, plan: str = "ENTERPRISE", **members: Any) -> Tenant:
    """Create a tenant with an id nobody else has; ENTERPRISE, so that no quota stands in a test's way."""
    tenant_id = f"t-{uuid4().hex}"
    payload = {"tenant_id": tenant_id, "name": "Test tenant", "slug": tenant_id, "plan": plan, **members}
    spine.dispatch("ops.tenants.create", operator_context(), payload).unwrap()
    return Tenant(spine, tenant_id)


def _header(name: str) -> str:
    return "-".join(part.capitalize() for part in name.split("_"))
