"""Spine L4: retrieval that was seen from outside: shown, and matched with the evidence of mediated access."""

from __future__ import annotations

from datetime import datetime, timedelta

from prometheus_client import Counter

from app.domains.activity.engines import runs, signals
from app.domains.retrieval.engines import observations as engine
from app.domains.retrieval.engines.reconciliation import Sighting, Verdict, decide_sighting
from app.domains.retrieval.models import (
    ListObservations,
    ObservationStatus,
    ObservationView,
    Reconcile,
    Reconciled,
)
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import Operation, OperationsOf
from app.kernel.pages import Page, page_of, read_cursor

BATCH = 200
SIGNAL_TYPE = "retrieval_bypass"
DETECTED_BY = "retrieval.reconcile"
BYPASSES = Counter("hoc_retrieval_bypass", "Retrieval spans that no access speaks for", ["reason"])


def list_observations(ctx: OperationContext, payload: ListObservations) -> Page[ObservationView]:
    """Return observations in the order in which they are judged."""
    filters = payload.model_dump_json(exclude={"limit", "cursor"})
    binding = f"{ctx.tenant_id}:retrieval.observations.list:{filters}"
    found = engine.list_page(
        ctx.connection,
        payload,
        tenant_id=ctx.tenant_id,
        after=read_cursor(payload.cursor, binding, datetime, str, str),
        limit=payload.limit + 1,
    )
    return page_of(
        found,
        limit=payload.limit,
        binding=binding,
        key=lambda row: (row["started_at"], row["trace_id"], row["span_id"]),
        view=engine.view,
    )


def reconcile(ctx: OperationContext, _payload: Reconcile) -> Reconciled:
    """Judge the spans whose grace is over, in their order; each bypass is a signal, in this transaction."""
    grace = timedelta(seconds=ctx.services.settings.bypass_grace_seconds)
    due = engine.lock_due(ctx.connection, tenant_id=ctx.tenant_id, until=ctx.now - grace, limit=BATCH)
    matched = 0
    for sighting in due:
        candidate = engine.find_candidate(ctx.connection, sighting, tenant_id=ctx.tenant_id)
        verdict = decide_sighting(sighting, candidate)
        signal_id = None
        if verdict.status is ObservationStatus.MATCHED:
            matched += 1
        else:
            signal_id = _report(ctx, sighting, verdict)
        engine.set_judged(ctx.connection, sighting, verdict, tenant_id=ctx.tenant_id, signal_id=signal_id)
    return Reconciled(matched=matched, bypasses=len(due) - matched, more=len(due) == BATCH)


def _report(ctx: OperationContext, sighting: Sighting, verdict: Verdict) -> str:
    reason = str(verdict.reason)
    evidence = {
        "run_id": sighting.run_id,
        "trace_id": sighting.trace_id,
        "span_id": sighting.span_id,
        "reason": reason,
    }
    run_id = sighting.run_id
    # A span may name a run that was never one of the tenant's.
    known = run_id is not None and runs.run_exists(ctx.connection, tenant_id=ctx.tenant_id, run_id=run_id)
    ctx.outbox("RetrievalBypassDetected", evidence)
    ctx.after_commit(BYPASSES.labels(reason).inc)
    return signals.emit_signal(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        artifact=sighting.data_source_id or sighting.operation,
        field=sighting.run_id,
        signal_type=SIGNAL_TYPE,
        evidence=evidence,
        detected_by=DETECTED_BY,
        confidence=sighting.confidence,
        run_id=run_id if known else None,
        signal_id=ctx.new_id("sig"),
        now=ctx.now,
    )


declare = OperationsOf("retrieval")
OPERATIONS = (
    declare.read("retrieval.observations.list", ListObservations, Page[ObservationView], list_observations),
    Operation(
        "retrieval.reconcile",
        "retrieval",
        "write",
        None,
        Reconcile,
        Reconciled,
        reconcile,
        door="worker",
        no_audit="a bypass is recorded as a signal; what matches changes nothing but its own observation",
    ),
)
