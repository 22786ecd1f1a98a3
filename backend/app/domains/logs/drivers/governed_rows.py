"""Logs L6: rows of any governed table, found through the register, and the leaves that are about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import among_given, given_values
from app.db.governed import GOVERNED, ref_key_of
from app.db.types import as_stored
from app.domains.logs.tables import audit_ledger, log_leaves

_AT_ONCE = 400
_TENANT = sa.bindparam("tenant", type_=sa.Text)
_MOST = sa.bindparam("most", type_=sa.Integer)


def list_by_facts(
    connection: DriverConnection, table: str, fact_ids: Sequence[str], *, tenant_id: str, raw: bool = False
) -> Sequence[Row]:
    """Return the whole rows of a table that carry one of these facts; `raw` as they are stored."""
    dialect = connection.dialect_name
    given = {"tenant": tenant_id, "facts": given_values(dialect, fact_ids)}
    return connection.execute(_by_facts(table, raw, dialect), given).mappings().all()


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
    dialect = connection.dialect_name
    given = {"tenant": tenant_id, "table": table, "keys": given_values(dialect, ref_keys)}
    return connection.execute(_about(dialect), given).mappings().all()


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
    dialect = connection.dialect_name
    statement = _every_entry(dialect)
    if saying is not None:
        states = audit_ledger.c.after_state.contains(saying, autoescape=True)
        statement = _entries_about(dialect, states)
    given = {
        "tenant": tenant_id,
        "entity": entity_type,
        "names": given_values(dialect, entity_ids),
        "newest": newest,
    }
    return connection.execute(statement, given).mappings().all()


def list_unlogged_of_run(connection: DriverConnection, *, tenant_id: str, run_id: str) -> Sequence[Row]:
    """Return table and fact_id of rows that bear the run's id and a fact that is not about them."""
    given = {"tenant": tenant_id, "run": run_id}
    return connection.execute(_unlogged_of_run(), given).mappings().all()


def list_unlogged(
    connection: DriverConnection, table: str, *, tenant_id: str, after: str, upto: str | None, limit: int
) -> Sequence[str]:
    """Return the facts that rows of a table carry, in (after, upto], and that are not about this table."""
    given = {"tenant": tenant_id, "after": after, "upto": upto, "most": limit}
    return connection.scalars(_unlogged(table, connection.dialect_name, upto is not None), given).all()


def list_unrecorded(
    connection: DriverConnection, table: str, *, tenant_id: str, operator: str, in_ledger: bool, limit: int
) -> Sequence[str]:
    """Return keys of rows without a fact_id that no leaf and, where those tell, no ledger entry is about.

    `operator` is the tenant in whose ledger the operator's own changes stand.
    """
    given = {"tenant": tenant_id, "operator": operator, "most": limit}
    return connection.scalars(_unrecorded(table, in_ledger), given).all()


@cache
def _unlogged(table: str, dialect: str, is_bounded: bool) -> sa.Select[Any]:
    rows = GOVERNED[table].table
    fact_id = rows.c.fact_id if dialect == "sqlite" else sa.collate(rows.c.fact_id, "C")
    statement = (
        sa.select(rows.c.fact_id)
        .where(rows.c.tenant_id == _TENANT, fact_id > sa.bindparam("after", type_=sa.Text))
        .where(~_has_leaf(rows, _TENANT))  # gate: SCOPE-001 - its rows are those of this statement
        .limit(_MOST)
    )
    return statement.where(fact_id <= sa.bindparam("upto", type_=sa.Text)) if is_bounded else statement


@cache
def _unrecorded(table: str, in_ledger: bool) -> sa.Select[Any]:
    entry = GOVERNED[table]
    rows = entry.table
    first = sa.cast(rows.c[entry.key[0]] if entry.key else rows.c.tenant_id, sa.Text)
    ledgers = (_TENANT, sa.bindparam("operator", type_=sa.Text)) if entry.operated else (_TENANT,)
    known: sa.ColumnElement[bool] = sa.exists().where(
        audit_ledger.c.tenant_id.in_(ledgers),
        audit_ledger.c.entity_type == entry.entity,
        audit_ledger.c.entity_id == first,
    )
    if entry.types:
        about = sa.exists().where(
            log_leaves.c.tenant_id == _TENANT,
            log_leaves.c.ref_table == table,
            log_leaves.c.ref_key == ref_key_of(entry),
        )
        known = sa.or_(known, about) if in_ledger else about
    return sa.select(first).where(rows.c.tenant_id == _TENANT, ~known).limit(_MOST)


@cache
def _by_facts(table: str, raw: bool, dialect: str) -> sa.Select[Any]:
    rows = GOVERNED[table].table
    return sa.select(*_columns(table, raw)).where(
        rows.c.tenant_id == _TENANT, among_given(dialect, rows.c.fact_id, "facts")
    )


@cache
def _about(dialect: str) -> sa.Select[Any]:
    leaves = log_leaves.c
    return sa.select(leaves.fact_id, leaves.ref_key, leaves.ref_version).where(
        leaves.tenant_id == _TENANT,
        leaves.ref_table == sa.bindparam("table", type_=sa.Text),
        among_given(dialect, leaves.ref_key, "keys"),
    )


@cache
def _every_entry(dialect: str) -> sa.Select[Any]:
    return _entries_about(dialect, sa.true())


def _entries_about(dialect: str, states: sa.ColumnElement[bool]) -> sa.Select[Any]:
    ledger = audit_ledger.c
    entry_id = ledger.entry_id if dialect == "sqlite" else sa.collate(ledger.entry_id, "C")
    place = (
        sa.func.row_number()
        .over(partition_by=ledger.entity_id, order_by=(ledger.created_at.desc(), entry_id.desc()))
        .label("place")
    )
    found = sa.select(ledger.entity_id, ledger.fact_id, place).where(
        ledger.tenant_id == _TENANT,
        ledger.entity_type == sa.bindparam("entity", type_=sa.Text),
        among_given(dialect, ledger.entity_id, "names"),
        states,
    )
    newest = found.subquery()
    return sa.select(newest.c.entity_id, newest.c.fact_id).where(
        newest.c.place <= sa.bindparam("newest", type_=sa.Integer)
    )


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
