"""Logs L6: rows of any governed table, found through the register, and the leaves that are about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import among, bytewise
from app.db.governed import GOVERNED, Governed
from app.db.types import as_stored
from app.domains.logs.tables import audit_ledger, log_leaves

_AT_ONCE = 400


def list_by_facts(
    connection: DriverConnection, table: str, fact_ids: Sequence[str], *, tenant_id: str, raw: bool = False
) -> Sequence[Row]:
    """Return the whole rows of a table that carry one of these facts; `raw` as they are stored."""
    rows = GOVERNED[table].table
    statement = sa.select(*_columns(table, raw)).where(
        rows.c.tenant_id == tenant_id, among(connection, rows.c.fact_id, fact_ids)
    )
    return connection.execute(statement).mappings().all()


def list_by_keys(
    connection: DriverConnection,
    table: str,
    keys: Sequence[Sequence[Any]],
    *,
    tenant_id: str,
    raw: bool = False,
) -> Sequence[Row]:
    """Return the whole rows with these primary keys, each without tenant_id; `raw` as they are stored."""
    entry = GOVERNED[table]
    rows = entry.table
    columns = [rows.c[name] for name in entry.key]
    statement = sa.select(*_columns(table, raw)).where(rows.c.tenant_id == tenant_id)
    if not columns:
        return connection.execute(statement).mappings().all()
    found: list[Row] = []
    for part in _parts(keys):
        if len(columns) == 1:
            wanted = columns[0].in_([key[0] for key in part])
        else:
            wanted = sa.tuple_(*columns).in_([tuple(key) for key in part])
        found.extend(connection.execute(statement.where(wanted)).mappings())
    return found


def list_about(
    connection: DriverConnection, table: str, ref_keys: Sequence[str], *, tenant_id: str
) -> Sequence[Row]:
    """Return fact_id, ref_key and ref_version of all leaves about these rows of a table."""
    leaves = log_leaves.c
    statement = sa.select(leaves.fact_id, leaves.ref_key, leaves.ref_version).where(
        leaves.tenant_id == tenant_id,
        leaves.ref_table == table,
        among(connection, leaves.ref_key, ref_keys),
    )
    return connection.execute(statement).mappings().all()


def list_entries_about(
    connection: DriverConnection,
    entity_type: str,
    entity_ids: Sequence[str],
    *,
    tenant_id: str,
    newest: int,
    saying: str | None = None,
) -> Sequence[Row]:
    """Return entity_id and fact_id of the newest ledger entries of each of these entities.

    `saying` is a text that the state after the change has to hold.
    """
    ledger = audit_ledger.c
    place = (
        sa.func.row_number()
        .over(
            partition_by=ledger.entity_id,
            order_by=(ledger.created_at.desc(), bytewise(connection, ledger.entry_id).desc()),
        )
        .label("place")
    )
    states = sa.true() if saying is None else ledger.after_state.contains(saying, autoescape=True)
    found = (
        sa.select(ledger.entity_id, ledger.fact_id, place)
        .where(
            ledger.tenant_id == tenant_id,
            ledger.entity_type == entity_type,
            among(connection, ledger.entity_id, entity_ids),
            states,
        )
        .subquery()
    )
    statement = sa.select(found.c.entity_id, found.c.fact_id).where(found.c.place <= newest)
    return connection.execute(statement).mappings().all()


def list_unlogged_of_run(connection: DriverConnection, *, tenant_id: str, run_id: str) -> Sequence[Row]:
    """Return table and fact_id of rows that bear the run's id and a fact that is not about them."""
    given = {"tenant": tenant_id, "run": run_id}
    return connection.execute(_unlogged_of_run(), given).mappings().all()


def list_unlogged(
    connection: DriverConnection, table: str, *, tenant_id: str, after: str, upto: str | None, limit: int
) -> Sequence[str]:
    """Return the facts that rows of a table carry, in (after, upto], and that are not about this table."""
    rows = GOVERNED[table].table
    fact_id = bytewise(connection, rows.c.fact_id)
    statement = (
        sa.select(rows.c.fact_id)
        .where(rows.c.tenant_id == tenant_id, fact_id > after)
        .where(~_has_leaf(rows, tenant_id))  # gate: SCOPE-001 - its rows are those of this statement
        .limit(limit)
    )
    if upto is not None:
        statement = statement.where(fact_id <= upto)
    return connection.scalars(statement).all()


