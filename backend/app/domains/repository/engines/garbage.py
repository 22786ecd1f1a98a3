"""L5 engine of the collection of bytes that nothing live or cited needs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.db.connection import DriverConnection
from app.domains.repository.drivers import garbage as driver
from app.domains.repository.engines.changes import ChangeSet
from app.domains.repository.engines.values import CHUNK
from app.domains.repository.errors import invalid_input
from app.domains.repository.models.vocabulary import Action, EntityType

MAX_GRACE_DAYS = 36_500
ENTITY_ID = "gc"
# Asked of the retrieval slice, through the spine: which of these digests stand in evidence.
Cited = Callable[[DriverConnection, Sequence[str]], Collection[str]]


@dataclass(frozen=True, slots=True)
class Candidate:
    """Bytes that may go."""

    digest: str
    size: int


def latest_deletion(now: datetime, grace_days: int | None, default_days: int) -> datetime:
    """Return the time before which an artifact must have been deleted; refuse INVALID_INPUT."""
    days = default_days if grace_days is None else grace_days
    if not 0 <= days <= MAX_GRACE_DAYS:
        raise invalid_input(f"grace_days is 0 to {MAX_GRACE_DAYS}.", "grace_days")
    return now - timedelta(days=days)


def list_candidates(
    connection: DriverConnection, cited: Cited, *, tenant_id: str, deleted_before: datetime
) -> list[Candidate]:
    """Return everything that may go now, 500 digests at a time."""
    candidates: list[Candidate] = []
    after: str | None = None
    while True:
        rows = driver.list_unneeded(
            connection,
            tenant_id=tenant_id,
            deleted_before=deleted_before,
            digests=None,
            after=after,
            limit=CHUNK,
        )
        if rows:
            after = rows[-1]["digest"]
            kept = cited(connection, [row["digest"] for row in rows])
            candidates += [Candidate(row["digest"], row["size"]) for row in rows if row["digest"] not in kept]
        if len(rows) < CHUNK:
            return candidates


def collect_batch(
    connection: DriverConnection,
    change_set: ChangeSet,
    cited: Cited,
    digests: Sequence[str],
    *,
    tenant_id: str,
    deleted_before: datetime,
    change_id: str,
) -> list[Candidate]:
    """Give up those of up to 500 candidates that are still unneeded, with one record; return them."""
    rows = driver.list_unneeded(
        connection,
        tenant_id=tenant_id,
        deleted_before=deleted_before,
        digests=digests,
        after=None,
        limit=len(digests),
    )
    kept = cited(connection, [row["digest"] for row in rows]) if rows else ()
    gone = [Candidate(row["digest"], row["size"]) for row in rows if row["digest"] not in kept]
    if not gone:
        return []
    wanted = [candidate.digest for candidate in gone]
    changed = driver.set_collected(connection, tenant_id=tenant_id, digests=wanted, at=change_set.at)
    if changed != len(gone):
        raise RuntimeError("bytes changed under the tenant's write lock")
    change_set.add(
        change_id,
        EntityType.BLOB,
        ENTITY_ID,
        Action.COLLECTED,
        changed_fields=["content"],
        detail={"digests": wanted},
    )
    return gone
