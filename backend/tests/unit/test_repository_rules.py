"""The pure rules of the repository: tokens, number keys, metadata limits, names, differences, chains."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domains.repository.engines import documents, search, tokenizer, values
from app.domains.repository.engines.changes import merge_bodies
from app.domains.repository.engines.queries import successor
from app.domains.repository.engines.revisions import unified_diff
from app.kernel.canonical_json import dumps
from app.kernel.errors import HocError

numbers = st.one_of(
    st.integers(min_value=-(10**299), max_value=10**299), st.floats(allow_nan=False, allow_infinity=False)
)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("aé~/", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("ab~/", max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)
objects = st.dictionaries(st.text("ab~/", max_size=2), json_values, max_size=4)


@given(numbers, numbers)
def test_number_keys_sort_as_numbers_do(left: float, right: float) -> None:
    keys = [documents.number_key(value) for value in (left, right)]
    first, second = (Decimal(repr(value)) for value in (left, right))
    assert (keys[0] < keys[1], keys[0] == keys[1]) == (first < second, first == second)
    assert all(len(key) <= documents.MAX_KEY_BYTES for key in keys)


@pytest.mark.parametrize(
    ("text", "index", "query"),
    [
        ("Hello, World", ["hello", "world"], ["hello", "world"]),
        ("snake_case __x__", ["snake", "case", "x"], ["snake", "case", "x"]),
        (
            "\u6771\u4eac\u90fd",
            ["\u6771", "\u4eac", "\u90fd", "\u6771\u4eac", "\u4eac\u90fd"],
            ["\u6771\u4eac", "\u4eac\u90fd"],
        ),
        ("\u6771", ["\u6771"], ["\u6771"]),
        ("ab\u6771cd", ["ab", "\u6771", "cd"], ["ab", "\u6771", "cd"]),
        ("Stra\u00dfe \ufb01x", ["strasse", "fix"], ["strasse", "fix"]),
        ("\uff21\uff11", ["a1"], ["a1"]),
        ("x" * 65, ["x" * 64], ["x" * 64]),
        ("a a A", ["a"], ["a"]),
        ("\U0001f600 \x00 -- *", [], []),
    ],
)
def test_text_becomes_tokens(text: str, index: list[str], query: list[str]) -> None:
    assert tokenizer.tokenize(text) == index
    assert tokenizer.query_tokens(text) == query


@given(st.text())
def test_every_query_token_of_a_text_is_indexed_with_it(text: str) -> None:
    indexed = tokenizer.tokenize(text)
    assert set(tokenizer.query_tokens(text)) <= set(indexed)
    assert list(dict.fromkeys(tokenizer.token_occurrences(text))) == indexed
    assert all(token and " " not in token and len(token) <= 64 for token in indexed)


def test_an_index_entry_stops_at_its_limit_and_says_so() -> None:
    words = " ".join(f"w{index:07d}" for index in range(100_000)).encode()
    entry = search.index_entry("name", words[: search.MAX_INDEXED_BYTES], "text/plain")
    assert entry.truncated
    assert sum(map(len, entry.tokens.split(" "))) <= search.MAX_TOKEN_BYTES
    assert entry.tokens.startswith("name w0000000")
    longer = search.index_entry("n", b"a " * search.MAX_INDEXED_BYTES, "text/plain")
    assert (longer.tokens, longer.truncated) == ("n a", True)


@pytest.mark.parametrize(
    ("value", "pointer"),
    [
        ({"a": [1, float("nan")]}, "/a/1"),
        ({"a~/": "x\x00"}, "/a~0~1"),
        ({"k": {"b\ud800": 1}}, "/k"),
        ({"a": {"b": 10**300}}, "/a/b"),
        ({"a": b"x"}, "/a"),
        ({1: 2}, ""),
        ([], ""),
        (None, ""),
        ({"a": (1,)}, "/a"),
    ],
)
def test_what_is_no_metadata_is_refused_at_its_pointer(value: Any, pointer: str) -> None:
    with pytest.raises(HocError) as refused:
        documents.read_document(value, field="metadata")
    assert (refused.value.code, refused.value.extra["pointer"]) == ("INVALID_METADATA", pointer)


def test_metadata_at_its_limits_is_taken() -> None:
    deep: Any = {}
    for _ in range(documents.MAX_DEPTH - 1):
        deep = {"a": deep}
    documents.read_document(deep, field="metadata")
    documents.read_document({"n": -(10**300) + 1, "k": list(range(1999))}, field="metadata")
    with pytest.raises(HocError):
        documents.read_document({"a": deep}, field="metadata")


@given(objects, objects)
def test_a_merge_patch_is_that_of_the_standard(target: dict[str, Any], patch: dict[str, Any]) -> None:
    def merged(into: Any, change: Any) -> Any:
        # RFC 7396 section 2, word for word.
        if not isinstance(change, dict):
            return change
        result = dict(into) if isinstance(into, dict) else {}
        for name, value in change.items():
            if value is None:
                result.pop(name, None)
            else:
                result[name] = merged(result.get(name), value)
        return result

    before = dumps(target)
    assert dumps(documents.merge_patch(target, patch)) == dumps(merged(target, patch))
    assert dumps(target) == before


@given(objects, objects)
def test_documents_differ_exactly_when_a_pointer_says_so(old: dict[str, Any], new: dict[str, Any]) -> None:
    found = list(documents.compare(old, new))
    assert bool(found) == (dumps(old) != dumps(new))
    assert len({pointer for _, pointer in found}) == len(found)


@given(objects)
def test_a_projection_names_every_value_once(value: dict[str, Any]) -> None:
    rows = list(documents.project(value))
    keys = [(row["ptr"], row["elem"], row["ord"]) for row in rows]
    assert len(set(keys)) == len(keys)
    for row in rows:
        if not row["elem"]:
            here: Any = value
            for token in row["ptr"].split("/")[1:]:
                key = token.replace("~1", "/").replace("~0", "~")
                here = here[int(key)] if isinstance(here, list) else here[key]
            assert documents.scalar_key(here).key == row["vkey"]


@given(st.text(max_size=400))
def test_a_long_string_is_cut_between_characters(text: str) -> None:
    short = documents.cut(text)
    assert text.startswith(short)
    assert len(short.encode()) <= documents.MAX_KEY_BYTES
    assert short == text or len(text[: len(short) + 1].encode()) > documents.MAX_KEY_BYTES


@given(st.text(max_size=4), st.text(max_size=4))
def test_the_successor_ends_the_range_of_a_prefix(prefix: str, rest: str) -> None:
    end = successor(prefix)
    longer = (prefix + rest).encode()
    assert end is None or longer < end.encode()
    if end is not None:
        assert not end.startswith(prefix) or prefix == ""


@pytest.mark.parametrize(
    ("given_type", "kept"),
    [
        ("Text/Plain; Charset=UTF-8", "text/plain; Charset=UTF-8"),
        (" image/PNG ", "image/png"),
        ("application/vnd.x+json", "application/vnd.x+json"),
    ],
)
def test_a_media_type_is_lower_case_before_its_parameters(given_type: str, kept: str) -> None:
    assert values.check_media_type(given_type) == kept


@pytest.mark.parametrize(
    "media_type", ["", "text", "text/", "/x", "a b/c", "a/b;\r\nX: y", "t/x;\u00e9", "a/" + "b" * 300]
)
def test_what_is_no_media_type_is_refused(media_type: str) -> None:
    with pytest.raises(HocError) as refused:
        values.check_media_type(media_type)
    assert refused.value.code == "INVALID_INPUT"


def test_a_diff_of_long_texts_keeps_the_line_numbers_and_ends_in_time() -> None:
    lines = [f"line {index}\n" for index in range(5000)]
    changed = [*lines[:2500], "other\n", *lines[2501:]]
    text, cut_off = unified_diff("".join(lines).encode(), "".join(changed).encode())
    assert text is not None
    assert "@@ -2498,7 +2498,7 @@\n line 2497\n" in text
    assert "-line 2500\n+other\n" in text
    assert not cut_off
    scrambled = [f"{(index * 7919) % 5003}\n" for index in range(5000)]
    coarse, _ = unified_diff("".join(lines).encode(), "".join(scrambled).encode())
    assert coarse is not None
    assert "@@ -1,5000 +1,5000 @@\n" in coarse
    assert unified_diff(b"\xff", b"x") == (None, False)
    ended, _ = unified_diff(b"a", b"a\n")
    assert ended == "--- from\n+++ to\n@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+a\n"


def test_two_stretches_of_the_feed_become_one_fact() -> None:
    first = {"seq_from": 1, "seq_to": 2, "change_head_hash": "h2", "revision_count": 1, "entity_id": None}
    second = {"seq_from": 3, "seq_to": 3, "change_head_hash": "h3", "revision_count": 2, "entity_id": "a"}
    joined = merge_bodies(first, second)
    assert (joined["seq_from"], joined["seq_to"], joined["change_head_hash"]) == (1, 3, "h3")
    assert (joined["revision_count"], joined["entity_id"]) == (3, None)


def test_a_canonical_text_is_ordinary_json() -> None:
    document = documents.read_document({"b": [1.0, -0.0, 1e16], "a": "é"}, field="metadata")
    assert document.text == '{"a":"é","b":[1.0,-0.0,1e16]}'
    assert json.loads(document.text) == document.value
