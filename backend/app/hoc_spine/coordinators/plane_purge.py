"""Spine: the purge of a plane: its content is gone in one transaction, and a certificate says what went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.domains.knowledge.engines import plane_collections, planes
from app.domains.knowledge.engines.gates import Approval
from app.domains.knowledge.errors import transition_conflict
from app.hoc_spine.coordinators.legal_holds import holds_on_plane, lock_holds
from app.hoc_spine.coordinators.plane_ingest import hold_repository
from app.hoc_spine.coordinators.plane_lifecycle import clean_reason
from app.hoc_spine.operation_context import OperationContext
from app.kernel.canonical_json import dumps
from app.kernel.clock import format_time
from app.kernel.errors import HocError
from app.kernel.hashing import text_hash

LEGAL_BASIS = "purge of the owning knowledge plane"
PlaneRow = Mapping[str, Any]


def purge(
    ctx: OperationContext, plane: PlaneRow, consent: Approval | None, *, reason: str | None
) -> tuple[dict[str, Any], dict[str, Any]] | HocError:
    """Destroy what a plane owns and serves; return the columns that say so, and the purge certificate.

    The collection it owned is redacted and tombstoned whole; bytes that others cite stay and are counted.
    TRANSITION_CONFLICT when another writer was first, or a legal hold was placed since the gate was judged.
    """
    keys: dict[str, Any] = {"tenant_id": ctx.tenant_id, "plane_id": plane["plane_id"]}
    held = planes.require_plane(ctx.connection, **keys, lock=True)
    if held["version"] != plane["version"]:
        return transition_conflict()
    lock_holds(ctx)
    if holds_on_plane(ctx.connection, plane["plane_id"], tenant_id=ctx.tenant_id):
        return transition_conflict()
    # Derived rows after the tenant's repository lock, as everywhere.
    hold_repository(ctx)
    owned, _shared = plane_collections.list_held(ctx.connection, **keys)
    planes.delete_content(ctx.connection, **keys)
    certificate = {
        "plane_id": plane["plane_id"],
        "tenant_id": ctx.tenant_id,
        "purged_at": format_time(ctx.now),
        "actor_id": ctx.actor.id,
        "approval_id": None if consent is None else consent.approval_id,
        "approved_by": None if consent is None else consent.approved_by,
        "archive_digest": plane["archive_digest"],
        "config_digest": plane["config_digest"],
        "audit_preserved": True,
        **_destroy(ctx, owned, reason),
    }
    return {"purge_certificate": text_hash(dumps(certificate))}, certificate


def _destroy(ctx: OperationContext, owned: str | None, reason: str | None) -> dict[str, Any]:
    members = ("documents", "revisions_redacted", "bytes_deleted", "bytes_shared")
    if owned is None:
        # The documents of a foreign source were never here.
        return {**dict.fromkeys(members, 0), "change_set_id": None}
    payload = {
        "collection_id": owned,
        "reason": (clean_reason(reason) or LEGAL_BASIS)[:1000],
        "legal_basis": LEGAL_BASIS,
    }
    done = ctx.dispatch("repository.collections.purge", payload)
    return {**{name: getattr(done, name) for name in members}, "change_set_id": done.change_set_id}
