"""Logs L6: a run's leaves with their indices, and the governed rows that a bundle opens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.governed import GOVERNED
from app.domains.logs.tables import log_entries, log_leaves

PAGE = 1000
_L, _E = log_leaves.c, log_entries.c


def _indexed(epoch: int) -> sa.FromClause:
    return log_leaves.outerjoin(
        log_entries,
        sa.and_(
            log_entries.c.tenant_id == log_leaves.c.tenant_id,
            log_entries.c.epoch == epoch,
            log_entries.c.fact_id == log_leaves.c.fact_id,
        ),
    )


def list_run_hashes(
    connection: DriverConnection,
    *,
    tenant_id: str,
    run_id: str,
    late: bool,
    epoch: int,
    read_types: Sequence[str],
) -> Iterator[Row]:
    """Yield number, type, leaf hash and index of a run's facts by number; the statement of some types."""
    statement = (
        sa.select(
            _L.fact_id,
            _L.type,
            _L.fact_no,
            _L.leaf_hash,
            _E.idx,
            sa.case((_L.type.in_(read_types), _L.statement), else_=None).label("statement"),
        )
        .select_from(_indexed(epoch))
        .where(_L.tenant_id == tenant_id, _L.run_id == run_id, _L.late == late)
        .order_by(_L.fact_no)
        .execution_options(stream_results=True, yield_per=PAGE)
    )
    yield from connection.execute(statement).mappings()


def list_run_statements(
    connection: DriverConnection, *, tenant_id: str, run_id: str, late: bool, count: int
) -> Iterator[Row]:
    """Yield table, type and statement of a run's facts up to number `count`."""
    statement = (
        sa.select(_L.ref_table, _L.type, _L.statement)
        .where(_L.tenant_id == tenant_id, _L.run_id == run_id, _L.late == late, _L.fact_no <= count)
        .order_by(_L.fact_no)
        .execution_options(stream_results=True, yield_per=PAGE)
    )
    yield from connection.execute(statement).mappings()


def find_uncovered(
    connection: DriverConnection, *, tenant_id: str, run_id: str, epoch: int, size: int
) -> str | None:
    """Return a fact of the run, late ones aside, that is not in the tree of this size."""
    statement = (
        sa.select(_L.fact_id)
        .select_from(_indexed(epoch))
        .where(
            _L.tenant_id == tenant_id,
            _L.run_id == run_id,
            _L.late.is_(False),
            sa.or_(_E.idx.is_(None), _E.idx >= size),
        )
        .limit(1)
    )
    found: str | None = connection.scalars(statement).one_or_none()
    return found


def list_about(
    connection: DriverConnection,
    *,
    tenant_id: str,
    epoch: int,
    table: str,
    type_name: str,
    keys: Sequence[tuple[str, int | None]],
) -> Sequence[Row]:
    """Return the leaves of one type about rows of a table, each given as key text and version."""
    wanted = [
        sa.and_(_L.ref_key == key, sa.true() if version is None else _L.ref_version == version)
        for key, version in keys
    ]
    statement = (
        sa.select(_L.fact_id, _L.type, _L.run_id, _L.leaf_hash, _L.statement, _E.idx)
        .select_from(_indexed(epoch))
        .where(_L.tenant_id == tenant_id, _L.ref_table == table, _L.type == type_name, sa.or_(*wanted))
    )
    return connection.execute(statement).mappings().all()


def list_of_type(
    connection: DriverConnection, *, tenant_id: str, epoch: int, type_name: str, size: int
) -> Sequence[Row]:
    """Return the leaves of a type that concern the whole log, as far as the tree of this size holds them."""
    statement = (
        sa.select(_L.fact_id, _L.type, _L.run_id, _L.leaf_hash, _L.statement, _E.idx)
        .select_from(_indexed(epoch))
        .where(
            _L.tenant_id == tenant_id,
            _L.ref_table.is_(None),
            _L.type == type_name,
            _E.idx < size,
        )
    )
    return connection.execute(statement).mappings().all()


def list_protected(
    connection: DriverConnection, *, tenant_id: str, table: str, keys: Sequence[Sequence[Any]]
) -> Sequence[Row]:
    """Return key, protected members, salt, commitment and erasure of rows of a governed table."""
    entry = GOVERNED[table]
    columns = entry.table.c
    names = (*entry.key, *entry.protected, "protected_salt", "protected_commit", "erased_fact_id")
    key = sa.tuple_(*(columns[name] for name in entry.key))
    statement = sa.select(*(columns[name] for name in names)).where(
        columns.tenant_id == tenant_id, key.in_([tuple(one) for one in keys])
    )
    return connection.execute(statement).mappings().all()
