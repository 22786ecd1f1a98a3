"""L5 engine that spools a snapshot: a deterministic zip, its records, digests and manifest."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from app.domains.repository.engines import snapshot_format as fmt
from app.domains.repository.errors import too_large
from app.kernel.canonical_json import dumps
from app.kernel.merkle import MerkleRoot

_DATE = (1980, 1, 1, 0, 0, 0)
_UNIX = 3
_MODE = 0o100644 << 16
_SPOOL_BYTES = 1 << 20


class SnapshotWriter:
    """Takes records in their order and blobs in order of digest; `finish` closes the zip.

    Names inside a zip are sorted bytewise, and `blobs/` comes before the records, so blobs go in at once and
    records wait in files beside it.
    """

    def __init__(self, folder: Path, *, max_bytes: int, max_records: int) -> None:
        self._folder = folder
        self._max_bytes, self._max_records = max_bytes, max_records
        self.path = folder / "snapshot.zip"
        self._zip = zipfile.ZipFile(self.path, "w", zipfile.ZIP_STORED, allowZip64=True)
        self._records = (folder / fmt.RECORDS).open("wb")
        self._hashes = (folder / fmt.LINE_HASHES).open("wb")
        self._records_sha256 = hashlib.sha256()
        self._snapshot, self._state = MerkleRoot(), MerkleRoot()
        self._bytes = 0
        self.counts: Counter[str] = Counter(dict.fromkeys(fmt.ORDER, 0))
        self.blob_count = 0
        self.blob_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._records.close()
        self._hashes.close()
        self._zip.close()

    def add(self, kind: str, line: str) -> None:
        """Append one record."""
        data = line.encode()
        self._take(len(data) + 1)
        if self._snapshot.size == self._max_records:
            raise too_large(self._max_records, self._max_records + 1, "The number of records")
        self._records.write(data + b"\n")
        self._records_sha256.update(data + b"\n")
        self._snapshot.append(data)
        if kind not in (fmt.HEADER, fmt.CHANGE):
            self._state.append(data)
        self.counts[kind] += 1
        text = fmt.line_hash(hashlib.sha256(data).hexdigest(), self._snapshot.size, kind)
        self._hashes.write(text.encode() + b"\n")

    def add_blob(self, digest: str, data: bytes) -> None:
        """Append the bytes of a blob."""
        self._take(len(data))
        self._zip.writestr(_entry(fmt.blob_name(digest), len(data)), data)
        self.blob_count += 1
        self.blob_bytes += len(data)

    def _take(self, size: int) -> None:
        self._bytes += size
        if self._bytes > self._max_bytes:
            raise too_large(self._max_bytes, self._bytes, "The snapshot")

    def finish(self, *, scope: Any, change_head: Mapping[str, Any] | None) -> dict[str, Any]:
        """Write the manifest, close the zip and return the manifest."""
        manifest = manifest_of(
            scope=scope,
            change_head=change_head,
            counts=self.counts,
            blob_count=self.blob_count,
            blob_bytes=self.blob_bytes,
            records_sha256=self._records_sha256.hexdigest(),
            snapshot_digest=self._snapshot.hexdigest(),
            state_digest=self._state.hexdigest(),
        )
        self._records.close()
        self._hashes.close()
        text = manifest_text(manifest)
        self._zip.writestr(_entry(fmt.MANIFEST, len(text)), text)
        for name in (fmt.RECORDS, fmt.LINE_HASHES):
            path = self._folder / name
            with path.open("rb") as source, self._zip.open(_entry(name, path.stat().st_size), "w") as target:
                shutil.copyfileobj(source, target, _SPOOL_BYTES)
            path.unlink()
        self._zip.close()
        return manifest


def manifest_of(
    *,
    scope: Any,
    change_head: Mapping[str, Any] | None,
    counts: Mapping[str, int],
    blob_count: int,
    blob_bytes: int,
    records_sha256: str,
    snapshot_digest: str,
    state_digest: str,
) -> dict[str, Any]:
    """Return the members of a manifest; digests are given as bare hex."""
    return {
        "format": fmt.FORMAT,
        "format_version": fmt.FORMAT_VERSION,
        "scope": scope,
        "change_head": change_head,
        "counts": dict(counts),
        "blob_count": blob_count,
        "blob_bytes": blob_bytes,
        "records_sha256": records_sha256,
        "snapshot_digest": f"sha256:{snapshot_digest}",
        "state_digest": f"sha256:{state_digest}",
    }


def manifest_text(manifest: Mapping[str, Any]) -> bytes:
    """Return a manifest as it is stored: one canonical line."""
    return dumps(manifest).encode() + b"\n"


def _entry(name: str, size: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _DATE)
    entry.compress_type = zipfile.ZIP_STORED
    entry.create_system = _UNIX
    entry.external_attr = _MODE
    # Known beforehand, it decides about ZIP64, which would otherwise be taken for safety's sake.
    entry.file_size = size
    return entry


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file as bare hex."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
