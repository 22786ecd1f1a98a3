#!/usr/bin/env python3
"""Verify the proof of AI runs without trusting the server that made it.

    python hoc_verify.py RUN.hocproof --key VKEY        a bundle of one run (hoc-run-proof/1)
    python hoc_verify.py FILE.hoclog --key VKEY         what was archived of a log (hoc-log-archive/1)
    python hoc_verify.py --log DIR --key VKEY           a whole exported log (C2SP tlog-tiles)

One file: Python 3.9 or newer, its standard library, and `cryptography`. It opens no connection, reads no
environment, and imports nothing of the program that made the proof. Trust comes from the keys that you
pass, never from the file. Exit code 0: verified. 1: failed, with codes. 2: unreadable, or wrong usage.

Formats: RFC 6962 trees over SHA-256; C2SP signed-note, tlog-checkpoint, tlog-cosignature, tlog-tiles; DSSE v1
around an in-toto Statement v1; texts in kcj-1, the canonical JSON that `canonical` below writes.
"""

from __future__ import annotations

import argparse
import base64
import gc
import hashlib
import json
import re
import sys
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

FORMAT = "hoc-run-proof/1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:hoc-spine:run-proof:v1"
SECTIONS = ("facts", "late", "context", "traces", "values")
INDEXED = ("facts", "late", "context")
MAX_LISTED = 100
TILE_WIDTH = 256
CHECKS = (
    "lines", "checkpoint", "witnesses", "old checkpoint", "attestation", "facts", "inclusion", "completeness",
    "sections", "traces", "snapshot", "values", "claims",
)  # fmt: skip
LOG_CHECKS = {1: "lines", 2: "checkpoint", 3: "witnesses", 4: "old checkpoint", 6: "facts", 7: "inclusion"}
ARCHIVE_FORMAT = "hoc-log-archive/1"
ARCHIVE_SECTIONS = ("context", "statements", "traces", "values")
ARCHIVE_CHECKS = {
    1: "lines", 2: "checkpoint", 3: "witnesses", 4: "old checkpoint", 5: "header", 6: "facts", 7: "inclusion",
    8: "completeness", 10: "traces", 11: "snapshot", 12: "values",
}  # fmt: skip
# What this file knows how to read; statements of other types are proved and counted all the same.
KNOWN_TYPES = frozenset((
    "audit", "breach", "context.package", "decision", "decision.link", "erasure", "evaluation",
    "incident", "incident.event", "incident.link", "knowledge.plane", "knowledge.transition",
    "lesson", "log.anchor", "log.archived", "log.epoch", "log.key", "policy.binding",
    "policy.snapshot", "prevention", "repository.changed", "retrieval.evidence", "run.attempt",
    "run.completed", "run.input", "run.manifest", "run.output", "run.started", "trace.extended",
    "trace.sealed", "usage",
))  # fmt: skip
# What an archive leaves in the log, although the run that it is of goes.
STAYING = frozenset((
    "audit", "context.package", "erasure", "repository.changed", "run.input", "run.manifest", "run.output",
))  # fmt: skip
TRACED = frozenset(("run.started", "run.attempt", "trace.extended", "trace.sealed", "erasure"))
COUNTED = {"BREACHES": "breach", "INCIDENTS": "incident", "PREVENTIONS": "prevention", "LESSONS": "lesson"}


class Unreadable(Exception):
    """The input is no bundle, archive, log or key at all."""


# --- canonical JSON (kcj-1) ---------------------------------------------------------------------------

_EXPONENT = re.compile(r"[0-9]e[+-][0-9]")
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))


def canonical(value: Any) -> str:
    """Return the one text of a JSON value; ValueError when it has none."""
    text = _ENCODER.encode(value)
    # Python writes 1e16 as 1e+16 and 1e-7 as 1e-07; the canonical text has neither sign nor zero.
    return _written(value) if _EXPONENT.search(text) else text


def _written(value: Any) -> str:
    if isinstance(value, float):
        mantissa, sign, exponent = repr(value).partition("e")
        return f"{mantissa}e{int(exponent)}" if sign else mantissa
    if isinstance(value, dict):
        return "{" + ",".join(f"{_written(k)}:{_written(v)}" for k, v in sorted(value.items())) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_written, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object has a member twice")
    return members


# Made once, and asked directly: a line is one value from its first byte to its last.
_DECODER: Any = json.JSONDecoder(parse_constant=_no_constant)
_STRICT_DECODER: Any = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
_SCAN = _DECODER.scan_once
_SCAN_STRICTLY = _STRICT_DECODER.scan_once


def read_json(data: bytes, what: str, *, strict: bool = False) -> Any:
    """Return the JSON value of a line; Unreadable for anything else."""
    try:
        text = data.decode("utf-8")
        value, end = (_SCAN_STRICTLY if strict else _SCAN)(text, 0)
    except (ValueError, RecursionError, StopIteration):
        raise Unreadable(f"{what} is no JSON text") from None
    _require(end == len(text), f"{what} is more than one JSON text")
    return value


# --- hashes and trees ---------------------------------------------------------------------------------


def sha256(data: bytes) -> bytes:
    """Return 32 bytes."""
    return hashlib.sha256(data).digest()


def leaf(statement: bytes) -> bytes:
    """Return the hash of a leaf, RFC 6962."""
    return hashlib.sha256(b"\x00" + statement).digest()


def tree_root(hashes: Sequence[bytes]) -> bytes:
    """Return the root over leaf hashes; a last hash without a neighbour moves up as it is."""
    if not hashes:
        return sha256(b"")
    level, make = list(hashes), hashlib.sha256
    while len(level) > 1:
        rest = level[-1:] if len(level) % 2 else []
        level = [make(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)] + rest
    return level[0]


def multiproof_root(leaves: dict[int, bytes], size: int, proof: Sequence[bytes]) -> bytes | None:
    """Return the root that leaf hashes by index and a multiproof give; None when they do not fit together."""
    indices = sorted(leaves)
    if not indices or indices[0] < 0 or indices[-1] >= size:
        return None
    hashes, given = [leaves[index] for index in indices], iter(proof)

    def walk(low: int, high: int, first: int, last: int) -> bytes:
        if first == last:
            return next(given)
        if last - first == high - low:
            return tree_root(hashes[first:last])
        middle = low + (1 << (high - low - 1).bit_length() - 1)
        between = bisect_left(indices, middle, first, last)
        left = walk(low, middle, first, between)
        return sha256(b"\x01" + left + walk(middle, high, between, last))

    try:
        root = walk(0, size, 0, len(indices))
    except (StopIteration, RecursionError):
        return None
    return root if next(given, None) is None else None


Ranges = Sequence[tuple[int, int]]


def ranges_root(ranges: Ranges, size: int, leaves: Iterator[bytes], proof: Sequence[bytes]) -> bytes | None:
    """Return the root that leaf hashes and a multiproof give; None when they do not fit together.

    The hashes come one after another, as the ascending ranges [first, after) name them: none is kept.
    """
    starts, given = [first for first, _ in ranges], iter(proof)

    def walk(low: int, high: int, first: int, last: int) -> bytes:
        if first == last:
            return next(given)
        if high - low <= TILE_WIDTH and starts[first] <= low and high <= ranges[first][1]:
            return tree_root([next(leaves) for _ in range(low, high)])
        middle = low + (1 << (high - low - 1).bit_length() - 1)
        between = bisect_left(starts, middle, first, last)
        left = walk(low, middle, first, between)
        # A range may go on over the middle.
        reaches = between > first and ranges[between - 1][1] > middle
        return sha256(b"\x01" + left + walk(middle, high, between - reaches, last))

    if not ranges or ranges[-1][1] > size:
        return None
    try:
        root = walk(0, size, 0, len(ranges))
    except (StopIteration, RecursionError):
        return None
    return root if next(given, None) is None else None


