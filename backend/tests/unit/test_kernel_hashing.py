"""Kernel: the hash formulas, by vectors that were worked out by hand with other tools."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from app.kernel.hashing import (
    digest_of,
    keyed_digest,
    leaf_hash,
    protected_commit,
    sha256_hex,
    tagged,
    text_hash,
)

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_plain_digests() -> None:
    assert sha256_hex(b"") == text_hash("") == EMPTY
    assert digest_of(b"") == f"sha256:{EMPTY}"
    assert text_hash("ä") == hashlib.sha256(b"\xc3\xa4").hexdigest()


def test_a_leaf_is_separated_from_a_node() -> None:
    # RFC 6962: the hash of the empty leaf is H(0x00), not H("").
    assert leaf_hash("") == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert leaf_hash("ä") == hashlib.sha256(b"\x00\xc3\xa4").hexdigest()


def test_a_tag_stands_in_front_with_a_line_feed() -> None:
    assert tagged("hoc/x/1", b"a", b"b") == hashlib.sha256(b"hoc/x/1\nab").digest()


def test_a_keyed_digest_is_an_hmac() -> None:
    assert keyed_digest(b"k" * 32, "ä") == hmac.new(b"k" * 32, "ä".encode(), "sha256").hexdigest()


def test_a_commitment_is_over_tag_salt_and_members() -> None:
    salt = "00" * 32
    wanted = hashlib.sha256(b"hoc/commit/1\n" + bytes(32) + '{"b":null,"reason":"ä"}'.encode()).hexdigest()
    assert protected_commit(salt, {"reason": "ä", "b": None}) == f"c1:{wanted}"


def test_the_published_commitment_is_kept() -> None:
    salt = bytes(range(32)).hex()
    published = "c1:6e3d02aac1a83f8ba34feea822a3e44331654c7e05a4abd611f953458b2cbcb7"
    assert protected_commit(salt, {"params": {}, "outcome_data": None}) == published


@pytest.mark.parametrize(
    ("salt", "members"),
    [("01" * 32, {"reason": "a"}), ("00" * 32, {"reason": "b"}), ("00" * 32, {"other": "a"})],
)
def test_a_commitment_changes_with_salt_value_and_name(salt: str, members: dict[str, str]) -> None:
    assert protected_commit(salt, members) != protected_commit("00" * 32, {"reason": "a"})
