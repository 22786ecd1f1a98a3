"""Logs L6: permits to delete, the runs that went, and deleting rows, leaves and entries under a permit."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import among
from app.domains.logs.tables import (
    log_archives,
    log_entries,
    log_heads,
    log_leaves,
    log_purge_permits,
    outbox,
    purged_runs,
)

_A, _P, _R, _E, _L = (
    log_archives.c, log_purge_permits.c, purged_runs.c, log_entries.c, log_leaves.c,
)  # fmt: skip
_ARCHIVE = (_A.archive_id, _A.epoch, _A.to_idx, _A.sha256, _A.path, _A.counts)
_PERMIT = (_P.purge_id, _P.archive_id, _P.ranges, _P.opened_at, _P.closed_at)


def get_archive(connection: DriverConnection, *, tenant_id: str, archive_id: str) -> Row | None:
    """Return an archive."""
    statement = sa.select(*_ARCHIVE).where(_A.tenant_id == tenant_id, _A.archive_id == archive_id)
    return connection.execute(statement).mappings().one_or_none()


def newest_unpurged(connection: DriverConnection, *, tenant_id: str) -> Row | None:
    """Return the newest archive that no permit is for."""
    permit = sa.exists().where(_P.tenant_id == _A.tenant_id, _P.archive_id == _A.archive_id)
    statement = (
        sa.select(*_ARCHIVE)
        .where(_A.tenant_id == tenant_id, ~permit)
        .order_by(_A.created_at.desc(), _A.archive_id.desc())
        .limit(1)
    )
    return connection.execute(statement).mappings().one_or_none()


def get_open_permit(connection: DriverConnection, *, tenant_id: str) -> Row | None:
    """Return the permit that is open."""
    statement = sa.select(*_PERMIT).where(_P.tenant_id == tenant_id, _P.closed_at.is_(None))
    return connection.execute(statement).mappings().one_or_none()


def newest_opened_at(connection: DriverConnection, *, tenant_id: str) -> datetime | None:
    """Return when a permit was last opened."""
    statement = sa.select(sa.func.max(_P.opened_at)).where(_P.tenant_id == tenant_id)
    return connection.scalars(statement).one_or_none()


def insert_permit(connection: DriverConnection, row: Row, *, tenant_id: str) -> None:
    """Insert a permit, which is open."""
    connection.execute(log_purge_permits.insert(), {**row, "tenant_id": tenant_id})


def set_closed(connection: DriverConnection, *, tenant_id: str, purge_id: str, now: datetime) -> bool:
    """Close a permit that is open; return False when it is not."""
    statement = (
        log_purge_permits.update()
        .where(_P.tenant_id == tenant_id, _P.purge_id == purge_id, _P.closed_at.is_(None))
        .values(closed_at=now)
    )
    return connection.execute(statement).rowcount == 1


def insert_purged_runs(
    connection: DriverConnection, run_ids: Sequence[str], *, tenant_id: str, archive_id: str, now: datetime
) -> None:
    """Insert the runs that go."""
    given = {"tenant_id": tenant_id, "archive_id": archive_id, "purged_at": now}
    connection.execute(purged_runs.insert(), [{**given, "run_id": run_id} for run_id in run_ids])


def list_purged_runs(connection: DriverConnection, *, tenant_id: str, archive_id: str) -> Sequence[str]:
    """Return the runs that an archive holds."""
    statement = sa.select(_R.run_id).where(_R.tenant_id == tenant_id, _R.archive_id == archive_id)
    return connection.scalars(statement).all()


def list_purged_among(connection: DriverConnection, run_ids: Sequence[str], *, tenant_id: str) -> set[str]:
    """Return which of these runs went."""
    statement = sa.select(_R.run_id).where(_R.tenant_id == tenant_id, among(connection, _R.run_id, run_ids))
    return set(connection.scalars(statement))


def get_purged_run(connection: DriverConnection, *, tenant_id: str, run_id: str) -> Row | None:
    """Return archive_id and sha256 of the archive that holds a run which went."""
    statement = (
        sa.select(_R.archive_id, _A.sha256)
        .select_from(
            purged_runs.join(
                log_archives, sa.and_(_A.tenant_id == _R.tenant_id, _A.archive_id == _R.archive_id)
            )
        )
        .where(_R.tenant_id == tenant_id, _R.run_id == run_id)
    )
    return connection.execute(statement).mappings().one_or_none()


def set_min_index(
    connection: DriverConnection, *, tenant_id: str, epoch: int, index: int, now: datetime
) -> None:
    """Raise the index below which entries may be gone."""
    heads = log_heads.c
    connection.execute(
        log_heads.update()
        .where(heads.tenant_id == tenant_id, heads.epoch == epoch, heads.min_index < index)
        .values(min_index=index, updated_at=now)
    )


def list_epochs(connection: DriverConnection, *, tenant_id: str) -> Sequence[int]:
    """Return the epochs of a log."""
    return connection.scalars(sa.select(log_heads.c.epoch).where(log_heads.c.tenant_id == tenant_id)).all()


def list_entries(
    connection: DriverConnection, *, tenant_id: str, epoch: int, first: int, last: int
) -> Sequence[Row]:
    """Return the entries in [first, last) that are there, by index, with what their leaves are about."""
    statement = (
        sa.select(_E.idx, _E.fact_id, _L.ref_table, _L.ref_key)
        .select_from(
            log_entries.join(log_leaves, sa.and_(_L.tenant_id == _E.tenant_id, _L.fact_id == _E.fact_id))
        )
        .where(_E.tenant_id == tenant_id, _E.epoch == epoch, _E.idx >= first, _E.idx < last)
        .order_by(_E.idx)
    )
    return connection.execute(statement).mappings().all()


def count_below(connection: DriverConnection, *, tenant_id: str, epoch: int, index: int) -> int:
    """Return how many entries below an index are there."""
    statement = (
        sa.select(sa.func.count())
        .select_from(log_entries)
        .where(_E.tenant_id == tenant_id, _E.epoch == epoch, _E.idx < index)
    )
    return int(connection.scalars(statement).one())


def list_done(connection: DriverConnection, *, tenant_id: str) -> Sequence[Row]:
    """Return archive_id, epoch and counts of the archives that permits are for.

    `runs` is how many runs are said to be in them.
    """
    runs = (
        sa.select(sa.func.count())
        .where(_R.tenant_id == _A.tenant_id, _R.archive_id == _A.archive_id)
        .scalar_subquery()
    )
    statement = (
        sa.select(_A.archive_id, _A.epoch, _A.counts, runs.label("runs"))
        .select_from(
            log_archives.join(
                log_purge_permits, sa.and_(_P.tenant_id == _A.tenant_id, _P.archive_id == _A.archive_id)
            )
        )
        .where(_A.tenant_id == tenant_id)
    )
    return connection.execute(statement).mappings().all()


def delete_leaves(
    connection: DriverConnection, fact_ids: Sequence[str], *, tenant_id: str, epochs: Sequence[int]
) -> None:
    """Delete leaves and their entries in every epoch."""
    for epoch in epochs:
        connection.execute(
            log_entries.delete().where(
                _E.tenant_id == tenant_id, _E.epoch == epoch, among(connection, _E.fact_id, fact_ids)
            )
        )
    connection.execute(
        log_leaves.delete().where(_L.tenant_id == tenant_id, among(connection, _L.fact_id, fact_ids))
    )


def delete_events(connection: DriverConnection, *, tenant_id: str, over_age: datetime, limit: int) -> int:
    """Delete events of the outbox that are over age, at most `limit`; return how many."""
    some = (
        sa.select(outbox.c.event_id)
        .where(outbox.c.tenant_id == tenant_id, outbox.c.created_at <= over_age)
        .limit(limit)
    )
    statement = outbox.delete().where(outbox.c.tenant_id == tenant_id, outbox.c.event_id.in_(some))
    return connection.execute(statement).rowcount
