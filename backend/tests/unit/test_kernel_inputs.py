"""Kernel: what the building blocks of inputs take and refuse."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from app.kernel.ids import ID_PATTERN
from app.kernel.inputs import (
    AwareTime,
    Identifier,
    Input,
    ListInput,
    LongText,
    Name,
    Output,
    OutputTime,
    Reason,
    Text,
)


class Sample(Input):
    name: Text
    count: int = 0
    share: float = 0.0


class Moment(Output):
    at: OutputTime


def admits(kind: Any, value: Any) -> bool:
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError:
        return False
    return True


@given(st.text(max_size=140))
def test_an_identifier_is_exactly_what_the_pattern_says(text: str) -> None:
    assert admits(Identifier, text) == bool(re.fullmatch(ID_PATTERN.strip("^$"), text))


@pytest.mark.parametrize("text", ["a", "A.b_c:d-e", "0", "x" * 128])
def test_usual_identifiers_are_taken(text: str) -> None:
    assert admits(Identifier, text)


@pytest.mark.parametrize("text", ["", "_a", "-a", "a\n", "a b", "é", "x" * 129, "a/b", "a\x00"])
def test_other_identifiers_are_refused(text: str) -> None:
    assert not admits(Identifier, text)


@pytest.mark.parametrize("kind", [Text, LongText, Name, Reason])
@pytest.mark.parametrize("text", ["a\x00b", "\ud800", "a\udfffb"])
def test_text_that_no_database_holds_is_refused(kind: Any, text: str) -> None:
    assert not admits(kind, text)


@pytest.mark.parametrize("kind", [Name, Reason])
@pytest.mark.parametrize("text", ["", " ", "\t\n", "\u2003"])
def test_a_name_and_a_reason_say_something(kind: Any, text: str) -> None:
    assert not admits(kind, text)


@pytest.mark.parametrize(("kind", "most"), [(Name, 255), (Reason, 4096), (LongText, 4096)])
def test_texts_have_an_end(kind: Any, most: int) -> None:
    assert admits(kind, "ä" * most)
    assert not admits(kind, "ä" * (most + 1))


@pytest.mark.parametrize(
    "value",
    [
        "2026-01-01T00:00:00",
        "2026-01-01",
        "yesterday",
        "",
        1767225600,
        1.5,
        None,
        True,
        "0001-01-01T00:00:00+14:00",
    ],
)
def test_a_time_without_an_offset_or_off_the_time_line_is_refused(value: Any) -> None:
    assert not admits(AwareTime, value)


def test_a_time_with_an_offset_is_taken_to_utc() -> None:
    taken = TypeAdapter(AwareTime).validate_python("2026-01-01T05:45:00+05:45")
    assert (taken, taken.tzinfo) == (datetime(2026, 1, 1, tzinfo=UTC), UTC)


def test_unknown_members_are_refused() -> None:
    assert not admits(Sample, {"name": "a", "other": 1})


@pytest.mark.parametrize("share", [float("nan"), float("inf")])
def test_numbers_that_json_does_not_have_are_refused(share: float) -> None:
    assert not admits(Sample, {"name": "a", "share": share})


def test_an_input_never_changes() -> None:
    with pytest.raises(ValidationError):
        Sample(name="a").name = "b"  # type: ignore[misc]


@pytest.mark.parametrize("limit", [0, 501, -1])
def test_a_list_has_a_limit(limit: int) -> None:
    assert not admits(ListInput, {"limit": limit})
    assert ListInput().limit == 50


def test_times_leave_in_the_fixed_form() -> None:
    assert (
        Moment(at=datetime(2026, 1, 1, tzinfo=UTC)).model_dump_json()
        == '{"at":"2026-01-01T00:00:00.000000Z"}'
    )
