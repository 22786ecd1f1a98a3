"""L5 rules of the snapshot format `hoc-snapshot` 1: records, their order, their canonical lines."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from app.domains.repository.errors import snapshot_invalid
from app.domains.repository.models.snapshots import Fault
from app.domains.repository.models.vocabulary import (
    Action,
    BlobState,
    ContextItemKind,
    EntityType,
    OperationRunStatus,
    Redaction,
    StepStatus,
)
from app.kernel.canonical_json import CanonicalJsonError, RawJson, dumps, dumps_object, loads
from app.kernel.clock import format_time, parse_time

FORMAT: Final = "hoc-snapshot"
FORMAT_VERSION: Final = 1
CANONICAL_JSON: Final = "kcj-1"
RECORDS: Final = "records.jsonl"
LINE_HASHES: Final = "records.sha256"
MANIFEST: Final = "manifest.json"
INFO: Final = "info.json"
BLOB_FOLDER: Final = "blobs/sha256/"
MAX_LINE_BYTES: Final = 8 * 1024 * 1024
HEADER: Final = "header"
CHANGE: Final = "change"
_MAX_BIGINT = 2**63 - 1
_DIGEST_LENGTH = 71
_HEX = frozenset("0123456789abcdef")
_BEFORE_KIND = b'},"k":"'

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Member:
    """How one column stands in a record: kind of value, and whether it may be null."""

    kind: str
    null: bool = False
    words: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of record: its members, and those that make up its key."""

    name: str
    members: Mapping[str, Member]
    key: tuple[str, ...]


def _words(vocabulary: type[StrEnum], *, null: bool = False) -> Member:
    return Member("word", null, frozenset(str(word) for word in vocabulary))


_T, _TN = Member("text"), Member("text", null=True)
_I, _IN = Member("int"), Member("int", null=True)
_D, _DN = Member("digest"), Member("digest", null=True)
_AT, _ATN = Member("time"), Member("time", null=True)
_J, _JN = Member("json"), Member("json", null=True)
_STAMPS = {"created_at": _AT, "created_by": _T, "updated_at": _AT, "updated_by": _T, "deleted_at": _ATN,
           "deleted_by": _TN}  # fmt: skip
_BUNDLE_ITEM = {"position": _I, "artifact_id": _T, "revision": _I, "revision_digest": _D, "role": _T}

KINDS: Final[Mapping[str, Kind]] = {
    kind.name: kind
    for kind in (
        Kind(
            "collection",
            {"id": _T, "name": _T, "name_key": _T, "description": _TN, "metadata": _J, "version": _I}
            | _STAMPS,
            ("id",),
        ),
        Kind(
            "blob",
            {"digest": _D, "size": _I, "state": _words(BlobState), "blocked": Member("bool")},
            ("digest",),
        ),
        Kind(
            "artifact",
            {"id": _T, "collection_id": _T, "name": _T, "name_key": _T, "artifact_type": _T,
             "head_revision": _I, "version": _I, "delete_change_set_id": _TN}
            | _STAMPS,
            ("id",),
        ),
        Kind(
            "revision",
            {"artifact_id": _T, "revision": _I, "parent_digest": _DN, "content_digest": _DN, "size": _IN,
             "media_type": _TN, "name": _TN, "name_digest": _D, "collection_id": _T, "artifact_type": _T,
             "metadata": _JN, "metadata_digest": _D, "provenance": _JN, "provenance_digest": _D,
             "produced_by_run": _TN, "created_at": _AT, "created_by": _T, "revision_digest": _D,
             "redaction": _words(Redaction, null=True), "redacted_at": _ATN},
            ("artifact_id", "revision"),
        ),
        Kind(
            "relationship",
            {"id": _T, "source_id": _T, "target_id": _T, "type": _T, "source_revision": _IN,
             "target_revision": _IN, "metadata": _J, "provenance": _J, "version": _I,
             "delete_change_set_id": _TN}
            | _STAMPS,
            ("id",),
        ),
        Kind(
            "input_bundle",
            {"id": _T, "bundle_digest": _D, "created_at": _AT, "created_by": _T, "items": Member("items")},
            ("id",),
        ),
        Kind(
            "operation_run",
            {"run_id": _T, "operation": _T, "status": _words(OperationRunStatus), "version": _I,
             "parameters": _J, "bundle_id": _TN, "parent_run_id": _TN, "attempt": _I, "requested_by": _T,
             "created_at": _AT, "started_at": _ATN, "finished_at": _ATN, "error_code": _TN,
             "error_message": _TN, "trace_id": _TN},
            ("run_id",),
        ),
        Kind(
            "workflow_step",
            {"run_id": _T, "step_id": _T, "position": _I, "status": _words(StepStatus), "attempt": _I,
             "depends_on": _J, "inputs": _J, "outputs": _J, "diagnostics": _J, "started_at": _ATN,
             "finished_at": _ATN},
            ("run_id", "step_id"),
        ),
        Kind(
            "run_output",
            {"run_id": _T, "artifact_id": _T, "revision": _I, "role": _T, "created_at": _AT},
            ("run_id", "artifact_id", "revision"),
        ),
        Kind(
            "run_manifest",
            {"run_id": _T, "body": _J, "manifest_digest": _D, "sealed_at": _AT, "sealed_by": _T},
            ("run_id",),
        ),
        Kind(
            "context_package",
            {"id": _T, "name": _T, "purpose": _TN, "metadata": _J, "provenance": _J, "supersedes": _TN,
             "package_digest": _D, "created_at": _AT, "created_by": _T},
            ("id",),
        ),
        Kind(
            "context_item",
            {"package_id": _T, "position": _I, "kind": _words(ContextItemKind), "artifact_id": _TN,
             "revision": _IN, "revision_digest": _DN, "relationship_id": _TN, "run_id": _TN,
             "memory_system": _TN, "memory_ref": _TN, "memory_ref_digest": _DN, "memory_kind": _TN,
             "memory_digest": _TN, "provenance": _J, "note": _TN},
            ("package_id", "position"),
        ),
        Kind(
            CHANGE,
            {"seq": _I, "change_id": _T, "change_set_id": _T, "entity_type": _words(EntityType),
             "entity_id": _T, "action": _words(Action), "old_version": _IN, "new_version": _IN,
             "old_revision": _IN, "new_revision": _IN, "old_digest": _DN, "new_digest": _DN,
             "old_revision_digest": _DN, "new_revision_digest": _DN, "changed_fields": _J, "actor_id": _T,
             "reason": _TN, "run_id": _TN, "trace_id": _TN, "request_id": _TN, "occurred_at": _AT,
             "detail": _J, "prev_hash": _D, "hash": _D},
            ("seq",),
        ),
    )
}  # fmt: skip
ORDER: Final[Mapping[str, int]] = {name: place for place, name in enumerate((HEADER, *KINDS))}


