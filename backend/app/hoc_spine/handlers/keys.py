"""Spine L4: API keys, managed by their tenant and by the operator."""

from __future__ import annotations

from collections.abc import Mapping
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
    NotedUse,
    NoteUse,
    RevokeTenantKey,
)
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import Operation, OperationsOf
from app.kernel.pages import Page, page_of, read_cursor
from app.kernel.redaction import redact_text

EVENTS = {"freeze": "ApiKeyFrozen", "unfreeze": "ApiKeyUnfrozen", "revoke": "ApiKeyRevoked"}
REASONS = ("frozen_reason", "revoked_reason")


def create(ctx: OperationContext, payload: CreateKey) -> CreatedKey:
    """Make a key and show its secret once; refuse SCOPE_ESCALATION and KEY_QUOTA_EXCEEDED."""
    giver = frozenset({"*"}) if ctx.request.door == "worker" else ctx.request.scopes
    return _create(ctx, payload, tenant_id=ctx.tenant_id, plan=ctx.standing.plan, giver=giver)


def create_for_tenant(ctx: OperationContext, payload: CreateTenantKey) -> CreatedKey:
    """Make a key of any tenant but a closed one, as the operator."""
    tenant = tenants.require_open(ctx.connection, tenant_id=payload.tenant_id)
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
    ctx.audit("ApiKeyCreated", "API_KEY", row["key_id"], after=_image(ctx, row, tenant_id=tenant_id))
    return CreatedKey(**engine.view(row).model_dump(), tenant_id=tenant_id, api_key=secret)


def _hide_secret(created: CreatedKey) -> CreatedKey:
    return created.model_copy(update={"api_key": None})


def get(ctx: OperationContext, payload: KeyPath) -> KeyView:
    """Return one key, without its secret."""
    return engine.view(engine.require(ctx.connection, tenant_id=ctx.tenant_id, key_id=payload.key_id))


def list_page(ctx: OperationContext, payload: ListKeys) -> Page[KeyView]:
    """Return keys newest first."""
    binding = f"{ctx.tenant_id}:keys.list:{payload.status}"
    (after,) = read_cursor(payload.cursor, binding, str) or (None,)
    rows = engine.list_page(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        status=payload.status,
        after=after,
        limit=payload.limit + 1,
    )
    return page_of(
        rows, limit=payload.limit, binding=binding, key=lambda row: (row["key_id"],), view=engine.view
    )


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
    reason = redact_text(payload.reason)[0]
    values = engine.plan_change(row, change, now=ctx.now, by=ctx.actor.id, reason=reason)
    if values is None:
        return engine.view(row)
    reasons: dict[str, Any] = {name: values.get(name, row[name]) for name in REASONS}
    changed = engine.write_change(
        ctx.connection, row, values | ctx.protect(reasons), tenant_id=tenant_id, now=ctx.now
    )
    before, after = (_image(ctx, state, tenant_id=tenant_id) for state in (row, changed))
    ctx.audit(EVENTS[change], "API_KEY", payload.key_id, before=before, after=after, reason=reason)
    return engine.view(changed)


def note_use(ctx: OperationContext, payload: NoteUse) -> NotedUse:
    """Note when keys were last used, best effort."""
    engine.note_use(ctx.connection, tenant_id=ctx.tenant_id, used=payload.used)
    return NotedUse(keys=len(payload.used))


def _image(ctx: OperationContext, row: Mapping[str, Any], *, tenant_id: str) -> dict[str, Any]:
    # The operator's entries stand in the system's own ledger, so they say whose key it is.
    whose = {} if tenant_id == ctx.tenant_id else {"tenant_id": tenant_id}
    return engine.image(row) | whose


declare = OperationsOf("tenants", "keys")
OPERATIONS = (
    declare.write(
        "keys.create", CreateKey, CreatedKey, create, verb="admin", creates=True, replay=_hide_secret
    ),
    declare.read("keys.list", ListKeys, Page[KeyView], list_page),
    declare.read("keys.get", KeyPath, KeyView, get),
    declare.write("keys.freeze", ChangeKey, KeyView, freeze, verb="admin"),
    declare.write("keys.unfreeze", ChangeKey, KeyView, unfreeze, verb="admin"),
    declare.write("keys.revoke", ChangeKey, KeyView, revoke, verb="admin"),
    Operation(
        "keys.note_use",
        "tenants",
        "write",
        None,
        NoteUse,
        NotedUse,
        note_use,
        door="worker",
        no_audit="when a key was used is a measure, no fact",
    ),
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
