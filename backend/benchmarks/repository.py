"""Benchmarks: the repository at 100 000 artifacts, through the library, on SQLite and on PostgreSQL."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psycopg
import sqlalchemy as sa

from app.db.engine import make_engine
from app.db.metadata import metadata
from app.db.migrations import upgrade
from app.domains.repository import tables
from benchmarks.report import Round
from benchmarks.repository_deeds import BATCH
from benchmarks.stage import Stage

Backend = Literal["SQLite", "PostgreSQL"]
ARTIFACTS = 100_000
ROUND = 10 * BATCH
TENANT = "library"
# What a write of the repository writes, beside its own tables; triggers fill the rest.
_AROUND = ("tenants", "audit_ledger", "log_leaves")
Rows = list[tuple[str, list[str], list[list[Any]]]]


@dataclass(slots=True)
class Shelf:
    """A repository of 100 000 artifacts on one backend, filled when it is first needed."""

    backend: Backend
    url: str
    folder: Path
    tenants: Any = field(default_factory=itertools.count)
    filled: bool = False

    def do(self, deed: str, tenant: str = TENANT, **options: Any) -> dict[str, Any]:
        """Do a deed in a process of its own and return what it measured."""
        command = [sys.executable, "-m", "benchmarks.repository_deeds", deed, self.url, tenant]
        done = subprocess.run([*command, json.dumps(options)], stdout=subprocess.PIPE, check=True, text=True)
        measured: dict[str, Any] = json.loads(done.stdout)
        return measured

    def fill(self) -> None:
        """Create the 100 000 artifacts."""
        if self.filled:
            return
        self.do("fill", start=0, count=ARTIFACTS)
        with make_engine(self.url).connect() as connection:
            # As autovacuum and `PRAGMA optimize` do by and by.
            connection.exec_driver_sql("ANALYZE")
        self.filled = True

    def new_tenant(self) -> str:
        """Return a tenant that nobody has used."""
        return f"other-{next(self.tenants)}"


_SHELVES: dict[tuple[int, Backend], Shelf] = {}
_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []


def _shelf(stage: Stage, backend: Backend) -> Shelf:
    known = _SHELVES.get((id(stage), backend))
    if known is None:
        _FOLDERS.append(tempfile.TemporaryDirectory(prefix="hoc-bench-"))
        folder = Path(_FOLDERS[-1].name)
        url = f"sqlite:///{folder}/knowledge.db" if backend == "SQLite" else _database(stage)
        known = _SHELVES[id(stage), backend] = Shelf(backend, url, folder)
    return known


def _database(stage: Stage) -> str:
    """Make a database of its own: the server would sequence and verify the rows that a floor copies."""
    with psycopg.connect(stage.dsn, autocommit=True) as owner:
        owner.execute("CREATE DATABASE knowledge")
    url = sa.make_url(stage.database_url).set(database="knowledge").render_as_string(hide_password=False)
    upgrade(url)
    return url


class _OfRepository:
    """One work on one backend."""

    unit = "artifact"
    rounds = 1

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.name = f"repository {self.verb}, {backend}"

    verb = ""

    def prepare(self, stage: Stage) -> None:
        """Fill the repository."""
        self._shelf = _shelf(stage, self.backend)
        self._shelf.fill()

    def _round(self, measured: dict[str, Any]) -> Round:
        told = ("per_second", "p99_ms", "p95_ms", "peak_mb")
        return Round(**{name: measured.get(name, 0.0) for name in told})


class BulkCreate(_OfRepository):
    """Batches of 1000 artifacts beside the 100 000; the floor writes the rows of one batch over and over."""

    verb = "bulk create"
    target = ">= 30% of floor"
    rounds = 3

    def prepare(self, stage: Stage) -> None:
        """Fill, and capture the rows of one batch in all tables."""
        super().prepare(stage)
        tenant = self._shelf.new_tenant()
        self._shelf.do("fill", tenant, start=0, count=BATCH)
        self._engine = make_engine(self._shelf.url)
        self._rows = _rows_of(self._engine, tenant)
        self._start = ARTIFACTS

    def run(self, _stage: Stage, **_load: float) -> Round:
        """Create ten batches more."""
        measured = self._shelf.do("fill", start=self._start, count=ROUND)
        self._start += ROUND
        return self._round(measured)

    def floor(self, _stage: Stage, **_load: float) -> Round:
        """Write the captured rows under a tenant that is new for each batch."""
        spent = 0.0
        for _ in range(ROUND // BATCH):
            spent += _write(self._engine, self._rows, self._shelf.new_tenant())
        heads = [entry for entry in self._rows if entry[0] in ("tenants", "collections", "artifacts")]
        alone = BATCH / _write(self._engine, heads, self._shelf.new_tenant())
        self.floor_is = (
            "the same rows into the same tables by raw executemany, a transaction for each 1000 artifacts"
            f" (the heads alone, of {len(self._rows)} tables: {alone:,.0f}/s)"
        )
        return Round(ROUND / spent, 0.0)


class LargestBulk(_OfRepository):
    """One call at its limits."""

    verb = "bulk create at the limits"
    target = "< 400 MB"
    floor_is = "none: it is about memory"

    def prepare(self, stage: Stage) -> None:
        """Nothing has to be there."""
        self._shelf = _shelf(stage, self.backend)

    def run(self, _stage: Stage, **_load: float) -> Round:
        """Create 1000 artifacts of 60 MiB together."""
        return self._round(self._shelf.do("fill_largest", self._shelf.new_tenant()))

    def floor(self, _stage: Stage, **_load: float) -> Round:
        """None."""
        return Round(0.0, 0.0)


class Search(_OfRepository):
    """200 queries, each matching at most 2 % of the artifacts."""

    verb = "search"
    unit = "query"
    target = "p95 < 50 ms"
    rounds = 3
    floor_is = "the same statements by the driver alone"

    def run(self, _stage: Stage, **_load: float) -> Round:
        """Ask, one after the other."""
        return self._ask(self._shelf.do("search", seed=7))

    def _ask(self, measured: dict[str, Any]) -> Round:
        self._floor = measured["floor_per_second"]
        return self._round(measured)

    def floor(self, _stage: Stage, **_load: float) -> Round:
        """What the same process measured."""
        return Round(self._floor, 0.0)


class Lineage(Search):
    """Trees of 500 nodes, three levels deep."""

    verb = "lineage"

    def prepare(self, stage: Stage) -> None:
        """Fill, and relate."""
        super().prepare(stage)
        self._roots = self._shelf.do("plant", trees=4)["roots"]

    def run(self, _stage: Stage, **_load: float) -> Round:
        """Walk, one after the other."""
        return self._ask(self._shelf.do("lineage", roots=self._roots, calls=60))


class Verify(_OfRepository):
    """A check of everything."""

    verb = "verify"
    target = "< 300 MB"
    floor_is = "every row of the repository read once by the driver alone"

    def run(self, _stage: Stage, **_load: float) -> Round:
        """Check."""
        return self._round(self._shelf.do("verify"))

    def floor(self, _stage: Stage, **_load: float) -> Round:
        """Read every row."""
        engine = make_engine(self._shelf.url)
        begun, count = time.perf_counter(), 0
        for name, _, rows in _tables_of(engine, TENANT):
            read = sum(1 for _ in rows)
            count += read if name == "artifacts" else 0
        return Round(count / (time.perf_counter() - begun), 0.0)


class Export(Verify):
    """A snapshot of everything."""

    verb = "export"

    def run(self, _stage: Stage, **_load: float) -> Round:
        """Write it."""
        path = self._shelf.folder / f"{next(self._shelf.tenants)}.zip"
        measured = self._shelf.do("export", path=str(path))
        path.unlink()
        return self._round(measured)


class Import(_OfRepository):
    """A snapshot of everything into an empty repository."""

    verb = "import"
    target = "< 300 MB"
    floor_is = "the same rows into the same tables by raw executemany, in one transaction"

    def prepare(self, stage: Stage) -> None:
        """Fill, and export."""
        super().prepare(stage)
        self._path = self._shelf.folder / "whole.zip"
        if not self._path.exists():
            self._shelf.do("export", path=str(self._path))

    def run(self, _stage: Stage, **_load: float) -> Round:
        """Bring it in."""
        return self._round(self._shelf.do("import", self._shelf.new_tenant(), path=str(self._path)))

    def floor(self, _stage: Stage, **_load: float) -> Round:
        """Copy every row of the repository, which are those that the import wrote."""
        engine = make_engine(self._shelf.url)
        rows = [(name, columns, list(found)) for name, columns, found in _tables_of(engine, TENANT)]
        count = next(len(found) for name, _, found in rows if name == "artifacts")
        return Round(count / _write(engine, rows, self._shelf.new_tenant()), 0.0)


def _rows_of(engine: sa.Engine, tenant: str) -> Rows:
    found = [(name, columns, list(rows)) for name, columns, rows in _tables_of(engine, tenant)]
    return [entry for entry in found if entry[2]]


def _tables_of(engine: sa.Engine, tenant: str) -> Any:
    """Yield name, columns and rows of every table that holds something of the tenant, parents first."""
    mark = "?" if engine.dialect.name == "sqlite" else "%s"
    for table in metadata.sorted_tables:
        # The number of an index entry is given anew.
        columns = [column.name for column in table.columns if column.name != "search_no"]
        if table.name not in _AROUND and getattr(tables, table.name, None) is not table:
            continue
        connection = engine.raw_connection()
        try:
            cursor = connection.cursor()
            cursor.execute(
                f"SELECT {', '.join(columns)} FROM {table.name} WHERE tenant_id = {mark}", (tenant,)
            )
            yield table.name, columns, ([*row] for row in iter(cursor.fetchone, None))
        finally:
            connection.close()


def _write(engine: sa.Engine, found: Rows, tenant: str) -> float:
    """Insert rows under another tenant, in one transaction; return how long the statements took."""
    mark = "?" if engine.dialect.name == "sqlite" else "%s"
    connection = engine.raw_connection()
    spent = 0.0
    try:
        cursor = connection.cursor()
        begun = time.perf_counter()
        cursor.execute("BEGIN")
        spent += time.perf_counter() - begun
        for name, columns, rows in found:
            changed = [_of(tenant, columns, row) for row in rows]
            names, marks = list(columns), [mark] * len(columns)
            if name == "artifact_search" and mark == "?":
                names.append("search_no")
                marks.append("(SELECT coalesce(max(search_no), 0) + 1 FROM artifact_search)")
            statement = f"INSERT INTO {name} ({', '.join(names)}) VALUES ({', '.join(marks)})"
            begun = time.perf_counter()
            cursor.executemany(statement, changed)
            spent += time.perf_counter() - begun
        begun = time.perf_counter()
        cursor.execute("COMMIT")
        spent += time.perf_counter() - begun
    finally:
        connection.close()
    return spent


def _of(tenant: str, columns: list[str], row: list[Any]) -> list[Any]:
    pairs = zip(columns, row, strict=True)
    return [tenant if column in ("tenant_id", "slug") else value for column, value in pairs]


WORKS: Sequence[Any] = tuple(
    work(backend)
    for backend in ("SQLite", "PostgreSQL")
    for work in (BulkCreate, LargestBulk, Search, Lineage, Export, Import, Verify)
)
