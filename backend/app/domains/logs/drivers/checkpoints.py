"""Logs L6: signed checkpoints and their cosignatures."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import insert
from app.db.types import as_stored
from app.domains.logs.tables import log_checkpoints, log_cosignatures, log_heads

_COLUMNS = tuple(column for column in log_checkpoints.columns if column.name != "tenant_id")
_RAW = tuple(as_stored(column) for column in _COLUMNS)


def insert_checkpoint(
    connection: DriverConnection,
    *,
    tenant_id: str,
    epoch: int,
    size: int,
    root: str,
    note: str,
    key_ids: str,
    now: datetime,
) -> None:
    """Insert a checkpoint, unless there is one of this size."""
    statement = insert(connection, log_checkpoints).values(
        tenant_id=tenant_id, epoch=epoch, size=size, root=root, note=note, key_ids=key_ids, signed_at=now
    )
    connection.execute(statement.on_conflict_do_nothing())


def get_checkpoint(
    connection: DriverConnection, *, tenant_id: str, epoch: int, size: int | None, raw: bool = False
) -> Row | None:
    """Return the checkpoint of a size, or the newest; `raw` as it is stored."""
    statement = (
        sa.select(*(_RAW if raw else _COLUMNS))
        .where(log_checkpoints.c.tenant_id == tenant_id, log_checkpoints.c.epoch == epoch)
        .order_by(log_checkpoints.c.size.desc())
        .limit(1)
    )
    if size is not None:
        statement = statement.where(log_checkpoints.c.size == size)
    return connection.execute(statement).mappings().one_or_none()


def list_checkpoints(
    connection: DriverConnection, *, tenant_id: str, before: tuple[int, int] | None, limit: int
) -> Sequence[Row]:
    """Return checkpoints with the origin of their epoch, newest first."""
    statement = (
        sa.select(*_COLUMNS, log_heads.c.origin)
        .select_from(
            log_checkpoints.join(
                log_heads,
                sa.and_(
                    log_heads.c.tenant_id == log_checkpoints.c.tenant_id,
                    log_heads.c.epoch == log_checkpoints.c.epoch,
                ),
            )
        )
        .where(log_checkpoints.c.tenant_id == tenant_id)
        .order_by(log_checkpoints.c.epoch.desc(), log_checkpoints.c.size.desc())
        .limit(limit)
    )
    if before is not None:
        newest = sa.tuple_(log_checkpoints.c.epoch, log_checkpoints.c.size)
        statement = statement.where(newest < sa.tuple_(*before))
    return connection.execute(statement).mappings().all()


def insert_cosignatures(
    connection: DriverConnection,
    lines: Sequence[tuple[str, str, str]],
    *,
    tenant_id: str,
    epoch: int,
    size: int,
    now: datetime,
) -> int:
    """Insert (key name, key id, line) unless the witness has one there already; return how many are new."""
    rows = [
        {"tenant_id": tenant_id, "epoch": epoch, "size": size, "received_at": now}
        | {"key_name": name, "key_id": key_id, "line": line}
        for name, key_id, line in lines
    ]
    statement = insert(connection, log_cosignatures).values(rows).on_conflict_do_nothing()
    return len(connection.execute(statement.returning(log_cosignatures.c.key_id)).all())


def list_cosignatures(
    connection: DriverConnection, *, tenant_id: str, epoch: int, size: int
) -> Sequence[str]:
    """Return the signature lines of witnesses under a checkpoint."""
    statement = (
        sa.select(log_cosignatures.c.line)
        .where(
            log_cosignatures.c.tenant_id == tenant_id,
            log_cosignatures.c.epoch == epoch,
            log_cosignatures.c.size == size,
        )
        .order_by(log_cosignatures.c.key_name, log_cosignatures.c.key_id)
    )
    return connection.scalars(statement).all()
