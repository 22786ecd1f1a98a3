"""Benchmarks: what processes with all that they started have used of the processor and of memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
# In /proc/PID/stat, counted from after the name: own user and system time, and that of children that ended.
_PARENT, _TIMES = 1, slice(11, 15)


def processor_seconds(pids: Sequence[int]) -> float:
    """Return the processor time of these processes and their children, those that ended included."""
    return sum(sum(map(int, fields[_TIMES])) for fields in _family(pids).values()) / _TICKS


def resident_mb(pids: Sequence[int]) -> float:
    """Return the resident memory of these processes and their children."""
    pages = (int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in _family(pids))
    return sum(pages) * os.sysconf("SC_PAGE_SIZE") / 1024**2


def _family(pids: Sequence[int]) -> dict[int, list[str]]:
    every = dict(_processes()) if pids else {}
    found = {pid for pid in pids if pid in every}
    while more := {pid for pid, fields in every.items() if int(fields[_PARENT]) in found} - found:
        found |= more
    return {pid: every[pid] for pid in found}


def _processes() -> Iterator[tuple[int, list[str]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            yield int(entry.name), stat.rpartition(")")[2].split()
