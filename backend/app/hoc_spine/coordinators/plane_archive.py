"""Spine: the archive of a plane: one deterministic zip in cold storage, written aside, re-read and hashed."""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from app.db.connection import DriverConnection
from app.domains.knowledge.engines import archive, plane_collections
from app.domains.repository.engines import snapshot_export
from app.domains.repository.engines.snapshot_writing import SnapshotWriter, file_digest
from app.hoc_spine.coordinators.plane_ingest import StageFailedError
from app.hoc_spine.operation_context import PrepareContext
from app.kernel.canonical_json import dumps

PLANE: Final = "plane.json"
EVENTS: Final = "events.jsonl"
REPOSITORY: Final = "repository.zip"
MANIFEST: Final = "manifest.json"
_MAKING: Final = ".making-"
_DATE = (1980, 1, 1, 0, 0, 0)
_UNIX = 3
_MODE = 0o100644 << 16
_CHUNK = 1 << 20
PlaneRow = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Archived:
    """An archive that is on disk, whole."""

    key: str
    digest: str
    size_bytes: int
    manifest_hash: str


def write_archive(ctx: PrepareContext, plane: PlaneRow, *, job_id: str, attempt: int) -> Archived:
    """Write, rename, re-read and hash the archive of a plane; raise StageFailedError.

    The zip holds the partial snapshot of the owned collection, the plane with its bindings, approvals and
    pins, its events, and a manifest of these. The same facts give the same bytes.
    """
    folder = _folder(ctx, plane["plane_id"])
    try:
        with _workplace(folder, job_id, attempt) as place:
            with ctx.read_unit(snapshot=True) as connection:
                _write_repository(ctx, connection, plane, place)
                _write_plane(ctx, connection, plane, place)
            made, manifest_hash = _pack(place)
            digest = file_digest(made)
            target = folder / f"{digest}.zip"
            made.replace(target)
            _sync(folder)
        if file_digest(target) != digest:
            raise StageFailedError(
                "ARCHIVE_FAILED", "The archive was not read back as written.", retryable=True
            )
    except OSError as error:
        detail = f"The archive cannot be written: {type(error).__name__}."
        raise StageFailedError("ARCHIVE_FAILED", detail, retryable=True) from error
    key = target.relative_to(_root(ctx)).as_posix()
    return Archived(key, f"sha256:{digest}", target.stat().st_size, manifest_hash)


def delete_archive(ctx: PrepareContext, plane: PlaneRow) -> None:
    """Delete whatever is archived of a plane; raise StageFailedError. What is gone already stays gone."""
    folder = _folder(ctx, plane["plane_id"])
    try:
        if folder.exists():
            shutil.rmtree(folder)
            _sync(folder.parent)
    except OSError as error:
        detail = f"The archive cannot be deleted: {type(error).__name__}."
        raise StageFailedError("ARCHIVE_FAILED", detail, retryable=True) from error


def _root(ctx: PrepareContext) -> Path:
    return ctx.services.settings.archive_dir.resolve()


def _folder(ctx: PrepareContext, plane_id: str) -> Path:
    # Neither id can hold a separator or begin with a dot.
    return _root(ctx) / ctx.tenant_id / plane_id


@contextmanager
def _workplace(folder: Path, job_id: str, attempt: int) -> Iterator[Path]:
    """Give a folder aside for one try; what earlier tries of the job left there is removed first."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{_MAKING}{job_id}-*"):
        shutil.rmtree(left, ignore_errors=True)
    place = folder / f"{_MAKING}{job_id}-{attempt}"
    place.mkdir()
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _write_repository(
    ctx: PrepareContext, connection: DriverConnection, plane: PlaneRow, place: Path
) -> None:
    owned, _shared = plane_collections.list_held(
        connection, tenant_id=ctx.tenant_id, plane_id=plane["plane_id"]
    )
    if owned is None:
        return
    settings = ctx.services.settings
    writer = SnapshotWriter(
        place,
        max_bytes=settings.repository_max_snapshot_bytes,
        max_records=settings.repository_max_snapshot_records,
    )
    with writer:
        snapshot_export.export(connection, writer, tenant_id=ctx.tenant_id, collection_ids=[owned])
    writer.path.rename(place / REPOSITORY)


def _write_plane(ctx: PrepareContext, connection: DriverConnection, plane: PlaneRow, place: Path) -> None:
    keys: dict[str, Any] = {"tenant_id": ctx.tenant_id, "plane_id": plane["plane_id"]}
    (place / PLANE).write_text(archive.plane_text(connection, **keys), encoding="utf-8")
    with (place / EVENTS).open("w", encoding="utf-8", newline="\n") as lines:
        lines.writelines(f"{line}\n" for line in archive.event_lines(connection, **keys))


def _pack(place: Path) -> tuple[Path, str]:
    """Put the parts into one zip by name, the manifest among them; return it and the manifest's hash."""
    parts = sorted(path for path in place.iterdir() if path.is_file())
    listed = [
        {"name": path.name, "sha256": file_digest(path), "size_bytes": path.stat().st_size} for path in parts
    ]
    manifest = dumps({"format": archive.FORMAT, "format_version": 1, "parts": listed}).encode() + b"\n"
    (place / MANIFEST).write_bytes(manifest)
    made = place / "archive.zip"
    with made.open("wb") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as packed:
            for path in sorted([*parts, place / MANIFEST]):
                with path.open("rb") as source, packed.open(_entry(path), "w") as target:
                    shutil.copyfileobj(source, target, _CHUNK)
        file.flush()
        os.fsync(file.fileno())
    return made, hashlib.sha256(manifest).hexdigest()


def _entry(path: Path) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(path.name, _DATE)
    entry.compress_type = zipfile.ZIP_STORED
    entry.create_system = _UNIX
    entry.external_attr = _MODE
    entry.file_size = path.stat().st_size
    return entry


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
