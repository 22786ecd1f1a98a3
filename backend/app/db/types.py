"""Database: column types that read and write the same values on both dialects."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from app.kernel.clock import format_time, parse_time


class Timestamp(TypeDecorator[datetime]):
    """An aware UTC time: `timestamptz` on PostgreSQL, the fixed 27-character text on SQLite."""

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(sa.DateTime(timezone=True))
        return dialect.type_descriptor(sa.Text())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without an offset is never stored")
        return value if dialect.name == "postgresql" else format_time(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.astimezone(UTC) if isinstance(value, datetime) else parse_time(value)


CanonicalText = sa.Text
"""A J column: canonical JSON text (kcj-1), read and written as str."""

Flag = sa.Boolean
BigInt = sa.BigInteger
Bytes = sa.LargeBinary
