"""Database: the narrow connection that drivers see; it can execute and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from sqlalchemy import Executable, ScalarResult

Dialect = Literal["sqlite", "postgresql"]
Parameters = Mapping[str, Any] | Sequence[Mapping[str, Any]]
Row = Mapping[str, Any]
"""One row by column name."""


class Rows(Protocol):
    """A result read by column name."""

    def __iter__(self) -> Iterator[Row]: ...

    def all(self) -> Sequence[Row]: ...

    def one(self) -> Row: ...

    def one_or_none(self) -> Row | None: ...

    def first(self) -> Row | None: ...


class Result(Protocol):
    """What a statement gave back."""

    @property
    def rowcount(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...

    def mappings(self) -> Rows: ...

    def scalars(self) -> ScalarResult[Any]: ...

    def all(self) -> Sequence[Any]: ...

    def one(self) -> Any: ...

    def one_or_none(self) -> Any: ...

    def first(self) -> Any: ...

    def scalar_one(self) -> Any: ...

    def scalar_one_or_none(self) -> Any: ...


class Hot(Protocol):
    """A statement of a hot path, made ready once."""

    @property
    def text(self) -> bytes: ...

    @property
    def returns_rows(self) -> bool: ...

    def on(self, dialect_name: Dialect) -> Executable:
        """Return the statement for a dialect, to be executed like any other."""
        ...

    def run(self, pgconn: Any, kept: dict[str, Any], given: Mapping[str, Any]) -> Sequence[Row]:
        """Execute on a connection of PostgreSQL; raise the driver's own errors."""
        ...


class DriverConnection(Protocol):
    """A connection inside a transaction that somebody else owns."""

    @property
    def dialect_name(self) -> Dialect: ...

    def execute(self, statement: Executable, parameters: Parameters | None = None) -> Result: ...

    def scalars(self, statement: Executable, parameters: Parameters | None = None) -> ScalarResult[Any]: ...

    def hot(self, statement: Hot, given: Mapping[str, Any]) -> Sequence[Row]:
        """Execute a statement of a hot path and return its rows."""
        ...
