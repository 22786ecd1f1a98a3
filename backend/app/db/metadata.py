"""Database: the metadata, and the shapes that every tenant table shares."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def tenant_table(name: str, *items: sa.schema.SchemaItem, primary_key: tuple[str, ...]) -> sa.Table:
    """Return a table whose first column and first key part is `tenant_id` (text, not null)."""
    return sa.Table(
        name,
        metadata,
        sa.Column("tenant_id", sa.Text, nullable=False),
        *items,
        sa.PrimaryKeyConstraint("tenant_id", *primary_key),
        info={"tenant": True},
    )


def tenant_ref(column: str | tuple[str, ...], target: str, **options: Any) -> sa.ForeignKeyConstraint:
    """Return the composite key (tenant_id, column...) -> table(tenant_id, target...), RESTRICT.

    `target` is `table.column` or `table.column,column`.
    """
    columns = (column,) if isinstance(column, str) else column
    table, _, names = target.partition(".")
    referred = [f"{table}.tenant_id", *(f"{table}.{name}" for name in names.split(","))]
    return sa.ForeignKeyConstraint(["tenant_id", *columns], referred, ondelete="RESTRICT", **options)


def enum_check(column: str, vocabulary: Iterable[str], *, name: str | None = None) -> sa.CheckConstraint:
    """Return the CHECK that a text column holds a word of the closed vocabulary (or null)."""
    words = ", ".join(f"'{word}'" for word in vocabulary)
    return sa.CheckConstraint(f"{column} IN ({words})", name=name or column)


def fact_id_column() -> sa.Column[str]:
    """Return the standing column that ties a governed row to its leaf."""
    return sa.Column("fact_id", sa.Text, nullable=False)


def fact_id_constraints(table: str) -> tuple[sa.schema.SchemaItem, ...]:
    """Return uniqueness of `fact_id` and its deferred key to log_leaves: no row without its leaf."""
    return (
        sa.UniqueConstraint("tenant_id", "fact_id", name=f"uq_{table}_fact_id"),
        tenant_ref(
            "fact_id", "log_leaves.fact_id", name=f"fk_{table}_fact_id", deferrable=True, initially="DEFERRED"
        ),
    )


def protected_columns() -> tuple[sa.Column[str], ...]:
    """Return the protected set: salt, commitment, and the erasure that took the values away."""
    return (
        sa.Column("protected_salt", sa.Text),
        sa.Column("protected_commit", sa.Text),
        sa.Column("erased_fact_id", sa.Text),
    )
