"""Docs: kcj-1 is what its page says, vector by vector."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.kernel.canonical_json import CanonicalJsonError, dumps, loads
from tests.docs.pages import fences, read

PAGE = read("docs/canonical-json.md")
VECTORS = [pair.splitlines() for block in fences(PAGE, "vectors") for pair in block.strip("\n").split("\n\n")]
REFUSED = [line for block in fences(PAGE, "refused") for line in block.splitlines()]
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=20,
)


def test_the_page_has_vectors() -> None:
    assert len(VECTORS) >= 10
    assert len(REFUSED) >= 10


@pytest.mark.parametrize(("given_text", "canonical"), VECTORS)
def test_a_vector_of_the_page_holds(given_text: str, canonical: str) -> None:
    assert dumps(loads(given_text)) == canonical
    assert dumps(loads(canonical)) == canonical


@pytest.mark.parametrize("text", REFUSED)
def test_a_refused_text_of_the_page_is_refused(text: str) -> None:
    with pytest.raises(CanonicalJsonError):
        loads(text)


def test_the_digest_of_the_page_is_that_of_its_first_vector() -> None:
    (shown,) = re.findall(r"`([0-9a-f]{64})`", PAGE)
    assert hashlib.sha256(VECTORS[0][1].encode()).hexdigest() == shown


def test_an_integer_that_is_too_long_is_refused() -> None:
    assert dumps(loads("9" * 4300)) == "9" * 4300
    with pytest.raises(CanonicalJsonError):
        loads("9" * 4301)


@given(VALUES)
def test_every_value_has_one_text_and_comes_back_from_it(value: object) -> None:
    text = dumps(value)
    read_back = loads(text)
    assert read_back == value
    assert dumps(read_back) == text
    assert repr(read_back) == repr(loads(dumps(read_back)))
