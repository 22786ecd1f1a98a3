"""Repositories of the library for tests: one backend each, with a clock and ids of the test's own."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal
from uuid import uuid4

from app.library import RepositoryContext, open_repository
from app.library_face.repository import SpineRepository

Backend = Literal["memory", "sqlite_file", "postgres"]
BACKENDS: tuple[Backend, ...] = ("memory", "sqlite_file", "postgres")
START = datetime(2026, 3, 1, 12, tzinfo=UTC)


class CountingIds:
    """`<prefix>_<number>`: the same ids for the same calls, on every backend."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def new(self, prefix: str) -> str:
        """Return the next id of a prefix; what a transaction of the log needs is unique for ever."""
        if prefix in ("fct", "aud", "evt"):
            return f"{prefix}_{uuid4().hex}"
        self._counts[prefix] += 1
        return f"{prefix}_{self._counts[prefix]:032d}"

    def reset(self) -> None:
        """Begin anew."""
        self._counts.clear()


class SteppingClock:
    """One second later at each look, or standing still while a test needs it to."""

    def __init__(self, start: datetime = START) -> None:
        self.moment = start
        self.step = timedelta(0)

    def now(self) -> datetime:
        """Return the moment and move on."""
        self.moment += self.step
        return self.moment


@dataclass
class Opened:
    """An open repository of a tenant of its own, which can be closed and opened anew."""

    backend: Backend
    url: str
    tenant_id: str = field(default_factory=lambda: f"tenant-{uuid4().hex[:12]}")
    actor_id: str = "user-1"
    clock: SteppingClock | None = None
    ids: CountingIds | None = None
    root: SpineRepository | None = None
    repo: SpineRepository = field(init=False)

    def __post_init__(self) -> None:
        self.repo = self.open() if self.root is None else self.root.bind(self.context())

    def context(self, **members: str) -> RepositoryContext:
        """Return the tenant's context."""
        return RepositoryContext(**{"tenant_id": self.tenant_id, "actor_id": self.actor_id} | members)

    def open(self) -> SpineRepository:
        """Open one more repository on the same database (of memory: another, empty one)."""
        return open_repository(self.url, context=self.context(), create=True, clock=self.clock, ids=self.ids)

    def reopen(self) -> SpineRepository:
        """Close and open again; what is only in memory is bound anew instead."""
        if self.backend == "memory":
            self.repo = self.repo.bind(self.context())
        else:
            self.repo.close()
            self.repo = self.open()
        return self.repo

    def close(self) -> None:
        """Close it, unless others share it."""
        if self.root is None:
            self.repo.close()


class Roots:
    """One open repository on each backend, for tests that need a tenant of their own and no more."""

    def __init__(self, folder: Path, postgresql: str, clock: SteppingClock | None = None) -> None:
        self._urls = {"memory": "memory://", "sqlite_file": str(folder / "shared.db"), "postgres": postgresql}
        self._clock = clock
        self._stack = ExitStack()
        self._open: dict[Backend, SpineRepository] = {}

    def tenant(self, backend: Backend) -> Opened:
        """Return the shared repository of a backend as a new tenant."""
        url = self._urls[backend]
        if backend not in self._open:
            self._open[backend] = open_repository(url, create=True, clock=self._clock)
            self._stack.callback(self._open[backend].close)
        return Opened(backend, url, clock=self._clock, root=self._open[backend])

    def close(self) -> None:
        """Close them all."""
        self._stack.close()
