"""Spine: does a legal hold cover what is about to be destroyed, whichever slice it belongs to?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from app.db.connection import DriverConnection
from app.domains.activity.engines import subjects
from app.domains.knowledge.engines import plane_collections
from app.domains.logs.engines import legal_holds
from app.domains.logs.engines.legal_holds import ActiveHolds
from app.domains.logs.errors import legal_hold
from app.domains.logs.models.erasure import HoldScope
from app.domains.repository.engines import origins
from app.domains.repository.engines.origins import Origin
from app.domains.tenants.engines import state
from app.hoc_spine.operation_context import OperationContext


def lock_holds(ctx: OperationContext) -> ActiveHolds:
    """Return the holds in force, and let no other be placed before this transaction ends.

    Placing one takes the same lock: whoever is second sees what the first did. It comes after all rows but
    the repository's own state.
    """
    state.hold(ctx.connection, tenant_id=ctx.tenant_id)
    return legal_holds.read_active(ctx.connection, tenant_id=ctx.tenant_id)


def refuse_held(hold_ids: Sequence[str]) -> None:
    """Refuse LEGAL_HOLD when there is one."""
    if hold_ids:
        raise legal_hold(hold_ids)


def holds_on_runs(
    connection: DriverConnection, holds: ActiveHolds, run_ids: Collection[str], *, tenant_id: str
) -> list[str]:
    """Return the holds that cover one of the runs, itself or by whom it is about."""
    if not holds:
        return []
    about = {}
    if holds.names(HoldScope.SUBJECT):
        about = subjects.subjects_of(connection, tenant_id=tenant_id, run_ids=run_ids)
    return holds.covering(runs=run_ids, subjects=set(about.values()))


def holds_on_subject(
    connection: DriverConnection, holds: ActiveHolds, subject_ref: str, *, tenant_id: str
) -> list[str]:
    """Return the holds that cover a subject, or one of the runs about it."""
    named = holds.names(HoldScope.RUN)
    about = subjects.subjects_of(connection, tenant_id=tenant_id, run_ids=named)
    runs = [run_id for run_id, subject in about.items() if subject == subject_ref]
    return holds.covering(runs=runs, subjects=[subject_ref])


def holds_on_origins(
    connection: DriverConnection, holds: ActiveHolds, found: Collection[Origin], *, tenant_id: str
) -> list[str]:
    """Return the holds that cover revisions: their runs, or a plane that owns or owned their collection."""
    if not holds:
        return []
    cover = _cover(connection, holds, found, tenant_id=tenant_id)
    every = [holds.covering(), *(cover(place) for place in found)]
    return list(dict.fromkeys(hold_id for group in every for hold_id in group))


def _cover(
    connection: DriverConnection, holds: ActiveHolds, found: Collection[Origin], *, tenant_id: str
) -> Callable[[Origin], list[str]]:
    """Return what tells the holds on one of these origins."""
    collections = sorted({name for place in found for name in place.collections})
    owners = plane_collections.owners_of(connection, tenant_id=tenant_id, collection_ids=collections)
    run_ids = {place.run_id for place in found if place.run_id is not None}
    about = subjects.subjects_of(connection, tenant_id=tenant_id, run_ids=run_ids)

    def covering(place: Origin) -> list[str]:
        planes = {plane for name in place.collections for plane in owners.get(name, ())}
        if place.run_id is None:
            return holds.covering(planes=planes)
        subject = about.get(place.run_id)
        return holds.covering(
            runs=[place.run_id], subjects=[] if subject is None else [subject], planes=planes
        )

    return covering


def holds_on_plane(connection: DriverConnection, plane_id: str, *, tenant_id: str) -> list[str]:
    """Return the holds that cover a plane, or what lies in the collection that it owns."""
    holds = legal_holds.read_active(connection, tenant_id=tenant_id)
    if not holds:
        return []
    found = holds.covering(planes=[plane_id])
    owned, _shared = plane_collections.list_held(connection, tenant_id=tenant_id, plane_id=plane_id)
    if owned is not None:
        inside = origins.origins_of_collection(connection, tenant_id=tenant_id, collection_id=owned)
        found += holds_on_origins(connection, holds, inside, tenant_id=tenant_id)
    return list(dict.fromkeys(found))


def contents_held(
    connection: DriverConnection, holds: ActiveHolds, digests: Sequence[str], *, tenant_id: str
) -> set[str]:
    """Return those of the contents that a hold keeps."""
    if holds.covering():
        return set(digests)
    if not holds or not digests:
        return set()
    found = origins.origins_of_contents(connection, tenant_id=tenant_id, digests=digests)
    cover = _cover(connection, holds, set().union(*found.values()), tenant_id=tenant_id)
    return {digest for digest, places in found.items() if any(cover(place) for place in places)}
