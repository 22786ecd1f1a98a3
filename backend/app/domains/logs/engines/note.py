"""Logs L5: checkpoints and signed notes of C2SP (signed-note, tlog-checkpoint) with Ed25519 keys; pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

ED25519: Final = b"\x01"
COSIGNATURE: Final = b"\x04"
ORIGIN: Final = re.compile(r"(?!DSSEv1)[^\s+]{1,400}")
_DASH: Final = "\N{EM DASH} "
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}")


class NoteError(ValueError):
    """The text is no signed note, no checkpoint, or no key."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An Ed25519 key that signs under many names, one for each log."""

    private: Ed25519PrivateKey

    @property
    def public(self) -> bytes:
        """The raw public key, 32 bytes."""
        return self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def vkey(self, name: str) -> str:
        """Return the verifier key under a name."""
        return vkey(name, self.public)

    def pem(self) -> bytes:
        """Return the key as PEM PKCS#8, as it stands in its file."""
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def new_key(seed: bytes) -> SigningKey:
    """Return the key of 32 random bytes."""
    return SigningKey(Ed25519PrivateKey.from_private_bytes(seed))


def read_key(pem: bytes) -> SigningKey:
    """Return the key of a PEM PKCS#8 file; NoteError when it holds none."""
    try:
        private = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise NoteError("this is no unencrypted PEM private key") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise NoteError("this key is not an Ed25519 key")
    return SigningKey(private)


def key_id(name: str, public: bytes, *, kind: bytes = ED25519) -> bytes:
    """Return the 4 bytes that name a key in a signature line."""
    return hashlib.sha256(name.encode() + b"\n" + kind + public).digest()[:4]


def vkey(name: str, public: bytes) -> str:
    """Return the verifier key `<name>+<key id>+<base64 of type and public key>`."""
    return f"{name}+{key_id(name, public).hex()}+{base64.b64encode(ED25519 + public).decode()}"


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A key that somebody trusts for one name."""

    name: str
    key_id: bytes
    public: bytes


def parse_vkey(text: str, *, kind: bytes = ED25519) -> VerifierKey:
    """Return the key of a vkey text; NoteError when its parts do not belong together, or of another kind."""
    parts = text.strip().split("+", 2)
    if len(parts) != 3 or not ORIGIN.fullmatch(parts[0]):
        raise NoteError("a verifier key is <name>+<key id>+<base64>")
    raw = _unbase64(parts[2])
    if len(raw) != 33 or raw[:1] != kind:
        raise NoteError("this verifier key is of another kind")
    key = VerifierKey(parts[0], key_id(parts[0], raw[1:], kind=kind), raw[1:])
    if key.key_id.hex() != parts[1]:
        raise NoteError("the key id is not the one of this name and key")
    return key


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line of a note."""

    name: str
    key_id: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """A signed note: its text, which ends in a line feed, and its signature lines."""

    text: str
    signatures: tuple[Signature, ...]


def sign(text: str, *, name: str, key: SigningKey) -> str:
    """Return the note of a text under one key; Ed25519 makes the same note of the same text each time."""
    value = key_id(name, key.public) + key.private.sign(text.encode())
    return f"{text}\n{_DASH}{name} {base64.b64encode(value).decode()}\n"


def parse_note(note: str) -> Note:
    """Return text and signatures of a note; NoteError for any other form."""
    text, blank, lines = note.rpartition("\n\n")
    if not blank or not text or not lines.endswith("\n"):
        raise NoteError("a note is text, an empty line, and signature lines")
    return Note(text + "\n", tuple(parse_signature(line) for line in lines[:-1].split("\n")))


def parse_signature(line: str) -> Signature:
    """Return a signature line without its line feed; NoteError for any other form."""
    name, _, encoded = line.removeprefix(_DASH).partition(" ")
    value = _unbase64(encoded)
    if not line.startswith(_DASH) or not ORIGIN.fullmatch(name) or len(value) < 5:
        raise NoteError("a signature line is a dash, a name and base64")
    return Signature(name, value[:4], value[4:])


def signature_holds(note: Note, key: VerifierKey) -> bool | None:
    """Tell whether the key's signatures under the note are valid; None when it has none there."""
    mine = [s for s in note.signatures if (s.name, s.key_id) == (key.name, key.key_id)]
    public = Ed25519PublicKey.from_public_bytes(key.public)
    for signature in mine:
        try:
            public.verify(signature.value, note.text.encode())
        except InvalidSignature:
            return False
    return True if mine else None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint says: the log, its size, its root."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """Return the note text: origin, size and base64 root, each on a line; no extension lines."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def parse_checkpoint(text: str) -> Checkpoint:
    """Return the checkpoint of a note text; NoteError for any other form, extension lines too."""
    lines = text.split("\n")
    if len(lines) != 4 or lines[3] or not ORIGIN.fullmatch(lines[0]) or not _SIZE.fullmatch(lines[1]):
        raise NoteError("a checkpoint is origin, size and root, each on a line")
    root = _unbase64(lines[2])
    if len(root) != 32:
        raise NoteError("the root of a checkpoint has 32 bytes")
    return Checkpoint(lines[0], int(lines[1]), root)


def _unbase64(text: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise NoteError("this is not base64") from error
    if base64.b64encode(raw).decode() != text:
        raise NoteError("this base64 has another spelling")
    return raw
