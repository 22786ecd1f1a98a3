"""Test workflow runs: short ways to the operations that their tests use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from tests.factories.tenants import Tenant


def call(tenant: Tenant, operation: str, payload: dict[str, Any] | None = None, **context: Any) -> Any:
    """Dispatch an operation of the repository and return its data."""
    return tenant.call(f"repository.{operation}", payload or {}, **context)


def refusal(tenant: Tenant, operation: str, payload: dict[str, Any], **context: Any) -> str | None:
    """Return the code with which an operation of the repository refuses."""
    return tenant.dispatch(f"repository.{operation}", payload, **context).error_code


def create(tenant: Tenant, **members: Any) -> Any:
    """Create a workflow run."""
    return call(tenant, "runs.create", {"operation": "corpus.summarise", **members})


def move(tenant: Tenant, run_id: str, status: str, **members: Any) -> Any:
    """Change the status of a workflow run."""
    return call(tenant, "runs.transition", {"run_id": run_id, "status": status, **members})


def running(tenant: Tenant, **members: Any) -> str:
    """Return a workflow run that runs."""
    run_id = str(create(tenant, **members).run_id)
    move(tenant, run_id, "running")
    return run_id


def artifact(tenant: Tenant, name: str = "note", *, run_id: str | None = None, **members: Any) -> Any:
    """Create an artifact, on behalf of a governed run if one is named."""
    payload = {"name": name, "artifact_type": "note", "content": name, **members}
    return call(tenant, "artifacts.create", payload, **({"run_id": run_id} if run_id else {}))


def changes(tenant: Tenant) -> list[Any]:
    """Return the whole change feed."""
    return list(call(tenant, "changes.list", {"limit": 500}).items)


def rows_of(
    connection: sa.Connection, table: str, tenant: Tenant, **columns: Any
) -> Sequence[dict[str, Any]]:
    """Return the tenant's rows of a table whose columns have these values."""
    found = sa.table(table, sa.column("tenant_id"), *(sa.column(name) for name in columns))
    statement = sa.select(sa.text("*")).select_from(found).where(found.c.tenant_id == tenant.tenant_id)
    for name, value in columns.items():
        statement = statement.where(found.c[name] == value)
    return [dict(row) for row in connection.execute(statement).mappings()]
