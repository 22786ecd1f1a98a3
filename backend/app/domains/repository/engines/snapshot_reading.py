"""L5 engine that reads a snapshot and proves it whole: lines, hashes, order, counts, roots, blobs."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from app.domains.repository.engines import snapshot_format as fmt
from app.domains.repository.engines.snapshot_archive import Archive
from app.domains.repository.engines.snapshot_checks import Closure, add_record, close_records
from app.domains.repository.engines.snapshot_export import WHOLE
from app.domains.repository.engines.snapshot_writing import manifest_of, manifest_text
from app.domains.repository.errors import snapshot_invalid, too_large
from app.domains.repository.models.snapshots import Fault, SnapshotFault, SnapshotSummary
from app.domains.repository.models.vocabulary import BlobState
from app.kernel.canonical_json import CanonicalJsonError, dumps, loads
from app.kernel.errors import HocError
from app.kernel.merkle import MerkleRoot

_HEADER = ("canonical_json", "change_head", "format", "format_version", "omitted", "scope")


@dataclass(frozen=True, slots=True)
class Verified:
    """A snapshot that was read from end to end: its manifest, and what its records say together."""

    manifest: Mapping[str, Any]
    closure: Closure

    @property
    def digest(self) -> str:
        """The snapshot digest."""
        return str(self.manifest["snapshot_digest"])


@dataclass(slots=True)
class _Reader:
    archive: Archive
    closure: Closure
    header: Mapping[str, Any]
    counts: Counter[str]
    blob_bytes: int = 0
    blob_count: int = 0
    last: tuple[Any, ...] = ()


def verify(archive: Archive, *, max_records: int) -> Verified:
    """Read a snapshot from end to end; refuse SNAPSHOT_INVALID with reason and line, and TOO_LARGE."""
    manifest = _read_manifest(archive)
    reader = _Reader(archive, Closure(), {}, Counter(dict.fromkeys(fmt.ORDER, 0)))
    whole, state, sha256 = MerkleRoot(), MerkleRoot(), hashlib.sha256()
    with (
        closing(archive.lines(fmt.RECORDS)) as records,
        closing(archive.lines(fmt.LINE_HASHES)) as hashes,
    ):
        for record, hashed in zip_longest(records, hashes):
            number, line, said = _read_pair(record, hashed, max_records)
            whole.append(line)
            sha256.update(line + b"\n")
            kind = _take(reader, line, number)
            if kind not in (fmt.HEADER, fmt.CHANGE):
                state.append(line)
            if said != kind:
                raise snapshot_invalid(Fault.LINE_HASH_MISMATCH, number, "The hash names another kind.")
    if not reader.last:
        raise snapshot_invalid(Fault.TRUNCATED, 1, "There is no header.")
    close_records(reader.closure, reader.header["change_head"])
    _check_blobs(reader)
    found = manifest_of(
        scope=reader.header["scope"],
        change_head=reader.header["change_head"],
        counts=reader.counts,
        blob_count=reader.blob_count,
        blob_bytes=reader.blob_bytes,
        records_sha256=sha256.hexdigest(),
        snapshot_digest=whole.hexdigest(),
        state_digest=state.hexdigest(),
    )
    _check_manifest(manifest, found)
    return Verified(manifest, reader.closure)


def rows(archive: Archive, kinds: Container[str] = fmt.KINDS) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield kind and row of every record of these kinds of a snapshot that was verified."""
    with closing(archive.lines(fmt.RECORDS)) as lines:
        for _, line in lines:
            kind = fmt.kind_of(line)
            if kind in kinds:
                yield kind, fmt.known_row(kind, line)


def summary(manifest: Mapping[str, Any]) -> SnapshotSummary:
    """Return what a manifest says."""
    return SnapshotSummary(**{name: manifest[name] for name in SnapshotSummary.model_fields})


def fault_of(error: HocError) -> SnapshotFault:
    """Return a refusal of SNAPSHOT_INVALID as an item of a report."""
    return SnapshotFault(code=Fault(error.extra["reason"]), line=error.extra["line"], detail=error.detail)


def _read_manifest(archive: Archive) -> dict[str, Any]:
    text = archive.read_manifest()
    try:
        manifest = loads(text.rstrip(b"\n"))
    except CanonicalJsonError as error:
        raise snapshot_invalid(Fault.MANIFEST_MISMATCH, None, "The manifest is no JSON object.") from error
    if not isinstance(manifest, dict):
        raise snapshot_invalid(Fault.MANIFEST_MISMATCH, None, "The manifest is no JSON object.")
    _check_version(manifest, None)
    if manifest_text(manifest) != text:
        raise snapshot_invalid(Fault.NOT_CANONICAL, None, "The manifest is not in canonical form.")
    return manifest


