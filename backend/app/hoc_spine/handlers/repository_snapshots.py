"""Spine: snapshots of the repository: export, import, verify."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.domains.repository.engines import (
    changes,
    snapshot_comparison,
    snapshot_export,
    snapshot_reading,
    snapshot_writing,
)
from app.domains.repository.engines.changes import ChangeSet
from app.domains.repository.engines.snapshot_archive import Archive
from app.domains.repository.engines.snapshot_comparison import Plan
from app.domains.repository.engines.snapshot_import import Importer
from app.domains.repository.engines.snapshot_reading import Verified
from app.domains.repository.engines.snapshot_writing import SnapshotWriter
from app.domains.repository.errors import snapshot_conflict
from app.domains.repository.models.snapshots import (
    ExportSnapshot,
    ImportSnapshot,
    SnapshotExported,
    SnapshotFault,
    SnapshotImported,
    SnapshotVerified,
    VerifySnapshot,
)
from app.hoc_spine.coordinators.repository_writes import (
    FACT,
    open_changes,
    refuse_version,
    sealed_among,
)
from app.hoc_spine.operation_context import OperationContext, PrepareContext
from app.hoc_spine.operation_registry import OperationsOf
from app.kernel.errors import HocError
from app.kernel.files import LocalFile

INVALID = "SNAPSHOT_INVALID"


@dataclass(frozen=True, slots=True)
class Spooled:
    """An export on disk, before anybody was told of it."""

    file: LocalFile
    manifest: Mapping[str, Any]
    omitted: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Received:
    """A snapshot that was read from end to end, or why it is not valid."""

    archive: Archive | None
    verified: Verified | None
    fault: SnapshotFault | None = None


def prepare_export(ctx: PrepareContext, request: ExportSnapshot) -> Spooled:
    """Read one moment and spool it; no transaction is open while anybody takes it away."""
    refuse_version(ctx)
    settings = ctx.services.settings
    folder = Path(tempfile.mkdtemp(prefix="hoc-export-"))
    try:
        writer = SnapshotWriter(
            folder,
            max_bytes=settings.repository_max_snapshot_bytes,
            max_records=settings.repository_max_snapshot_records,
        )
        with writer, ctx.read_unit(snapshot=True) as connection:
            manifest, omitted = snapshot_export.export(
                connection, writer, tenant_id=ctx.tenant_id, collection_ids=request.collections
            )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Spooled(LocalFile.spooled(writer.path, folder=folder), manifest, omitted)


def export(ctx: OperationContext, _request: ExportSnapshot) -> SnapshotExported:
    """Record an export, and hand over what it spooled."""
    spooled: Spooled = ctx.prepared
    said = snapshot_reading.summary(spooled.manifest)
    ctx.audit(
        "RepositoryExported",
        "REPOSITORY",
        said.snapshot_digest,
        after=said.model_dump(mode="json", include={"snapshot_digest", "state_digest", "scope", "counts"}),
    )
    return SnapshotExported(
        **dict(said),
        omitted=dict(spooled.omitted),
        content=spooled.file,
        content_digest=f"sha256:{snapshot_writing.file_digest(spooled.file.path)}",
    )


def verify(ctx: OperationContext, request: VerifySnapshot) -> SnapshotVerified:
    """Read a snapshot from end to end; what is wrong with it is an answer and no error."""
    try:
        with _open(ctx, request) as archive:
            verified = snapshot_reading.verify(archive, max_records=_max_records(ctx))
    except HocError as error:
        if error.code != INVALID:
            raise
        return SnapshotVerified(valid=False, summary=None, errors=[snapshot_reading.fault_of(error)])
    return SnapshotVerified(valid=True, summary=snapshot_reading.summary(verified.manifest), errors=[])


def prepare_import(ctx: PrepareContext, request: ImportSnapshot) -> Received:
    """Verify everything before the transaction; a dry run reports what it finds."""
    refuse_version(ctx)
    try:
        archive = _open(ctx, request)
        try:
            return Received(archive, snapshot_reading.verify(archive, max_records=_max_records(ctx)))
        except BaseException:
            archive.close()
            raise
    except HocError as error:
        if error.code != INVALID or not request.dry_run:
            raise
        return Received(None, None, snapshot_reading.fault_of(error))


def _open(ctx: PrepareContext | OperationContext, request: VerifySnapshot) -> Archive:
    limit = ctx.services.settings.repository_max_snapshot_bytes
    return Archive(request.content.path, max_bytes=limit)


def _max_records(ctx: PrepareContext | OperationContext) -> int:
    return ctx.services.settings.repository_max_snapshot_records


def import_(ctx: OperationContext, request: ImportSnapshot) -> SnapshotImported:
    """Bring a snapshot in, all or nothing; refuse SNAPSHOT_CONFLICT."""
    received: Received = ctx.prepared
    archive, verified = received.archive, received.verified
    if archive is None or verified is None:
        return _report(request, None, None, fault=received.fault)
    with archive:
        change_set = None if request.dry_run else open_changes(ctx, None)
        plan = _plan(ctx, request, archive, verified, change_set)
        report = _report(request, verified, plan)
        if change_set is None:
            return report
        if plan.conflicts_total:
            raise snapshot_conflict(report.model_dump(mode="json"))
        importer = _importer(ctx, archive, verified, plan, change_set)
        importer.park()
        importer.run()
    first, last = None, None
    if importer.records:
        first, last = change_set.last_seq - importer.records + 1, change_set.last_seq
        _add_fact(ctx, importer, first, last)
    after = report.model_dump(
        mode="json", include={"snapshot_digest", "mode", "policy", "created", "appended"}
    )
    feed = {"first_seq": first, "last_seq": last, "change_hash": change_set.head_hash}
    ctx.audit("RepositoryImported", "REPOSITORY", verified.digest, after=after | feed)
    return report.model_copy(update={"first_seq": first, "last_seq": last})


def _plan(
    ctx: OperationContext,
    request: ImportSnapshot,
    archive: Archive,
    verified: Verified,
    change_set: ChangeSet | None,
) -> Plan:
    if change_set is None:
        head = snapshot_export.read_head(ctx.connection, tenant_id=ctx.tenant_id)
    else:
        head = {"seq": change_set.last_seq, "hash": change_set.head_hash}
    plan = snapshot_comparison.compare(
        ctx.connection,
        archive,
        verified.closure,
        tenant_id=ctx.tenant_id,
        policy=request.policy,
        counts=verified.manifest["counts"],
        head=head,
    )
    for collection_id in sorted(sealed_among(ctx, sorted(plan.touched))):
        plan.conflict("collection", (collection_id,), "COLLECTION_SEALED")
    return plan


def _importer(
    ctx: OperationContext, archive: Archive, verified: Verified, plan: Plan, change_set: ChangeSet
) -> Importer:
    def add_fact(type_name: str, row: Mapping[str, Any]) -> str:
        # An import is no act of a run, not even of the one that it is made under.
        fact_id = ctx.facts.add(type_name, row, live_only=False)
        ctx.facts.queued[-1].run_id = None
        return fact_id

    return Importer(
        connection=ctx.connection,
        archive=archive,
        closure=verified.closure,
        plan=plan,
        change_set=change_set,
        tenant_id=ctx.tenant_id,
        snapshot_digest=verified.digest,
        source_head=verified.manifest["change_head"],
        add_fact=add_fact,
        new_id=ctx.new_id,
    )


def _add_fact(ctx: OperationContext, importer: Importer, first: int, last: int) -> None:
    merged = importer.plan.mode == "merge"
    origin = importer.change_set.origin
    body = {
        "seq_from": first,
        "seq_to": last,
        "change_head_hash": importer.change_set.head_hash,
        "revision_count": importer.revisions,
        "change_set_id": origin.change_set_id if merged else None,
        "actor_id": origin.actor_id if merged else None,
        **{
            name: importer.only.get(name)
            for name in ("entity_type", "entity_id", "action", "new_version", "new_revision_digest")
        },
    }
    ctx.facts.add(FACT, {}, key=[last], body=body, join=changes.merge_bodies)


def _report(
    request: ImportSnapshot,
    verified: Verified | None,
    plan: Plan | None,
    *,
    fault: SnapshotFault | None = None,
) -> SnapshotImported:
    counts = {name: dict(getattr(plan, name, {})) for name in ("created", "identical", "behind", "appended")}
    return SnapshotImported(
        mode="merge" if plan is None else plan.mode,
        policy=request.policy,
        dry_run=request.dry_run,
        snapshot_digest=None if verified is None else verified.digest,
        **counts,
        conflicts=[] if plan is None else plan.conflicts,
        conflicts_total=0 if plan is None else plan.conflicts_total,
        errors=[] if fault is None else [fault],
        first_seq=None,
        last_seq=None,
    )


declare = OperationsOf("repository")
OPERATIONS = (
    declare.write(
        "repository.snapshots.export",
        ExportSnapshot,
        SnapshotExported,
        export,
        verb="admin",
        prepare=prepare_export,
    ),
    declare.write(
        "repository.snapshots.import",
        ImportSnapshot,
        SnapshotImported,
        import_,
        verb="admin",
        prepare=prepare_import,
    ),
    declare.read("repository.snapshots.verify", VerifySnapshot, SnapshotVerified, verify),
)
