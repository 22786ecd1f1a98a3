"""Database: what an engine needs of the unit of work that it writes governed rows in."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

from app.db.connection import DriverConnection
from app.kernel.context import Actor


class FactBook(Protocol):
    """Takes the facts of one transaction; each governed row carries the id of its own."""

    def add(
        self, type_name: str, row: Mapping[str, Any], *, run_id: str | None = None, attempt: int | None = None
    ) -> str:
        """Queue one fact and return its id."""
        ...


class GovernedUnit(Protocol):
    """A transaction that records who did what: the spine's operation context, seen from below."""

    @property
    def connection(self) -> DriverConnection: ...

    @property
    def tenant_id(self) -> str: ...

    @property
    def actor(self) -> Actor: ...

    @property
    def now(self) -> datetime: ...

    @property
    def facts(self) -> FactBook: ...

    def new_id(self, prefix: str) -> str:
        """Return a new identifier `<prefix>_<uuid7 hex>`."""
        ...

    def digest_key(self) -> bytes:
        """Return the tenant's digest key, 32 bytes."""
        ...

    def protect(self, members: Mapping[str, Any]) -> dict[str, Any]:
        """Return the protected members with their salt and commitment."""
        ...
