"""Spine: the steps of an ingest: files become artifacts, heads of bound collections are pinned and indexed.

Every step is prepared without a transaction and written in one of its own; progress says which comes next, so
a worker that takes the job over goes on where the last one stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from app.db.connection import DriverConnection
from app.domains.knowledge.engines import ingest
from app.domains.knowledge.engines.config_shapes import RepositoryConfig
from app.domains.knowledge.engines.ingest import IndexedDocument, Pin
from app.domains.repository.engines import artifacts as repository
from app.domains.repository.engines import changes
from app.domains.repository.engines.artifacts import Head
from app.domains.repository.engines.tokenizer import token_occurrences
from app.hoc_spine.coordinators import plane_files
from app.hoc_spine.coordinators.plane_files import FileBatch, TextFile
from app.hoc_spine.coordinators.plane_sources import make_own_collection, read_collections
from app.hoc_spine.operation_context import OperationContext, PrepareContext
from app.kernel.errors import ErrorKind, HocError

START: Final = "start"
FILES: Final = "files"
MARK: Final = "mark"
PIN: Final = "pin"
VANISH: Final = "vanish"
DONE: Final = "done"

PlaneRow = Mapping[str, Any]
STALE = "STEP_STALE"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an ingest has come; stored with the job."""

    phase: str = START
    reached: str | None = None
    ingested_seq: int | None = None
    documents: int = 0
    text_bytes: int = 0
    passages: int = 0
    batches: int = 0
    skipped: int = 0
    diagnostics: tuple[tuple[str, str], ...] = ()

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> Progress:
        """Return progress from its stored form."""
        diagnostics = tuple((path, reason) for path, reason in stored.get("diagnostics", ()))
        return cls(**{**stored, "diagnostics": diagnostics})

    def stored(self) -> dict[str, Any]:
        """Return the form that the job stores and answers show."""
        return {
            "phase": self.phase,
            "reached": self.reached,
            "ingested_seq": self.ingested_seq,
            "documents": self.documents,
            "text_bytes": self.text_bytes,
            "passages": self.passages,
            "batches": self.batches,
            "skipped": self.skipped,
            "diagnostics": [list(item) for item in self.diagnostics],
        }

    def noting(self, skipped: Sequence[tuple[str, str]]) -> Progress:
        """Count what was passed over and keep the first diagnostics."""
        room = ingest.KEPT_DIAGNOSTICS - len(self.diagnostics)
        kept = (*self.diagnostics, *skipped[: max(0, room)])
        return replace(self, skipped=self.skipped + len(skipped), diagnostics=kept)


@dataclass(frozen=True, slots=True)
class IngestStep:
    """One prepared step: the progress after it, and what it writes."""

    progress: Progress
    collections: tuple[str, ...] = ()
    files: tuple[TextFile, ...] = ()
    documents: tuple[IndexedDocument, ...] = field(default=())
    gone: tuple[str, ...] = ()
    after: str | None = None


class StageFailedError(HocError):
    """A stage that cannot do its work; `retryable` tells whether trying again may help."""

    def __init__(self, code: str, detail: str, *, retryable: bool = False) -> None:
        super().__init__(ErrorKind.CONFLICT, code, detail, extra={"retryable": retryable})


@dataclass(frozen=True, slots=True)
class Work:
    """What is ingested: the plane, how it is configured, and the configuration that waits for the end."""

    plane: PlaneRow
    config: RepositoryConfig
    candidate: RepositoryConfig | None = None

    @property
    def generation(self) -> int:
        """The generation that the ingest writes for."""
        return int(self.plane["generation"]) + 1

    def collections(self, connection: DriverConnection, tenant_id: str) -> tuple[str | None, tuple[str, ...]]:
        """Return the collection that files go to, and all that are pinned, by id."""
        owned, shared = read_collections(
            connection, tenant_id=tenant_id, plane_id=self.plane["plane_id"], candidate=self.candidate
        )
        return owned, tuple(sorted({*shared, *(() if owned is None else (owned,))}))


def prepare(ctx: PrepareContext, work: Work, stored: Mapping[str, Any]) -> IngestStep:
    """Read what the next step needs, without a transaction; raise StageFailedError when it cannot be had."""
    progress = Progress.read(stored)
    if progress.phase == START:
        return IngestStep(replace(progress, phase=FILES if work.config.source.kind == "files" else MARK))
    if progress.phase == FILES:
        return _prepare_files(ctx, work.config, progress)
    if progress.phase == MARK:
        return IngestStep(replace(progress, phase=PIN, reached=None))
    if progress.phase == VANISH:
        return _prepare_vanished(ctx, work, progress)
    return _prepare_pins(ctx, work, progress)


