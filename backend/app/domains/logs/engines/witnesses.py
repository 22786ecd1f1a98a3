"""Logs L5: witnesses: whose cosignatures (C2SP tlog-cosignature) are taken, and which are valid; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from app.domains.logs.engines import note
from app.domains.logs.engines.note import NoteError, Signature, VerifierKey
from app.domains.logs.errors import bad_cosignature

MOST_LINES = 64
_TIME_BYTES = 8


@dataclass(frozen=True, slots=True)
class Line:
    """A signature line, and what it says."""

    text: str
    signature: Signature


def read_keys(text: str) -> list[VerifierKey]:
    """Return the keys of witnesses, one on a line; NoteError when a line is none."""
    return [note.parse_vkey(line, kind=note.COSIGNATURE) for line in text.splitlines() if line.strip()]


def read_lines(content: bytes) -> list[Line]:
    """Return the signature lines of a body; refuse BAD_COSIGNATURE for anything else."""
    try:
        texts = content.decode().splitlines()
        if len(texts) > MOST_LINES:
            raise bad_cosignature()
        return [Line(text, note.parse_signature(text)) for text in texts]
    except (UnicodeDecodeError, NoteError) as error:
        raise bad_cosignature() from error


def signer_of(line: Line, text: str, known: Sequence[VerifierKey]) -> VerifierKey | None:
    """Return the witness whose valid cosignature of a checkpoint's text a line is."""
    for key in known:
        if (key.name, key.key_id) == (line.signature.name, line.signature.key_id):
            moment, value = line.signature.value[:_TIME_BYTES], line.signature.value[_TIME_BYTES:]
            signed = f"cosignature/v1\ntime {int.from_bytes(moment, 'big')}\n{text}"
            try:
                Ed25519PublicKey.from_public_bytes(key.public).verify(value, signed.encode())
            except InvalidSignature:
                return None
            return key
    return None
