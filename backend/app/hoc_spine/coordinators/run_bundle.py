"""Spine: the bundle of a run, made in one unit that sees one moment, spooled to a file on this host."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import Field

from app.db.connection import DriverConnection
from app.domains.logs.engines import bundle, bundle_reads, checkpoints, heads, proofs
from app.domains.logs.engines.bundle import Claims, Cut, Section
from app.domains.logs.engines.bundle_reads import SectionHashes
from app.domains.logs.engines.keys import KeyRing
from app.domains.logs.engines.sequence import tile_loader
from app.domains.logs.engines.tiles import TileCache, TileTree
from app.domains.logs.errors import (
    bundle_too_large,
    checkpoint_pending,
    integrity_failed,
    no_signing_key,
)
from app.domains.policies.engines import snapshots
from app.hoc_spine.coordinators import chain_lines
from app.hoc_spine.coordinators.log_files import LogFiles
from app.kernel.canonical_json import dumps, loads
from app.kernel.clock import format_time
from app.kernel.files import HandedFile, LocalFile
from app.kernel.hashing import text_hash
from app.kernel.inputs import Identifier, Input, Output
from app.kernel.pages import HIGHEST_KEY

Row = Mapping[str, Any]


class BundleInput(Input):
    run_id: Identifier
    include_payloads: bool = False
    from_size: int | None = Field(None, ge=0, le=HIGHEST_KEY)
    wait_ms: int = Field(1000, ge=0, le=10_000)
    allow_open: bool = False


class BundleFile(Output):
    """A bundle in a folder of its own, for whoever asked to take away."""

    run_id: str
    size: int
    complete: bool
    content: HandedFile = Field(exclude=True)
    content_digest: str
    file_name: str
    media_type: str = bundle.MEDIA_TYPE


@dataclass(frozen=True, slots=True)
class Request:
    """What a bundle is made of, and for whom."""

    tenant_id: str
    run: Row
    counter: Row
    traces: Sequence[Row]
    query: BundleInput
    files: LogFiles
    tiles: TileCache

    @property
    def run_id(self) -> str:
        """The run."""
        return self.query.run_id

    def require_size(self) -> None:
        """Refuse BUNDLE_TOO_LARGE, before anything is read or proved."""
        counts = [self.counter["fact_count"], self.counter["late_count"]]
        counts += [trace["step_count"] for trace in self.traces]
        # A count that somebody made none of is what the proof finds.
        if sum(count for count in counts if isinstance(count, int)) > bundle.MAX_ENTRIES:
            raise bundle_too_large()


@dataclass(frozen=True, slots=True)
class Reading:
    """What the first pass found: all that is signed, and no statement."""

    head: Row
    checkpoint: Row
    note: str
    claims: Claims
    facts: SectionHashes
    late: SectionHashes
    context: Sequence[Row]


def make_bundle(connection: DriverConnection, request: Request) -> BundleFile:
    """Read the run twice in one unit, sign its manifest and spool the lines.

    Refuse CHECKPOINT_PENDING, NO_SIGNING_KEY, BUNDLE_TOO_LARGE, INVALID_TREE_SIZE, and INTEGRITY_FAILED for
    a value that does not open.
    """
    keys = request.files.keys()
    if keys is None:
        raise no_signing_key()
    reading = _read(connection, request)
    folder = Path(tempfile.mkdtemp(prefix="hoc-bundle-"))
    try:
        digest, path = _spool(connection, request, reading, keys, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return BundleFile(
        run_id=request.run_id,
        size=reading.checkpoint["size"],
        complete=bool(request.counter["closed"]),
        content=LocalFile.spooled(path, folder=folder),
        content_digest=f"sha256:{digest}",
        file_name=f"{request.run_id}{bundle.SUFFIX}",
    )


def _read(connection: DriverConnection, request: Request) -> Reading:
    tenant_id, run_id = request.tenant_id, request.run_id
    head = heads.get_head(connection, tenant_id=tenant_id)
    if head is None:
        raise checkpoint_pending()
    checkpoint, note = checkpoints.require_note(
        connection, head, tenant_id=tenant_id, size=None, has_key=True
    )
    claims = Claims()
    at = {"tenant_id": tenant_id, "run_id": run_id, "epoch": head["epoch"], "size": checkpoint["size"]}
    facts = bundle_reads.read_section(connection, claims, late=False, **at)
    late = bundle_reads.read_section(connection, claims, late=True, **at)
    context = bundle_reads.read_context(connection, claims, **at)
    return Reading(head, checkpoint, note, claims, facts, late, context)


def _spool(
    connection: DriverConnection, request: Request, reading: Reading, keys: KeyRing, folder: Path
) -> tuple[str, Path]:
    body = folder / "body"
    with body.open("wb") as stream:
        writer = _Writer(stream)
        _write_facts(connection, request, reading, writer)
        _write_traces(connection, request, writer)
        _write_values(connection, request, reading, writer)
    first = _header(connection, request, reading, writer.lines, keys).encode() + b"\n"
    if len(first) + writer.size > bundle.MAX_BYTES:
        raise bundle_too_large()
    path = folder / "bundle"
    digest = hashlib.sha256(first)
    with path.open("wb") as target, body.open("rb") as source:
        target.write(first)
        while chunk := source.read(1 << 20):
            digest.update(chunk)
            target.write(chunk)
    body.unlink()
    return digest.hexdigest(), path


class _Writer:
    """Writes the lines of sections and counts them."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.size = 0
        self.lines = dict.fromkeys(bundle.SECTIONS, 0)

    def write(self, section: str, lines: Iterable[str]) -> None:
        """Write the lines of a section; refuse BUNDLE_TOO_LARGE."""
        for line in lines:
            data = line.encode() + b"\n"
            self._stream.write(data)
            self.size += len(data)
            self.lines[section] += 1
            if self.size > bundle.MAX_BYTES:
                raise bundle_too_large()


