"""Benchmarks: what the repository is put to, each in a process of its own, so that its memory is its own.

`python -m benchmarks.repository_deeds DEED URL TENANT JSON` prints one JSON object with what it measured.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from app.library import RepositoryContext, open_repository
from app.library_face.repository import SpineRepository
from benchmarks.report import percentile

BATCH = 1000
VOCABULARY = 50_000
_WORDS = [f"w{rank}" for rank in range(1, VOCABULARY + 1)]
# Zipf: the frequency of a word is the inverse of its rank.
_WEIGHTS = list(accumulate(1 / rank for rank in range(1, VOCABULARY + 1)))
# About 1 KB. A word of rank r is in about 15 / r of such texts.
_TEXT_WORDS = 165
_RARE, _USUAL = (1_000, 50_000), (120, 1_000)
KINDS = 50
QUERIES = 200
TREE = (1, 8, 64, 427)


def item(number: int, words: random.Random) -> dict[str, Any]:
    """Return an artifact of 1 KB of text and four keys of metadata."""
    return {
        "name": f"note-{number}",
        "artifact_type": "note",
        "content": " ".join(words.choices(_WORDS, cum_weights=_WEIGHTS, k=_TEXT_WORDS)),
        "metadata": {
            "number": number,
            "kind": f"kind-{number % KINDS}",
            "done": number % 2 == 0,
            "score": 1.5,
        },
    }


def fill(repo: SpineRepository, *, start: int, count: int) -> dict[str, Any]:
    """Create artifacts, 1000 to a call; only the calls are timed."""
    words, spent = random.Random(start), []
    for first in range(start, start + count, BATCH):
        items = [item(number, words) for number in range(first, first + BATCH)]
        begun = time.perf_counter()
        repo.create_artifacts(items)
        spent.append(time.perf_counter() - begun)
    return {"per_second": count / sum(spent), "p99_ms": percentile(spent, 0.99)}


def fill_largest(repo: SpineRepository) -> dict[str, Any]:
    """Make one call at its limits: 1000 artifacts, 60 MiB of text that repeats no word."""
    items = [
        {
            "name": f"large-{n}",
            "artifact_type": "note",
            "content": " ".join(f"{n}x{i:x}" for i in range(7000)),
        }
        for n in range(BATCH)
    ]
    begun = time.perf_counter()
    repo.create_artifacts(items)
    return {"per_second": BATCH / (time.perf_counter() - begun)}


def plant(repo: SpineRepository, *, trees: int) -> dict[str, Any]:
    """Relate artifacts to trees of 500 with a depth of three; the roots are those named first."""
    ids = [entry.id for entry in _pages(repo, trees * sum(TREE))]
    roots = []
    for number in range(trees):
        nodes = iter(ids[number * sum(TREE) : (number + 1) * sum(TREE)])
        above = [next(nodes)]
        roots.append(above[0])
        for width in TREE[1:]:
            level = [next(nodes) for _ in range(width)]
            with repo.transaction() as unit:
                for place, node in enumerate(level):
                    unit.create_relationship(above[place % len(above)], node, "derived_from")
            above = level
    return {"roots": roots}


def _pages(repo: SpineRepository, count: int) -> Iterator[Any]:
    cursor = None
    while count > 0:
        page = repo.list_artifacts(limit=min(count, 500), cursor=cursor)
        yield from page.items
        count, cursor = count - len(page.items), page.next_cursor


def search(repo: SpineRepository, *, seed: int) -> dict[str, Any]:
    """Ask 200 queries, a third of each sort; the floor asks the same statements by the driver alone."""
    chosen = random.Random(seed)
    queries = [_query(chosen, number) for number in range(QUERIES)]
    return _beside_the_driver(repo, [partial(repo.query_artifacts, **query, limit=50) for query in queries])


def _query(chosen: random.Random, number: int) -> dict[str, Any]:
    rare, usual = (_WORDS[chosen.randrange(*ranks)] for ranks in (_RARE, _USUAL))
    if number % 3 == 0:
        return {"text": rare}
    if number % 3 == 1:
        return {"text": f"{usual} {_WORDS[chosen.randrange(*_USUAL)]}"}
    kind = f"kind-{chosen.randrange(KINDS)}"
    return {"text": usual, "metadata": [{"pointer": "/kind", "op": "eq", "value": kind}]}


def lineage(repo: SpineRepository, *, roots: list[str], calls: int) -> dict[str, Any]:
    """Walk trees of 500 nodes, three levels deep."""
    for root in roots:
        assert len(repo.lineage(root, depth=3).nodes) == sum(TREE)
    walks = [roots[number % len(roots)] for number in range(calls)]
    return _beside_the_driver(repo, [partial(repo.lineage, root, depth=3) for root in walks])


def _beside_the_driver(repo: SpineRepository, calls: list[Callable[[], Any]]) -> dict[str, Any]:
    engine = repo._store.spine.transactions.engine
    statements: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, _x: Any, _m: bool) -> None:
        statements.append((statement, parameters))

    calls[0]()
    spent = _timed(calls)
    sa.event.listen(engine, "before_cursor_execute", note)
    for call in calls:
        call()
    sa.event.remove(engine, "before_cursor_execute", note)
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        # What the unit of a call sets, as the tenant of row security, the statements rely on.
        tenant = repo._request().tenant_id
        if engine.dialect.name == "postgresql":
            cursor.execute("SELECT set_config('hoc.tenant_id', %s, false)", (tenant,))
        raw = _timed([partial(_fetch, cursor, *asked) for asked in statements if _reads(asked[0])])
    finally:
        connection.close()
    return {
        "per_second": len(spent) / sum(spent),
        "p95_ms": percentile(spent, 0.95),
        "p99_ms": percentile(spent, 0.99),
        "floor_per_second": len(calls) / sum(raw),
    }


def _fetch(cursor: Any, statement: str, parameters: Any) -> None:
    cursor.execute(statement, parameters)
    cursor.fetchall()


def _reads(statement: str) -> bool:
    return statement.lstrip().startswith(("SELECT", "WITH")) and "set_config" not in statement


def _timed(calls: list[Callable[[], Any]]) -> list[float]:
    spent = []
    for call in calls:
        begun = time.perf_counter()
        call()
        spent.append(time.perf_counter() - begun)
    return spent


def export(repo: SpineRepository, *, path: str) -> dict[str, Any]:
    """Write a snapshot."""
    begun = time.perf_counter()
    made = repo.export_snapshot(path)
    return _whole(begun, made.counts["artifact"]) | {"digest": made.snapshot_digest}


def bring_in(repo: SpineRepository, *, path: str) -> dict[str, Any]:
    """Import a snapshot into an empty repository."""
    begun = time.perf_counter()
    made = repo.import_snapshot(path)
    return _whole(begun, made.created["artifact"]) | {"digest": made.snapshot_digest}


def verify(repo: SpineRepository) -> dict[str, Any]:
    """Check the whole repository, bytes and index included."""
    begun = time.perf_counter()
    found = repo.verify()
    assert found.clean, found.findings
    return _whole(begun, found.checked["artifacts"])


def _whole(begun: float, count: int) -> dict[str, Any]:
    spent = time.perf_counter() - begun
    return {"per_second": count / spent, "p99_ms": spent * 1000}


DEEDS: dict[str, Callable[..., dict[str, Any]]] = {
    "fill": fill,
    "fill_largest": fill_largest,
    "plant": plant,
    "search": search,
    "lineage": lineage,
    "export": export,
    "import": bring_in,
    "verify": verify,
}


def _peak_kb() -> int:
    # What getrusage tells begins with the memory of the process that started this one.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise RuntimeError("the memory of a process is read on Linux")


def main() -> int:
    """Do one deed and print what it took; memory is that of the whole process."""
    deed, url, tenant, options = sys.argv[1:5]
    context = RepositoryContext(tenant, "bench")
    with open_repository(url, context=context, create=True) as repo:
        measured = DEEDS[deed](repo, **json.loads(options))
    measured["peak_mb"] = _peak_kb() / 1024
    print(json.dumps(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
