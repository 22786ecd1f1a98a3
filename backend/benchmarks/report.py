"""Benchmarks: medians, ratios, and the table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Round:
    """One round: how many units a second, and the 99th percentile of one call in milliseconds."""

    per_second: float
    p99_ms: float


class Named(Protocol):
    """What a work says of itself."""

    name: str
    unit: str
    target: str
    floor_is: str


@dataclass(frozen=True, slots=True)
class Line:
    """One work beside its floor; medians over the rounds."""

    work: str
    unit: str
    ours_per_second: float
    ours_p99_ms: float
    floor_per_second: float
    floor_is: str
    ratio: float
    target: str

    @classmethod
    def of(cls, work: Named, ours: Sequence[Round], floors: Sequence[Round]) -> Line:
        """Return the line of a work's rounds."""
        mine = statistics.median(each.per_second for each in ours)
        theirs = statistics.median(each.per_second for each in floors)
        return cls(
            work=work.name,
            unit=work.unit,
            ours_per_second=round(mine, 1),
            ours_p99_ms=round(statistics.median(each.p99_ms for each in ours), 2),
            floor_per_second=round(theirs, 1),
            floor_is=work.floor_is,
            ratio=round(mine / theirs, 3) if theirs else 0.0,
            target=work.target,
        )

    def as_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


def print_table(lines: Sequence[Line]) -> None:
    """Print the table and what each floor is."""
    head = ("work", "unit", "ours/s", "p99 ms", "floor/s", "ours/floor", "target")
    rows = [
        (
            line.work,
            line.unit,
            f"{line.ours_per_second:,.0f}",
            f"{line.ours_p99_ms:.1f}",
            f"{line.floor_per_second:,.0f}",
            f"{line.ratio:.1%}",
            line.target,
        )
        for line in lines
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, tuple("-" * width for width in widths), *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print()
    for line in lines:
        print(f"floor of {line.work}: {line.floor_is}")
