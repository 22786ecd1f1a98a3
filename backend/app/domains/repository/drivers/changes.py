"""L6 SQL of the change feed and of the row that is the tenant's write lock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection
from app.db.dialect import among, insert
from app.db.hot import HotStatement
from app.domains.repository.tables import repository_changes, repository_state

_C, _S = repository_changes.c, repository_state.c

CHANGE_COLUMNS = tuple(column for column in repository_changes.columns if column.name != "tenant_id")


# Built once, for what every write does.
_LOCK = HotStatement(
    sa.select(_S.last_seq, _S.last_hash, _S.last_occurred_at)
    .where(_S.tenant_id == sa.bindparam("tenant"))
    .with_for_update()
)
_MOVE = (
    sa.update(repository_state)
    .where(_S.tenant_id == sa.bindparam("tenant"))
    .values({name: sa.bindparam(name) for name in ("last_seq", "last_hash", "last_occurred_at")})
)


def lock_state(connection: DriverConnection, *, tenant_id: str) -> Mapping[str, Any] | None:
    """Return the head of the tenant's chain and hold its row until the transaction ends."""
    return next(iter(connection.hot(_LOCK, {"tenant": tenant_id})), None)


def list_last_seqs(
    connection: DriverConnection, *, tenant_ids: Sequence[str]
) -> Sequence[Mapping[str, Any]]:  # gate: DRV-006 - maintenance serves all tenants
    """Return tenant_id and last_seq of these tenants' chains."""
    theirs = among(connection, _S.tenant_id, tenant_ids)
    statement = sa.select(_S.tenant_id, _S.last_seq).where(theirs)  # gate: SCOPE-001 - of these tenants
    return connection.execute(statement).mappings().all()


def insert_state(connection: DriverConnection, *, tenant_id: str, genesis_hash: str) -> None:
    """Make the tenant's row unless another transaction just made it."""
    row = {"tenant_id": tenant_id, "last_seq": 0, "last_hash": genesis_hash, "last_occurred_at": None}
    connection.execute(insert(connection, repository_state).values(row).on_conflict_do_nothing())


def set_state(
    connection: DriverConnection, *, tenant_id: str, last_seq: int, last_hash: str, last_occurred_at: datetime
) -> None:
    """Move the head of the chain."""
    moved = {"last_seq": last_seq, "last_hash": last_hash, "last_occurred_at": last_occurred_at}
    connection.execute(_MOVE, {"tenant": tenant_id, **moved})


def insert_changes(
    connection: DriverConnection, *, tenant_id: str, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Append records."""
    connection.execute(
        insert(connection, repository_changes), [{"tenant_id": tenant_id, **row} for row in rows]
    )


def list_run_revisions(
    connection: DriverConnection, *, tenant_id: str, run_ids: Sequence[str]
) -> Sequence[Mapping[str, Any]]:
    """Return run, artifact, revision and content digest of every revision that these runs wrote, in order."""
    statement = (
        sa.select(_C.run_id, _C.entity_id, _C.new_revision, _C.new_digest)
        .where(
            _C.tenant_id == tenant_id,
            _C.run_id.in_(run_ids),
            _C.entity_type == "ARTIFACT",
            _C.new_revision.is_not(None),
            sa.or_(_C.old_revision.is_(None), _C.old_revision != _C.new_revision),
        )
        .order_by(_C.run_id, _C.seq)
    )
    return connection.execute(statement).mappings().all()


def list_changes(
    connection: DriverConnection, *, tenant_id: str, since_seq: int, filters: Mapping[str, str], limit: int
) -> Sequence[Mapping[str, Any]]:
    """Return records after a number whose columns equal the filters, in order."""
    statement = (
        sa.select(*CHANGE_COLUMNS)
        .where(
            _C.tenant_id == tenant_id, _C.seq > since_seq, *(_C[name] == filters[name] for name in filters)
        )
        .order_by(_C.seq)
        .limit(limit)
    )
    return connection.execute(statement).mappings().all()
