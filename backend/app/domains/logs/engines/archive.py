"""Logs L5: the archive hoc-log-archive/1: its header, and where its statements stand; pure."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from app.kernel.canonical_json import dumps

FORMAT: Final = "hoc-log-archive/1"
SUFFIX: Final = ".hoclog"
SECTIONS: Final = ("context", "statements", "traces", "values")

Ranges = Sequence[tuple[int, int]]


def ranges_of(indices: Iterable[int]) -> list[tuple[int, int]]:
    """Return ascending indices as ranges [first, after)."""
    ranges: list[tuple[int, int]] = []
    for index in indices:
        if ranges and ranges[-1][1] == index:
            ranges[-1] = (ranges[-1][0], index + 1)
        else:
            ranges.append((index, index + 1))
    return ranges


def header(
    *,
    archive_id: str,
    tenant_id: str,
    origin: str,
    epoch: int,
    first: int,
    after: int,
    checkpoint: str,
    vkeys: Sequence[str],
    lines: Mapping[str, int],
    ranges: Mapping[str, Ranges],
    multiproof: Sequence[bytes],
) -> str:
    """Return line 1, canonical: what no hash covers has one spelling."""
    sections = [
        {"name": name, "lines": lines[name]}
        | ({"indices": [list(place) for place in ranges[name]]} if name in ranges else {})
        for name in SECTIONS
    ]
    return dumps(
        {
            "archive": FORMAT,
            "id": archive_id,
            "tenant": tenant_id,
            "origin": origin,
            "epoch": epoch,
            "from": first,
            "to": after,
            "checkpoint": checkpoint,
            "vkeys": list(vkeys),
            "sections": sections,
            "multiproof": [base64.b64encode(part).decode() for part in multiproof],
        }
    )
