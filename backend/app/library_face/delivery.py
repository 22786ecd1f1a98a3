"""Library: an exported snapshot on its way to where the caller wants it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from app.db.migrations import head_revision
from app.domains.repository.models.snapshots import SnapshotExported
from app.kernel.canonical_json import dumps
from app.kernel.clock import format_time
from app.kernel.files import deliver


def save_snapshot(made: SnapshotExported, path: Path, *, now: datetime) -> None:
    """Write a zip where the path ends in .zip, else a folder with `info.json`; OSError when it cannot be."""
    info = {
        "exported_at": format_time(now),
        "exporter": "hoc-spine",
        "schema_revision": head_revision(),
    }
    deliver(made.content.path, path, notes={"info.json": dumps(info).encode() + b"\n"})