def list_unrecorded(
    connection: DriverConnection, table: str, *, tenant_id: str, operator: str, in_ledger: bool, limit: int
) -> Sequence[str]:
    """Return keys of rows without a fact_id that no leaf and, where those tell, no ledger entry is about.

    `operator` is the tenant in whose ledger the operator's own changes stand.
    """
    entry = GOVERNED[table]
    rows = entry.table
    first = sa.cast(rows.c[entry.key[0]] if entry.key else rows.c.tenant_id, sa.Text)
    ledgers = (tenant_id, operator) if entry.operated else (tenant_id,)
    known: sa.ColumnElement[bool] = sa.exists().where(
        audit_ledger.c.tenant_id.in_(ledgers),
        audit_ledger.c.entity_type == entry.entity,
        audit_ledger.c.entity_id == first,
    )
    if entry.types:
        about = sa.exists().where(
            log_leaves.c.tenant_id == tenant_id,
            log_leaves.c.ref_table == table,
            log_leaves.c.ref_key == _ref_key(entry),
        )
        known = sa.or_(known, about) if in_ledger else about
    statement = sa.select(first).where(rows.c.tenant_id == tenant_id, ~known).limit(limit)
    return connection.scalars(statement).all()


@cache
def _columns(table: str, raw: bool) -> tuple[sa.ColumnElement[Any], ...]:
    columns = tuple(GOVERNED[table].table.columns)
    return tuple(as_stored(column) for column in columns) if raw else columns


def _parts(keys: Sequence[Sequence[Any]]) -> Iterator[Sequence[Sequence[Any]]]:
    for start in range(0, len(keys), _AT_ONCE):
        yield keys[start : start + _AT_ONCE]


def _has_leaf(rows: sa.Table, tenant: str | sa.BindParameter[str]) -> sa.Exists:
    return sa.exists().where(
        log_leaves.c.tenant_id == tenant,
        log_leaves.c.fact_id == rows.c.fact_id,
        log_leaves.c.ref_table == rows.name,
    )


def _ref_key(entry: Governed) -> sa.ColumnElement[str]:
    """Return the text of a row's key as its leaves have it; ids are of characters that JSON leaves alone."""
    parts: list[sa.ColumnElement[Any]] = []
    for name in entry.key:
        column = entry.table.c[name]
        text = sa.cast(column, sa.Text)
        parts.append(text if isinstance(column.type, sa.Integer) else '"' + text + '"')
    whole = parts[0]
    for part in parts[1:]:
        whole = whole + "," + part
    return "[" + whole + "]"


@cache
def _unlogged_of_run() -> sa.CompoundSelect[Any]:
    tenant, run = sa.bindparam("tenant", type_=sa.Text), sa.bindparam("run", type_=sa.Text)
    found = [
        sa.select(sa.literal(name).label("table"), rows.c.fact_id).where(
            rows.c.tenant_id == tenant,
            rows.c.run_id == run,
            ~_has_leaf(rows, tenant),  # gate: SCOPE-001 - its rows are those of this statement
        )
        for name, rows in ((name, entry.table) for name, entry in sorted(GOVERNED.items()))
        if "fact_id" in rows.c and _is_indexed_by_run(rows)
    ]
    return sa.union_all(*found)


def _is_indexed_by_run(rows: sa.Table) -> bool:
    wanted = ["tenant_id", "run_id"]
    keys = [[column.name for column in rows.primary_key]]
    keys += [[getattr(part, "name", "") for part in index.expressions] for index in rows.indexes]
    keys += [
        [column.name for column in constraint.columns]
        for constraint in rows.constraints
        if isinstance(constraint, sa.UniqueConstraint)
    ]
    return any(key[:2] == wanted for key in keys)
