"""Spine: the archive of what is over age: written under another name, read back, verified, then published."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from app.db.connection import DriverConnection
from app.domains.activity.engines import runs
from app.domains.logs.engines import archive, archive_reads, bundle, bundle_reads, checkpoints, heads, note
from app.domains.logs.engines.archive import SECTIONS
from app.domains.logs.engines.bundle_reads import SNAPSHOT_FACT, Opened
from app.domains.logs.engines.keys import KeyRing
from app.domains.logs.engines.sequence import tile_loader
from app.domains.logs.errors import (
    archive_not_written,
    archive_unverified,
    checkpoint_pending,
    no_signing_key,
    nothing_to_archive,
)
from app.domains.logs.models.archives import Archive, ArchiveCounts, ArchiveWritten
from app.domains.traces.engines import traces
from app.hoc_spine.coordinators import chain_lines
from app.hoc_spine.coordinators.retention_plan import Plan
from app.hoc_spine.coordinators.run_bundle import snapshot_line
from app.kernel.canonical_json import loads
from verifier import hoc_verify

Row = Mapping[str, Any]
CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Request:
    """What is archived, under which name, and where to."""

    tenant_id: str
    archive_id: str
    plan: Plan
    folder: Path
    with_values: bool
    keys: KeyRing | None


@dataclass(slots=True)
class _Body:
    """The lines after the header, as far as they are written."""

    stream: BinaryIO
    lines: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SECTIONS, 0))
    steps: int = 0
    snapshots: list[str] = field(default_factory=list)
    erasures: set[str] = field(default_factory=set)

    def write(self, section: str, lines: Iterable[str]) -> None:
        """Write the lines of a section."""
        for line in lines:
            self.stream.write(line.encode() + b"\n")
            self.lines[section] += 1


def write(connection: DriverConnection, request: Request) -> ArchiveWritten:
    """Write the plan's statements, chains and, if asked, values into a file that nobody takes for an archive.

    Refuse NOTHING_TO_ARCHIVE, NO_SIGNING_KEY, CHECKPOINT_PENDING, STORAGE_FAILED, and INTEGRITY_FAILED for a
    value that does not open.
    """
    if not request.plan.facts:
        raise nothing_to_archive()
    if request.keys is None:
        raise no_signing_key()
    folder = request.folder.resolve()
    body, temporary = (folder / f".{request.archive_id}.{part}" for part in ("body", "part"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = _spool(connection, request, request.keys, body, temporary)
    except BaseException as error:
        _remove(temporary)
        if isinstance(error, OSError):
            raise archive_not_written(error.strerror or type(error).__name__) from error
        raise
    finally:
        _remove(body)
    return written


def _spool(
    connection: DriverConnection, request: Request, keys: KeyRing, body: Path, temporary: Path
) -> ArchiveWritten:
    plan, key = request.plan, {"tenant_id": request.tenant_id}
    head = heads.get_head(connection, **key)
    if head is None or head["epoch"] != plan.epoch:
        raise checkpoint_pending()
    checkpoint, text = checkpoints.require_note(connection, head, **key, size=None, has_key=True)
    with _made(body) as stream:
        made = _Body(stream)
        _write_body(connection, request, made)
    erasures = archive_reads.list_placed(
        connection, sorted(made.erasures), **key, epoch=plan.epoch, size=checkpoint["size"]
    )
    places = [index for index, _ in plan.facts]
    ranges = {
        "context": archive.ranges_of(index for index, _ in erasures),
        "statements": archive.ranges_of(places),
    }
    load = tile_loader(connection, **key, epoch=plan.epoch)
    everything = sorted([*places, *(index for index, _ in erasures)])
    signed_by = set(loads(checkpoint["key_ids"]))
    of_log = keys.verifiers(head["origin"])
    vkeys = [note.vkey(one.name, one.public) for one in of_log if one.key_id.hex() in signed_by]
    made.lines["context"] = len(erasures)
    header = archive.header(
        archive_id=request.archive_id,
        tenant_id=request.tenant_id,
        origin=head["origin"],
        epoch=plan.epoch,
        first=places[0],
        after=plan.cut,
        checkpoint=text,
        vkeys=vkeys,
        lines=made.lines,
        ranges=ranges,
        multiproof=archive_reads.prove(load, checkpoint["size"], everything),
    )
    context = archive_reads.list_leaves(connection, [fact_id for _, fact_id in erasures], **key)
    digest, size = _join(temporary, [header, *(row["statement"] for row in context)], body)
    counts = ArchiveCounts(
        statements=made.lines["statements"],
        runs=len(plan.run_ids),
        steps=made.steps,
        values=made.lines["values"],
        root=plan.root,
    )
    kept = Archive(
        archive_id=request.archive_id,
        epoch=plan.epoch,
        from_idx=places[0],
        to_idx=plan.cut,
        sha256=digest,
        size=size,
        path=str(temporary.with_name(f"{request.archive_id}{archive.SUFFIX}")),
        counts=counts,
    )
    return ArchiveWritten(archive=kept, temporary=str(temporary), vkeys=vkeys)


def _write_body(connection: DriverConnection, request: Request, made: _Body) -> None:
    made.write("statements", _statements(connection, request, made.snapshots))
    for run, trace in _traces(connection, request):
        made.write("traces", chain_lines.list_lines(connection, run, trace, tenant_id=request.tenant_id))
        made.steps += int(trace["step_count"])
    # The rules that judged are nobody's private text, and go with their row.
    for snapshot_id in made.snapshots:
        made.write("values", [snapshot_line(connection, snapshot_id, tenant_id=request.tenant_id)])
    if request.with_values:
        made.write("values", (_value_line(one, made.erasures) for one in _values(connection, request)))


def _leaves(connection: DriverConnection, request: Request) -> Iterator[Row]:
    fact_ids = [fact_id for _, fact_id in request.plan.facts]
    return archive_reads.list_leaves(connection, fact_ids, tenant_id=request.tenant_id)


def _statements(connection: DriverConnection, request: Request, snapshots: list[str]) -> Iterator[str]:
    for row in _leaves(connection, request):
        if row["type"] == SNAPSHOT_FACT:
            snapshots.append(str(loads(row["ref_key"])[0]))
        yield row["statement"]


def _traces(connection: DriverConnection, request: Request) -> Iterator[tuple[Row, Row]]:
    for run_id in reversed(request.plan.run_ids):
        key = {"tenant_id": request.tenant_id, "run_id": run_id}
        run = runs.require_run(connection, **key)
        for trace in traces.list_proof_traces(connection, **key):
            yield run, trace


def _values(connection: DriverConnection, request: Request) -> Iterator[Opened]:
    leaves = _leaves(connection, request)
    yield from bundle_reads.open_values(connection, leaves, set(), tenant_id=request.tenant_id)
    for _run, trace in _traces(connection, request):
        for step in chain_lines.list_steps(connection, trace, tenant_id=request.tenant_id):
            if step["protected_commit"] is not None:
                yield bundle_reads.open_row(step["protected_commit"], step, chain_lines.PROTECTED)


def _value_line(opened: Opened, erasures: set[str]) -> str:
    if opened.erasure is not None:
        erasures.add(opened.erasure)
        return bundle.erased_line(opened.commitment, opened.erasure)
    return bundle.intact_line(opened.commitment, str(opened.salt), opened.value or {})


def _made(file: Path) -> BinaryIO:
    # What is in it may be private.
    return os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _join(target: Path, first: Iterable[str], body: Path) -> tuple[str, int]:
    """Write the first lines and the body, durably; return the digest and size of what was to be written."""
    digest, size = hashlib.sha256(), 0
    with _made(target) as stream, body.open("rb") as source:
        lines = (line.encode() + b"\n" for line in first)
        for part in (*lines, *iter(lambda: source.read(CHUNK), b"")):
            digest.update(part)
            size += stream.write(part)
        stream.flush()
        os.fsync(stream.fileno())
    _sync(target.parent)
    return digest.hexdigest(), size


def publish(written: ArchiveWritten) -> None:
    """Read the file back, verify it as an auditor would, and give it its name.

    Refuse ARCHIVE_UNVERIFIED, STORAGE_FAILED; the file is gone then.
    """
    temporary, kept = Path(written.temporary), written.archive
    try:
        codes = _judge(temporary, written)
        if codes:
            raise archive_unverified(codes)
        temporary.replace(kept.path)
        _sync(temporary.parent)
    except BaseException as error:
        _remove(temporary)
        if isinstance(error, OSError):
            raise archive_not_written(error.strerror or type(error).__name__) from error
        raise


def _judge(file: Path, written: ArchiveWritten) -> list[str]:
    """Return what is wrong with the bytes on the disk: as an archive, or as those that were written."""
    kept = written.archive
    keys = tuple(hoc_verify.parse_vkey(text) for text in written.vkeys)
    with file.open("rb") as stream:
        if hasattr(os, "posix_fadvise"):
            # What is still in memory would say nothing about the disk.
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        report = hoc_verify.verify_file(stream, hoc_verify.Options(keys=keys, strict=True))
        stream.seek(0)
        digest = hashlib.sha256()
        while part := stream.read(CHUNK):
            digest.update(part)
    if report.unreadable is not None:
        return ["UNREADABLE"]
    figures, counts = report.figures, kept.counts
    told = (figures["root"], figures["facts"] + figures["late"], figures["runs"], figures["steps"])
    same = told == (counts.root, counts.statements, counts.runs, counts.steps)
    differs = [] if same and digest.hexdigest() == kept.sha256 else ["ARCHIVE_DIFFERS"]
    return sorted(report.codes) + differs


def _remove(file: Path) -> None:
    with suppress(OSError):
        file.unlink()


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
