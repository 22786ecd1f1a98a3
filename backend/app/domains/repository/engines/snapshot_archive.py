"""L5 engine that opens a snapshot, a zip or a folder, and trusts neither."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NoReturn, Self

from app.domains.repository.engines import snapshot_format as fmt
from app.domains.repository.errors import snapshot_invalid, too_large
from app.domains.repository.models.snapshots import Fault

_PARTS = (fmt.MANIFEST, fmt.RECORDS, fmt.LINE_HASHES)
_MAX_MANIFEST_BYTES = 1 << 20
_CHUNK = 1 << 20
# The end of a zip without a comment, and the head of an entry: 30 bytes, then name and extra field.
_END, _END_BYTES = b"PK\x05\x06", 22
_LOCAL, _LOCAL_BYTES = b"PK\x03\x04", 30
_READ_FAULTS = (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, ValueError)
# Where the bytes of an entry are, and how many there are; packed, for there may be a million of them.
_SIZE_BITS = 42


class Archive:
    """A snapshot's parts by name and its blobs by digest; refuse BAD_ARCHIVE, TRUNCATED and TOO_LARGE."""

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._parts: dict[str, int] = {}
        self._blobs: dict[bytes, int] = {}
        self._total = 0
        try:
            if path.is_dir():
                self._find_files(path)
            else:
                self._find_entries(path)
            if self._total > max_bytes:
                raise too_large(max_bytes, self._total, "The snapshot")
            missing = [name for name in _PARTS if name not in self._parts]
            if missing:
                raise snapshot_invalid(Fault.TRUNCATED, None, f"{missing[0]} is missing.")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the archive."""
        if self._file is not None:
            self._file.close()

    # What is there.

    def _find_files(self, folder: Path) -> None:
        for path in folder.rglob("*"):
            if path.is_symlink():
                _bad("The folder holds a link.")
            if path.is_dir():
                continue
            if not path.is_file():
                _bad("The folder holds what is no plain file.")
            name = path.relative_to(folder).as_posix()
            if name != fmt.INFO:
                self._put(name, 0, path.stat().st_size)

    def _find_entries(self, path: Path) -> None:
        self._file = path.open("rb")
        try:
            with zipfile.ZipFile(self._file) as archive:
                entries = archive.infolist()
        except _READ_FAULTS:
            _bad("This is no zip.")
        for entry in entries:
            _check_entry(entry)
            self._put(entry.orig_filename, entry.header_offset, entry.file_size)
        if self._total > path.stat().st_size:
            # Stored entries that overlap would be read more often than they were sent.
            _bad("The entries are larger than the archive.")
        self._file.seek(-_END_BYTES, 2)
        ends = self._file.read(4) == _END
        if not ends or min((entry.header_offset for entry in entries), default=0):
            raise snapshot_invalid(Fault.TRAILING_DATA, None, "Something is before or after the archive.")

    def _put(self, name: str, offset: int, size: int) -> None:
        place = offset << _SIZE_BITS | size
        self._total += size
        if name in _PARTS:
            if name in self._parts:
                _bad("Two entries have one name.")
            self._parts[name] = place
            return
        if not name.startswith(fmt.BLOB_FOLDER):
            raise snapshot_invalid(Fault.TRAILING_DATA, None, f"{name[:80]!r} is no part of a snapshot.")
        digest = fmt.blob_digest(name)
        if digest is None:
            raise snapshot_invalid(Fault.BLOB_UNLISTED, None, f"{name[:80]!r} names no blob.")
        if fmt.raw_digest(digest) in self._blobs:
            _bad("Two entries have one name.")
        self._blobs[fmt.raw_digest(digest)] = place

    def blob_size(self, digest: str) -> int | None:
        """Return how many bytes of a blob there are, null for one that is not here."""
        place = self._blobs.get(fmt.raw_digest(digest))
        return None if place is None else place & ((1 << _SIZE_BITS) - 1)

    def blob_digests(self) -> Iterator[str]:
        """Yield the digest of every blob that is here."""
        return (f"sha256:{digest.hex()}" for digest in self._blobs)

    # What it holds.

    def read_blob(self, digest: str) -> bytes:
        """Return the bytes of a blob that is here."""
        return b"".join(self.blob_chunks(digest))

    def blob_chunks(self, digest: str) -> Iterator[bytes]:
        """Yield the bytes of a blob that is here."""
        return self._chunks(fmt.blob_name(digest), self._blobs[fmt.raw_digest(digest)])

    def read_manifest(self) -> bytes:
        """Return the text of the manifest; refuse TOO_LARGE."""
        place = self._parts[fmt.MANIFEST]
        size = place & ((1 << _SIZE_BITS) - 1)
        if size > _MAX_MANIFEST_BYTES:
            raise too_large(_MAX_MANIFEST_BYTES, size, "The manifest")
        return b"".join(self._chunks(fmt.MANIFEST, place))

    def lines(self, name: str) -> Generator[tuple[int, bytes]]:
        """Yield number and text of each line of a part without its line feed; refuse TRUNCATED, TOO_LARGE."""
        number, rest = 0, b""
        for chunk in self._chunks(name, self._parts[name]):
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                number += 1
                _check_length(line, number)
                yield number, line
            _check_length(rest, number + 1)
        if rest:
            raise snapshot_invalid(Fault.TRUNCATED, number + 1, f"{name} ends inside a line.")

    def _chunks(self, name: str, place: int) -> Iterator[bytes]:
        offset, left = place >> _SIZE_BITS, place & ((1 << _SIZE_BITS) - 1)
        if self._file is None:
            with (self._path / name).open("rb") as source:
                while chunk := source.read(_CHUNK):
                    yield chunk
            return
        at = self._start(name, offset)
        while left:
            # Others read in the same file meanwhile.
            self._file.seek(at)
            chunk = self._file.read(min(_CHUNK, left))
            if not chunk:
                _bad(f"{name} cannot be read.")
            at, left = at + len(chunk), left - len(chunk)
            yield chunk

    def _start(self, name: str, offset: int) -> int:
        """Return where the bytes of an entry begin; its own head must agree with the directory."""
        if self._file is None:
            return 0
        self._file.seek(offset)
        head = self._file.read(_LOCAL_BYTES)
        named = int.from_bytes(head[26:28], "little")
        if head[:4] != _LOCAL or self._file.read(named) != name.encode():
            _bad(f"{name} cannot be read.")
        return offset + _LOCAL_BYTES + named + int.from_bytes(head[28:30], "little")


def _bad(detail: str) -> NoReturn:
    raise snapshot_invalid(Fault.BAD_ARCHIVE, None, detail) from None


def _check_length(line: bytes, number: int) -> None:
    if len(line) > fmt.MAX_LINE_BYTES:
        raise too_large(fmt.MAX_LINE_BYTES, len(line), f"Line {number}")


def _check_entry(entry: zipfile.ZipInfo) -> None:
    parts = entry.orig_filename.split("/")
    if {"", ".", ".."} & set(parts) or {"\\", "\x00"} & set(entry.orig_filename):
        _bad("An entry has a path that leads elsewhere.")
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        _bad("An entry is compressed.")
    if entry.flag_bits & 0x1:
        _bad("An entry is encrypted.")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind and kind != stat.S_IFREG:
        _bad("An entry is no plain file.")
