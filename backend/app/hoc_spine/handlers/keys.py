"""Spine L4: API keys, managed by their tenant and by the operator."""

from __future__ import annotations

from typing import Any

from app.domains.tenants.engines import keys as engine
from app.domains.tenants.engines import tenants
from app.domains.tenants.models import (
    ChangeKey,
    CreatedKey,
    CreateKey,
    CreateTenantKey,
    KeyPath,
    KeyView,
    ListKeys,
    RevokeTenantKey,
)
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import Operation
from app.kernel.pages import Page, decode_cursor, encode_cursor

EVENTS = {"freeze": "ApiKeyFrozen", "unfreeze": "ApiKeyUnfrozen", "revoke": "ApiKeyRevoked"}
REASONS = ("frozen_reason", "revoked_reason")


def create(ctx: OperationContext, payload: CreateKey) -> CreatedKey:
    """Make a key and show its secret once; refuse SCOPE_ESCALATION and KEY_QUOTA_EXCEEDED."""
    giver = frozenset({"*"}) if ctx.request.door == "worker" else ctx.request.scopes
    return _create(ctx, payload, tenant_id=ctx.tenant_id, plan=ctx.standing.plan, giver=giver)


def create_for_tenant(ctx: OperationContext, payload: CreateTenantKey) -> CreatedKey:
    """Make a key of any tenant, as the operator."""
    tenant = tenants.require(ctx.connection, tenant_id=payload.tenant_id)
    return _create(ctx, payload, tenant_id=payload.tenant_id, plan=tenant["plan"], giver=frozenset({"*"}))


def _create(
    ctx: OperationContext, payload: CreateKey, *, tenant_id: str, plan: str, giver: frozenset[str]
) -> CreatedKey:
    scopes = engine.decide_scopes(payload, giver=giver)
    secret = engine.new_secret()
    row = engine.build(
        payload, key_id=ctx.new_id("key"), secret=secret, scopes=scopes, created_by=ctx.actor.id, now=ctx.now
    ) | ctx.protect(dict.fromkeys(REASONS))
    engine.insert(ctx.connection, row, tenant_id=tenant_id, plan=plan, now=ctx.now)
    ctx.audit("ApiKeyCreated", "API_KEY", row["key_id"], after=engine.image(row))
    return CreatedKey(**engine.view(row).model_dump(), tenant_id=tenant_id, api_key=secret)


def _hide_secret(created: CreatedKey) -> CreatedKey:
    return created.model_copy(update={"api_key": None})


def get(ctx: OperationContext, payload: KeyPath) -> KeyView:
    """Return one key, without its secret."""
    return engine.view(engine.require(ctx.connection, tenant_id=ctx.tenant_id, key_id=payload.key_id))


def list_page(ctx: OperationContext, payload: ListKeys) -> Page[KeyView]:
    """Return keys newest first."""
    binding = f"{ctx.tenant_id}:keys.list:{payload.status}"
    after = decode_cursor(payload.cursor, binding)[0] if payload.cursor else None
    rows = engine.list_page(
        ctx.connection, tenant_id=ctx.tenant_id, status=payload.status, after=after, limit=payload.limit + 1
    )
    shown = rows[: payload.limit]
    more = encode_cursor(binding, [shown[-1]["key_id"]]) if len(rows) > payload.limit else None
    return Page(items=[engine.view(row) for row in shown], next_cursor=more)


def freeze(ctx: OperationContext, payload: ChangeKey) -> KeyView:
    """Freeze a key; a no-op when it is frozen, KEY_REVOKED when it is revoked."""
    return _change(ctx, payload, "freeze", tenant_id=ctx.tenant_id)


def unfreeze(ctx: OperationContext, payload: ChangeKey) -> KeyView:
    """Make a frozen key work again; a no-op when it works, KEY_REVOKED when it is revoked."""
    return _change(ctx, payload, "unfreeze", tenant_id=ctx.tenant_id)


def revoke(ctx: OperationContext, payload: ChangeKey) -> KeyView:
    """Revoke a key for good; a no-op when it is revoked."""
    return _change(ctx, payload, "revoke", tenant_id=ctx.tenant_id)


def revoke_for_tenant(ctx: OperationContext, payload: RevokeTenantKey) -> KeyView:
    """Revoke a key of any tenant, as the operator."""
    tenants.require(ctx.connection, tenant_id=payload.tenant_id)
    return _change(ctx, payload, "revoke", tenant_id=payload.tenant_id)


def _change(
    ctx: OperationContext, payload: ChangeKey, change: engine.KeyChange, *, tenant_id: str
) -> KeyView:
    row = engine.require(ctx.connection, tenant_id=tenant_id, key_id=payload.key_id, lock=True)
    ctx.require_version(row["version"])
    values = engine.plan_change(row, change, now=ctx.now, by=ctx.actor.id, reason=payload.reason)
    if values is None:
        return engine.view(row)
    reasons: dict[str, Any] = {name: values.get(name, row[name]) for name in REASONS}
    changed = engine.write_change(
        ctx.connection, row, values | ctx.protect(reasons), tenant_id=tenant_id, now=ctx.now
    )
    ctx.audit(
        EVENTS[change],
        "API_KEY",
        payload.key_id,
        before=engine.image(row),
        after=engine.image(changed),
        reason=payload.reason,
    )
    return engine.view(changed)


OPERATIONS = (
    Operation(
        "keys.create",
        "tenants",
        "write",
        "keys:admin",
        CreateKey,
        CreatedKey,
        create,
        creates=True,
        replay=_hide_secret,
    ),
    Operation("keys.list", "tenants", "read", "keys:read", ListKeys, Page[KeyView], list_page),
    Operation("keys.get", "tenants", "read", "keys:read", KeyPath, KeyView, get),
    Operation("keys.freeze", "tenants", "write", "keys:admin", ChangeKey, KeyView, freeze),
    Operation("keys.unfreeze", "tenants", "write", "keys:admin", ChangeKey, KeyView, unfreeze),
    Operation("keys.revoke", "tenants", "write", "keys:admin", ChangeKey, KeyView, revoke),
    Operation(
        "ops.keys.create",
        "tenants",
        "write",
        None,
        CreateTenantKey,
        CreatedKey,
        create_for_tenant,
        door="operator",
        creates=True,
        replay=_hide_secret,
    ),
    Operation(
        "ops.keys.revoke",
        "tenants",
        "write",
        None,
        RevokeTenantKey,
        KeyView,
        revoke_for_tenant,
        door="operator",
    ),
)
