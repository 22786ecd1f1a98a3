"""Signed notes and checkpoints of C2SP: the published vectors, read by a parser of the test's own."""

from __future__ import annotations

import base64
import hashlib

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import ValidationError

from app.domains.logs.engines import note
from app.domains.logs.engines.note import Checkpoint, NoteError
from app.settings import Settings

# RFC 8032, section 7.1, test 1.
SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
ORIGIN = "hoc.example/tenant-test-001/1"
ROOT = bytes.fromhex("5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328")
VKEY = "hoc.example/tenant-test-001/1+3cb0fbde+AddamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea"
SIGNATURE = "PLD73qhYUXmxtjjOAtqHM0im6gLfoewQpl3B380jfEwuYwhRUsCBhE3uKQFn6RvVkK3AtCQf02CyAEA4nCL+aHeJBAo="
CHECKPOINT = Checkpoint(ORIGIN, 8, ROOT)


def signed() -> str:
    return note.sign(CHECKPOINT.text(), name=ORIGIN, key=note.new_key(SEED))


def open_independently(text: str, vkey: str) -> tuple[str, int, bytes]:
    """Read a checkpoint as the pages of C2SP say, with nothing of the product's; raise when unsigned."""
    name, hash_text, key_text = vkey.split("+", 2)
    key = base64.b64decode(key_text, validate=True)
    assert key[0] == 1
    assert hashlib.sha256(name.encode() + b"\n" + key).digest()[:4].hex() == hash_text
    body, _, signatures = text.partition("\n\n")
    body += "\n"
    lines = signatures.splitlines()
    assert all(line.startswith("— ") for line in lines)
    for line in lines:
        _, signer, encoded = line.split(" ")
        raw = base64.b64decode(encoded, validate=True)
        if signer == name and raw[:4].hex() == hash_text:
            Ed25519PublicKey.from_public_bytes(key[1:]).verify(raw[4:], body.encode())
            origin, size, root = body.splitlines()
            return origin, int(size), base64.b64decode(root, validate=True)
    raise InvalidSignature


def test_the_published_key_and_signature_are_kept() -> None:
    key = note.new_key(SEED)
    assert key.vkey(ORIGIN) == VKEY
    assert signed().splitlines()[-1] == f"— {ORIGIN} {SIGNATURE}"


def test_a_parser_written_from_the_pages_of_c2sp_reads_our_checkpoints() -> None:
    assert open_independently(signed(), VKEY) == (ORIGIN, 8, ROOT)
    with pytest.raises(InvalidSignature):
        open_independently(signed().replace("\n8\n", "\n9\n"), VKEY)


def test_a_checkpoint_is_read_back() -> None:
    read = note.parse_note(signed())
    assert note.parse_checkpoint(read.text) == CHECKPOINT
    assert note.signature_holds(read, note.parse_vkey(VKEY))


def test_a_note_keeps_the_signatures_of_others() -> None:
    other = note.new_key(bytes(32))
    line = note.sign(CHECKPOINT.text(), name="witness.example", key=other).splitlines()[-1]
    read = note.parse_note(f"{signed()}{line}\n")
    assert [signature.name for signature in read.signatures] == [ORIGIN, "witness.example"]
    assert note.signature_holds(read, note.parse_vkey(other.vkey("witness.example")))
    assert open_independently(f"{signed()}{line}\n", VKEY)[1] == 8


def test_a_note_of_another_key_or_name_is_not_signed_by_this_one() -> None:
    read = note.parse_note(signed())
    key = note.new_key(SEED)
    assert not note.signature_holds(read, note.parse_vkey(note.new_key(bytes(32)).vkey(ORIGIN)))
    assert not note.signature_holds(read, note.parse_vkey(key.vkey("hoc.example/other/1")))
    changed = note.Note(read.text.replace("\n8\n", "\n9\n"), read.signatures)
    assert not note.signature_holds(changed, note.parse_vkey(VKEY))


def test_one_bad_signature_of_a_trusted_key_spoils_the_note() -> None:
    read = note.parse_note(signed())
    bad = note.Signature(ORIGIN, read.signatures[0].key_id, bytes(64))
    assert not note.signature_holds(note.Note(read.text, (*read.signatures, bad)), note.parse_vkey(VKEY))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\n",
        "a\n\n",
        "a\n\n— name",
        "a\n\n- name AAAAAAAA\n",
        "a\n\n— name A\n",
        "a\n\n— name AAAA\n",
        "a\n\n— na+me AAAAAAAA\n",
        "a\n\n—  AAAAAAAA\n",
        "a\n\n— name AAAAAAB=\n",
        "\n\n— name AAAAAAAA\n",
    ],
)
def test_what_is_no_note_is_refused(text: str) -> None:
    with pytest.raises(NoteError):
        note.parse_note(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "o\n8\n",
        f"o\n08\n{base64.b64encode(ROOT).decode()}\n",
        f"o\n-1\n{base64.b64encode(ROOT).decode()}\n",
        f"o\n\u0668\n{base64.b64encode(ROOT).decode()}\n",
        f"o o\n8\n{base64.b64encode(ROOT).decode()}\n",
        f"o\n8\n{base64.b64encode(ROOT[1:]).decode()}\n",
        f"o\n8\n{base64.b64encode(ROOT).decode()}\nextension\n",
        f"o\n8\n{base64.b64encode(ROOT).decode()}",
        "o\n8\n!!!\n",
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(NoteError):
        note.parse_checkpoint(text)


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "a+b",
        VKEY.replace("3cb0fbde", "3cb0fbdf"),
        VKEY.replace("tenant-test-001", "tenant-test-002"),
        VKEY[:-4],
        VKEY.replace("+Add", "+Bdd"),
        f"a b{VKEY}",
    ],
)
def test_a_verifier_key_whose_parts_do_not_belong_together_is_refused(vkey: str) -> None:
    with pytest.raises(NoteError):
        note.parse_vkey(vkey)


def test_a_key_file_is_read_back_and_others_are_refused() -> None:
    key = note.new_key(SEED)
    assert note.read_key(key.pem()).public == key.public
    other = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for wrong in (b"", b"no key", other):
        with pytest.raises(NoteError):
            note.read_key(wrong)


@pytest.mark.parametrize("origin", ["a b", "a+b", "DSSEv1x", "", "a\n", "-a", "a" * 201])
def test_a_setting_that_is_no_origin_refuses_the_start(origin: str) -> None:
    with pytest.raises(ValidationError):
        Settings(log_origin=origin)
    assert Settings(log_origin="hoc.example:8443/eu-1").log_origin == "hoc.example:8443/eu-1"


@pytest.mark.parametrize("origin", ["a b", "a+b", "DSSEv1x", "", "a\n"])
def test_an_origin_has_no_space_no_plus_and_is_no_envelope(origin: str) -> None:
    assert note.ORIGIN.fullmatch(origin) is None