class GrowingTree:
    """The root over leaf hashes that come one after another; kept is one hash for each power of two."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._count = 0

    def append(self, hashed: bytes) -> None:
        """Take the next leaf hash."""
        count = self._count
        while count % 2:
            hashed, count = sha256(b"\x01" + self._parts.pop() + hashed), count // 2
        self._parts.append(hashed)
        self._count += 1

    def root(self) -> bytes:
        """Return the root as far as the leaves go."""
        if not self._parts:
            return sha256(b"")
        root = self._parts[-1]
        for part in reversed(self._parts[:-1]):
            root = sha256(b"\x01" + part + root)
        return root


def consistent_roots(
    old: int, new: int, old_root: bytes | None, proof: Sequence[bytes]
) -> tuple[bytes, bytes] | None:
    """Return the two roots that a consistency proof gives, RFC 6962 section 2.1.2; None for no proof.

    Without the old root a proof from a power of two cannot be followed: None too.
    """
    path = list(proof)
    if old & (old - 1) == 0:
        if old_root is None:
            return None
        path.insert(0, old_root)
    if not 0 < old < new or not path:
        return None
    index, last = old - 1, new - 1
    while index % 2:
        index, last = index // 2, last // 2
    first = second = path[0]
    for other in path[1:]:
        if last == 0:
            return None
        if index % 2 or index == last:
            first, second = sha256(b"\x01" + other + first), sha256(b"\x01" + other + second)
            while index % 2 == 0 and index:
                index, last = index // 2, last // 2
        else:
            second = sha256(b"\x01" + second + other)
        index, last = index // 2, last // 2
    return (first, second) if last == 0 else None


# --- keys, notes, checkpoints -------------------------------------------------------------------------

ED25519, COSIGNATURE = 1, 4
_ORIGIN = re.compile(r"(?!DSSEv1)[^\s+]{1,400}")
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_DASH = "\N{EM DASH} "


def unbase64(text: str) -> bytes:
    """Return the bytes of a base64 text; ValueError for any other spelling of them."""
    raw = base64.b64decode(text, validate=True)
    if base64.b64encode(raw).decode() != text:
        raise ValueError("base64 of another spelling")
    return raw


def unhex(text: str) -> bytes:
    """Return the bytes of lowercase hex digits; ValueError for any other spelling of them."""
    raw = bytes.fromhex(text)
    if raw.hex() != text:
        raise ValueError("hex of another spelling")
    return raw


class Key(NamedTuple):
    """A key that signs under one name: of a log, or of a witness."""

    name: str
    key_id: bytes
    kind: int
    public: bytes

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Tell whether the signature over these bytes is this key's."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, data)
        except (InvalidSignature, ValueError):
            return False
        return True


def parse_vkey(text: str) -> Key:
    """Return the key of `<name>+<key id>+<base64 of type and key>`; ValueError for any other text."""
    name, _, rest = text.strip().partition("+")
    key_id, _, encoded = rest.partition("+")
    raw = unbase64(encoded)
    if not _ORIGIN.fullmatch(name) or len(raw) != 33 or raw[0] not in (ED25519, COSIGNATURE):
        raise ValueError("a verifier key is <name>+<key id>+<base64 of an Ed25519 key>")
    if sha256(name.encode() + b"\n" + raw)[:4].hex() != key_id:
        raise ValueError("the key id is not that of this name and key")
    return Key(name, bytes.fromhex(key_id), raw[0], raw[1:])


class Checkpoint(NamedTuple):
    """A signed note that says how large a log is, and its root."""

    text: str
    signatures: list[tuple[str, bytes, bytes]]
    origin: str
    size: int
    root: bytes

    def signed(self, key: Key) -> bool | None:
        """Tell whether this key signed it, and nothing under its name and id is wrong; None: it did not."""
        mine = [value for name, key_id, value in self.signatures if (name, key_id) == key[:2]]
        return all(self._holds(key, value) for value in mine) if mine else None

    def _holds(self, key: Key, value: bytes) -> bool:
        if key.kind == ED25519:
            return key.verifies(value, self.text.encode())
        moment = int.from_bytes(value[:8], "big")
        return key.verifies(value[8:], f"cosignature/v1\ntime {moment}\n{self.text}".encode())


def parse_checkpoint(note: str) -> Checkpoint:
    """Return the checkpoint of a signed note; ValueError for any other text, extension lines too."""
    text, blank, lines = note.rpartition("\n\n")
    parts = text.split("\n")
    if not blank or not lines.endswith("\n") or len(parts) != 3:
        raise ValueError("a checkpoint is origin, size, root, an empty line and signatures")
    if not _ORIGIN.fullmatch(parts[0]) or not _SIZE.fullmatch(parts[1]):
        raise ValueError("a checkpoint begins with its origin and its size")
    root = unbase64(parts[2])
    if len(root) != 32:
        raise ValueError("a root has 32 bytes")
    signatures = []
    for line in lines[:-1].split("\n"):
        name, _, encoded = line[len(_DASH) :].partition(" ")
        value = unbase64(encoded)
        if not line.startswith(_DASH) or not _ORIGIN.fullmatch(name) or len(value) < 5:
            raise ValueError("a signature line is a dash, a name and base64")
        signatures.append((name, value[:4], value[4:]))
    return Checkpoint(text + "\n", signatures, parts[0], int(parts[1]), root)


# --- what is asked, and what was found ----------------------------------------------------------------


class Options(NamedTuple):
    """What the auditor brings."""

    keys: tuple[Key, ...] = ()
    trust_embedded_key: bool = False
    old: str | None = None
    witnesses: tuple[Key, ...] = ()
    quorum: int | None = None
    allow_open: bool = False
    strict: bool = False


class Report:
    """Failures, warnings and figures; VERIFIED is what is left when nothing failed."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.failures: list[dict[str, Any]] = []
        self.failed: set[int] = set()
        self.skipped: set[int] = set()
        self.total = 0
        self.warnings: list[str] = []
        self.checks = dict(enumerate(CHECKS, 1))
        self.unreadable: str | None = None
        self.figures: dict[str, Any] = {
            "tenant": None, "run": None, "checkpoint": None, "key_id": None, "completeness": None,
            "facts": 0, "late": 0, "steps": 0,
            "values": {"intact": 0, "erased": 0, "tampered": 0, "withheld": 0},
            "claims": [],
        }  # fmt: skip

    def fail(
        self, check: int, code: str, detail: str, *, line: int | None = None, fact: str | None = None
    ) -> None:
        """Note a failure; the first hundred are listed."""
        self.failed.add(check)
        self.total += 1
        if len(self.failures) < MAX_LISTED:
            self.failures.append({"code": code, "check": check, "line": line, "fact": fact, "detail": detail})

    @property
    def verdict(self) -> str:
        """VERIFIED, FAILED or UNREADABLE."""
        if self.unreadable is not None:
            return "UNREADABLE"
        return "FAILED" if self.failed else "VERIFIED"

    @property
    def exit_code(self) -> int:
        """0, 1 or 2."""
        return {"VERIFIED": 0, "FAILED": 1, "UNREADABLE": 2}[self.verdict]

    @property
    def codes(self) -> set[str]:
        """The codes of the listed failures."""
        return {failure["code"] for failure in self.failures}

    def as_json(self) -> dict[str, Any]:
        """Return the result as `--json` prints it."""
        failures, checks = self.failures, []
        if self.unreadable is not None:
            failures = [
                {"code": "UNREADABLE", "check": 1, "line": None, "fact": None, "detail": self.unreadable}
            ]
        else:
            for number, name in self.checks.items():
                status = "FAIL" if number in self.failed else "SKIP" if number in self.skipped else "PASS"
                checks.append({"n": number, "name": name, "status": status})
        return {
            "verdict": self.verdict,
            **self.figures,
            "checks": checks,
            "failures": failures,
            "warnings": self.warnings,
            "duration_ms": round((time.perf_counter() - self.started) * 1000, 1),
        }


# --- checks 2 to 4: the checkpoint --------------------------------------------------------------------


def check_checkpoint(
    note: str, trusted: Sequence[Key], options: Options, report: Report
) -> Checkpoint | None:
    """Check 2 and 3: the note parses, a trusted key of its origin signed it, enough witnesses saw it."""
    if not options.witnesses:
        report.skipped.add(3)
    try:
        checkpoint = parse_checkpoint(note)
    except ValueError as error:
        report.fail(2, "BAD_CHECKPOINT", str(error))
        return None
    report.figures["checkpoint"] = {
        "origin": checkpoint.origin,
        "size": checkpoint.size,
        "root": checkpoint.root.hex(),
    }
    signer = check_signature(2, checkpoint, trusted, report)
    report.figures["key_id"] = None if signer is None else signer.key_id.hex()
    if options.witnesses:
        seen = {key for key in options.witnesses if checkpoint.signed(key)}
        wanted = len(set(options.witnesses)) if options.quorum is None else options.quorum
        if len(seen) < wanted:
            report.fail(3, "QUORUM_NOT_MET", f"{len(seen)} of {wanted} witnesses signed the checkpoint")
    return checkpoint


def check_signature(
    number: int, checkpoint: Checkpoint, trusted: Sequence[Key], report: Report
) -> Key | None:
    """Return the trusted key that signed a checkpoint; no signature under a trusted name and id is wrong."""
    of_origin = [key for key in trusted if key.name == checkpoint.origin and key.kind == ED25519]
    if not of_origin:
        report.fail(number, "NO_TRUSTED_KEY", f"no key of {checkpoint.origin} is trusted; pass it with --key")
        return None
    judged = {key: checkpoint.signed(key) for key in of_origin}
    signers = [key for key, holds in judged.items() if holds]
    if False in judged.values() or not signers:
        report.fail(number, "BAD_SIGNATURE", "the checkpoint is not signed by the trusted key")
        return None
    return signers[0]


