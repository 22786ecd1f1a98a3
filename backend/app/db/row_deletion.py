"""Database: deleting rows of any slice with what hangs on them, under a permit that the triggers ask for.

It crosses slices, as `row_links` does: a row and its parts go in one order, whichever slice they are of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection
from app.db.dialect import among
from app.db.governed import GOVERNED
from app.db.metadata import metadata
from app.db.run_rows import COUNTERS, FORGETTING, owner_of, parts_of, run_column


def delete_by_facts(
    connection: DriverConnection, table: str, fact_ids: Sequence[str], *, tenant_id: str
) -> None:
    """Delete the rows of a table with these facts, after the parts of them that have no facts."""
    rows = GOVERNED[table].table
    named = sa.and_(rows.c.tenant_id == tenant_id, among(connection, rows.c.fact_id, fact_ids))
    for name, pairs in parts_of(table):
        part = metadata.tables[name]
        key = sa.tuple_(*(part.c[column] for column, _ in pairs))
        whole = sa.select(*(rows.c[target] for _, target in pairs)).where(named)
        connection.execute(part.delete().where(part.c.tenant_id == tenant_id, key.in_(whole)))
    connection.execute(rows.delete().where(named))


def delete_heads(connection: DriverConnection, table: str, keys: Sequence[str], *, tenant_id: str) -> None:
    """Delete the rows of heads with these keys that no leaf is about any more; signals forget them.

    A run goes with its counter: while one of them is there, a fact that comes late finds the other.
    """
    entry = GOVERNED[table]
    (name,) = entry.key
    rows = entry.table
    leaves = metadata.tables["log_leaves"].c
    about = sa.select(sa.func.substr(leaves.ref_key, 3, sa.func.length(leaves.ref_key) - 4)).where(
        leaves.tenant_id == tenant_id,
        leaves.ref_table == table,
        among(connection, leaves.ref_key, [f'["{key}"]' for key in keys]),
    )
    forgetting = metadata.tables[FORGETTING]
    for key in forgetting.foreign_key_constraints:
        if key.referred_table.name == table:
            column = next(column for column in key.columns if column.name != "tenant_id")
            connection.execute(
                forgetting.update()
                .where(forgetting.c.tenant_id == tenant_id, among(connection, column, keys))
                .values({column: None})
            )
    twins = [metadata.tables[COUNTERS], rows] if table == "runs" else [rows]
    for one in twins:
        connection.execute(
            one.delete().where(
                one.c.tenant_id == tenant_id, among(connection, one.c[name], keys), one.c[name].not_in(about)
            )
        )


def delete_parts(
    connection: DriverConnection, table: str, run_ids: Sequence[str], *, tenant_id: str, limit: int
) -> int:
    """Delete rows of runs from a table whose rows have no facts, at most `limit`; return how many."""
    rows = metadata.tables[table]
    key = [column for column in rows.primary_key if column.name != "tenant_id"]
    some = (
        sa.select(*key)
        .where(rows.c.tenant_id == tenant_id, _of_runs(connection, rows, run_ids, tenant_id))
        .limit(limit)
    )
    statement = rows.delete().where(rows.c.tenant_id == tenant_id, sa.tuple_(*key).in_(some))
    return connection.execute(statement).rowcount


def _of_runs(
    connection: DriverConnection, rows: sa.Table, run_ids: Sequence[str], tenant_id: str
) -> sa.ColumnElement[bool]:
    column = run_column(rows.name)
    if column is not None:
        return among(connection, rows.c[column], run_ids)
    pairs, owner = owner_of(rows.name)
    mine: Any = sa.select(*(owner.c[target] for _, target in pairs)).where(
        owner.c.tenant_id == tenant_id,
        among(connection, owner.c[str(run_column(owner.name))], run_ids),
    )
    return sa.tuple_(*(rows.c[name] for name, _ in pairs)).in_(mine)
