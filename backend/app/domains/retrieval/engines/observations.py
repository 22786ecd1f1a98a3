"""Retrieval L5: retrieval spans that were seen from outside, recorded once each, and shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from app.db.connection import DriverConnection, Row
from app.domains.retrieval.drivers import observations as driver
from app.domains.retrieval.engines.reconciliation import Candidate, Sighting, Verdict, window_of
from app.domains.retrieval.models import ListObservations, ObservationStatus, ObservationView
from app.kernel.canonical_json import dumps, loads

MAX_DOCUMENT_IDS = 1000


def record_observations(
    connection: DriverConnection, *, tenant_id: str, rows: Sequence[Mapping[str, Any]]
) -> int:
    """Insert PENDING observations and return how many were new; a repeated span changes nothing.

    A row has trace_id, span_id, run_id, operation, data_source_id, document_ids, started_at, ended_at and
    claimed_evidence_id. A span that ends before it starts is taken to end where it starts.
    """
    new = {
        (row["trace_id"], row["span_id"]): {
            "trace_id": row["trace_id"],
            "span_id": row["span_id"],
            "run_id": row.get("run_id"),
            "operation": row["operation"],
            "data_source_id": row.get("data_source_id"),
            "document_ids": dumps(list(row.get("document_ids") or ())[:MAX_DOCUMENT_IDS]),
            "started_at": row["started_at"],
            "ended_at": max(row["started_at"], row["ended_at"]),
            "claimed_evidence_id": row.get("claimed_evidence_id"),
            "status": ObservationStatus.PENDING.value,
        }
        for row in reversed(rows)
    }
    if not new:
        return 0
    return driver.insert_observations(connection, list(new.values()), tenant_id=tenant_id)


def lock_due(connection: DriverConnection, *, tenant_id: str, until: datetime, limit: int) -> list[Sighting]:
    """Hold what nobody has judged and that ended until a moment, in the order in which it is judged."""
    return [
        Sighting(
            trace_id=row["trace_id"],
            span_id=row["span_id"],
            run_id=row["run_id"],
            operation=row["operation"],
            data_source_id=row["data_source_id"],
            document_ids=frozenset(loads(row["document_ids"])),
            started_at=row["started_at"],
            ended_at=row["ended_at"],
            claimed_evidence_id=row["claimed_evidence_id"],
        )
        for row in driver.lock_due(connection, tenant_id=tenant_id, until=until, limit=limit)
    ]


def list_tenants_due(connection: DriverConnection, *, until: datetime) -> Sequence[str]:
    """Return the tenants that have spans nobody has judged that ended until a moment."""
    return driver.list_tenants_due(connection, until=until)


def find_candidate(connection: DriverConnection, sighting: Sighting, *, tenant_id: str) -> Candidate | None:
    """Return the evidence that could speak for a span: the one it claims, else the earliest that fits."""
    if sighting.run_id is None:
        return None
    if sighting.claimed_evidence_id is not None:
        row = driver.get_unused(
            connection,
            tenant_id=tenant_id,
            evidence_id=sighting.claimed_evidence_id,
            run_id=sighting.run_id,
        )
    else:
        since, until = window_of(sighting)
        row = driver.get_earliest_unused(
            connection,
            tenant_id=tenant_id,
            run_id=sighting.run_id,
            since=since,
            until=until,
            source_id=sighting.data_source_id,
        )
    if row is None:
        return None
    cited = driver.list_cited(connection, tenant_id=tenant_id, evidence_id=row["evidence_id"])
    return Candidate(row["evidence_id"], cited)


def set_judged(
    connection: DriverConnection,
    sighting: Sighting,
    verdict: Verdict,
    *,
    tenant_id: str,
    signal_id: str | None,
) -> None:
    """Write what became of a span."""
    driver.set_judged(
        connection,
        tenant_id=tenant_id,
        trace_id=sighting.trace_id,
        span_id=sighting.span_id,
        values={
            "status": verdict.status.value,
            "bypass_reason": None if verdict.reason is None else verdict.reason.value,
            "evidence_id": verdict.evidence_id,
            "signal_id": signal_id,
        },
    )


def list_page(
    connection: DriverConnection,
    query: ListObservations,
    *,
    tenant_id: str,
    after: tuple[Any, ...] | None,
    limit: int,
) -> Sequence[Row]:
    """Return the rows of observations by start, trace and span."""
    equal = query.model_dump(include={"run_id", "status"}, exclude_none=True, mode="json")
    return driver.list_observations(connection, tenant_id=tenant_id, equal=equal, after=after, limit=limit)


def view(row: Row) -> ObservationView:
    """Return an observation as answers show it."""
    return ObservationView.model_validate({**row, "document_ids": loads(row["document_ids"])})
