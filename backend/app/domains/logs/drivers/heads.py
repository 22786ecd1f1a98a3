"""Logs L6: heads of the tenants' logs, and what waits to be sequenced."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import among, insert
from app.db.types import as_stored
from app.domains.logs.tables import log_checkpoints, log_entries, log_heads, log_leaves, log_pending

_COLUMNS = tuple(column for column in log_heads.columns if column.name != "tenant_id")
_NEWEST, _NEWEST_RAW = (
    sa.select(*columns)
    .where(log_heads.c.tenant_id == sa.bindparam("tenant"))
    .order_by(log_heads.c.epoch.desc())
    .limit(1)
    for columns in (_COLUMNS, [as_stored(column) for column in _COLUMNS])
)


def insert_head(
    connection: DriverConnection,
    *,
    tenant_id: str,
    epoch: int,
    origin: str,
    root: str,
    state: str,
    now: datetime,
) -> None:
    """Insert the empty head of an epoch, unless it is there."""
    row = {
        "tenant_id": tenant_id,
        "epoch": epoch,
        "origin": origin,
        "size": 0,
        "root": root,
        "signed_size": 0,
        "min_index": 0,
        "state": state,
        "updated_at": now,
    }
    statement = insert(connection, log_heads).on_conflict_do_nothing(index_elements=["tenant_id", "epoch"])
    connection.execute(statement, row)


def get_head(connection: DriverConnection, *, tenant_id: str, raw: bool = False) -> Row | None:
    """Return the head of the newest epoch; `raw` as it is stored."""
    statement = _NEWEST_RAW if raw else _NEWEST
    return connection.execute(statement, {"tenant": tenant_id}).mappings().one_or_none()


def lock_head(connection: DriverConnection, *, tenant_id: str, epoch: int) -> Row | None:
    """Return a head, locked; None while somebody else holds it, or when there is none."""
    statement = (
        sa.select(*_COLUMNS)
        .where(log_heads.c.tenant_id == tenant_id, log_heads.c.epoch == epoch)
        .with_for_update(skip_locked=True)
    )
    return connection.execute(statement).mappings().one_or_none()


def set_size(
    connection: DriverConnection,
    *,
    tenant_id: str,
    epoch: int,
    old: int,
    new: int,
    root: str,
    state: str,
    now: datetime,
) -> bool:
    """Advance a head that still has this size and state; return False when it has not."""
    statement = (
        log_heads.update()
        .where(
            log_heads.c.tenant_id == tenant_id,
            log_heads.c.epoch == epoch,
            log_heads.c.size == old,
            log_heads.c.state == state,
        )
        .values(size=new, root=root, updated_at=now)
    )
    return connection.execute(statement).rowcount == 1


def set_signed(connection: DriverConnection, *, tenant_id: str, epoch: int, size: int, now: datetime) -> None:
    """Raise the signed size of a head."""
    connection.execute(
        log_heads.update()
        .where(log_heads.c.tenant_id == tenant_id, log_heads.c.epoch == epoch, log_heads.c.signed_size < size)
        .values(signed_size=size, updated_at=now)
    )


def set_state(
    connection: DriverConnection,
    *,
    tenant_id: str,
    epoch: int,
    expected: str,
    state: str,
    reason: str | None,
    now: datetime,
) -> bool:
    """Move a head from one state to another; return False when it was in neither hand."""
    statement = (
        log_heads.update()
        .where(log_heads.c.tenant_id == tenant_id, log_heads.c.epoch == epoch, log_heads.c.state == expected)
        .values(state=state, halted_reason=reason, updated_at=now)
    )
    return connection.execute(statement).rowcount == 1


def list_waiting(
    connection: DriverConnection, *, tenant_id: str, epoch: int, limit: int, type_name: str | None = None
) -> Sequence[Row]:
    """Return fact_id, statement, leaf_hash and idx of what waits, or of one type of it, by fact_id.

    The statement is null when the leaf is gone; idx is set when the fact is in the tree already.
    """
    statement = (
        sa.select(log_pending.c.fact_id, log_leaves.c.statement, log_leaves.c.leaf_hash, log_entries.c.idx)
        .select_from(
            log_pending.outerjoin(
                log_leaves,
                sa.and_(
                    log_leaves.c.tenant_id == log_pending.c.tenant_id,
                    log_leaves.c.fact_id == log_pending.c.fact_id,
                ),
            ).outerjoin(
                log_entries,
                sa.and_(
                    log_entries.c.tenant_id == log_pending.c.tenant_id,
                    log_entries.c.epoch == epoch,
                    log_entries.c.fact_id == log_pending.c.fact_id,
                ),
            )
        )
        .where(log_pending.c.tenant_id == tenant_id)
        .order_by(log_pending.c.fact_id)
        .limit(limit)
    )
    if type_name is not None:
        statement = statement.where(log_leaves.c.type == type_name)
    return connection.execute(statement).mappings().all()


def queue_leaves(connection: DriverConnection, *, tenant_id: str, besides: str) -> None:
    """Queue all leaves of the tenant but one, as long as they have been there."""
    queued = insert(connection, log_pending).from_select(
        ["tenant_id", "fact_id", "enqueued_at"],
        sa.select(log_leaves.c.tenant_id, log_leaves.c.fact_id, log_leaves.c.created_at).where(
            log_leaves.c.tenant_id == tenant_id, log_leaves.c.fact_id != besides
        ),
    )
    connection.execute(queued.on_conflict_do_nothing())


def delete_waiting(connection: DriverConnection, fact_ids: Sequence[str], *, tenant_id: str) -> int:
    """Delete facts from the queue; return how many were there."""
    statement = log_pending.delete().where(
        log_pending.c.tenant_id == tenant_id, among(connection, log_pending.c.fact_id, fact_ids)
    )
    return connection.execute(statement).rowcount


def count_waiting(connection: DriverConnection, *, tenant_id: str) -> int:
    """Return how many facts of the tenant wait."""
    statement = (
        sa.select(sa.func.count()).select_from(log_pending).where(log_pending.c.tenant_id == tenant_id)
    )
    return int(connection.scalars(statement).one())


def list_tenants_waiting(
    connection: DriverConnection, *, after: str, limit: int
) -> Sequence[str]:  # gate: DRV-006 - the sequencer serves all tenants
    """Return tenants whose facts wait, by id, after one; the queue is skipped through, never scanned."""
    first = (
        sa.select(
            sa.func.min(log_pending.c.tenant_id).label("tenant_id")
        )  # gate: SCOPE-001 - the sequencer serves all tenants
        .where(log_pending.c.tenant_id > after)
        .cte("waiting", recursive=True)
    )
    following = (
        sa.select(sa.func.min(log_pending.c.tenant_id))  # gate: SCOPE-001 - the sequencer serves all tenants
        .where(log_pending.c.tenant_id > first.c.tenant_id)
        .scalar_subquery()
    )
    tenants = first.union_all(sa.select(following).where(first.c.tenant_id.is_not(None)))
    statement = sa.select(tenants.c.tenant_id).where(tenants.c.tenant_id.is_not(None)).limit(limit)
    return connection.scalars(statement).all()


def list_tenants_unsigned(  # gate: DRV-006 - the sequencer serves all tenants
    connection: DriverConnection, *, state: str, signed_before: datetime, limit: int
) -> Sequence[str]:
    """Return tenants whose tree has grown beyond a checkpoint that is older than this, the oldest first."""
    statement = (
        sa.select(log_heads.c.tenant_id)  # gate: SCOPE-001 - the sequencer serves all tenants
        .select_from(
            log_heads.outerjoin(
                log_checkpoints,
                sa.and_(
                    log_checkpoints.c.tenant_id == log_heads.c.tenant_id,
                    log_checkpoints.c.epoch == log_heads.c.epoch,
                    log_checkpoints.c.size == log_heads.c.signed_size,
                ),
            )
        )
        .where(
            log_heads.c.size > log_heads.c.signed_size,
            log_heads.c.state == state,
            sa.or_(log_checkpoints.c.signed_at.is_(None), log_checkpoints.c.signed_at <= signed_before),
        )
        .order_by(log_heads.c.updated_at, log_heads.c.tenant_id)
        .limit(limit)
    )
    return connection.scalars(statement).all()


def list_signed_since(  # gate: DRV-006 - one look over all tenants
    connection: DriverConnection, *, since: datetime | None, besides: str, after: str, limit: int
) -> Sequence[Row]:
    """Return tenant_id, origin, signed size and root of logs that changed since a moment, by tenant."""
    statement = (
        sa.select(  # gate: SCOPE-001 - one look over all tenants
            log_heads.c.tenant_id, log_heads.c.origin, log_checkpoints.c.size, log_checkpoints.c.root
        )
        .select_from(
            log_heads.join(
                log_checkpoints,
                sa.and_(
                    log_checkpoints.c.tenant_id == log_heads.c.tenant_id,
                    log_checkpoints.c.epoch == log_heads.c.epoch,
                    log_checkpoints.c.size == log_heads.c.signed_size,
                ),
            )
        )
        .where(log_heads.c.tenant_id > after, log_heads.c.tenant_id != besides)
        .order_by(log_heads.c.tenant_id)
        .limit(limit)
    )
    if since is not None:
        statement = statement.where(log_heads.c.updated_at > since)
    return connection.execute(statement).mappings().all()


def get_overview(
    connection: DriverConnection, *, limit: int, state: str
) -> Row:  # gate: DRV-006 - one look over all tenants
    """Return how it stands with all logs.

    `pending` facts wait (at most `limit` are counted), since `oldest_at`; `halted` heads are in the state;
    since `unsigned_at` an entry has no checkpoint over it.
    """
    some = (
        sa.select(log_pending.c.enqueued_at).limit(limit).subquery()
    )  # gate: SCOPE-001 - one look over all tenants
    halted = (
        sa.select(sa.func.count())
        .select_from(log_heads)
        .where(log_heads.c.state == state)
        .scalar_subquery()  # gate: SCOPE-001 - one look over all tenants
    )
    unsigned = (
        sa.select(sa.func.min(log_entries.c.integrated_at))  # gate: SCOPE-001 - one look over all tenants
        .select_from(
            log_heads.join(
                log_entries,
                sa.and_(
                    log_entries.c.tenant_id == log_heads.c.tenant_id,
                    log_entries.c.epoch == log_heads.c.epoch,
                    log_entries.c.idx == log_heads.c.signed_size,
                ),
            )
        )
        .where(log_heads.c.size > log_heads.c.signed_size)
        .scalar_subquery()
    )
    statement = sa.select(
        sa.func.count().label("pending"),
        sa.func.min(some.c.enqueued_at).label("oldest_at"),
        halted.label("halted"),
        unsigned.label("unsigned_at"),
    ).select_from(some)
    return connection.execute(statement).mappings().one()
