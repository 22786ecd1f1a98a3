"""Controls L6: counters of limits and the entries that they are the sums of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import JSON

from app.db.connection import DriverConnection, Row
from app.db.dialect import Insert
from app.db.hot import HotStatement
from app.db.types import BigInt
from app.domains.controls.tables import limit_counters, limit_entries
from app.kernel.canonical_json import dumps

_C, _E = limit_counters.c, limit_entries.c
_KEY = (_C.tenant_id, _C.limit_id, _C.window_key)
_TOLD = (_C.limit_id, _C.window_key, _C.committed, _C.reserved)
_MOVED = (_C.tenant_id, _C.limit_id, _C.window_key, _C.committed, _C.reserved, _C.created_at, _C.updated_at)
_ENTRY = tuple(column for column in limit_entries.columns if column is not _E.created_at)
_NOW = sa.bindparam("now", type_=_C.updated_at.type)
_TENANT = sa.bindparam("tenant", type_=sa.Text)
# The row that was offered, as a sub-select of DO UPDATE sees it.
_OFFERED_LIMIT = sa.literal_column("excluded.limit_id", sa.Text)
_OFFERED_WINDOW = sa.literal_column("excluded.window_key", sa.Text)


def take(
    connection: DriverConnection,
    *,
    tenant_id: str,
    limit_id: str,
    window_key: str,
    spend: int,
    hold: int,
    most: int | None,
    now: datetime,
) -> Row | None:
    """Add to a counter and return it; None, and nothing added, when the sum would be above `most`.

    The first use of a window is not compared: the caller has compared it with `most`.
    """
    given = {
        "tenant_id": tenant_id,
        "limit_id": limit_id,
        "window_key": window_key,
        "committed": spend,
        "reserved": hold,
        "created_at": now,
        "updated_at": now,
        "most": most,
    }
    return next(iter(connection.hot(_TAKE, given)), None)


def _take(statement: Insert) -> sa.Executable:
    given = statement.excluded
    most: sa.BindParameter[int | None] = sa.bindparam("most", type_=BigInt)
    fits = sa.or_(most.is_(None), _C.committed + _C.reserved + given.committed + given.reserved <= most)
    return statement.on_conflict_do_update(
        index_elements=_KEY,
        set_={
            "committed": _C.committed + given.committed,
            "reserved": _C.reserved + given.reserved,
            "updated_at": given.updated_at,
            "version": _C.version + 1,
        },
        where=fits,
    ).returning(*_TOLD)


_OFFERED = ("tenant_id", "limit_id", "window_key", "committed", "reserved", "created_at", "updated_at")
_TAKE = HotStatement(
    _take(postgresql.insert(limit_counters)),
    sqlite=_take(sqlite.insert(limit_counters)),
    columns=_OFFERED,
)
_INSERT_ENTRY = HotStatement(
    limit_entries.insert(), columns=[column.name for column in limit_entries.columns]
)


_SUMS: Mapping[str, sa.types.TypeEngine[Any]] = {
    "limit_id": sa.Text(),
    "window_key": sa.Text(),
    "committed": BigInt(),
    "reserved": BigInt(),
}
_LIST = HotStatement(
    sa.text(
        """
        SELECT limit_id, window_key, committed, reserved FROM limit_counters
        WHERE tenant_id = :tenant
            AND limit_id IN (SELECT json_array_elements_text(CAST(:wanted AS json)))
            AND window_key IN (SELECT json_array_elements_text(CAST(:windows AS json)))
        """
    ).columns(**_SUMS),
    sqlite=sa.text(
        """
        SELECT limit_id, window_key, committed, reserved FROM limit_counters
        WHERE tenant_id = :tenant
            AND limit_id IN (SELECT value FROM json_each(:wanted))
            AND window_key IN (SELECT value FROM json_each(:windows))
        """
    ).columns(**_SUMS),
)


def list_counters(
    connection: DriverConnection, *, tenant_id: str, limit_ids: Sequence[str], window_keys: Sequence[str]
) -> Sequence[Row]:
    """Return the counters of these limits in any of these windows."""
    given = {
        "tenant": tenant_id,
        "wanted": dumps(list(limit_ids)),
        "windows": dumps(list(window_keys)),
    }
    return connection.hot(_LIST, given)


def _upsert(given: sa.TableValuedAlias, statement: Insert, read: Mapping[str, sa.ColumnElement[Any]]) -> Any:
    """Return the statement that adds `committed` to each counter and gives `taken` of its reserved back."""
    # A CHECK sees the row that is offered, before it sees the conflict: what is given back is read beside it.
    taken = (
        sa.select(read["taken"])
        .select_from(given)
        .where(read["limit_id"] == _OFFERED_LIMIT, read["window_key"] == _OFFERED_WINDOW)
        .scalar_subquery()
    )
    offered = (
        sa.select(_TENANT, read["limit_id"], read["window_key"], read["committed"], sa.literal(0), _NOW, _NOW)
        .select_from(given)
        .where(sa.true())
        # Everybody takes the counters in one order.
        .order_by(read["limit_id"], read["window_key"])
    )
    filled = statement.from_select([column.name for column in _MOVED], offered, include_defaults=False)
    return filled.on_conflict_do_update(
        index_elements=_KEY,
        set_={
            "committed": _C.committed + filled.excluded.committed,
            "reserved": _C.reserved - taken,
            "updated_at": filled.excluded.updated_at,
            "version": _C.version + 1,
        },
    ).returning(*_TOLD)


def _on_postgresql() -> sa.Select[Any]:
    """Return counters and entries as one statement; a batch is one JSON parameter, whatever its size."""
    moves = (
        sa.func.json_to_recordset(sa.bindparam("moves", type_=JSON))
        .table_valued(
            sa.column("limit_id", sa.Text),
            sa.column("window_key", sa.Text),
            sa.column("committed", BigInt),
            sa.column("taken", BigInt),
        )
        .render_derived(name="moves", with_types=True)
    )
    read = {name: moves.c[name] for name in ("limit_id", "window_key", "committed", "taken")}
    moved = _upsert(moves, postgresql.insert(limit_counters), read).cte("moved")
    said = (
        sa.func.json_to_recordset(sa.bindparam("entries", type_=JSON))
        .table_valued(*(sa.column(column.name, column.type) for column in _ENTRY))
        .render_derived(name="said", with_types=True)
    )
    kept = (
        postgresql.insert(limit_entries)
        .from_select(
            [*(column.name for column in _ENTRY), "created_at"],
            sa.select(*(said.c[column.name] for column in _ENTRY), _NOW),
            include_defaults=False,
        )
        .cte("kept")
    )
    return sa.select(*moved.c).add_cte(kept)


def _on_sqlite() -> Any:
    moves = sa.func.json_each(sa.bindparam("moves", type_=sa.JSON)).table_valued("value", name="moves")
    read: dict[str, sa.ColumnElement[Any]] = {
        name: sa.func.json_extract(moves.c.value, sa.literal(f"$.{name}"))
        for name in ("limit_id", "window_key", "committed", "taken")
    }
    return _upsert(moves, sqlite.insert(limit_counters), read)


# Built once: every recorded use ends in them.
_MOVE_POSTGRESQL = _on_postgresql()  # gate: SCOPE-001 - it reads what it writes, all of one tenant
_MOVE_SQLITE = _on_sqlite()


def move(
    connection: DriverConnection,
    *,
    tenant_id: str,
    moves: Sequence[Mapping[str, Any]],
    entries: Sequence[Mapping[str, Any]],
    now: datetime,
) -> Sequence[Row]:
    """Move counters (limit_id, window_key, committed, taken: one row each) with their entries; return them.

    One statement on PostgreSQL; SQLite has none that writes two tables.
    """
    rows = [{**entry, "tenant_id": tenant_id} for entry in entries]
    given = {"tenant": tenant_id, "now": now, "moves": [dict(item) for item in moves]}
    if connection.dialect_name == "postgresql":
        return connection.execute(_MOVE_POSTGRESQL, {**given, "entries": rows}).mappings().all()
    moved = connection.execute(_MOVE_SQLITE, given).mappings().all()
    insert_entries(connection, entries, tenant_id=tenant_id, now=now)
    return moved


def insert_entries(
    connection: DriverConnection, entries: Sequence[Mapping[str, Any]], *, tenant_id: str, now: datetime
) -> None:
    """Insert entries in one statement."""
    rows = [{**entry, "tenant_id": tenant_id, "created_at": now} for entry in entries]
    if len(rows) == 1:
        connection.hot(_INSERT_ENTRY, rows[0])
    else:
        connection.execute(limit_entries.insert(), rows)


def sum_entries(connection: DriverConnection, *, tenant_id: str) -> Sequence[Row]:
    """Return, by limit and window, the counter beside the sums that its entries give; either may be null."""
    amount = sa.func.coalesce
    committed = sa.func.sum(sa.case((_E.kind == "COMMIT", _E.amount), else_=0))
    reserved = sa.func.sum(
        sa.case((_E.kind == "RESERVE", _E.amount), (_E.kind == "COMMIT", 0), else_=-_E.amount)
    )
    sums = (
        sa.select(
            _E.limit_id,
            _E.window_key,
            sa.cast(committed, BigInt).label("entered_committed"),
            sa.cast(reserved, BigInt).label("entered_reserved"),
        )
        .where(_E.tenant_id == tenant_id)
        .group_by(_E.limit_id, _E.window_key)
        .subquery("sums")
    )
    mine = sa.select(*_TOLD).where(_C.tenant_id == tenant_id).subquery("mine")
    same = sa.and_(mine.c.limit_id == sums.c.limit_id, mine.c.window_key == sums.c.window_key)
    return (
        connection.execute(
            sa.select(
                amount(mine.c.limit_id, sums.c.limit_id).label("limit_id"),
                amount(mine.c.window_key, sums.c.window_key).label("window_key"),
                amount(mine.c.committed, 0).label("committed"),
                amount(mine.c.reserved, 0).label("reserved"),
                amount(sums.c.entered_committed, 0).label("entered_committed"),
                amount(sums.c.entered_reserved, 0).label("entered_reserved"),
            ).select_from(mine.join(sums, same, full=True))
        )
        .mappings()
        .all()
    )
