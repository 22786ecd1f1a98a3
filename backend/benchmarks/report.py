"""Benchmarks: medians, ratios, and the table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Round:
    """One round: units a second, how long calls took, memory, processor time of a unit; 0 is not told.

    Processor time is that of the server and of PostgreSQL, whose work the client only waits for.
    """

    per_second: float
    p99_ms: float
    p95_ms: float = 0.0
    peak_mb: float = 0.0
    cpu_ms: float = 0.0


def percentile(seconds: Sequence[float], share: float) -> float:
    """Return the time in milliseconds that this share of the calls did not exceed."""
    return sorted(seconds)[min(int(len(seconds) * share), len(seconds) - 1)] * 1000


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
    ours_p95_ms: float
    ours_p99_ms: float
    peak_mb: float
    cpu_ms: float
    floor_per_second: float
    floor_cpu_ms: float
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
            ours_p95_ms=round(statistics.median(each.p95_ms for each in ours), 2),
            peak_mb=round(max(each.peak_mb for each in ours)),
            ours_p99_ms=round(statistics.median(each.p99_ms for each in ours), 2),
            cpu_ms=round(statistics.median(each.cpu_ms for each in ours), 3),
            floor_per_second=round(theirs, 1),
            floor_cpu_ms=round(statistics.median(each.cpu_ms for each in floors), 3),
            floor_is=work.floor_is,
            ratio=round(mine / theirs, 3) if theirs else 0.0,
            target=work.target,
        )

    def as_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


def print_table(lines: Sequence[Line]) -> None:
    """Print the table and what each floor is."""
    head = (
        "work",
        "unit",
        "ours/s",
        "p95 ms",
        "p99 ms",
        "MB",
        "cpu ms",
        "floor/s",
        "its cpu ms",
        "ours/floor",
        "target",
    )
    rows = [
        (
            line.work,
            line.unit,
            f"{line.ours_per_second:,.0f}",
            f"{line.ours_p95_ms:.1f}" if line.ours_p95_ms else "",
            f"{line.ours_p99_ms:.1f}" if line.ours_p99_ms else "",
            f"{line.peak_mb:,.0f}" if line.peak_mb else "",
            f"{line.cpu_ms:.2f}" if line.cpu_ms else "",
            f"{line.floor_per_second:,.0f}",
            f"{line.floor_cpu_ms:.2f}" if line.floor_cpu_ms else "",
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