def apply(ctx: OperationContext, work: Work, step: IngestStep, *, phase: str) -> Progress:
    """Write a prepared step and return the progress it reached; the lease was renewed before."""
    keys: dict[str, Any] = {"tenant_id": ctx.tenant_id, "plane_id": work.plane["plane_id"]}
    if phase == START:
        hold_repository(ctx)
        ingest.sweep_staged(ctx.connection, **keys, generation=work.generation - 1)
        # What ended with the served generation may still be read; what ended before it is not.
        ingest.sweep_ended(ctx.connection, **keys, generation=work.generation - 2)
        if work.candidate is not None:
            make_own_collection(ctx, work.plane["plane_id"], work.candidate)
        return step.progress
    if phase == FILES:
        return _store_files(ctx, work, step)
    if phase == MARK:
        return replace(step.progress, ingested_seq=hold_repository(ctx))
    if step.documents or step.gone:
        hold_repository(ctx)
    if step.documents:
        _require_unchanged(ctx, step)
        ingest.write_batch(
            ctx.connection, **keys, generation=work.generation, documents=step.documents, now=ctx.now
        )
    ingest.retire(ctx.connection, **keys, generation=work.generation, artifact_ids=step.gone)
    return step.progress


def _prepare_files(ctx: PrepareContext, config: RepositoryConfig, progress: Progress) -> IngestStep:
    root = ctx.services.settings.ingest_roots.get(config.source.root or "")
    if root is None:
        raise StageFailedError("INGESTION_FAILED", "The ingest root is not configured on this server.")
    try:
        batch: FileBatch = plane_files.read_batch(root, config.source.folder, after=progress.reached)
    except OSError as error:
        detail = f"The ingest folder cannot be read: {type(error).__name__}."
        raise StageFailedError("INGESTION_FAILED", detail, retryable=True) from error
    ended = batch.reached is None
    after = replace(progress, phase=MARK if ended else FILES, reached=batch.reached)
    return IngestStep(after.noting(batch.skipped), files=tuple(batch.files))


def _store_files(ctx: OperationContext, work: Work, step: IngestStep) -> Progress:
    """Create or update the artifacts of the files; one that the repository refuses is passed over."""
    owned, _collections = work.collections(ctx.connection, ctx.tenant_id)
    if owned is None:
        raise StageFailedError("INGESTION_FAILED", "The plane owns no collection.")
    files, progress = list(step.files), step.progress
    while files:
        refused = _store(ctx, owned, files)
        progress = progress.noting([(files[index].path, code) for index, code in sorted(refused.items())])
        if not refused:
            return replace(progress, batches=progress.batches + 1)
        files = [file for index, file in enumerate(files) if index not in refused]
    return progress


def _store(ctx: OperationContext, collection_id: str, files: Sequence[TextFile]) -> dict[int, str]:
    """Dispatch one bulk call; return index and code of the files it refuses: then it wrote nothing."""
    items = [
        {
            "name": file.path,
            "artifact_type": ingest.ARTIFACT_TYPE,
            "content": file.text,
            "media_type": file.media_type,
        }
        for file in files
    ]
    payload = {"items": items, "collection_id": collection_id, "on_existing": "update"}
    try:
        ctx.dispatch("repository.artifacts.create_bulk", payload)
    except HocError as error:
        refused = {
            int(item["index"]): str(item.get("code", error.code)) for item in error.errors if "index" in item
        }
        if not refused:
            raise
        return refused
    return {}


def _prepare_pins(ctx: PrepareContext, work: Work, progress: Progress) -> IngestStep:
    with ctx.read_unit() as connection:
        _owned, collections = work.collections(connection, ctx.tenant_id)
        heads = repository.list_heads(
            connection,
            tenant_id=ctx.tenant_id,
            collection_ids=collections,
            after_artifact_id=progress.reached,
            limit=ingest.BATCH_DOCUMENTS,
        )
        held = ingest.list_held(
            connection,
            tenant_id=ctx.tenant_id,
            plane_id=work.plane["plane_id"],
            generation=work.generation,
            artifact_ids=[head.artifact_id for head in heads],
        )
        sizes = (0 if held.get(head.artifact_id) == head.revision else head.size for head in heads)
        heads = heads[: ingest.first_batch(sizes)]
        new = [head for head in heads if held.get(head.artifact_id) != head.revision]
        contents = repository.read_contents(
            connection, tenant_id=ctx.tenant_id, refs=[(head.artifact_id, head.revision) for head in new]
        )
    if not heads:
        # A first generation has nothing before it that could have vanished.
        if work.generation == 1:
            return IngestStep(_finished(progress))
        return IngestStep(replace(progress, phase=VANISH, reached=None))
    same = [head for head in heads if held.get(head.artifact_id) == head.revision]
    # What has become unreadable is served no more, not even as it was.
    gone = tuple(
        head.artifact_id for head in new if head.artifact_id in held and _text(head, contents) is None
    )
    counted = replace(
        progress,
        reached=heads[-1].artifact_id,
        documents=progress.documents + len(same),
        text_bytes=progress.text_bytes + sum(head.size for head in same),
    )
    step = _index(counted, new, contents)
    return replace(step, collections=collections, after=progress.reached, gone=gone)