def _check_version(members: Mapping[str, Any], line: int | None) -> None:
    if members.get("format") != fmt.FORMAT or members.get("format_version") != fmt.FORMAT_VERSION:
        raise snapshot_invalid(Fault.UNSUPPORTED_VERSION, line, "The format is not hoc-snapshot 1.")


def _read_pair(
    record: tuple[int, bytes] | None, hashed: tuple[int, bytes] | None, max_records: int
) -> tuple[int, bytes, str]:
    if record is None:
        number = hashed[0] if hashed is not None else None
        raise snapshot_invalid(Fault.TRUNCATED, number, "There are more line hashes than lines.")
    number, line = record
    if hashed is None:
        raise snapshot_invalid(Fault.TRAILING_DATA, number, "There are more lines than line hashes.")
    if number > max_records:
        raise too_large(max_records, number, "The number of records")
    prefix = f"{hashlib.sha256(line).hexdigest()}  {number}  ".encode()
    if not hashed[1].startswith(prefix):
        raise snapshot_invalid(Fault.LINE_HASH_MISMATCH, number, "The line does not have its hash.")
    return number, line, hashed[1][len(prefix) :].decode(errors="replace")


def _take(reader: _Reader, line: bytes, number: int) -> str:
    kind, key, members = fmt.read_line(line, number)
    if (kind == fmt.HEADER) != (number == 1):
        raise snapshot_invalid(Fault.BAD_ORDER, number, "The header is the first line, and only that.")
    if kind == fmt.HEADER:
        _take_header(reader, key, members)
    else:
        row = fmt.read_row(kind, key, members, number)
        place = fmt.sort_key(kind, key)
        if place == reader.last:
            raise snapshot_invalid(Fault.DUPLICATE_RECORD, number, "The record is there twice.")
        if place < reader.last:
            raise snapshot_invalid(Fault.BAD_ORDER, number, "The records are not in their order.")
        reader.last = place
        add_record(reader.closure, kind, row, number)
        if kind == "blob" and row["state"] == BlobState.PRESENT:
            _take_blob(reader, row, number)
    reader.counts[kind] += 1
    return kind


def _take_header(reader: _Reader, key: list[Any], members: Mapping[str, Any]) -> None:
    _check_version(members, 1)
    unknown = members.keys() - set(_HEADER)
    if unknown:
        raise snapshot_invalid(Fault.UNKNOWN_FIELD, 1, f"There is no member {min(unknown)[:60]!r} here.")
    scope, omitted = members.get("scope"), members.get("omitted")
    good = (
        len(members) == len(_HEADER)
        and not key
        and members["canonical_json"] == fmt.CANONICAL_JSON
        and (scope == WHOLE or (isinstance(scope, list) and all(isinstance(item, str) for item in scope)))
        and isinstance(omitted, dict)
        and all(type(count) is int for count in omitted.values())
        and _is_head(members["change_head"])
    )
    if not good:
        raise snapshot_invalid(Fault.BAD_VALUE, 1, "The header does not have the form of one.")
    reader.header = members
    reader.closure.whole = scope == WHOLE
    reader.last = (0,)


def _is_head(value: Any) -> bool:
    if value is None:
        return True
    return (
        isinstance(value, dict)
        and value.keys() == {"seq", "hash"}
        and type(value["seq"]) is int
        and isinstance(value["hash"], str)
        and fmt.is_digest(value["hash"])
    )


def _take_blob(reader: _Reader, row: Mapping[str, Any], number: int) -> None:
    size = reader.archive.blob_size(row["digest"])
    if size is None:
        raise snapshot_invalid(Fault.BLOB_MISSING, number, "The bytes of the blob are missing.")
    hasher = hashlib.sha256()
    for chunk in reader.archive.blob_chunks(row["digest"]):
        hasher.update(chunk)
    if f"sha256:{hasher.hexdigest()}" != row["digest"] or size != row["size"]:
        raise snapshot_invalid(Fault.BLOB_MISMATCH, number, "The bytes are not those of the blob.")
    reader.blob_count += 1
    reader.blob_bytes += size


def _check_blobs(reader: _Reader) -> None:
    for digest in reader.archive.blob_digests():
        if reader.closure.blob_state(digest) != BlobState.PRESENT:
            raise snapshot_invalid(Fault.BLOB_UNLISTED, None, f"No record tells of {digest}.")


def _check_manifest(manifest: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    for name in ("counts", "blob_count", "blob_bytes"):
        if dumps(manifest.get(name)) != dumps(found[name]):
            raise snapshot_invalid(Fault.COUNT_MISMATCH, None, f"{name} is not what was counted.")
    if dumps(manifest) != dumps(found):
        raise snapshot_invalid(Fault.MANIFEST_MISMATCH, None, "The manifest is not that of the records.")
