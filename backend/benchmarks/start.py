"""Benchmarks: how long one worker takes until it is ready, and what it holds when it has nothing to do."""

from __future__ import annotations

import http.client
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import psycopg
import sqlalchemy as sa

from benchmarks.processes import processor_seconds, resident_mb
from benchmarks.report import Round
from benchmarks.stage import Stage, free_port, serve_command, server_environment

Backend = Literal["SQLite", "PostgreSQL"]
IDLE_SECONDS = 60.0
MOST_SECONDS = 60.0
# The smallest server on the same libraries that can say whether its database answers.
_BARE = """
import sys
import fastapi, sqlalchemy, uvicorn
engine, app = sqlalchemy.create_engine(sys.argv[2]), fastapi.FastAPI()
@app.get("/readyz")
def ready() -> int:
    with engine.connect() as connection:
        return connection.scalar(sqlalchemy.text("SELECT 1"))
uvicorn.run(app, port=int(sys.argv[1]), log_level="error")
"""


class Start:
    """A server from its command to its first `ready`, on a database with all migrations."""

    unit = "start"
    target = "< 2000 ms"
    floor_is = "a server of FastAPI, SQLAlchemy and uvicorn with one route, SELECT 1"

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.name = f"cold start to ready, {backend}"

    def prepare(self, stage: Stage) -> None:
        """Make a database of its own: that of the stage is busy."""
        from app.db.migrations import upgrade
        from app.hoc_spine.coordinators.log_files import write_new_key

        self._folder = tempfile.TemporaryDirectory(prefix="hoc-bench-")
        folder = Path(self._folder.name)
        self._url = f"sqlite:///{folder}/start.db" if self.backend == "SQLite" else _database(stage)
        upgrade(self._url)
        write_new_key(folder / "log-key.pem")
        self._environment = server_environment(self._url, folder / "log-key.pem")
        # With bytecode, as whatever is installed has it; the first start writes it.
        self._environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self._environment["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
        for bare in (False, True):
            with self._server(bare=bare):
                pass

    def run(self, _stage: Stage, **_load: float) -> Round:
        """Start the server."""
        with self._server(bare=False) as (_, round_):
            return round_

    def floor(self, _stage: Stage, **_load: float) -> Round:
        """Start the bare one."""
        with self._server(bare=True) as (_, round_):
            return round_

    @contextmanager
    def _server(self, *, bare: bool) -> Iterator[tuple[int, Round]]:
        port = free_port()
        command = [sys.executable, "-c", _BARE, str(port), self._url] if bare else serve_command(port)
        begun = time.perf_counter()
        process = subprocess.Popen(command, env=self._environment)
        try:
            while not _is_ready(port):
                if process.poll() is not None or time.perf_counter() - begun > MOST_SECONDS:
                    raise RuntimeError("the server did not become ready")
                time.sleep(0.01)
            elapsed = time.perf_counter() - begun
            used = processor_seconds((process.pid,)) * 1000
            held = resident_mb((process.pid,))
            yield process.pid, Round(1 / elapsed, elapsed * 1000, peak_mb=held, cpu_ms=used)
        finally:
            process.terminate()
            process.wait(30)


class Idle(Start):
    """A server that nobody has asked for anything for a minute."""

    unit = "minute"
    target = "< 150 MB"
    floor_is = Start.floor_is
    rounds = 1

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self.name = f"one idle worker, {backend}"

    def run(self, _stage: Stage, **_load: float) -> Round:
        """Wait."""
        return self._idle(bare=False)

    def floor(self, _stage: Stage, **_load: float) -> Round:
        """Wait."""
        round_ = self._idle(bare=True)
        self.floor_is = f"{Start.floor_is}, which holds {round_.peak_mb:.0f} MB"
        return round_

    def _idle(self, *, bare: bool) -> Round:
        with self._server(bare=bare) as (pid, _):
            before = processor_seconds((pid,))
            time.sleep(IDLE_SECONDS)
            used = (processor_seconds((pid,)) - before) * 1000
            return Round(1 / IDLE_SECONDS, 0.0, peak_mb=resident_mb((pid,)), cpu_ms=used)


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _database(stage: Stage) -> str:
    with psycopg.connect(stage.dsn, autocommit=True) as owner:
        owner.execute("DROP DATABASE IF EXISTS start")
        owner.execute("CREATE DATABASE start")
    return sa.make_url(stage.database_url).set(database="start").render_as_string(hide_password=False)


WORKS: Sequence[Any] = (Start("SQLite"), Start("PostgreSQL"), Idle("SQLite"), Idle("PostgreSQL"))
