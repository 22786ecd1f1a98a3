"""L5: the derived columns of planes, recounted from their events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from app.db.connection import DriverConnection
from app.domains.knowledge.drivers import recounting as driver
from app.domains.knowledge.models.vocabulary import LifecycleEventType
from app.kernel.canonical_json import loads

# What the event says that ends an ingest, under the names of the columns.
STATISTICS = ("generation", "document_count", "passage_count", "token_total", "ingested_seq")


def find_wrong_statistics(
    connection: DriverConnection, *, tenant_id: str, plane_ids: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Yield (plane, column) of statistics that are not what the plane's last ingest told.

    A redaction takes documents away and leaves the statistics as they are, so the rows do not tell.
    """
    told = {
        row["plane_id"]: loads(row["details"])
        for row in driver.list_settled(
            connection,
            tenant_id=tenant_id,
            plane_ids=plane_ids,
            event_type=LifecycleEventType.LIFECYCLE_JOB_COMPLETED.value,
            saying='"token_total":',
        )
    }
    fresh = {"generation": 0, "document_count": 0, "passage_count": 0, "token_total": 0, "ingested_seq": None}
    for plane in driver.list_counted(connection, tenant_id=tenant_id, plane_ids=plane_ids):
        said = told.get(plane["plane_id"], fresh)
        yield from ((plane["plane_id"], name) for name in STATISTICS if plane[name] != said[name])


def find_wrong_seqs(
    connection: DriverConnection, *, tenant_id: str, plane_ids: Sequence[str]
) -> Iterator[str]:
    """Yield the planes whose event_seq is not the highest seq of their events."""
    given: dict[str, Any] = {"tenant_id": tenant_id, "plane_ids": plane_ids}
    highest = {row["plane_id"]: row["seq"] for row in driver.list_last_seqs(connection, **given)}
    for plane in driver.list_counted(connection, **given):
        if plane["event_seq"] != highest.get(plane["plane_id"], 0):
            yield plane["plane_id"]
