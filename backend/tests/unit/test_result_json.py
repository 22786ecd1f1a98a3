"""The JSON text of results: canonical text is spliced in, times have one form, integers have any size."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import pytest

from app.kernel.canonical_json import RawJson
from app.kernel.inputs import Output
from app.kernel.pages import Page
from app.kernel.result_json import render


class Colour(StrEnum):
    """A closed set."""

    RED = "RED"


class View(Output):
    """A view with everything in it."""

    at: datetime
    colour: Colour
    data: Any = None


AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ['{"a":1e16,"b":[1.0,-0.0],"c":10000000000000000000000000}', '"\\u2028"', "null", "1e16"]
)
def test_canonical_text_is_spliced_in_as_it_stands(text: str) -> None:
    assert render(RawJson(text)) == text.encode()
    page = Page[View](items=[View(at=AT, colour=Colour.RED, data=RawJson(text))])
    assert f'"data":{text}}}]'.encode() in render(page)


def test_times_have_the_fixed_form_wherever_they_are() -> None:
    assert render(View(at=AT, colour=Colour.RED, data={"then": [AT]})) == (
        b'{"at":"2026-01-02T03:04:05.000000Z","colour":"RED","data":{"then":["2026-01-02T03:04:05.000000Z"]}}'
    )


def test_integers_are_exact_at_any_size_and_members_keep_their_order() -> None:
    data = {"z": 10**40, "a": [2**64 - 1, -(2**63), -(10**30)], "m": (Colour.RED, RawJson("1.0"), 2**64)}
    assert render(data) == (
        b'{"z":10000000000000000000000000000000000000000,"a":[18446744073709551615,-9223372036854775808,'
        b'-1000000000000000000000000000000],"m":["RED",1.0,18446744073709551616]}'
    )


def test_what_has_no_json_form_is_a_bug() -> None:
    with pytest.raises(TypeError):
        render({"bytes": b"x"})
