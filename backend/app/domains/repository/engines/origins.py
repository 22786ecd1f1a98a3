"""L5 engine of where revisions come from, which decides whether a legal hold covers them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from app.db.connection import DriverConnection, Row
from app.domains.repository.drivers import origins as driver
from app.domains.repository.engines.values import chunks


@dataclass(frozen=True, slots=True)
class Origin:
    """The run that produced a revision, and the collections where it was made and lies now."""

    run_id: str | None
    collections: frozenset[str]


def origins_of_places(
    connection: DriverConnection, *, tenant_id: str, places: Sequence[tuple[str, int]]
) -> set[Origin]:
    """Return the origins of these revisions, each given as artifact and number."""
    found: set[Origin] = set()
    for part in chunks(places):
        found.update(_read(driver.list_of_places(connection, tenant_id=tenant_id, places=part)))
    return found


def origins_of_collection(connection: DriverConnection, *, tenant_id: str, collection_id: str) -> set[Origin]:
    """Return the origins of all revisions of a collection's artifacts, and the collection's own."""
    rows = driver.list_of_collection(connection, tenant_id=tenant_id, collection_id=collection_id)
    return {Origin(None, frozenset({collection_id})), *_read(rows)}


def origins_of_contents(
    connection: DriverConnection, *, tenant_id: str, digests: Sequence[str]
) -> dict[str, set[Origin]]:
    """Return the origins of the readable revisions that have each of these contents."""
    found: dict[str, set[Origin]] = {}
    for row in driver.list_of_contents(connection, tenant_id=tenant_id, digests=digests):
        found.setdefault(row["content_digest"], set()).update(_read([row]))
    return found


def _read(rows: Iterable[Row]) -> Iterable[Origin]:
    return [
        Origin(row["produced_by_run"], frozenset({row["collection_id"], row["head_collection_id"]}))
        for row in rows
    ]