def check_old(
    checkpoint: Checkpoint,
    trusted: Sequence[Key],
    options: Options,
    report: Report,
    proof_from: Callable[[int, bytes], bytes | None],
) -> None:
    """Check 4: the log continues an older checkpoint that the auditor kept.

    `proof_from(size, root)` gives the root that the old tree must have, as far as the input shows it.
    """
    if options.old is None:
        report.skipped.add(4)
        return
    try:
        old = parse_checkpoint(options.old)
    except ValueError as error:
        raise Unreadable(f"the old checkpoint: {error}") from None
    if old.origin != checkpoint.origin:
        report.fail(4, "ORIGIN_MISMATCH", f"the old checkpoint is of {old.origin}")
        return
    check_signature(4, old, trusted, report)
    if old.size > checkpoint.size:
        report.fail(4, "ROLLED_BACK", f"the log had {old.size} entries and now has {checkpoint.size}")
    elif old.size == checkpoint.size:
        if old.root != checkpoint.root:
            report.fail(4, "ROOT_MISMATCH", f"two checkpoints of size {old.size} have different roots")
    elif old.size and proof_from(old.size, old.root) != old.root:
        detail = f"nothing shows that the log continues its first {old.size} entries"
        report.fail(4, "INCONSISTENT", detail)


# --- the bundle: header and lines ---------------------------------------------------------------------


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise Unreadable(what)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_range(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_count, value)) and value[0] < value[1]


def _is_text_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


class Line1:
    """The header of either format, its members checked for their types."""

    kind: str
    form: str
    names: tuple[str, ...]
    indexed: tuple[str, ...]
    is_index: Callable[[Any], bool]
    wanted: frozenset[str]

    def __init__(self, line: bytes, report: Report) -> None:
        members = read_json(line, "the header", strict=True)
        _require(isinstance(members, dict) and self.kind in members, "the first line is no header")
        given = members[self.kind]
        _require(given == self.form, f"the format {str(given)[:60]} is not known")
        _require(members.keys() == self.wanted, "the header has other members than it should")
        if canonical(members).encode() != line:
            report.fail(6, "NOT_CANONICAL", "the header is not canonical", line=1)
        self.note: str = members["checkpoint"]
        self.vkeys: list[str] = members["vkeys"]
        _require(isinstance(self.note, str), "the checkpoint is no text")
        _require(
            _is_text_list(self.vkeys) and _is_text_list(members["multiproof"]), "a list is none of texts"
        )
        self.keys = self._keys()
        self.multiproof = self._hashes(members["multiproof"], unbase64)
        self.sections: dict[str, dict[str, Any]] = self._sections(members["sections"])
        self._read(members)

    def _read(self, members: dict[str, Any]) -> None:
        """Read what this format has of its own."""

    def _keys(self) -> list[Key]:
        try:
            return [parse_vkey(text) for text in self.vkeys]
        except ValueError as error:
            raise Unreadable(f"a key in the header: {error}") from None

    @staticmethod
    def _hashes(texts: list[str], decode: Callable[[str], bytes]) -> list[bytes] | None:
        """Return hashes; None when one of them is none, which proves nothing."""
        try:
            hashes = [decode(text) for text in texts]
        except ValueError:
            return None
        return hashes if all(len(one) == 32 for one in hashes) else None

    def _sections(self, given: Any) -> dict[str, dict[str, Any]]:
        _require(isinstance(given, list) and all(isinstance(one, dict) for one in given), "no sections")
        _require(tuple(one.get("name") for one in given) == self.names, "the sections are others")
        for one in given:
            wanted = {"name", "lines", "indices"} if one["name"] in self.indexed else {"name", "lines"}
            _require(one.keys() == wanted and _is_count(one["lines"]), "a section has another form")
            indices = one.get("indices", [])
            _require(isinstance(indices, list) and all(map(self.is_index, indices)), "an index is no number")
        return {one["name"]: one for one in given}


class Header(Line1):
    """Line 1 of a bundle."""

    kind, form, names, indexed, is_index = "bundle", FORMAT, SECTIONS, INDEXED, staticmethod(_is_count)
    wanted = frozenset((
        "bundle", "attestation", "checkpoint", "consistency", "vkeys", "sections", "multiproof",
    ))  # fmt: skip

    def _read(self, members: dict[str, Any]) -> None:
        self.attestation: dict[str, Any] = members["attestation"]
        self.consistency: dict[str, Any] | None = members["consistency"]
        _require(isinstance(self.attestation, dict), "the attestation is no object")
        if self.consistency is not None:
            self._check_consistency(self.consistency)

    def _check_consistency(self, given: Any) -> None:
        _require(
            isinstance(given, dict) and given.keys() == {"from", "hashes"} and _is_count(given["from"]),
            "the consistency proof has another form",
        )
        _require(_is_text_list(given["hashes"]), "the consistency proof has other hashes")

    def old_hashes(self) -> list[bytes] | None:
        """Return the hashes of the consistency proof."""
        return self._hashes((self.consistency or {}).get("hashes", []), unhex)


class ArchiveHeader(Line1):
    """Line 1 of an archive; its indices are ranges, [first, after]."""

    kind, form, names = "archive", ARCHIVE_FORMAT, ARCHIVE_SECTIONS
    indexed, is_index = ("context", "statements"), staticmethod(_is_range)
    wanted = frozenset((
        "archive", "id", "tenant", "origin", "epoch", "from", "to", "checkpoint", "vkeys", "sections",
        "multiproof",
    ))  # fmt: skip

    def _read(self, members: dict[str, Any]) -> None:
        self.id, self.tenant, self.origin = (members[name] for name in ("id", "tenant", "origin"))
        self.epoch, self.first, self.after = (members[name] for name in ("epoch", "from", "to"))
        _require(_is_text_list([self.id, self.tenant, self.origin]), "a name in the header is none")
        _require(all(map(_is_count, (self.epoch, self.first, self.after))), "a number in the header is none")

    def ranges(self, section: str) -> list[tuple[int, int]]:
        """Return where the statements of a section stand in the log."""
        return [(first, after) for first, after in self.sections[section]["indices"]]


class Lines:
    """The lines after the header, section by section; what is too few or too many is LINE_COUNT."""

    def __init__(self, stream: BinaryIO, report: Report) -> None:
        self._stream = stream
        self._report = report
        self.number = 1

    def take(self, section: str, count: int) -> Iterator[bytes]:
        """Yield the lines of a section without their line feeds."""
        for taken in range(count):
            line = self._stream.readline()
            if not line.endswith(b"\n"):
                if line:
                    self._stream.read()
                detail = f"{section} has {taken} whole lines, not {count}"
                self._report.fail(1, "LINE_COUNT", detail, line=self.number + 1)
                return
            self.number += 1
            yield line[:-1]

    def end(self) -> None:
        """Note what comes after the last section."""
        if self._stream.read(1):
            self._report.fail(1, "LINE_COUNT", "there are lines after the last section", line=self.number + 1)


# --- what the facts say -------------------------------------------------------------------------------


