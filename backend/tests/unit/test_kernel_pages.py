"""Kernel: a cursor goes on in the list that it came from, and in no other."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.kernel.canonical_json import dumps
from app.kernel.clock import format_time
from app.kernel.errors import HocError
from app.kernel.hashing import text_hash
from app.kernel.pages import decode_cursor, encode_cursor, page_of, read_cursor

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))


def forged(*key: Any, binding: str = "list") -> str:
    """Return the cursor that somebody makes who knows how it is made: it holds what they like."""
    text = dumps([text_hash(binding)[:16], *key])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@given(texts, st.lists(texts | st.integers(), min_size=1))
def test_a_key_comes_back_from_its_cursor(binding: str, key: list[str | int]) -> None:
    assert decode_cursor(encode_cursor(binding, key), binding) == key


@given(texts, texts)
def test_a_cursor_of_another_list_is_refused(binding: str, other: str) -> None:
    if binding == other:
        return
    with pytest.raises(HocError) as caught:
        decode_cursor(encode_cursor(binding, ["a"]), other)
    assert caught.value.code == "INVALID_CURSOR"


@given(st.text() | st.binary().map(lambda data: base64.urlsafe_b64encode(data).decode()))
def test_any_other_text_is_refused_and_no_crash(text: str) -> None:
    with pytest.raises(HocError) as caught:
        decode_cursor(text, "list")
    assert caught.value.code == "INVALID_CURSOR"


def test_a_key_of_the_wanted_kinds_is_read() -> None:
    cursor = encode_cursor("list", [format_time(MOMENT), "a", 7])
    assert read_cursor(cursor, "list", datetime, str, int) == (MOMENT, "a", 7)
    assert read_cursor(None, "list", str) is None


@pytest.mark.parametrize(
    ("key", "kinds"),
    [
        ((), (str,)),
        (("a", "b"), (str,)),
        ((5,), (str,)),
        ((None,), (str,)),
        ((["a"],), (str,)),
        (("5",), (int,)),
        ((True,), (int,)),
        ((1.0,), (int,)),
        ((2**63,), (int,)),
        ((-(2**63) - 1,), (int,)),
        (("yesterday",), (datetime,)),
        ((0,), (datetime,)),
    ],
    ids=repr,
)
def test_a_forged_key_of_another_shape_is_refused(key: tuple[Any, ...], kinds: tuple[type, ...]) -> None:
    with pytest.raises(HocError) as caught:
        read_cursor(forged(*key), "list", *kinds)
    assert caught.value.code == "INVALID_CURSOR"


def test_a_page_goes_on_after_its_last_row() -> None:
    page = page_of([1, 2, 3], limit=2, binding="list", key=lambda row: (MOMENT, row), view=str)
    assert page.items == ["1", "2"]
    assert read_cursor(page.next_cursor, "list", datetime, int) == (MOMENT, 2)


@pytest.mark.parametrize("rows", [[], [1], [1, 2]])
def test_the_last_page_has_no_cursor(rows: list[int]) -> None:
    page = page_of(rows, limit=2, binding="list", key=lambda row: (row,), view=str)
    assert (len(page.items), page.next_cursor) == (len(rows), None)
