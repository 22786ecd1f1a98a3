"""Kernel: a time has one text, and that text one time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.kernel.clock import SystemClock, format_time, is_text_of, parse_time

offsets = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
moments = st.datetimes(
    min_value=datetime(1, 1, 2),  # noqa: DTZ001 - hypothesis adds the zone
    max_value=datetime(9999, 12, 30),  # noqa: DTZ001
    timezones=offsets | st.just(UTC),
)


@given(moments)
def test_a_time_reads_back_equal_and_in_utc(moment: datetime) -> None:
    text = format_time(moment)
    assert len(text) == 27
    assert parse_time(text) == moment
    assert parse_time(text).utcoffset() == timedelta(0)


@given(moments, moments)
def test_texts_sort_as_their_times_do(one: datetime, other: datetime) -> None:
    assert (format_time(one) < format_time(other)) == (one < other)


def test_the_form_is_fixed() -> None:
    kathmandu = timezone(timedelta(hours=5, minutes=45))
    assert format_time(datetime(33, 4, 5, 6, 7, 8, tzinfo=kathmandu)) == "0033-04-05T00:22:08.000000Z"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-01-01T00:00:00Z",
        "2026-01-01T00:00:00.000Z",
        "2026-01-01T00:00:00.000000",
        "2026-01-01T00:00:00.000000z",
        "2026-01-01t00:00:00.000000Z",
        "2026-01-01 00:00:00.000000Z",
        "2026-01-01T00:00:00,000000Z",
        "2026-01-01T00:00:00.000000Z\n",
        "2026-1-01T00:00:00.0000000Z",
        "2026-02-30T00:00:00.000000Z",
        "2026-01-01T24:00:00.000000Z",
        "\uff12026-01-01T00:00:00.000000Z",
        "2026-01-01T00:00:00.000+00:0",
    ],
)
def test_any_other_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"form|range|month|hour"):
        parse_time(text)


def test_a_time_without_an_offset_has_no_text() -> None:
    with pytest.raises(ValueError, match="offset"):
        format_time(datetime(2026, 1, 1))  # noqa: DTZ001 - the point


def test_the_host_tells_aware_utc() -> None:
    assert SystemClock().now().utcoffset() == timedelta(0)


@given(moments, moments)
def test_a_text_is_known_to_be_that_of_one_time_alone(one: datetime, other: datetime) -> None:
    assert is_text_of(format_time(one), one)
    assert is_text_of(format_time(one), other) == (one == other)
    for stated in (None, 7, "", format_time(one)[:-1], format_time(one)[:-1] + "x"):
        assert not is_text_of(stated, one)
    assert not is_text_of(format_time(one), None)