def record_line(kind: str, row: Row) -> str:
    """Return the canonical line of a row, without its line feed."""
    shape = KINDS[kind]
    members = {name: _shown(member, row[name]) for name, member in shape.members.items()}
    key = dumps([row[name] for name in shape.key])
    return f'{{"d":{dumps_object(members)},"k":"{kind}","key":{key}}}'


def header_line(scope: Any, omitted: Mapping[str, int], change_head: Mapping[str, Any] | None) -> str:
    """Return the first line of a snapshot."""
    members = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "canonical_json": CANONICAL_JSON,
        "scope": scope,
        "omitted": dict(omitted),
        "change_head": change_head,
    }
    return dumps({"d": members, "k": HEADER, "key": []})


def _shown(member: Member, value: Any) -> Any:
    if value is None:
        return None
    if member.kind == "json":
        return RawJson(value)
    if member.kind == "time":
        return format_time(value)
    if member.kind == "word":
        return str(value)
    if member.kind == "bool":
        return bool(value)
    if member.kind == "items":
        return [{name: item[name] for name in _BUNDLE_ITEM} for item in value]
    return value


def read_line(line: bytes, number: int) -> tuple[str, list[Any], dict[str, Any]]:
    """Return kind, key and members of a line; refuse what is not canonical or has another shape."""
    try:
        value = loads(line)
        canonical = dumps(value).encode()
    except CanonicalJsonError as error:
        raise snapshot_invalid(Fault.NOT_CANONICAL, number, str(error)[:200]) from error
    if canonical != line:
        raise snapshot_invalid(Fault.NOT_CANONICAL, number, "The line is not in canonical form.")
    if not isinstance(value, dict):
        raise snapshot_invalid(Fault.BAD_VALUE, number, "A record is an object.")
    _check_members(value, ("d", "k", "key"), number)
    kind, key, members = value["k"], value["key"], value["d"]
    if not isinstance(kind, str) or kind not in ORDER:
        raise snapshot_invalid(Fault.UNKNOWN_KIND, number, "There is no such kind of record.")
    if not isinstance(key, list) or not isinstance(members, dict):
        raise snapshot_invalid(Fault.BAD_VALUE, number, "A key is an array, the rest an object.")
    return kind, key, members


