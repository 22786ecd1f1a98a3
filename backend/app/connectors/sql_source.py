"""Connectors: what the sql connector asks of a database, whichever it is."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from app.connectors.values import ConnectorFailedError


@dataclass(frozen=True, slots=True)
class Fetched:
    """Rows of a template, and whether more were left behind."""

    rows: Sequence[Mapping[str, Any]]
    more: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """One template with its bound values and the bounds of its answer; `deadline` is of time.monotonic()."""

    sql: str
    params: Mapping[str, Any]
    max_rows: int
    max_bytes: int
    deadline: float

    def seconds_left(self) -> float:
        """Return the time left; raise CONNECTOR_TIMEOUT when there is none."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise ConnectorFailedError("CONNECTOR_TIMEOUT", "the deadline passed")
        return left


class SqlSource(Protocol):
    """A database behind a DSN, read inside transactions that cannot write."""

    def ask(self, key: tuple[str, ...], dsn: str, question: Question) -> Fetched:
        """Return the rows of a template within its bounds; raise ConnectorFailedError."""

    def describe(self, key: tuple[str, ...], dsn: str, question: Question) -> list[str]:
        """Return the columns of a template without reading a row; raise ConnectorFailedError."""


def row_of(names: Sequence[str], values: Sequence[Any]) -> Mapping[str, Any]:
    """Return a row by column name; raise RESPONSE_INVALID when two columns bear one name."""
    row = dict(zip(names, values, strict=True))
    if len(row) != len(names):
        raise ConnectorFailedError("RESPONSE_INVALID", "two columns bear one name", lasting=True)
    return row


def weight(values: Sequence[Any]) -> int:
    """Return about how many bytes a row takes, cheaply: enough to stop in time, not to count."""
    return sum(len(value) if isinstance(value, str | bytes) else 16 for value in values)
