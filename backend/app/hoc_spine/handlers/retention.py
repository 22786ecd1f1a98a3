"""Spine L4: for how long evidence is kept, its archives, and values that are over age."""

from __future__ import annotations

from pathlib import Path

from app.domains.logs.engines import archives
from app.domains.logs.models.archives import (
    Archive,
    ArchiveView,
    ArchiveWritten,
    ErasedByAge,
    NoRetentionInput,
    RetentionView,
    SetRetention,
    WriteArchive,
)
from app.domains.logs.models.tree import LogNoted
from app.hoc_spine.coordinators import retention_archive
from app.hoc_spine.coordinators.log_files import LogFiles
from app.hoc_spine.coordinators.retention_plan import make_plan
from app.hoc_spine.coordinators.retention_values import LAST_RUN, erase_over_age
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import Operation, OperationsOf
from app.kernel.inputs import ListInput
from app.kernel.pages import Page, newest_first

LIST = "log.archives.list"


def set_retention(ctx: OperationContext, wish: SetRetention) -> RetentionView:
    """Keep evidence, or the values in it, for so many days; refuse RETENTION_BELOW_FLOOR."""
    before, after = archives.set_retention(ctx.connection, wish, tenant_id=ctx.tenant_id, now=ctx.now)
    ctx.audit(
        "RetentionChanged",
        "RETENTION",
        ctx.tenant_id,
        before=None if before is None else archives.retention_image(before),
        after=archives.retention_image(after),
        reason=wish.reason,
    )
    return archives.retention_view(after)


def get_retention(ctx: OperationContext, _payload: NoRetentionInput) -> RetentionView:
    """Return for how long evidence and the values in it are kept."""
    return archives.get_retention(ctx.connection, tenant_id=ctx.tenant_id)


def write_archive(ctx: OperationContext, wish: WriteArchive) -> ArchiveWritten:
    """Write what a purge would take now into a file that is not published yet.

    Refuse NOTHING_TO_ARCHIVE, NO_SIGNING_KEY, CHECKPOINT_PENDING, INTEGRITY_FAILED, STORAGE_FAILED.
    """
    files: LogFiles = ctx.services.caches["log_files"]
    request = retention_archive.Request(
        tenant_id=ctx.tenant_id,
        archive_id=ctx.new_id("arc"),
        plan=make_plan(ctx.connection, tenant_id=ctx.tenant_id, now=ctx.now),
        folder=Path(wish.folder),
        with_values=wish.with_values,
        keys=files.keys(),
    )
    return retention_archive.write(ctx.connection, request)


def record_archive(ctx: OperationContext, archive: Archive) -> ArchiveView:
    """Record an archive that was verified as it lies on the disk."""
    row = archives.record(archive, now=ctx.now)
    row["fact_id"] = ctx.facts.add("log.archived", row)
    archives.insert(ctx.connection, row, tenant_id=ctx.tenant_id)
    ctx.audit("EvidenceArchived", "EVIDENCE", archive.archive_id, after=archive.model_dump(mode="json"))
    return archives.view({**row, "purged_at": None})


def note_archive(ctx: OperationContext, archive: Archive) -> LogNoted:
    """Repeat in the log of the system what was archived of another log."""
    return LogNoted(fact_id=ctx.facts.add_log("log.archived", archives.stated(archive, now=ctx.now)))


def list_archives(ctx: OperationContext, query: ListInput) -> Page[ArchiveView]:
    """Return archives, newest first."""
    return newest_first(
        query,
        tenant_id=ctx.tenant_id,
        operation=LIST,
        columns=("created_at", "archive_id"),
        fetch=lambda before, limit: archives.list_page(
            ctx.connection, tenant_id=ctx.tenant_id, before=before, limit=limit
        ),
        view=archives.view,
    )


def erase_values(ctx: OperationContext, _payload: NoRetentionInput) -> ErasedByAge:
    """Take away values that are over age and under no hold, so many at once."""
    done = erase_over_age(ctx)
    if not done.more:
        ctx.after_commit(lambda: LAST_RUN.set(ctx.now.timestamp()))
    return done


declare = OperationsOf("logs")
OPERATIONS = (
    Operation(
        "ops.retention.set",
        "logs",
        "write",
        None,
        SetRetention,
        RetentionView,
        set_retention,
        door="operator",
    ),
    Operation(
        "ops.retention.show",
        "logs",
        "read",
        None,
        NoRetentionInput,
        RetentionView,
        get_retention,
        door="operator",
    ),
    Operation(
        "ops.retention.write_archive",
        "logs",
        "read",
        None,
        WriteArchive,
        ArchiveWritten,
        write_archive,
        door="operator",
        snapshot=True,
    ),
    Operation(
        "ops.retention.record_archive",
        "logs",
        "write",
        None,
        Archive,
        ArchiveView,
        record_archive,
        door="operator",
    ),
    Operation(
        "log.note_archive",
        "logs",
        "write",
        None,
        Archive,
        LogNoted,
        note_archive,
        door="worker",
        no_audit="the entry of the archive itself is in the ledger of its tenant",
    ),
    declare.read(LIST, ListInput, Page[ArchiveView], list_archives),
    Operation(
        "evidence.erase_over_age",
        "logs",
        "write",
        None,
        NoRetentionInput,
        ErasedByAge,
        erase_values,
        door="worker",
    ),
)