def read_row(kind: str, key: list[Any], members: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return the row of a record as it is stored; refuse UNKNOWN_FIELD and BAD_VALUE."""
    shape = KINDS[kind]
    _check_members(members, tuple(shape.members), number)
    row = {name: _stored(member, name, members[name], number) for name, member in shape.members.items()}
    if key != [row[name] for name in shape.key]:
        raise snapshot_invalid(Fault.BAD_VALUE, number, "The key is not that of the record.")
    return row


def kind_of(line: bytes) -> str:
    """Return the kind of a line that was verified, without reading its members."""
    # Inside a value a quotation mark is escaped, and after the kind there are scalars only.
    start = line.rindex(_BEFORE_KIND) + len(_BEFORE_KIND)
    return line[start : line.index(b'"', start)].decode()


def known_row(kind: str, line: bytes) -> dict[str, Any]:
    """Return the row of a line that was verified: nothing of it is looked at twice."""
    row: dict[str, Any] = json.loads(line)["d"]
    for name, restore in _RESTORED[kind]:
        if row[name] is not None:
            row[name] = restore(row[name])
    return row


def _check_members(value: Mapping[str, Any], names: tuple[str, ...], number: int) -> None:
    unknown = value.keys() - set(names)
    if unknown:
        raise snapshot_invalid(Fault.UNKNOWN_FIELD, number, f"There is no member {min(unknown)[:60]!r} here.")
    if len(value) != len(names):
        missing = min(set(names) - value.keys())
        raise snapshot_invalid(Fault.BAD_VALUE, number, f"The member {missing} is missing.")


def _stored(member: Member, name: str, value: Any, number: int) -> Any:
    if value is None and member.null:
        return None
    if member.kind == "json":
        return dumps(value)
    read = _READERS[member.kind](member, value, number)
    if read is None:
        raise snapshot_invalid(Fault.BAD_VALUE, number, f"{name} has a value that it cannot have.")
    return read


def _read_text(_member: Member, value: Any, _number: int) -> str | None:
    return value if isinstance(value, str) else None


def _read_int(_member: Member, value: Any, _number: int) -> int | None:
    return value if type(value) is int and 0 <= value <= _MAX_BIGINT else None


def _read_digest(_member: Member, value: Any, _number: int) -> str | None:
    return value if isinstance(value, str) and is_digest(value) else None


def _read_time(_member: Member, value: Any, _number: int) -> datetime | None:
    try:
        return parse_time(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _read_word(member: Member, value: Any, _number: int) -> str | None:
    return value if isinstance(value, str) and value in member.words else None


def _read_bool(_member: Member, value: Any, _number: int) -> bool | None:
    return value if isinstance(value, bool) else None


def _read_items(_member: Member, value: Any, number: int) -> list[dict[str, Any]] | None:
    if not isinstance(value, list):
        return None
    items = []
    for position, item in enumerate(value):
        if not isinstance(item, dict):
            return None
        _check_members(item, tuple(_BUNDLE_ITEM), number)
        row = {name: _stored(member, name, item[name], number) for name, member in _BUNDLE_ITEM.items()}
        if row["position"] != position:
            return None
        items.append(row)
    return items


_READERS: Mapping[str, Callable[[Member, Any, int], Any]] = {
    "text": _read_text,
    "int": _read_int,
    "digest": _read_digest,
    "time": _read_time,
    "word": _read_word,
    "bool": _read_bool,
    "items": _read_items,
}


# What stands otherwise in a row than in a record.
_RESTORED: Final[Mapping[str, list[tuple[str, Callable[[Any], Any]]]]] = {
    kind.name: [
        (name, parse_time if member.kind == "time" else dumps)
        for name, member in kind.members.items()
        if member.kind in ("time", "json")
    ]
    for kind in KINDS.values()
}


def is_digest(text: str) -> bool:
    """Tell whether a text is `sha256:` and 64 lowercase hex digits."""
    return len(text) == _DIGEST_LENGTH and text.startswith("sha256:") and _HEX.issuperset(text[7:])


def sort_key(kind: str, key: list[Any]) -> tuple[Any, ...]:
    """Return what orders the records of a snapshot: kinds in their order, ints numeric, text bytewise."""
    return (ORDER[kind], *(part.encode() if isinstance(part, str) else part for part in key))


def blob_name(digest: str) -> str:
    """Return the path of a blob's bytes inside a snapshot."""
    digits = digest.removeprefix("sha256:")
    return f"{BLOB_FOLDER}{digits[:2]}/{digits}"


def blob_digest(name: str) -> str | None:
    """Return the digest that a blob's path names; null for any other path."""
    folder, _, digits = name.removeprefix(BLOB_FOLDER).partition("/")
    good = len(digits) == 64 and _HEX.issuperset(digits) and folder == digits[:2]
    return f"sha256:{digits}" if good and name.startswith(BLOB_FOLDER) else None


def raw_digest(digest: str) -> bytes:
    """Return the 32 bytes of a digest."""
    return bytes.fromhex(digest[7:])


def line_hash(digest_hex: str, number: int, kind: str) -> str:
    """Return one line of records.sha256, without its line feed."""
    return f"{digest_hex}  {number}  {kind}"


def name_key(name: str) -> str:
    """Return the key under which a name is unique."""
    return unicodedata.normalize("NFC", name)
