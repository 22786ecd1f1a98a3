"""L2: one spine for one command, and what commands do with it."""

from collections.abc import Mapping
from typing import Any, Self

import orjson
import typer
from pydantic import BaseModel, TypeAdapter

from app.bootstrap import build_spine
from app.cli.database import read_settings, require_schema
from app.cli.output import fail, show, show_list
from app.hoc_spine.operation_registry import OperationResult
from app.hoc_spine.spine import Spine
from app.kernel.context import Actor, RequestContext
from app.kernel.errors import HocError
from app.kernel.ids import Uuid7Ids

Payload = Mapping[str, Any]
Given = Payload | BaseModel
OPERATOR = Actor("HUMAN", "operator")


class Session:
    """One spine for one command; a refusal ends the program with exit code 1."""

    def __init__(self) -> None:
        settings = read_settings()
        require_schema(settings)
        self.spine: Spine = build_spine(settings, verify_schema=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.spine.close()

    def dispatch(self, name: str, payload: Given, *, tenant_id: str | None = None) -> dict[str, Any]:
        """Dispatch as the operator, or inside a tenant as the trusted host, and return JSON members."""
        data = self.call(name, payload, tenant_id=tenant_id)
        return dict(orjson.loads(TypeAdapter(self.spine.registry.get(name).output).dump_json(data)))

    def attempt(self, name: str, payload: Given, *, tenant_id: str | None = None) -> OperationResult:
        """Dispatch and return the result, refused or not."""
        context = RequestContext(
            tenant_id=tenant_id or "_system",
            actor=OPERATOR,
            request_id=Uuid7Ids().new("req"),
            door="worker" if tenant_id else "operator",
        )
        return self.spine.dispatch(name, context, payload)

    def call(self, name: str, payload: Given, *, tenant_id: str | None = None) -> Any:
        """Dispatch and return the answer as it is; a refusal ends the program."""
        return self.unwrap(self.attempt(name, payload, tenant_id=tenant_id))

    def unwrap(self, result: OperationResult) -> Any:
        """Return the answer of an attempt; a refusal ends the program."""
        try:
            return result.unwrap()
        except HocError as error:
            for item in error.errors:
                typer.echo(f"  {item.get('field', '')}: {item.get('detail', '')}", err=True)
            fail(f"{error.code}: {error.detail}")


def all_tenants(session: Session) -> list[str]:
    """Return the id of every tenant."""
    found: list[str] = []
    cursor: str | None = None
    while True:
        page = session.call("ops.tenants.list", {"limit": 500, "cursor": cursor})
        found += [tenant.tenant_id for tenant in page.items]
        cursor = page.next_cursor
        if cursor is None:
            return found


def operate(name: str, payload: Payload, *, as_json: bool, tenant_id: str | None = None) -> None:
    """Dispatch one operation and show its answer."""
    with Session() as session:
        show(session.dispatch(name, payload, tenant_id=tenant_id), as_json=as_json)


def list_all(
    name: str,
    payload: Payload,
    columns: tuple[str, ...],
    *,
    as_json: bool,
    tenant_id: str | None = None,
) -> None:
    """Read all pages of a list and show them."""
    items: list[dict[str, Any]] = []
    with Session() as session:
        cursor: str | None = None
        while True:
            page = session.dispatch(name, {**payload, "limit": 500, "cursor": cursor}, tenant_id=tenant_id)
            items.extend(page["items"])
            cursor = page["next_cursor"]
            if cursor is None:
                break
    show_list(items, columns, as_json=as_json)