def _text(head: Head, contents: Mapping[tuple[str, int], bytes]) -> str | None:
    content = contents.get((head.artifact_id, head.revision))
    return None if content is None else ingest.decode_text(content)


def _index(
    progress: Progress, heads: Sequence[Head], contents: Mapping[tuple[str, int], bytes]
) -> IngestStep:
    documents: list[IndexedDocument] = []
    skipped: list[tuple[str, str]] = []
    for head in heads:
        text = _text(head, contents)
        if text is None:
            known = (head.artifact_id, head.revision) in contents
            skipped.append((head.artifact_id, "NOT_UTF8" if known else "GONE"))
            continue
        pin = Pin(
            artifact_id=head.artifact_id,
            revision=head.revision,
            revision_digest=head.revision_digest,
            content_digest=head.content_digest,
            name=head.name,
            media_type=head.media_type,
            size_bytes=head.size,
        )
        documents.append(ingest.index_document(pin, text, tokenizer=token_occurrences))
    reached = replace(
        progress,
        documents=progress.documents + len(documents),
        text_bytes=progress.text_bytes + sum(document.pin.size_bytes for document in documents),
        passages=progress.passages + sum(len(document.passages) for document in documents),
        batches=progress.batches + 1,
    ).noting(skipped)
    if not ingest.within_limits(documents=reached.documents, text_bytes=reached.text_bytes):
        raise StageFailedError(
            "INGEST_LIMIT_EXCEEDED", "A plane serves at most 100 000 documents and 100 MB of text."
        )
    return IngestStep(reached, documents=tuple(documents))


def _prepare_vanished(ctx: PrepareContext, work: Work, progress: Progress) -> IngestStep:
    """Find, among one batch of what earlier generations serve, what the collections hold no more."""
    with ctx.read_unit() as connection:
        _owned, collections = work.collections(connection, ctx.tenant_id)
        served = ingest.list_page(
            connection,
            tenant_id=ctx.tenant_id,
            plane_id=work.plane["plane_id"],
            generation=work.generation,
            after=progress.reached,
        )
        if not served:
            return IngestStep(_finished(progress))
        last, after, live = served[-1], progress.reached, set[str]()
        while heads := repository.list_heads(
            connection, tenant_id=ctx.tenant_id, collection_ids=collections, after_artifact_id=after
        ):
            live.update(head.artifact_id for head in heads)
            after = heads[-1].artifact_id
            if after >= last:
                break
    gone = tuple(artifact_id for artifact_id in served if artifact_id not in live)
    return IngestStep(replace(progress, reached=last, batches=progress.batches + 1), gone=gone)


def _finished(progress: Progress) -> Progress:
    if not progress.documents:
        raise StageFailedError("NOTHING_TO_INGEST", "The plane's collections hold no live text document.")
    return replace(progress, phase=DONE, reached=None)


def hold_repository(ctx: OperationContext) -> int:
    """Take the tenant's repository lock until the end of the step and return the last change number."""
    origin = changes.Origin(change_set_id="", actor_id=ctx.actor.id)
    held = changes.open_change_set(ctx.connection, tenant_id=ctx.tenant_id, now=ctx.now, origin=origin)
    return held.last_seq


def _require_unchanged(ctx: OperationContext, step: IngestStep) -> None:
    """Refuse STEP_STALE when an artifact of the step moved, vanished or was redacted since it was read.

    Under the repository lock, so that a redaction finds either the passages that this step writes, or makes
    the step see that the text is gone.
    """
    heads = repository.list_heads(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        collection_ids=step.collections,
        after_artifact_id=step.after,
        limit=ingest.BATCH_DOCUMENTS,
    )
    now = {(head.artifact_id, head.revision) for head in heads}
    if not {(document.pin.artifact_id, document.pin.revision) for document in step.documents} <= now:
        raise HocError(ErrorKind.CONFLICT, STALE, "An artifact changed while it was read.")