def _members(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


Said = tuple[int, str, dict[str, Any]]


class Found:
    """What the statements add up to; filled line by line, so that memory stays small."""

    def __init__(self, read: frozenset[str] = KNOWN_TYPES) -> None:
        self.types: Counter[str] = Counter()
        self.main_types: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        self.completed: list[tuple[int, dict[str, Any]]] = []
        self.genesis: dict[str, list[Said]] = {}
        self.heads: dict[str, dict[Any, list[tuple[Any, int, str]]]] = {}
        self.seals: dict[str, list[Said]] = {}
        self.erasures: dict[str, set[str]] = {}
        self.commits: set[str] = set()
        self.allowed: dict[tuple[Any, Any, Any], tuple[int, str]] = {}
        self.outcomes: Counter[str] = Counter()
        self.planes: set[str] = set()
        self.decisions: dict[str, Counter[str]] = {}
        self.evaluations: list[dict[str, Any]] = []
        self.snapshots: set[str] = set()
        self.snapshot_facts: dict[Any, dict[str, Any]] = {}
        self.digests: set[Any] = set()
        readers: dict[str, Callable[[dict[str, Any], int, str], None]] = {
            "run.started": self._genesis,
            "run.attempt": self._genesis,
            "trace.extended": self._head,
            "trace.sealed": self._seal,
            "retrieval.evidence": self._evidence,
            "decision": self._decision,
            "evaluation": self._evaluation,
            "erasure": self._erasure,
        }
        self._readers = {kind: reader for kind, reader in readers.items() if kind in read}

    def add(self, statement: dict[str, Any], line: int, fact: str, section: str) -> None:
        """Read one statement; those of a bundle's context are not the run's."""
        kind, body = str(statement.get("type")), _members(statement.get("body"))
        commit = body.get("protected_commit")
        if isinstance(commit, str):
            self.commits.add(commit)
        if kind not in KNOWN_TYPES:
            self.unknown[kind] += 1
        if kind == "policy.snapshot":
            self.snapshot_facts[body.get("snapshot_id")] = body
            self.digests.add(_digest(body))
        if section == "context":
            return
        self.types[kind] += 1
        if section == "facts":
            self.main_types[kind] += 1
            if kind == "run.completed":
                self.completed.append((line, body))
        reader = self._readers.get(kind)
        if reader is not None:
            reader(body, line, fact)

    def _genesis(self, body: dict[str, Any], line: int, fact: str) -> None:
        claim = _members(body.get("trace"))
        self.genesis.setdefault(str(claim.get("trace_id")), []).append((line, fact, claim))

    def _seal(self, body: dict[str, Any], line: int, fact: str) -> None:
        self.seals.setdefault(str(body.get("trace_id")), []).append((line, fact, body))

    def _head(self, body: dict[str, Any], line: int, fact: str) -> None:
        of_trace = self.heads.setdefault(str(body.get("trace_id")), {})
        of_trace.setdefault(body.get("to_index"), []).append((body.get("head_hash"), line, fact))

    def _evidence(self, body: dict[str, Any], line: int, fact: str) -> None:
        self.outcomes[str(body.get("outcome"))] += 1
        if body.get("outcome") == "ALLOWED":
            self.planes.add(str(body.get("plane_id")))
            named = tuple(
                str(body.get(name)) for name in ("plane_id", "policy_snapshot_id", "policy_snapshot_hash")
            )
            self.allowed.setdefault(named, (line, fact))  # type: ignore[arg-type]
        self._snapshot(body.get("policy_snapshot_id"))

    def _decision(self, body: dict[str, Any], _line: int, _fact: str) -> None:
        counts = self.decisions.setdefault(str(body.get("decision_type")), Counter())
        counts[str(body.get("decision_outcome"))] += 1
        self._snapshot(body.get("snapshot_id"))

    def _evaluation(self, body: dict[str, Any], _line: int, _fact: str) -> None:
        self.evaluations.append({name: body.get(name) for name in ("attempt", "outcome", "run_status")})
        self._snapshot(body.get("snapshot_id"))

    def _erasure(self, body: dict[str, Any], _line: int, fact: str) -> None:
        listed = body.get("commitments")
        if isinstance(listed, str):
            listed = read_json(listed.encode(), "a list of commitments")
        self.erasures[fact] = {str(commit) for commit in _list(listed)}

    def _snapshot(self, snapshot_id: Any) -> None:
        if snapshot_id is not None:
            self.snapshots.add(str(snapshot_id))

    def claims(self, steps: int) -> dict[str, Any]:
        """Return what the manifest must claim of a complete run."""
        return {
            "RETRIEVED_ONLY_FROM": sorted(self.planes),
            "RETRIEVALS": {name: self.outcomes[name.upper()] for name in ("allowed", "denied", "failed")},
            "DECISIONS": {name: dict(counts) for name, counts in self.decisions.items()},
            "EVALUATIONS": sorted(self.evaluations, key=lambda one: (one["attempt"] or 0, canonical(one))),
            **{name: self.types[kind] for name, kind in COUNTED.items()},
            "SNAPSHOT": next(iter(self.snapshots)) if len(self.snapshots) == 1 else None,
            "STEPS": steps,
        }


# --- the bundle, check by check -----------------------------------------------------------------------


class Evidence:
    """The checks that a bundle and an archive have in common: of the checkpoint, chains and values."""

    def __init__(
        self, stream: BinaryIO, header: Line1, found: Found, options: Options, report: Report
    ) -> None:
        self.options = options
        self.report = report
        self.lines = Lines(stream, report)
        self.counts = {name: int(section["lines"]) for name, section in header.sections.items()}
        self.found = found
        self.ids: set[str] = set()
        self.texts: dict[str, str] = {}
        self.keys = header.keys
        self.trusted = [*options.keys, *(self.keys if options.trust_embedded_key else ())]

    def _judge(
        self, note: str, old_root: Callable[[Checkpoint], Callable[[int, bytes], bytes | None]]
    ) -> Checkpoint | None:
        """Checks 2 to 4."""
        checkpoint = check_checkpoint(note, self.trusted, self.options, self.report)
        if checkpoint is not None:
            _require(
                all(key.name == checkpoint.origin for key in self.keys),
                "a key in the header is of another log",
            )
            check_old(checkpoint, self.trusted, self.options, self.report, old_root(checkpoint))
            # One key may sign many logs; it is trusted for those under whose names it was given.
            self.trusted = [key for key in self.trusted if key.name == checkpoint.origin]
        return checkpoint

    # check 6
    def _check_statement(self, statement: dict[str, Any], line: bytes, fact: str, *, mine: bool) -> None:
        number = self.lines.number
        if not mine:
            self.report.fail(
                6, "FOREIGN_FACT", "the fact is of another tenant or run", line=number, fact=fact
            )
        if fact in self.ids:
            self.report.fail(6, "DUPLICATE_FACT", "the fact stands here twice", line=number, fact=fact)
        self.ids.add(fact)
        if self.options.strict and canonical(statement).encode() != line:
            self.report.fail(6, "NOT_CANONICAL", "the statement is not canonical", line=number, fact=fact)

    # check 10
    def _read_traces(self) -> Iterator[dict[str, Any]]:
        """Follow the chains as they stand, and yield what each of them gives."""
        current: dict[str, Any] | None = None
        link = b""
        heads: dict[Any, list[tuple[Any, int, str]]] = {}
        for line in self.lines.take("traces", self.counts["traces"]):
            number = self.lines.number
            statement = read_json(line, f"line {number}", strict=self.options.strict)
            _require(isinstance(statement, dict), f"line {number} is no statement")
            if self.options.strict and canonical(statement).encode() != line:
                self.report.fail(6, "NOT_CANONICAL", "the statement is not canonical", line=number)
            if statement.get("type") == "trace.genesis":
                if current is not None:
                    yield current
                link = sha256(b"hoc/trace-genesis/1\n" + line)
                current = {"line": number, "genesis": link.hex(), "steps": 0, "root": link.hex()}
                current.update(
                    statement=statement, trace=str(statement.get("trace")), attempt=statement.get("attempt")
                )
                heads = self.found.heads.get(current["trace"], {})
                continue
            if current is None or statement.get("type") != "trace.step":
                self.report.fail(10, "CHAIN_MISMATCH", "the line belongs to no trace", line=number)
                continue
            index = current["steps"]
            if statement.get("step_index") != index:
                self.report.fail(10, "CHAIN_MISMATCH", f"step {index} should stand here", line=number)
            commit = statement.get("protected_commit")
            if isinstance(commit, str):
                self.found.commits.add(commit)
            link = sha256(b"hoc/trace-link/1\n" + link + sha256(line))
            current["steps"], current["root"] = index + 1, link.hex()
            for stated, at, fact in heads.pop(index, ()):
                if stated != current["root"]:
                    detail = f"step {index} is not the head that was recorded"
                    self.report.fail(10, "HEAD_MISMATCH", detail, line=at, fact=fact)
        if current is not None:
            yield current

    def _check_said(self, trace_id: str, trace: dict[str, Any] | None) -> None:
        """Hold what the facts say of a trace against its chain."""
        chain = trace or {}
        for line, fact, claim in self.found.genesis.get(trace_id, ()):
            told = (claim.get("genesis_hash"), claim.get("attempt"))
            if trace is None or told != (chain["genesis"], chain["attempt"]):
                self.report.fail(10, "GENESIS_MISMATCH", "the trace began otherwise", line=line, fact=fact)
        for line, fact, seal in self.found.seals.get(trace_id, ()):
            told_seal = tuple(seal.get(name) for name in ("root_hash", "step_count", "attempt"))
            if trace is None or told_seal != (chain["root"], chain["steps"], chain["attempt"]):
                self.report.fail(10, "SEAL_MISMATCH", "the trace was sealed otherwise", line=line, fact=fact)

    def _check_begun(self, trace: dict[str, Any], *, known: bool) -> None:
        if not known:
            detail = "no fact of the run began this trace"
            self.report.fail(10, "GENESIS_MISMATCH", detail, line=trace["line"])

    def _check_heads_left(self) -> None:
        for trace_id, rest in self.found.heads.items():
            for stated in rest.values():
                for _, line, fact in stated:
                    detail = f"a recorded step of {trace_id} is not here"
                    self.report.fail(10, "HEAD_MISMATCH", detail, line=line, fact=fact)

    # checks 11 and 12
    def _read_values(self) -> None:
        values = self.report.figures["values"]
        for line in self.lines.take("values", self.counts["values"]):
            number = self.lines.number
            given = read_json(line, f"line {number}", strict=True)
            _require(isinstance(given, dict), f"line {number} is no value")
            if canonical(given).encode() != line:
                self.report.fail(6, "NOT_CANONICAL", "the value is not canonical", line=number)
            if given.keys() == {"digest", "text"}:
                self._read_text(given, number)
                continue
            commit = given.get("commit")
            if not isinstance(commit, str) or commit not in self.found.commits:
                self.report.fail(12, "VALUE_UNKNOWN", "no fact or step commits to this value", line=number)
            elif given.keys() == {"commit", "state", "salt", "value"} and given["state"] == "INTACT":
                opens = commitment(given["salt"], given["value"]) == commit
                values["intact" if opens else "tampered"] += 1
                if not opens:
                    self.report.fail(
                        12, "VALUE_TAMPERED", "the value does not open its commitment", line=number
                    )
            elif given.keys() == {"commit", "state", "erasure"} and given["state"] == "ERASED":
                values["erased"] += 1
                if commit not in self.found.erasures.get(str(given["erasure"]), ()):
                    detail = "no erasure that is here names the value"
                    self.report.fail(12, "ERASURE_UNPROVED", detail, line=number)
            else:
                self.report.fail(12, "VALUE_UNKNOWN", "the value has another form", line=number)
        judged = values["intact"] + values["tampered"] + values["erased"]
        values["withheld"] = max(0, len(self.found.commits) - judged)

    def _read_text(self, given: dict[str, Any], number: int) -> None:
        digest, text = given["digest"], given["text"]
        if not isinstance(text, str) or sha256(text.encode("utf-8", "replace")).hex() != digest:
            self.report.fail(11, "SNAPSHOT_MISMATCH", "the text does not have its hash", line=number)
            return
        if digest not in self.found.digests:
            self.report.fail(12, "VALUE_UNKNOWN", "no fact holds the digest of this text", line=number)
        self.texts[digest] = text

    def _warn(self) -> None:
        for kind, count in sorted(self.found.unknown.items()):
            self.report.warnings.append(f"{count} statements of type {kind} are proved and not interpreted")


class Bundle(Evidence):
    """One bundle on its way through the checks; all of them run, whatever fails."""

    def __init__(self, stream: BinaryIO, options: Options, report: Report) -> None:
        self.header = Header(stream.readline().rstrip(b"\n"), report)
        super().__init__(stream, self.header, Found(), options, report)
        self.hashes: dict[str, list[bytes]] = {name: [] for name in INDEXED}
        self.leaves: dict[int, bytes] = {}
        self.traces: list[dict[str, Any]] = []
        self.manifest: dict[str, Any] = {}

    def verify(self) -> None:
        """Run the checks in their order, as far as the order of the lines lets them."""
        checkpoint = self._judge(self.header.note, self._old_root)
        if checkpoint is not None:
            self._check_consistency(checkpoint)
        self._check_attestation(checkpoint)
        for section in INDEXED:
            self._read_statements(section, checkpoint)
        self._check_inclusion(checkpoint)
        self.traces = list(self._read_traces())
        self.report.figures["steps"] = sum(trace["steps"] for trace in self.traces)
        self._check_completeness()
        self._check_sections()
        self._check_trace_facts()
        self._read_values()
        self._check_snapshot()
        self._check_claims()
        self.lines.end()
        self._warn()

    # check 4, with the proof that the bundle brings
    def _old_root(self, checkpoint: Checkpoint) -> Callable[[int, bytes], bytes | None]:
        def follow(size: int, root: bytes) -> bytes | None:
            hashes = self.header.old_hashes()
            if (self.header.consistency or {}).get("from") != size or hashes is None:
                self.report.warnings.append(f"ask for the bundle with from_size={size}")
                return None
            roots = consistent_roots(size, checkpoint.size, root, hashes)
            return roots[0] if roots is not None and roots[1] == checkpoint.root else None

        return follow

    def _check_consistency(self, checkpoint: Checkpoint) -> None:
        """A proof that nobody asked about must not be a wrong one."""
        given = self.header.consistency
        if given is None or self.options.old is not None:
            return
        size, hashes = given["from"], self.header.old_hashes()
        if size == checkpoint.size and hashes == []:
            return
        if hashes is not None and 0 < size < checkpoint.size and size & (size - 1) == 0:
            self.report.warnings.append(f"the consistency proof needs the checkpoint of size {size}")
            return
        roots = None if hashes is None else consistent_roots(size, checkpoint.size, None, hashes)
        if roots is None or roots[1] != checkpoint.root:
            self.report.fail(4, "INCONSISTENT", "the consistency proof does not lead to the signed root")

    # check 5
    def _check_attestation(self, checkpoint: Checkpoint | None) -> None:
        try:
            self.manifest = self._open_envelope()
            self._check_manifest(checkpoint)
        except (ValueError, KeyError, TypeError, AttributeError, Unreadable) as error:
            self.report.fail(5, "BAD_ATTESTATION", f"the attestation does not hold: {error}"[:200])
        self.report.figures["tenant"] = self.manifest.get("tenant")
        self.report.figures["run"] = self.manifest.get("run")

    def _open_envelope(self) -> dict[str, Any]:
        envelope = self.header.attestation
        if envelope.keys() != {"payloadType", "payload", "signatures"}:
            raise ValueError("the envelope has other members than it should")
        payload = unbase64(envelope["payload"])
        kind = str(envelope["payloadType"]).encode()
        signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
        statement = _members(read_json(payload, "the payload", strict=True))
        if not self._has_signer(envelope["signatures"], signed):
            self.report.fail(5, "BAD_ATTESTATION", "the attestation is not signed by the trusted key")
        if kind.decode() != PAYLOAD_TYPE or statement["_type"] != STATEMENT_TYPE:
            raise ValueError("the payload is no in-toto statement")
        if statement["predicateType"] != PREDICATE_TYPE or len(statement["subject"]) != 1:
            raise ValueError("the statement is of another kind")
        manifest = _members(statement["predicate"])
        subject = {
            "name": f"hoc:{manifest['tenant']}/{manifest['run']}",
            "digest": {"sha256": manifest["facts"]["root"]},
        }
        if statement["subject"][0] != subject:
            raise ValueError("the subject is not this run")
        return manifest

    def _has_signer(self, signatures: list[dict[str, str]], signed: bytes) -> bool:
        keys = {sha256(key.public).hex(): key for key in self.trusted if key.kind == ED25519}
        if not keys:
            # Check 2 has said so, and there is nothing to judge by.
            self.report.skipped.add(5)
            return True
        mine = [(keys.get(one["keyid"]), unbase64(one["sig"])) for one in signatures]
        judged = [key.verifies(value, signed) for key, value in mine if key is not None]
        return bool(judged) and all(judged)

    def _check_manifest(self, checkpoint: Checkpoint | None) -> None:
        cut, manifest = self.manifest["cut"], self.manifest
        if checkpoint is None:
            return
        if (cut["origin"], cut["size"], cut["root"]) != (
            checkpoint.origin,
            checkpoint.size,
            checkpoint.root.hex(),
        ):
            raise ValueError("it speaks of another checkpoint")
        if checkpoint.origin.split("/")[-2:-1] != [manifest["tenant"]]:
            raise ValueError("it speaks of another tenant than the log")

    # check 6, and the counting for check 8
    def _read_statements(self, section: str, checkpoint: Checkpoint | None) -> None:
        given = self.header.sections[section]
        if len(given["indices"]) != given["lines"]:
            detail = f"{section} has {len(given['indices'])} indices for {given['lines']} lines"
            self.report.fail(1, "LINE_COUNT", detail, line=1)
        indices, hashes = given["indices"], self.hashes[section]
        size = None if checkpoint is None else checkpoint.size
        for place, line in enumerate(self.lines.take(section, given["lines"])):
            number = self.lines.number
            statement = read_json(line, f"line {number}", strict=self.options.strict)
            _require(isinstance(statement, dict), f"line {number} is no statement")
            fact, hashed = str(statement.get("fact")), leaf(line)
            hashes.append(hashed)
            run = self.manifest.get("run")
            self._check_statement(
                statement,
                line,
                fact,
                mine=statement.get("tenant") == self.manifest.get("tenant")
                and (section == "context" or statement.get("run") == run),
            )
            if section != "context":
                self._check_number(statement, place + 1, number, fact, section)
            if place < len(indices):
                index = indices[place]
                if index in self.leaves or (size is not None and index >= size):
                    self.report.fail(
                        6, "BAD_INDEX", f"index {index} is taken or too large", line=number, fact=fact
                    )
                self.leaves[index] = hashed
            self.found.add(statement, number, fact, section)
        if section != "context":
            self.report.figures[section] = len(hashes)

    def _check_number(
        self, statement: dict[str, Any], expected: int, number: int, fact: str, section: str
    ) -> None:
        if statement.get("no") != expected or statement.get("late") is not (section == "late"):
            detail = f"fact {expected} of {section} should stand here, not {statement.get('no')}"
            self.report.fail(8, "FACT_GAP", detail, line=number, fact=fact)

    # check 7
    def _check_inclusion(self, checkpoint: Checkpoint | None) -> None:
        if checkpoint is None:
            self.report.skipped.add(7)
            return
        proof = self.header.multiproof
        root = None if proof is None else multiproof_root(self.leaves, checkpoint.size, proof)
        if root != checkpoint.root:
            self.report.fail(7, "NOT_INCLUDED", "the facts are not in the log under the signed root")

    # check 8
    def _check_completeness(self) -> None:
        status = _members(self.manifest.get("facts")).get("status")
        completed, count = self.found.completed, len(self.hashes["facts"])
        figures = self.report.figures
        if not completed:
            figures["completeness"] = "OPEN"
            if status != "OPEN":
                self.report.fail(
                    8, "CLOSURE_MISMATCH", "the run is said to be complete, and nothing closes it"
                )
            if not self.options.allow_open:
                self.report.fail(8, "RUN_OPEN", "the run has not ended; --allow-open takes it as it is")
            return
        line, body = completed[-1]
        closure = _members(body.get("closure"))
        stated = [{name: trace[key] for name, key in _CLOSED_TRACE.items()} for trace in self.traces]
        agrees = (
            len(completed) == 1
            and line == 1 + self.header.sections["facts"]["lines"]
            and closure.get("fact_count") == count
            and closure.get("type_counts") == dict(self.found.main_types)
            and closure.get("step_count") == sum(trace["steps"] for trace in self.traces)
            and canonical(closure.get("traces")) == canonical(stated)
            and status == "COMPLETE"
        )
        if not agrees:
            self.report.fail(8, "CLOSURE_MISMATCH", "the run was closed over other facts or steps", line=line)
        figures["completeness"] = "INCOMPLETE" if 8 in self.report.failed else "COMPLETE"

    # check 9
    def _check_sections(self) -> None:
        for section in INDEXED:
            stated = _members(self.manifest.get(section))
            hashes = self.hashes[section]
            if stated.get("count") != len(hashes) or stated.get("root") != tree_root(hashes).hex():
                detail = f"{section} is not what the attestation signs"
                self.report.fail(9, "SECTION_MISMATCH", detail)

    def _check_trace_facts(self) -> None:
        by_id = {trace["trace"]: trace for trace in self.traces}
        for trace_id in {**self.found.genesis, **self.found.seals}:
            self._check_said(trace_id, by_id.get(trace_id))
        for trace in self.traces:
            statement = trace["statement"]
            named = (statement.get("tenant"), statement.get("run"))
            known = named == (self.manifest.get("tenant"), self.manifest.get("run"))
            self._check_begun(trace, known=known and trace["trace"] in self.found.genesis)
        self._check_heads_left()
        self._check_manifest_traces()

    def _check_manifest_traces(self) -> None:
        sealed = {trace_id: seals[-1][2] for trace_id, seals in self.found.seals.items()}
        stated = [
            {
                "trace": trace["trace"],
                "attempt": trace["attempt"],
                "steps": trace["steps"],
                "genesis": trace["genesis"],
                "root": trace["root"] if trace["trace"] in sealed else None,
                "outcome": sealed.get(trace["trace"], {}).get("outcome"),
            }
            for trace in self.traces
        ]
        if canonical(stated) != canonical(self.manifest.get("traces")):
            self.report.fail(10, "CHAIN_MISMATCH", "the chains are not what the attestation signs")

    def _check_snapshot(self) -> None:
        begun = {str(trace["statement"].get("policy_snapshot")) for trace in self.traces}
        bound: dict[str, set[str] | None] = {}
        for (plane, snapshot, digest), (line, fact) in self.found.allowed.items():
            stated = self.found.snapshot_facts.get(snapshot, {})
            if snapshot not in begun or _digest(stated) != digest or snapshot != f"snap_{digest[:32]}":
                detail = "the access names another snapshot than the run's"
                self.report.fail(11, "SNAPSHOT_MISMATCH", detail, line=line, fact=fact)
                continue
            if digest not in bound:
                bound[digest] = self._bound_planes(digest)
            planes = bound[digest]
            if planes is not None and plane not in planes:
                detail = f"{plane} is bound to no rule of the snapshot"
                self.report.fail(11, "PLANE_NOT_BOUND", detail, line=line, fact=fact)
        ended = Counter(seal.get("attempt") for seals in self.found.seals.values() for _, _, seal in seals)
        judged = Counter(one["attempt"] for one in self.found.evaluations)
        if ended != judged or any(count != 1 for count in judged.values()):
            self.report.fail(11, "EVALUATION_COUNT", "not every attempt that ended was evaluated once")

    def _bound_planes(self, digest: str) -> set[str] | None:
        text = self.texts.get(digest)
        if text is None:
            self.report.warnings.append(
                f"the text of snapshot {digest} is not here; its bindings are not checked"
            )
            return None
        content = _members(read_json(text.encode(), "the snapshot"))
        return {str(_members(one).get("plane_id")) for one in _list(content.get("bindings"))}

    # check 13
    def _check_claims(self) -> None:
        stated: dict[str, Any] = {}
        for one in _list(self.manifest.get("claims")):
            stated[str(_members(one).get("claim"))] = _members(one).get("value")
        self.report.figures["claims"] = _list(self.manifest.get("claims"))
        if not self.found.completed:
            self.report.skipped.add(13)
            if stated:
                self.report.fail(13, "CLAIM_MISMATCH", "claims are made of a run that has not ended")
            return
        counted = self.found.claims(self.report.figures["steps"])
        for name, value in counted.items():
            if name not in stated or canonical(stated[name]) != canonical(value):
                detail = f"{name} is {canonical(value)}, claimed is {canonical(stated.get(name))}"
                self.report.fail(13, "CLAIM_MISMATCH", detail[:300])
        for name in stated.keys() - counted.keys():
            self.report.warnings.append(f"the claim {name} is not known here and was not checked")


_CLOSED_TRACE = {"trace_id": "trace", "attempt": "attempt", "step_count": "steps", "root_hash": "root"}


def _digest(snapshot: dict[str, Any]) -> Any:
    return _members(snapshot.get("content")).get("sha256")


def commitment(salt: Any, value: Any) -> str | None:
    """Return the commitment to protected values under a salt; None for a salt that is none."""
    if not isinstance(salt, str) or not re.fullmatch("[0-9a-f]{64}", salt) or not isinstance(value, dict):
        return None
    try:
        text = canonical(value).encode()
    except ValueError:
        return None
    return "c1:" + sha256(b"hoc/commit/1\n" + bytes.fromhex(salt) + text).hex()


# --- the archive, check by check ----------------------------------------------------------------------


class RunFacts:
    """How many facts of each type a run has so far, and what closed it: line, fact, number, closure."""

    __slots__ = ("closed", "types")

    def __init__(self) -> None:
        self.types: Counter[str] = Counter()
        self.closed: tuple[int, str, Any, dict[str, Any]] | None = None


class Archive(Evidence):
    """One archive on its way through the checks; memory grows with its runs and facts, not their length."""

    def __init__(self, stream: BinaryIO, options: Options, report: Report) -> None:
        report.checks = ARCHIVE_CHECKS
        del report.figures["run"]
        report.figures.update(dict.fromkeys(("archive", "epoch", "from", "to", "root")), runs=0)
        self.header = ArchiveHeader(stream.readline().rstrip(b"\n"), report)
        super().__init__(stream, self.header, Found(TRACED), options, report)
        self.tree = GrowingTree()
        # A run is None as soon as its closure has been found to agree.
        self.runs: dict[str, RunFacts | None] = {}
        report.figures.update(archive=self.header.id, tenant=self.header.tenant, epoch=self.header.epoch)
        report.figures.update({"from": self.header.first, "to": self.header.after})

    def verify(self) -> None:
        """Run the checks in their order, as far as the order of the lines lets them."""
        checkpoint = self._judge(self.header.note, self._old_root)
        self._check_header(checkpoint)
        places = self._places(checkpoint)
        leaves = self._leaves(places)
        self._check_inclusion(checkpoint, places, leaves)
        # All lines are read, wherever the proof ended.
        for _ in leaves:
            pass
        self.report.figures["root"] = self.tree.root().hex()
        self._check_runs()
        self._check_traces()
        self._read_values()
        self._check_texts()
        self.lines.end()
        self._warn()

    # check 4: an archive brings no proof of continuation
    def _old_root(self, _checkpoint: Checkpoint) -> Callable[[int, bytes], bytes | None]:
        return lambda _size, _root: None

    # check 5
    def _check_header(self, checkpoint: Checkpoint | None) -> None:
        header = self.header
        if checkpoint is None:
            self.report.skipped.add(5)
        elif header.origin != checkpoint.origin or header.origin.split("/")[-2:] != [
            header.tenant,
            str(header.epoch),
        ]:
            self.report.fail(5, "BAD_HEADER", "the header speaks of another log than the checkpoint", line=1)

    # check 6
    def _places(self, checkpoint: Checkpoint | None) -> list[tuple[int, int]] | None:
        """Return where all statements stand, ascending; None when that cannot be."""
        header = self.header
        given = {section: header.ranges(section) for section in header.indexed}
        for section, ranges in given.items():
            count = sum(after - first for first, after in ranges)
            if count != self.counts[section]:
                detail = f"{section} has {count} indices for {self.counts[section]} lines"
                self.report.fail(1, "LINE_COUNT", detail, line=1)
        mine, places = given["statements"], sorted(place for ranges in given.values() for place in ranges)
        size = header.after if checkpoint is None else checkpoint.size
        fits = (
            all(ranges == sorted(ranges) for ranges in given.values())
            and all(one[1] <= other[0] for one, other in zip(places, places[1:]))
            and all(after <= size for _, after in [*places[-1:], (0, header.after)])
            and (not mine or (mine[0][0] == header.first and mine[-1][1] <= header.after))
        )
        if not fits:
            detail = "an index is there twice, too large, or not in the range of the archive"
            self.report.fail(6, "BAD_INDEX", detail, line=1)
        return places if fits else None

    def _statements(self, section: str) -> Iterator[bytes]:
        """Read the statements of a section and yield their leaf hashes."""
        figures = self.report.figures
        for line in self.lines.take(section, self.counts[section]):
            number = self.lines.number
            statement = read_json(line, f"line {number}", strict=self.options.strict)
            _require(isinstance(statement, dict), f"line {number} is no statement")
            fact = str(statement.get("fact"))
            mine = statement.get("tenant") == self.header.tenant
            self._check_statement(statement, line, fact, mine=mine)
            self.found.add(statement, number, fact, section="archive")
            if section == "statements":
                figures["late" if statement.get("late") is True else "facts"] += 1
                self._count(statement, number, fact)
            yield leaf(line)

    def _leaves(self, places: list[tuple[int, int]] | None) -> Iterator[bytes]:
        """Read all statements and yield the leaf hashes in the order of the log."""
        context_at = (index for place in self.header.ranges("context") for index in range(*place))
        context = dict(zip(context_at, list(self._statements("context"))))
        statements = self._statements("statements")
        for first, after in places or ():
            for index in range(first, after):
                hashed = context.get(index)
                if hashed is None:
                    hashed = next(statements, None)
                    if hashed is None:
                        return
                    self.tree.append(hashed)
                yield hashed
        for hashed in statements:
            self.tree.append(hashed)

    # check 7
    def _check_inclusion(
        self, checkpoint: Checkpoint | None, places: list[tuple[int, int]] | None, leaves: Iterator[bytes]
    ) -> None:
        if checkpoint is None:
            self.report.skipped.add(7)
            return
        proof, root = self.header.multiproof, None
        if proof is not None and places is not None:
            root = ranges_root(places, checkpoint.size, leaves, proof)
        if root != checkpoint.root:
            self.report.fail(7, "NOT_INCLUDED", "the statements are not in the log under the signed root")

    # check 8
    def _count(self, statement: dict[str, Any], line: int, fact: str) -> None:
        run, late = statement.get("run"), statement.get("late") is True
        if not isinstance(run, str):
            return
        known = run in self.runs
        facts = self.runs[run] if known else RunFacts()
        if not known:
            self.runs[run] = facts
        if late:
            return
        if facts is None:
            detail = f"run {run} was closed over fewer facts"
            self.report.fail(8, "CLOSURE_MISMATCH", detail, line=line, fact=fact)
            return
        kind = str(statement.get("type"))
        facts.types[kind] += 1
        if kind == "run.completed":
            closure = _members(_members(statement.get("body")).get("closure"))
            facts.closed = (line, fact, statement.get("no"), closure)
        if facts.closed is not None and sum(facts.types.values()) == facts.closed[2]:
            self._settle(run, facts)

    def _settle(self, run: str, facts: RunFacts) -> None:
        """Hold the closure of a run against its facts; what stays in the log may be missing here."""
        self.runs[run] = None
        if facts.closed is None:
            self.report.fail(8, "CLOSURE_MISMATCH", f"nothing here closes run {run}")
            return
        line, fact, number, closure = facts.closed
        counts = {
            kind: count for kind, count in _members(closure.get("type_counts")).items() if _is_count(count)
        }
        missing = {kind for kind, count in counts.items() if facts.types[kind] < count}
        agrees = (
            missing <= STAYING
            and all(count <= counts.get(kind, 0) for kind, count in facts.types.items())
            and closure.get("fact_count") == sum(counts.values()) == number
            and all(self._is_sealed(_members(trace)) for trace in _list(closure.get("traces")))
        )
        if not agrees:
            detail = f"run {run} was closed over other facts or steps"
            self.report.fail(8, "CLOSURE_MISMATCH", detail, line=line, fact=fact)

    def _is_sealed(self, closed: dict[str, Any]) -> bool:
        names = ("attempt", "step_count", "root_hash")
        seals = self.found.seals.get(str(closed.get("trace_id")), ())
        return any(
            [seal.get(name) for name in names] == [closed.get(name) for name in names] for _, _, seal in seals
        )

    def _check_runs(self) -> None:
        for run, facts in self.runs.items():
            if facts is not None:
                self._settle(run, facts)
        figures = self.report.figures
        figures["runs"] = len(self.runs)
        figures["completeness"] = "INCOMPLETE" if 8 in self.report.failed else "COMPLETE"

    # check 10
    def _check_traces(self) -> None:
        for trace in self._read_traces():
            self.report.figures["steps"] += trace["steps"]
            statement, name = trace["statement"], trace["trace"]
            known = statement.get("tenant") == self.header.tenant and statement.get("run") in self.runs
            self._check_begun(trace, known=known and name in self.found.genesis)
            self._check_said(name, trace)
            # What has been said of it is settled; of what nobody asked, something is missing.
            self.found.genesis.pop(name, None)
            self.found.seals.pop(name, None)
        for name in {**self.found.genesis, **self.found.seals}:
            self._check_said(name, None)
        self._check_heads_left()

    # check 11
    def _check_texts(self) -> None:
        for snapshot, body in self.found.snapshot_facts.items():
            if _digest(body) not in self.texts:
                self.report.fail(11, "SNAPSHOT_MISMATCH", f"the text of {snapshot} is not here")


def verify_file(stream: BinaryIO, options: Options) -> Report:
    """Return what the checks found in a bundle or an archive, by its first bytes."""
    kind = Archive if stream.read(len(_ARCHIVE)) == _ARCHIVE else Bundle
    stream.seek(0)
    return _judged(lambda report: kind(stream, options, report).verify())


_ARCHIVE = b'{"archive":'


def verify_bundle(stream: BinaryIO, options: Options) -> Report:
    """Return what the checks found in a bundle."""
    return _judged(lambda report: Bundle(stream, options, report).verify())


def _judged(verify: Callable[[Report], None]) -> Report:
    """Return the report; an exception inside is UNREADABLE, never a pass."""
    report = Report()
    try:
        verify(report)
    except Unreadable as error:
        report.unreadable = str(error)
    except Exception as error:  # noqa: BLE001 - what this file cannot follow it must not pass
        report.unreadable = f"not to be followed: {type(error).__name__}: {error}"
    return report


# --- an exported log ----------------------------------------------------------------------------------


def tile_path(number: int) -> str:
    """Return a tile's number as tlog-tiles spells it: 1234067 is x001/x234/067."""
    digits = str(number)
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    return "/".join([*("x" + group for group in groups[:-1]), groups[-1]])


def tiles(count: int) -> Iterator[tuple[int, int]]:
    """Yield number and width of each tile over so many hashes or entries."""
    for number in range(-(-count // TILE_WIDTH)):
        yield number, min(TILE_WIDTH, count - number * TILE_WIDTH)


class ExportedLog:
    """A folder in the layout of tlog-tiles: `checkpoint`, `tile/<L>/<N>`, `tile/entries/<N>`."""

    def __init__(self, folder: Path, options: Options, report: Report) -> None:
        self.folder = folder
        self.options = options
        self.report = report
        self.hashes: list[bytes] = []
        self.ids: set[str] = set()
        self.epoch = ""
        # Tiles without entries, and the index below which facts of the log say that entries may be gone.
        self.without: list[tuple[int, int]] = []
        self.archived = 0
        report.checks = LOG_CHECKS

    def verify(self) -> None:
        """Recompute every leaf, every tile and the root."""
        note = self._read("checkpoint")
        if note is None:
            raise Unreadable("the folder has no checkpoint")
        try:
            text = note.decode("utf-8")
        except ValueError:
            raise Unreadable("the checkpoint is no text") from None
        checkpoint = check_checkpoint(text, self.options.keys, self.options, self.report)
        if checkpoint is None:
            return
        *named, self.epoch = checkpoint.origin.split("/")
        self.report.figures["tenant"] = named[-1] if named else None
        for number, width in tiles(checkpoint.size):
            self._read_entries(number, width)
        self._check_pruned()
        self.report.figures["facts"] = len(self.hashes)
        if len(self.hashes) == checkpoint.size:
            self._check_tiles(checkpoint)
        check_old(
            checkpoint,
            self.options.keys,
            self.options,
            self.report,
            lambda size, _root: tree_root(self.hashes[:size]) if len(self.hashes) >= size else None,
        )

    def _read(self, name: str) -> bytes | None:
        try:
            return (self.folder / name).read_bytes()
        except OSError:
            return None

    def _tile(self, level: str, number: int, width: int) -> bytes | None:
        partial = "" if width == TILE_WIDTH else f".p/{width}"
        return self._read(f"tile/{level}/{tile_path(number)}{partial}")

    def _read_entries(self, number: int, width: int) -> None:
        data = self._tile("entries", number, width)
        if data is None:
            self.without.append((number, width))
            data = self._tile("0", number, width) or b""
            if len(data) != 32 * width:
                self._miss(number)
            self.hashes += [data[at : at + 32] for at in range(0, len(data), 32)]
            return
        entries = _entries(data)
        if entries is None or len(entries) != width:
            self._miss(number)
            return
        tenant = self.report.figures["tenant"]
        for place, entry in enumerate(entries, number * TILE_WIDTH):
            statement = _members(read_json(entry, f"entry {place}", strict=self.options.strict))
            fact = str(statement.get("fact"))
            if statement.get("tenant") != tenant:
                self.report.fail(6, "FOREIGN_FACT", f"entry {place} is of another tenant", fact=fact)
            if fact in self.ids:
                self.report.fail(6, "DUPLICATE_FACT", f"entry {place} is there twice", fact=fact)
            self.ids.add(fact)
            if self.options.strict and canonical(statement).encode() != entry:
                self.report.fail(6, "NOT_CANONICAL", f"entry {place} is not canonical", fact=fact)
            # The log of the system repeats those of others, without a row of its own.
            if statement.get("type") == "log.archived" and statement.get("table") == "log_archives":
                self._note_archive(_members(statement.get("body")))
            self.hashes.append(leaf(entry))

    def _note_archive(self, body: dict[str, Any]) -> None:
        if str(body.get("epoch")) == self.epoch and _is_count(body.get("to_idx")):
            self.archived = max(self.archived, body["to_idx"])

    def _miss(self, number: int) -> None:
        self.report.fail(1, "LINE_COUNT", f"the entries of tile {number} are not all there")

    def _check_pruned(self) -> None:
        """Take tiles without entries only where the log itself says that it was archived so far."""
        pruned = 0
        for number, width in self.without:
            if number * TILE_WIDTH + width > self.archived:
                self._miss(number)
            else:
                pruned += width
        if pruned:
            detail = (
                f"{pruned} entries below {self.archived} are archived and not here; the tree has their hashes"
            )
            self.report.warnings.append(detail)

    def _check_tiles(self, checkpoint: Checkpoint) -> None:
        level, row = 0, self.hashes
        while row:
            for number, width in tiles(len(row)):
                wanted = b"".join(row[number * TILE_WIDTH : number * TILE_WIDTH + width])
                if self._tile(str(level), number, width) != wanted:
                    self.report.fail(7, "TILE_MISMATCH", f"tile {level}/{number} is not that of its entries")
            full = len(row) // TILE_WIDTH
            row = [tree_root(row[at * TILE_WIDTH : (at + 1) * TILE_WIDTH]) for at in range(full)]
            level += 1
        if tree_root(self.hashes) != checkpoint.root:
            self.report.fail(7, "ROOT_MISMATCH", "the entries do not give the signed root")


def _entries(data: bytes) -> list[bytes] | None:
    """Return the entries of a bundle, each after its big-endian length; None when it is cut."""
    entries, at = [], 0
    while at < len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if end > len(data):
            return None
        entries.append(data[at + 2 : end])
        at = end
    return entries


def verify_log(folder: Path, options: Options) -> Report:
    """Return what the checks found in an exported log."""
    return _judged(lambda report: ExportedLog(folder, options, report).verify())


# --- the command --------------------------------------------------------------------------------------


def read_keys(given: Iterable[str]) -> tuple[Key, ...]:
    """Return the keys of texts and files; ValueError when one is neither."""
    keys = []
    for text in given:
        file = Path(text)
        try:
            lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else [text]
        except (OSError, ValueError):
            lines = [text]
        keys += [parse_vkey(line) for line in lines if line.strip()]
    return tuple(keys)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hoc_verify",
        description="Verify a run's proof, an archive, or an exported log, without trusting its server.",
    )
    parser.add_argument("file", nargs="?", help="a bundle, hoc-run-proof/1, or an archive, hoc-log-archive/1")
    parser.add_argument("--log", metavar="DIR", help="an exported log instead of a file")
    parser.add_argument(
        "--key", action="append", default=[], help="a trusted verifier key, or a file of them"
    )
    parser.add_argument("--trust-embedded-key", action="store_true", help="trust the key inside the file")
    parser.add_argument("--checkpoint", metavar="OLD", help="an older checkpoint that the log must continue")
    parser.add_argument("--witness", action="append", default=[], help="the verifier key of a witness")
    parser.add_argument("--quorum", type=int, help="how many witnesses must have signed; all when left out")
    parser.add_argument("--allow-open", action="store_true", help="take a run that has not ended as it is")
    parser.add_argument("--strict", action="store_true", help="demand the canonical form of every statement")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def print_report(report: Report) -> None:
    """Print the result for people; the verdict comes last."""
    result = report.as_json()
    for check in result["checks"]:
        print(f"{check['n']:>2} {check['name']:<16} {check['status']}")
    for failure in result["failures"]:
        where = "".join(f" {name} {failure[name]}" for name in ("line", "fact") if failure[name] is not None)
        print(f"{failure['code']}{where}: {failure['detail']}")
    if report.total > len(report.failures):
        print(f"and {report.total - len(report.failures)} more")
    for warning in result["warnings"]:
        print(f"note: {warning}")
    for claim in result["claims"] if report.verdict == "VERIFIED" else ():
        print(f"claim {claim.get('claim')}: {canonical(claim.get('value'))}")
    if result.get("archive") is not None:
        print(f"archive {result['archive']} of {result['tenant']}: {result['runs']} runs,", end=" ")
        print(f"{result['facts']} facts, {result['late']} late, {result['steps']} steps")
    if result.get("run") is not None:
        print(f"run {result['run']} of {result['tenant']}: {result['completeness']},", end=" ")
        print(f"{result['facts']} facts, {result['late']} late, {result['steps']} steps")
    print(result["verdict"])


def _verify(given: argparse.Namespace, options: Options) -> Report:
    if given.log is not None:
        return verify_log(Path(given.log), options)
    try:
        with Path(given.file).open("rb") as stream:
            return verify_file(stream, options)
    except OSError as error:
        report = Report()
        report.unreadable = str(error)
        return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify what the arguments name, print the result, return the exit code."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if (given.file is None) == (given.log is None):
        parser.error("name a bundle or an archive, or a log with --log")
    if given.quorum is not None and not 1 <= given.quorum <= len(given.witness):
        parser.error("a quorum is 1 to as many witnesses as you name")
    try:
        options = Options(
            keys=read_keys(given.key),
            trust_embedded_key=given.trust_embedded_key,
            old=None if given.checkpoint is None else Path(given.checkpoint).read_text(encoding="utf-8"),
            witnesses=read_keys(given.witness),
            quorum=given.quorum,
            allow_open=given.allow_open,
            strict=given.strict,
        )
    except (OSError, ValueError) as error:
        parser.error(str(error))
    # What is read here holds no circles, and looking for them costs a third of the time.
    collects = gc.isenabled()
    gc.disable()
    try:
        report = _verify(given, options)
    finally:
        if collects:
            gc.enable()
    if given.json:
        print(json.dumps(report.as_json(), indent=2, ensure_ascii=False))
    else:
        print_report(report)
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main())