def _write_facts(connection: DriverConnection, request: Request, reading: Reading, writer: _Writer) -> None:
    for section, hashes, late in (("facts", reading.facts, False), ("late", reading.late, True)):
        lines = bundle_reads.list_statements(
            connection,
            tenant_id=request.tenant_id,
            run_id=request.run_id,
            late=late,
            count=len(hashes.indices),
        )
        writer.write(section, lines)
    writer.write("context", (row["statement"] for row in reading.context))


def _write_traces(connection: DriverConnection, request: Request, writer: _Writer) -> None:
    for trace in request.traces:
        lines = chain_lines.list_lines(connection, request.run, trace, tenant_id=request.tenant_id)
        writer.write("traces", lines)


def _write_values(connection: DriverConnection, request: Request, reading: Reading, writer: _Writer) -> None:
    writer.write("values", _snapshot_lines(connection, request, reading.claims))
    if not request.query.include_payloads:
        return
    counts = {False: len(reading.facts.indices), True: len(reading.late.indices)}
    opened = bundle_reads.list_values(
        connection, tenant_id=request.tenant_id, run_id=request.run_id, counts=counts
    )
    writer.write("values", (_value_line(one, reading.claims) for one in opened))
    for trace in request.traces:
        for step in chain_lines.list_steps(connection, trace, tenant_id=request.tenant_id):
            if step["protected_commit"] is not None:
                opened_step = bundle_reads.open_row(step["protected_commit"], step, chain_lines.PROTECTED)
                writer.write("values", [_value_line(opened_step, reading.claims)])


def _snapshot_lines(connection: DriverConnection, request: Request, claims: Claims) -> Iterator[str]:
    # The rules that judged the run are nobody's private text, and without them no binding can be checked.
    for snapshot_id in sorted(claims.snapshots):
        yield snapshot_line(connection, snapshot_id, tenant_id=request.tenant_id)


def snapshot_line(connection: DriverConnection, snapshot_id: str, *, tenant_id: str) -> str:
    """Return the line with the text of a rules' snapshot; refuse INTEGRITY_FAILED for another text."""
    view = snapshots.get_view(connection, tenant_id=tenant_id, snapshot_id=snapshot_id)
    text = dumps(view.content)
    if text_hash(text) != view.content_hash:
        raise integrity_failed("ROW_MISMATCH")
    return bundle.text_line(view.content_hash, text)


def _value_line(opened: bundle_reads.Opened, claims: Claims) -> str:
    if opened.erasure is not None:
        if opened.erasure not in claims.erasures:
            # The values went after the cut: the next checkpoint covers the fact that says so.
            raise checkpoint_pending()
        return bundle.erased_line(opened.commitment, opened.erasure)
    return bundle.intact_line(opened.commitment, str(opened.salt), opened.value or {})


def _header(
    connection: DriverConnection,
    request: Request,
    reading: Reading,
    lines: Mapping[str, int],
    keys: KeyRing,
) -> str:
    head, checkpoint = reading.head, reading.checkpoint
    signers = keys.signers_of(loads(checkpoint["key_ids"]), head["origin"])
    context = SectionHashes()
    for row in reading.context:
        context.add(row["idx"], row["leaf_hash"])
    parts = {"facts": reading.facts, "late": reading.late, "context": context}
    payload = bundle.manifest(
        tenant_id=request.tenant_id,
        run_id=request.run_id,
        cut=Cut(head["origin"], checkpoint["size"], checkpoint["root"], format_time(checkpoint["signed_at"])),
        complete=bool(request.counter["closed"]),
        roots={name: part.root() for name, part in parts.items()},
        traces=[bundle.trace_entry(trace) for trace in request.traces],
        claims=reading.claims.result(steps=sum(trace["step_count"] for trace in request.traces)),
        disclosure="payloads" if request.query.include_payloads else "none",
    )
    load = tile_loader(connection, tenant_id=request.tenant_id, epoch=head["epoch"])
    tree = TileTree(checkpoint["size"], request.tiles.loader(request.tenant_id, head["epoch"], load))
    indices = [index for part in parts.values() for index in part.indices]
    return bundle.header(
        attestation=bundle.envelope(payload, signers),
        checkpoint=reading.note,
        consistency=_consistency(connection, request, reading),
        vkeys=[key.vkey(head["origin"]) for key in signers],
        sections=[
            Section(name, lines[name], parts[name].indices if name in parts else None)
            for name in bundle.SECTIONS
        ],
        multiproof=bundle_reads.prove(tree, indices),
    )


def _consistency(connection: DriverConnection, request: Request, reading: Reading) -> dict[str, Any] | None:
    old = request.query.from_size
    if old is None:
        return None
    proof = proofs.prove_consistency(
        connection,
        {**reading.head, "signed_size": reading.checkpoint["size"]},
        tenant_id=request.tenant_id,
        old=old,
        new=reading.checkpoint["size"],
        cache=request.tiles,
    )
    return {"from": proof.from_, "hashes": proof.hashes}
