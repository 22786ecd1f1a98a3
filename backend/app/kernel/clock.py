"""Kernel: the clock, and the one text form of a time."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Protocol

_FORM = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")


class Clock(Protocol):
    """Tells the time as an aware UTC datetime with microseconds."""

    def now(self) -> datetime: ...


class SystemClock:
    """The host's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)


def format_time(moment: datetime) -> str:
    """Return the fixed text form `YYYY-MM-DDTHH:MM:SS.ffffffZ`; raise ValueError for a naive time."""
    if moment.tzinfo is None:
        raise ValueError("a time without an offset has no place on the time line")
    if moment.tzinfo is UTC:
        # The common time, at half the cost: what follows the microseconds is `+00:00`.
        return moment.isoformat(timespec="microseconds")[:-6] + "Z"
    # strftime pads years below 1000 differently on each C library; isoformat does not.
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def parse_time(text: str) -> datetime:
    """Return the aware time of a fixed-form text; raise ValueError for any other form."""
    # Not strptime: it reads lower-case letters and digits of other scripts, and takes ten times as long.
    if not _FORM.fullmatch(text):
        raise ValueError("a time has the form YYYY-MM-DDTHH:MM:SS.ffffffZ")
    return datetime.fromisoformat(text).astimezone(UTC)
