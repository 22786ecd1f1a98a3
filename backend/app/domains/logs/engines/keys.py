"""Logs L5: the signing keys of one installation through rotations: which sign, which are believed; pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from app.domains.logs.engines import note
from app.domains.logs.engines.note import Note, NoteError, SigningKey, VerifierKey
from app.kernel.clock import format_time, parse_time

_UNTIL: Final = "Signs-Until: "
_BLOCK: Final = re.compile(
    rf"(?:^{_UNTIL}(?P<until>\S+)\n)?"
    r"(?P<pem>^-----BEGIN (?P<kind>[A-Z ]+)-----\n.*?^-----END (?P=kind)-----\n?)",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class FormerKey:
    """A key in whose place another came: it may sign beside that one for a while; it is believed for ever."""

    public: bytes
    private: SigningKey | None = None
    until: datetime | None = None

    def signs(self, now: datetime) -> bool:
        """Tell whether checkpoints still carry its signature."""
        return self.private is not None and self.until is not None and now < self.until


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The key that signs, and those before it, the newest first."""

    current: SigningKey
    former: tuple[FormerKey, ...] = ()

    @property
    def publics(self) -> tuple[bytes, ...]:
        """The raw public keys, the current one first."""
        return (self.current.public, *(key.public for key in self.former))

    def signers(self, now: datetime) -> tuple[SigningKey, ...]:
        """Return the keys that sign now, the current one first."""
        overlapping = (key.private for key in self.former if key.signs(now))
        return (self.current, *(key for key in overlapping if key is not None))

    def signers_of(self, key_ids: Collection[str], origin: str) -> tuple[SigningKey, ...]:
        """Return the keys at hand that signed a checkpoint: what is signed over it needs no other trust.

        When none of them is at hand, it is the current key alone.
        """
        held = (self.current, *(key.private for key in self.former if key.private is not None))
        of_it = (key for key in held if note.key_id(origin, key.public).hex() in key_ids)
        return tuple(of_it) or (self.current,)

    def verifiers(self, origin: str) -> list[VerifierKey]:
        """Return every key as one of a log, the current one first."""
        return [VerifierKey(origin, note.key_id(origin, public), public) for public in self.publics]

    def opens(self, read: Note, origin: str) -> bool:
        """Tell whether a note has a valid signature of one of the keys, and no invalid one of any."""
        judged = [note.signature_holds(read, key) for key in self.verifiers(origin)]
        return True in judged and False not in judged

    def rotated(self, new: SigningKey, *, until: datetime | None) -> KeyRing:
        """Return the ring in which `new` signs; the one before it signs beside it until then, or no more."""
        last = FormerKey(self.current.public, None if until is None else self.current, until)
        retired = (replace(key, private=None, until=None) for key in self.former)
        return KeyRing(new, (last, *retired))

    def pem(self) -> bytes:
        """Return the ring as it stands in its file.

        PEM blocks: the current private key, then the former ones: a private key below the moment until which
        it signs, or a public key.
        """
        parts = [self.current.pem().decode()]
        for key in self.former:
            if key.private is not None and key.until is not None:
                parts += [f"{_UNTIL}{format_time(key.until)}\n", key.private.pem().decode()]
            else:
                parts.append(_public_pem(key.public))
        return "".join(parts).encode()


def read_ring(pem: bytes) -> KeyRing:
    """Return the keys of a PEM file; NoteError unless it begins with an Ed25519 private key."""
    text = pem.decode("utf-8", "replace")
    blocks = list(_BLOCK.finditer(text))
    if not blocks or "-----BEGIN" in _BLOCK.sub("", text):
        raise NoteError("this is no PEM file, or a cut one")
    former = []
    for block in blocks[1:]:
        if block["kind"] == "PUBLIC KEY":
            former.append(FormerKey(_read_public(block["pem"].encode())))
            continue
        private = note.read_key(block["pem"].encode())
        until = _read_time(block["until"])
        former.append(FormerKey(private.public, private if until else None, until))
    return KeyRing(note.read_key(blocks[0]["pem"].encode()), tuple(former))


def sign(text: str, *, name: str, keys: Sequence[SigningKey]) -> str:
    """Return the note of a text with the signature of each key, in their order."""
    first, *others = (note.sign(text, name=name, key=key) for key in keys)
    return first + "".join(other.removeprefix(f"{text}\n") for other in others)


def _read_public(pem: bytes) -> bytes:
    try:
        public = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise NoteError("this is no PEM public key") from error
    if not isinstance(public, Ed25519PublicKey):
        raise NoteError("this key is not an Ed25519 key")
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw)


def _public_pem(public: bytes) -> str:
    # SubjectPublicKeyInfo of Ed25519 (RFC 8410): a fixed prefix and the 32 bytes.
    return (
        Ed25519PublicKey.from_public_bytes(public)
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def _read_time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return parse_time(text)
    except ValueError as error:
        raise NoteError(f"{text} is no time") from error
