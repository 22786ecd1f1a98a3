"""L5 rules of what the records of a snapshot say together: references, chains, heads, digests."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from sys import intern
from typing import Any, NoReturn

from app.domains.repository.engines import snapshot_format as fmt
from app.domains.repository.engines.bundles import bundle_digest
from app.domains.repository.engines.changes import GENESIS_HASH, change_hash
from app.domains.repository.engines.context_packages import package_digest
from app.domains.repository.engines.manifests import manifest_digest
from app.domains.repository.engines.operation_runs import ENDED
from app.domains.repository.engines.revisions import revision_digest
from app.domains.repository.engines.values import REDACTED_PREFIX, check_name, is_id
from app.domains.repository.errors import snapshot_invalid
from app.domains.repository.models.snapshots import Fault
from app.domains.repository.models.vocabulary import BlobState, Redaction
from app.kernel.errors import HocError
from app.kernel.hashing import digest_of

Row = Mapping[str, Any]
_STATES = tuple(BlobState)


@dataclass(slots=True)
class Head:
    """What is kept of an artifact: its head, and the digests of its revisions as raw bytes."""

    line: int
    live: bool
    version: int
    head_revision: int
    name: str
    collection_id: str
    artifact_type: str
    # The digests of the revisions one after the other: a list of them would take twice the room.
    chain: bytes = b""
    redacted: frozenset[int] = frozenset()

    @property
    def length(self) -> int:
        """The number of revisions."""
        return len(self.chain) // 32

    def digest(self, revision: int) -> str:
        """Return the digest of a revision."""
        return f"sha256:{self.chain[32 * (revision - 1) : 32 * revision].hex()}"


@dataclass(slots=True)
class Closure:
    """Everything that later records are checked against; of contents and documents nothing is kept."""

    whole: bool = True
    collections: dict[str, bool] = field(default_factory=dict)
    # State and size of a blob in one number, by the bytes of its digest.
    blobs: dict[bytes, int] = field(default_factory=dict)
    artifacts: dict[str, Head] = field(default_factory=dict)
    relationships: set[str] = field(default_factory=set)
    bundles: set[str] = field(default_factory=set)
    runs: dict[str, str | None] = field(default_factory=dict)
    packages: dict[str, str | None] = field(default_factory=dict)
    # What is there once: live names, live triples, positions of steps, producers, digests of bundles.
    taken: set[bytes] = field(default_factory=set)
    versions: dict[tuple[str, str], int] = field(default_factory=dict)
    # By type and id, the numbers of the first and the last record, and the version that the last one names.
    records: dict[str, dict[str, tuple[int, int, int | None]]] = field(default_factory=dict)
    hashes: array[int] = field(default_factory=lambda: array("B"))
    last_hash: str = GENESIS_HASH
    last_seq: int = 0
    # The package whose items are being read, its items, and the head of the revision being read.
    pending: dict[str, Row] = field(default_factory=dict)
    items: list[Row] = field(default_factory=list)

    def take(self, *words: str) -> bool:
        """Tell whether something is there for the first time."""
        mark = hashlib.blake2b("\n".join(words).encode(), digest_size=16).digest()
        known = mark in self.taken
        self.taken.add(mark)
        return not known

    def blob_state(self, digest: str) -> BlobState | None:
        """Return the state of a blob, null for one of which no record tells."""
        packed = self.blobs.get(fmt.raw_digest(digest))
        return None if packed is None else _STATES[packed & 3]

    def records_of(self, entity_type: str, entity_id: str) -> tuple[int, int, int | None]:
        """Return first number, last number and last version of an entity, zeros and null without a record."""
        return self.records.get(entity_type, {}).get(entity_id, (0, 0, None))

    def hash_at(self, seq: int) -> str | None:
        """Return the hash of the record with this number, null beyond the end."""
        if not 1 <= seq <= self.last_seq:
            return None
        return "sha256:" + self.hashes[(seq - 1) * 32 : seq * 32].tobytes().hex()


def _fail(fault: Fault, line: int | None, detail: str) -> NoReturn:
    raise snapshot_invalid(fault, line, detail)


def add_record(closure: Closure, kind: str, row: Row, line: int) -> None:
    """Check a record against those before it and remember what later ones need; refuse SNAPSHOT_INVALID."""
    _CHECKS[kind](closure, row, line)


def _identifier(value: str, line: int) -> str:
    if not is_id(value):
        _fail(Fault.BAD_VALUE, line, "An id does not have the form of one.")
    return value


def _name(row: Row, line: int, place: str, closure: Closure) -> None:
    name = row["name"]
    if name != f"{REDACTED_PREFIX}{row['id']}":
        try:
            check_name(name)
        except HocError as error:
            _fail(Fault.BAD_VALUE, line, error.detail)
    if row["name_key"] != fmt.name_key(name):
        _fail(Fault.BAD_VALUE, line, "name_key is not that of the name.")
    if row["deleted_at"] is None and not closure.take("name", place, row["name_key"]):
        _fail(Fault.BAD_VALUE, line, "Two live objects bear one name.")


def _head(row: Row, line: int) -> None:
    _identifier(row["id"], line)
    if row["version"] < 1 or (row["deleted_at"] is None) != (row["deleted_by"] is None):
        _fail(Fault.BAD_VALUE, line, "Version or deletion is not that of a head.")


def _collection(closure: Closure, row: Row, line: int) -> None:
    _head(row, line)
    _name(row, line, "", closure)
    closure.collections[row["id"]] = row["deleted_at"] is None
    closure.versions["COLLECTION", row["id"]] = row["version"]


def _blob(closure: Closure, row: Row, _line: int) -> None:
    closure.blobs[fmt.raw_digest(row["digest"])] = row["size"] << 2 | _STATES.index(BlobState(row["state"]))


def _artifact(closure: Closure, row: Row, line: int) -> None:
    _head(row, line)
    if row["collection_id"] not in closure.collections:
        _fail(Fault.DANGLING_REFERENCE, line, "There is no such collection in the snapshot.")
    live = row["deleted_at"] is None
    if live and not closure.collections[row["collection_id"]]:
        _fail(Fault.DANGLING_REFERENCE, line, "The collection of a live artifact is deleted.")
    _name(row, line, row["collection_id"], closure)
    closure.artifacts[intern(row["id"])] = Head(
        line,
        live,
        row["version"],
        row["head_revision"],
        row["name"],
        intern(row["collection_id"]),
        intern(row["artifact_type"]),
    )


def _revision(closure: Closure, row: Row, line: int) -> None:
    head = closure.artifacts.get(row["artifact_id"])
    if head is None:
        _fail(Fault.DANGLING_REFERENCE, line, "There is no such artifact in the snapshot.")
    if row["revision"] != head.length + 1:
        _fail(Fault.REVISION_GAP, line, "Revisions are numbered from 1 without gaps.")
    parent = head.digest(head.length) if head.length else None
    if row["parent_digest"] != parent:
        _fail(Fault.CHAIN_BROKEN, line, "The parent is not the revision before.")
    _revision_values(closure, row, line)
    if revision_digest(row) != row["revision_digest"]:
        _fail(Fault.DIGEST_MISMATCH, line, "The revision does not have its digest.")
    head.chain += fmt.raw_digest(row["revision_digest"])
    if row["redaction"] is not None:
        head.redacted |= {row["revision"]}
    if row["revision"] == head.head_revision:
        _head_revision(head, row, line)


def _revision_values(closure: Closure, row: Row, line: int) -> None:
    for name in ("name", "metadata", "provenance"):
        value = row[name]
        if (value is None) != (row["redaction"] == Redaction.FULL):
            _fail(Fault.BAD_VALUE, line, f"{name} is null in a redacted revision, and in no other.")
        if value is not None and digest_of(value.encode()) != row[f"{name}_digest"]:
            _fail(Fault.DIGEST_MISMATCH, line, f"{name} does not have its digest.")
    if (row["redaction"] is None) != (row["redacted_at"] is None):
        _fail(Fault.BAD_VALUE, line, "A redaction has a time.")
    digest = row["content_digest"]
    if (digest is None) != (row["size"] is None):
        _fail(Fault.BAD_VALUE, line, "Content has a size.")
    if digest is not None:
        blob = closure.blobs.get(fmt.raw_digest(digest))
        if blob is None:
            _fail(Fault.DANGLING_REFERENCE, line, "There is no such blob in the snapshot.")
        if blob >> 2 != row["size"]:
            _fail(Fault.BAD_VALUE, line, "The size is not that of the blob.")


def _head_revision(head: Head, row: Row, line: int) -> None:
    wanted = row["name"] if row["name"] is not None else f"{REDACTED_PREFIX}{row['artifact_id']}"
    state = (wanted, row["collection_id"], row["artifact_type"])
    if state != (head.name, head.collection_id, head.artifact_type):
        _fail(Fault.BAD_HEAD, line, "The head does not say what its revision says.")


def _has_revision(
    closure: Closure, artifact_id: str | None, revision: int | None, digest: str | None
) -> bool:
    head = closure.artifacts.get(artifact_id or "")
    if head is None or revision is None or not 1 <= revision <= head.length:
        return False
    return digest is None or head.digest(revision) == digest


def _relationship(closure: Closure, row: Row, line: int) -> None:
    _head(row, line)
    ends = [closure.artifacts.get(row[f"{end}_id"]) for end in ("source", "target")]
    if None in ends:
        _fail(Fault.DANGLING_REFERENCE, line, "An end is not in the snapshot.")
    for end in ("source", "target"):
        revision = row[f"{end}_revision"]
        if revision is not None and not _has_revision(closure, row[f"{end}_id"], revision, None):
            _fail(Fault.DANGLING_REFERENCE, line, "A pinned revision is not in the snapshot.")
    if row["source_id"] == row["target_id"]:
        _fail(Fault.BAD_VALUE, line, "Both ends are one artifact.")
    if row["deleted_at"] is None:
        if not all(head.live for head in ends if head is not None):
            _fail(Fault.DANGLING_REFERENCE, line, "A live relationship ends at a deleted artifact.")
        if not closure.take("triple", row["source_id"], row["type"], row["target_id"]):
            _fail(Fault.BAD_VALUE, line, "Two live relationships are the same.")
    closure.relationships.add(row["id"])
    closure.versions["RELATIONSHIP", row["id"]] = row["version"]


def _bundle(closure: Closure, row: Row, line: int) -> None:
    _identifier(row["id"], line)
    for item in row["items"]:
        if not _has_revision(closure, item["artifact_id"], item["revision"], item["revision_digest"]):
            _fail(Fault.DANGLING_REFERENCE, line, "An item is not in the snapshot.")
    if bundle_digest(row["items"]) != row["bundle_digest"]:
        _fail(Fault.DIGEST_MISMATCH, line, "The bundle does not have its digest.")
    if not closure.take("bundle", row["bundle_digest"]):
        _fail(Fault.BAD_VALUE, line, "Two bundles are the same.")
    closure.bundles.add(row["id"])


def _run(closure: Closure, row: Row, line: int) -> None:
    _identifier(row["run_id"], line)
    if row["bundle_id"] is not None and row["bundle_id"] not in closure.bundles:
        _fail(Fault.DANGLING_REFERENCE, line, "There is no such bundle in the snapshot.")
    ended = row["status"] in ENDED
    if ended != (row["finished_at"] is not None) or row["version"] < 1 or row["attempt"] < 1:
        _fail(Fault.BAD_VALUE, line, "Status, time, version or attempt is not that of a run.")
    closure.runs[row["run_id"]] = row["parent_run_id"]


def _step(closure: Closure, row: Row, line: int) -> None:
    if row["run_id"] not in closure.runs:
        _fail(Fault.DANGLING_REFERENCE, line, "There is no such run in the snapshot.")
    if not closure.take("step", row["run_id"], str(row["position"])) or row["attempt"] < 1:
        _fail(Fault.BAD_VALUE, line, "Position or attempt is not that of a step.")


def _output(closure: Closure, row: Row, line: int) -> None:
    known = _has_revision(closure, row["artifact_id"], row["revision"], None)
    if row["run_id"] not in closure.runs or not known:
        _fail(Fault.DANGLING_REFERENCE, line, "Run or revision is not in the snapshot.")
    if not closure.take("output", row["artifact_id"], str(row["revision"])):
        _fail(Fault.BAD_VALUE, line, "A revision has two producers.")


def _manifest(closure: Closure, row: Row, line: int) -> None:
    if row["run_id"] not in closure.runs:
        _fail(Fault.DANGLING_REFERENCE, line, "There is no such run in the snapshot.")
    if manifest_digest(row["body"]) != row["manifest_digest"]:
        _fail(Fault.DIGEST_MISMATCH, line, "The manifest does not have its digest.")


def _package(closure: Closure, row: Row, line: int) -> None:
    _identifier(row["id"], line)
    closure.packages[row["id"]] = row["supersedes"]
    closure.pending[row["id"]] = {**row, "line": line}


def _item(closure: Closure, row: Row, line: int) -> None:
    package = row["package_id"]
    if package not in closure.packages:
        _fail(Fault.DANGLING_REFERENCE, line, "There is no such package in the snapshot.")
    if closure.items and closure.items[0]["package_id"] != package:
        _close_package(closure)
    if row["position"] != len(closure.items):
        _fail(Fault.BAD_VALUE, line, "Items are numbered from 0 without gaps.")
    kinds = {
        "artifact": lambda: _has_revision(
            closure, row["artifact_id"], row["revision"], row["revision_digest"]
        ),
        "relationship": lambda: row["relationship_id"] in closure.relationships,
        "run": lambda: row["run_id"] in closure.runs,
        "external_memory": lambda: row["memory_ref"] is not None,
    }
    if not kinds[row["kind"]]():
        _fail(Fault.DANGLING_REFERENCE, line, "What the item points at is not in the snapshot.")
    closure.items.append(row)


def _close_package(closure: Closure) -> None:
    package = closure.pending.pop(closure.items[0]["package_id"])
    _check_package(package, closure.items)
    closure.items = []


def _check_package(package: Row, items: list[Row]) -> None:
    if package_digest(package, items) != package["package_digest"]:
        _fail(Fault.DIGEST_MISMATCH, package["line"], "The package does not have its digest.")


def _change(closure: Closure, row: Row, line: int) -> None:
    if row["seq"] != closure.last_seq + 1 or row["prev_hash"] != closure.last_hash:
        _fail(Fault.CHAIN_BROKEN, line, "The record does not follow the one before.")
    if change_hash(row) != row["hash"]:
        _fail(Fault.CHAIN_BROKEN, line, "The record does not have its hash.")
    closure.last_seq, closure.last_hash = row["seq"], row["hash"]
    closure.hashes.frombytes(fmt.raw_digest(row["hash"]))
    known = closure.records.setdefault(row["entity_type"], {})
    entity_id = intern(row["entity_id"])
    first = known[entity_id][0] if entity_id in known else row["seq"]
    known[entity_id] = (first, row["seq"], row["new_version"])


_CHECKS: Mapping[str, Callable[[Closure, Row, int], None]] = {
    "collection": _collection,
    "blob": _blob,
    "artifact": _artifact,
    "revision": _revision,
    "relationship": _relationship,
    "input_bundle": _bundle,
    "operation_run": _run,
    "workflow_step": _step,
    "run_output": _output,
    "run_manifest": _manifest,
    "context_package": _package,
    "context_item": _item,
    "change": _change,
}


def close_records(closure: Closure, change_head: Mapping[str, Any] | None) -> None:
    """Check what only the whole tells: heads, later references, and that the chain speaks of every head."""
    for head in closure.artifacts.values():
        if head.head_revision != head.length:
            _fail(Fault.BAD_HEAD, head.line, "The head is not the last revision.")
    if closure.items:
        _close_package(closure)
    for package in closure.pending.values():
        _check_package(package, [])
    _check_origins(closure.runs)
    _check_origins(closure.packages)
    if closure.whole:
        _check_feed(closure, change_head)
    elif closure.last_seq or change_head is not None:
        _fail(Fault.BAD_VALUE, None, "A partial snapshot has no change records.")


def _check_origins(links: Mapping[str, str | None]) -> None:
    settled: set[str] = set()
    for start in links:
        path: list[str] = []
        at: str | None = start
        while at is not None and at not in settled:
            if at not in links:
                _fail(Fault.DANGLING_REFERENCE, None, f"{at[:80]} is not in the snapshot.")
            settled.add(at)
            path.append(at)
            at = links[at]
        if at is not None and at in path:
            _fail(Fault.BAD_VALUE, None, f"{at[:80]} comes from itself.")


def _check_feed(closure: Closure, change_head: Mapping[str, Any] | None) -> None:
    if change_head != {"seq": closure.last_seq, "hash": closure.last_hash}:
        _fail(Fault.CHAIN_BROKEN, None, "The last change record is not the one that the header names.")
    for (kind, identifier), version in closure.versions.items():
        if closure.records_of(kind, identifier)[2] != version:
            _fail(Fault.BAD_HEAD, None, f"The change records do not lead to the version of {identifier}.")
    for identifier, head in closure.artifacts.items():
        if closure.records_of("ARTIFACT", identifier)[2] != head.version:
            _fail(Fault.BAD_HEAD, head.line, "The change records do not lead to this version.")
    for package_id in closure.packages:
        if not closure.records_of("CONTEXT_PACKAGE", package_id)[0]:
            _fail(Fault.BAD_HEAD, None, f"No change record tells of {package_id}.")
