"""Retrieval L5: evidence, exactly one row for each attempt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from app.db.connection import DriverConnection, Row
from app.domains.retrieval.drivers import evidence as driver
from app.domains.retrieval.engines.access import Attempt
from app.domains.retrieval.errors import evidence_not_found
from app.domains.retrieval.models import AccessInput, EvidenceView, ListEvidence, Outcome, Reason
from app.kernel.canonical_json import dumps, loads
from app.kernel.pages import Page, newest_first


def build(
    attempt: Attempt,
    payload: AccessInput,
    *,
    actor_id: str,
    request_id: str,
    trace_id: str | None,
    span_id: str | None,
    completed_at: datetime,
    recorded_at: datetime,
) -> dict[str, Any]:
    """Return the evidence row of a settled attempt, without fact and protected columns.

    `recorded_at` is the time of the transaction, which the envelope of the row's statement says again.
    """
    run, plane = attempt.run or {}, attempt.plane or {}
    completed = max(completed_at, attempt.requested_at)
    return {
        "evidence_id": attempt.evidence_id,
        "run_id": payload.run_id,
        "attempt": run.get("attempt"),
        "plane_id": payload.plane_id,
        "action": payload.action,
        "purpose": payload.purpose,
        "step_index": payload.step_index,
        "actor_id": actor_id,
        "request_id": request_id,
        "trace_id": trace_id,
        "span_id": span_id,
        "outcome": attempt.outcome.value,
        "reason_code": attempt.reason.value,
        "revoked_in_flight": attempt.revoked_in_flight,
        "connector_id": plane.get("connector_id"),
        "plane_state_value": plane.get("lifecycle_state_value"),
        "plane_version": plane.get("version"),
        "config_digest": plane.get("config_digest"),
        "sensitivity_level": plane.get("sensitivity_level"),
        "policy_snapshot_id": run.get("policy_snapshot_id"),
        "policy_snapshot_hash": attempt.snapshot_hash,
        "matched_rules": dumps(attempt.matched_rules),
        "query_hash": attempt.query_hash,
        "documents": dumps(attempt.citations),
        "doc_count": len(attempt.citations),
        "token_count": attempt.token_count,
        "bytes_returned": attempt.bytes_returned,
        "truncated": attempt.truncated,
        "requested_at": attempt.requested_at,
        "completed_at": completed,
        "duration_ms": int((completed - attempt.requested_at).total_seconds() * 1000),
        "created_at": recorded_at,
    }


def insert(connection: DriverConnection, row: Mapping[str, Any], *, tenant_id: str) -> None:
    """Insert the evidence row and the rows of the documents that it cites."""
    driver.insert_evidence(connection, row, tenant_id=tenant_id)


def _documents(evidence_id: str, citations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "evidence_id": evidence_id,
            "position": position,
            "doc_ref": cited["artifact_id"] if "artifact_id" in cited else cited["doc_ref"],
            "revision": cited.get("revision"),
            "digest": cited["digest"],
        }
        for position, cited in enumerate(citations)
    ]


def find_miscited(connection: DriverConnection, rows: Sequence[Row], *, tenant_id: str) -> list[str]:
    """Return the evidence whose rows of documents are not the ones that it cites."""
    held: dict[str, list[dict[str, Any]]] = {}
    evidence_ids = [str(row["evidence_id"]) for row in rows]
    for document in driver.list_documents(connection, tenant_id=tenant_id, evidence_ids=evidence_ids):
        held.setdefault(document["evidence_id"], []).append(dict(document))
    return [
        str(row["evidence_id"])
        for row in rows
        if held.get(row["evidence_id"], []) != _documents(row["evidence_id"], loads(row["documents"]))
    ]


def is_recorded(connection: DriverConnection, *, tenant_id: str, evidence_id: str, outcome: Outcome) -> bool:
    """Tell whether the attempt's evidence is committed, with this outcome."""
    row = driver.get_evidence(connection, tenant_id=tenant_id, evidence_id=evidence_id)
    return row is not None and row["outcome"] == outcome.value


def get(connection: DriverConnection, *, tenant_id: str, evidence_id: str) -> EvidenceView:
    """Return one evidence row; refuse EVIDENCE_NOT_FOUND."""
    row = driver.get_evidence(connection, tenant_id=tenant_id, evidence_id=evidence_id)
    if row is None:
        raise evidence_not_found()
    return view(row)


def list_page(connection: DriverConnection, query: ListEvidence, *, tenant_id: str) -> Page[EvidenceView]:
    """Return evidence newest first."""
    equal = query.model_dump(
        include={"run_id", "plane_id", "outcome", "reason_code", "query_hash"}, mode="json"
    )
    # What was allowed is OK, and nothing else is.
    refused = query.outcome not in (None, Outcome.ALLOWED) or query.reason_code not in (None, Reason.OK)
    return newest_first(
        query,
        tenant_id=tenant_id,
        operation="retrieval.evidence.list",
        columns=("requested_at", "evidence_id"),
        fetch=lambda before, limit: driver.list_evidence(
            connection,
            tenant_id=tenant_id,
            equal=equal,
            since=query.from_,
            until=query.to,
            refused=refused,
            before=before,
            limit=limit,
        ),
        view=view,
    )


def list_run(connection: DriverConnection, *, tenant_id: str, run_id: str, limit: int) -> Sequence[Row]:
    """Return a run's newest evidence."""
    return driver.list_evidence(connection, tenant_id=tenant_id, equal={"run_id": run_id}, limit=limit)


def list_readers(
    connection: DriverConnection, *, tenant_id: str, plane_id: str, run_ids: Sequence[str], limit: int = 20
) -> Sequence[str]:
    """Return which of these runs were given knowledge of the plane, at most `limit`."""
    if not run_ids:
        return ()
    return driver.list_readers(
        connection, tenant_id=tenant_id, plane_id=plane_id, run_ids=run_ids, limit=limit
    )


def view(row: Row) -> EvidenceView:
    """Return the view of an evidence row."""
    members = {name: row[name] for name in EvidenceView.model_fields if name != "protected_state"}
    kept = row["protected_commit"] is not None
    return EvidenceView.model_validate(
        {
            **members,
            "matched_rules": loads(row["matched_rules"]),
            "documents": loads(row["documents"]),
            "query": None if row["query"] is None else loads(row["query"]),
            "protected_state": None if not kept else "INTACT" if row["erased_fact_id"] is None else "ERASED",
            "outcome": Outcome(row["outcome"]),
        }
    )


def count_run(connection: DriverConnection, *, tenant_id: str, run_id: str) -> int:
    """Return how many accesses a run attempted."""
    return driver.count_evidence(connection, tenant_id=tenant_id, run_id=run_id)


def list_cited(connection: DriverConnection, *, tenant_id: str, digests: Sequence[str]) -> frozenset[str]:
    """Return which of these content digests were given to a run, as its evidence says."""
    return frozenset(driver.list_cited(connection, tenant_id=tenant_id, digests=digests))
