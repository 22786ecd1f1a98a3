"""Spine: upkeep of the repository: check, collection of unused bytes, rebuild of the text index."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.db.connection import DriverConnection
from app.domains.logs.engines import legal_holds
from app.domains.logs.engines.legal_holds import ActiveHolds
from app.domains.repository.engines import garbage, indexing
from app.domains.repository.engines.garbage import Candidate
from app.domains.repository.engines.values import chunks
from app.domains.repository.models.upkeep import (
    CollectGarbage,
    GarbageCollected,
    RebuildSearch,
    RepositoryVerified,
    SearchRebuilt,
    Verify,
)
from app.domains.retrieval.engines import evidence
from app.hoc_spine.coordinators.legal_holds import contents_held, lock_holds
from app.hoc_spine.coordinators.repository_check import check_repository
from app.hoc_spine.coordinators.repository_writes import close_changes, open_changes, refuse_version
from app.hoc_spine.operation_context import OperationContext, PrepareContext
from app.hoc_spine.operation_registry import OperationsOf

ALL = "all"


@dataclass(frozen=True, slots=True)
class Candidates:
    """What may go, as a read unit of its own saw it, and the time that decided."""

    found: list[Candidate]
    deleted_before: datetime


def prepare_verify(ctx: PrepareContext, request: Verify) -> RepositoryVerified:
    """Check in one snapshot, before the write unit, which only notes what was found."""
    with ctx.read_unit(snapshot=True) as connection:
        return check_repository(
            connection,
            tenant_id=ctx.tenant_id,
            scope=None if request.scope == ALL else request.scope,
            read_content=request.read_content,
        )


def verify(ctx: OperationContext, request: Verify) -> RepositoryVerified:
    """Return what the check found; findings make one ledger entry."""
    report: RepositoryVerified = ctx.prepared
    if report.total:
        codes: dict[str, int] = {}
        for finding in report.findings:
            codes[finding.code] = codes.get(finding.code, 0) + 1
        after = {"clean": report.clean, "total": report.total, "codes": codes}
        ctx.audit("RepositoryVerified", "REPOSITORY", request.scope, after=after)
    return report


def prepare_gc(ctx: PrepareContext, request: CollectGarbage) -> Candidates:
    """List what may go, without a lock; the write unit looks again before it acts."""
    before = garbage.latest_deletion(
        ctx.now, request.grace_days, ctx.services.settings.repository_gc_grace_days
    )
    with ctx.read_unit(snapshot=True) as connection:
        found = garbage.list_candidates(
            connection,
            _kept(ctx.tenant_id, legal_holds.read_active(connection, tenant_id=ctx.tenant_id)),
            tenant_id=ctx.tenant_id,
            deleted_before=before,
        )
    return Candidates(found, before)


def collect(ctx: OperationContext, request: CollectGarbage) -> GarbageCollected:
    """Give up bytes that nothing live, cited or held needs, 500 for each record; a dry run only counts."""
    candidates: Candidates = ctx.prepared
    refuse_version(ctx)
    if request.dry_run or not candidates.found:
        size = sum(candidate.size for candidate in candidates.found)
        return _answer(candidates, 0, size if request.dry_run else 0, dry_run=request.dry_run)
    holds = lock_holds(ctx)
    change_set = open_changes(ctx, None)
    gone: list[Candidate] = []
    for part in chunks(candidates.found):
        gone += garbage.collect_batch(
            ctx.connection,
            change_set,
            _kept(ctx.tenant_id, holds),
            [candidate.digest for candidate in part],
            tenant_id=ctx.tenant_id,
            deleted_before=candidates.deleted_before,
            change_id=ctx.new_id("chg"),
        )
    if gone:
        close_changes(ctx, change_set, event="RepositoryCollected", entity_id=garbage.ENTITY_ID)
    return _answer(candidates, len(gone), sum(candidate.size for candidate in gone), dry_run=False)


def _answer(candidates: Candidates, collected: int, size: int, *, dry_run: bool) -> GarbageCollected:
    return GarbageCollected(
        candidates=len(candidates.found), collected=collected, bytes=size, dry_run=dry_run
    )


def _kept(tenant_id: str, holds: ActiveHolds) -> Any:
    """Return what tells the digests that stand in evidence, or that a legal hold keeps."""

    def look(connection: DriverConnection, digests: Sequence[str]) -> Collection[str]:
        cited = evidence.list_cited(connection, tenant_id=tenant_id, digests=digests)
        return {*cited, *contents_held(connection, holds, digests, tenant_id=tenant_id)}

    return look


def rebuild_search(ctx: OperationContext, request: RebuildSearch) -> SearchRebuilt:  # noqa: ARG001 - no members
    """Make the text index and the projection anew, under the tenant's write lock."""
    refuse_version(ctx)
    open_changes(ctx, None)
    return SearchRebuilt(artifacts=indexing.rebuild(ctx.connection, tenant_id=ctx.tenant_id))


declare = OperationsOf("repository")
OPERATIONS = (
    declare.write(
        "repository.verify", Verify, RepositoryVerified, verify, verb="admin", prepare=prepare_verify
    ),
    declare.write(
        "repository.gc", CollectGarbage, GarbageCollected, collect, verb="admin", prepare=prepare_gc
    ),
    declare.write(
        "repository.search.rebuild",
        RebuildSearch,
        SearchRebuilt,
        rebuild_search,
        verb="admin",
        no_audit="the index says nothing of its own: it is derived from revisions that have their entries",
    ),
)
