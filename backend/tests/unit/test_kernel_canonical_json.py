"""Kernel: kcj-1 is one text for each JSON value, and reads nothing else."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.kernel.canonical_json import CanonicalJsonError, RawJson, dumps, dumps_object, is_text_of, loads

# (value, canonical text): these texts are hashed and never change.
GOLDEN: list[tuple[Any, str]] = [
    (None, "null"),
    (True, "true"),
    (0, "0"),
    (-0, "0"),
    (2**70, "1180591620717411303424"),
    (0.0, "0.0"),
    (-0.0, "-0.0"),
    (1.0, "1.0"),
    (0.1, "0.1"),
    (1e-4, "0.0001"),
    (9.999e-5, "9.999e-5"),
    (1.5e-7, "1.5e-7"),
    (5e-324, "5e-324"),
    (1e15, "1000000000000000.0"),
    (1e16, "1e16"),
    (-1.25e22, "-1.25e22"),
    (1.7976931348623157e308, "1.7976931348623157e308"),
    ("", '""'),
    ('"\\/', '"\\"\\\\/"'),
    ("\b\t\n\f\r", '"\\b\\t\\n\\f\\r"'),
    ("\x01\x1f\x7f", '"\\u0001\\u001f\x7f"'),
    ("ä€😀\u2028", '"ä€😀\u2028"'),
    ("1e+16", '"1e+16"'),
    ([], "[]"),
    ((1, 2), "[1,2]"),
    ({}, "{}"),
    ({"b": 1, "a": [True, None], "": {}}, '{"":{},"a":[true,null],"b":1}'),
    ({"10": 1, "9": 2}, '{"10":1,"9":2}'),
    # Code point order, where UTF-16 order would put the emoji before U+FF5E.
    ({"\uff5e": 1, "😀": 2}, '{"\uff5e":1,"😀":2}'),
    ({"a": 1e16, "b": {"c": [1e-7, "x"]}}, '{"a":1e16,"b":{"c":[1e-7,"x"]}}'),
]

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


def exact(value: Any) -> Any:
    """Return a form that tells 1 from 1.0 and True, and 0.0 from -0.0, whatever the order of keys."""
    if isinstance(value, dict):
        return {key: exact(member) for key, member in value.items()}
    return [exact(item) for item in value] if isinstance(value, list) else repr(value)


class Colour(StrEnum):
    RED = "red"


@pytest.mark.parametrize(("value", "text"), GOLDEN, ids=[ascii(text) for _, text in GOLDEN])
def test_a_value_has_its_golden_text(value: Any, text: str) -> None:
    assert dumps(value) == text


@given(values)
def test_what_is_written_reads_back_equal_and_of_the_same_types(value: Any) -> None:
    text = dumps(value)
    assert exact(loads(text)) == exact(value)
    assert exact(loads(text.encode())) == exact(value)


@given(values)
def test_the_canonical_text_of_a_canonical_text_is_itself(value: Any) -> None:
    text = dumps(value)
    assert dumps(loads(text)) == text


@given(values)
def test_any_json_text_of_a_value_has_one_canonical_form(value: Any) -> None:
    assert dumps(loads(json.dumps(value, indent=2))) == dumps(value)


@given(st.dictionaries(texts, scalars))
def test_the_order_of_insertion_leaves_no_trace(members: dict[str, Any]) -> None:
    assert dumps(dict(reversed(members.items()))) == dumps(members)


@given(st.dictionaries(texts, values, max_size=4))
def test_spliced_texts_stand_where_their_values_would(members: dict[str, Any]) -> None:
    assert dumps_object({name: RawJson(dumps(value)) for name, value in members.items()}) == dumps(members)
    assert dumps_object(members) == dumps(members)


def test_words_of_a_closed_vocabulary_are_plain_texts() -> None:
    assert dumps({Colour.RED: Colour.RED}) == '{"red":"red"}'


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        "\ud800",
        {"\udfff": 1},
        {10: 1, 9: 2},
        {None: 1},
        [{1.5: 1e16}],
        {"a": 2**70, "b": {1: 1}},
        b"bytes",
        {1, 2},
        datetime(2026, 1, 1, tzinfo=UTC),
        object(),
        10**5000,
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_without_a_canonical_text_is_refused(value: Any) -> None:
    with pytest.raises(CanonicalJsonError):
        dumps(value)


def test_a_value_nested_without_end_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(CanonicalJsonError):
        dumps(endless)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "nul",
        "{} {}",
        "[1,]",
        '{"a":1,"a":1}',
        '[{"a":{"b":1,"b":2}}]',
        "NaN",
        "[Infinity]",
        "-Infinity",
        "1e309",
        "-1e999",
        "01",
        "+1",
        ".5",
        "'a'",
        '"\n"',
        '"\x00"',
        '"\\u0000"',
        '{"\\u0000":1}',
        '"\\ud800"',
        '"\ud800"',
        '{"ä\udc00":1}',
        '"\\ud83d"',
        "\ufeff{}",
        "1" * 5000,
        "[" * 100_000,
        b"\xff",
        b'"\xed\xa0\x80"',
    ],
    ids=lambda text: ascii(text[:20]),
)
def test_a_text_that_is_not_strict_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(CanonicalJsonError):
        loads(text)


def test_an_integer_too_long_to_read_is_refused_in_our_words() -> None:
    with pytest.raises(CanonicalJsonError, match=r"^an integer of more than 4300 digits$"):
        loads("9" * 4301)
    assert loads("9" * 4300) == int("9" * 4300)


def test_a_surrogate_pair_is_one_character() -> None:
    assert loads('"\\ud83d\\ude00 \\\\u0000"') == "😀 \\u0000"


def test_a_bad_string_is_found_by_its_pointer() -> None:
    with pytest.raises(CanonicalJsonError) as caught:
        loads('{"a/b~":[0,"\\u0000"]}')
    assert caught.value.pointer == "/a~1b~0/1"


plain = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(st.characters(codec="utf-8"))


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), plain))
def test_an_object_of_plain_members_has_the_text_that_it_has_inside_another_value(
    members: dict[str, Any],
) -> None:
    assert dumps([members]) == f"[{dumps(members)}]"


@given(st.recursive(plain | st.floats(allow_nan=False, allow_infinity=False), st.lists))
def test_a_value_knows_its_own_text(value: Any) -> None:
    text = dumps(value)
    assert is_text_of(text, loads(text))
    assert not is_text_of(f"{text} ", value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.00001", 1e-5), ("1e+16", 1e16), ("[1]", [True]), ('{"b":1,"a":2}', {"a": 2, "b": 1})],
)
def test_another_text_of_the_same_value_is_not_its_canonical_one(text: str, value: Any) -> None:
    assert not is_text_of(text, value)
