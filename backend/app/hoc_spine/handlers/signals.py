"""Spine L4: signals: noticed, shown, acknowledged, suppressed, escalated to an incident."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from app.domains.activity.engines import runs
from app.domains.activity.engines import signals as engine
from app.domains.activity.errors import cited_run_not_found
from app.domains.activity.models.signals import (
    EmitSignal,
    ListSignals,
    SignalPath,
    SignalView,
    SuppressSignal,
)
from app.domains.incidents.engines import incidents
from app.domains.incidents.models.records import IncidentDraft
from app.domains.incidents.models.vocabulary import (
    CauseType,
    IncidentCategory,
    LinkKind,
    Severity,
    SourceType,
)
from app.hoc_spine.coordinators.completion_rules import load_governing
from app.hoc_spine.coordinators.incident_opening import open_incident
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import OperationsOf
from app.kernel.canonical_json import dumps
from app.kernel.pages import Page, page_of, read_cursor

ENTITY = "SIGNAL"
MAX_TITLE = 255


class EmittedSignal(SignalView):
    """The signal that stands; `seen` when it was noticed before."""

    seen: bool


class EscalateSignal(SignalPath):
    """Open an incident for a signal."""

    severity: Severity


class EscalatedSignal(SignalView):
    """What became of an escalation: the signal's incident, or the rule that prevented one."""

    result: Literal["ESCALATED", "PREVENTED"]
    prevention_id: str | None
    rule_id: str | None


def emit_signal(ctx: OperationContext, payload: EmitSignal) -> EmittedSignal:
    """Record something noticed; what was seen before is counted.

    Refuses MISSING_ARTIFACT, MISSING_SIGNAL_TYPE, MISSING_EVIDENCE, MISSING_DETECTED_BY, and
    REFERENCE_NOT_FOUND for a run that is not there.
    """
    if payload.run_id is not None and not runs.run_exists(
        ctx.connection, tenant_id=ctx.tenant_id, run_id=payload.run_id
    ):
        raise cited_run_not_found()
    signal_id = ctx.new_id("sig")
    standing = engine.emit_signal(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        artifact=payload.artifact,
        signal_type=payload.signal_type,
        evidence=payload.evidence,
        detected_by=payload.detected_by,
        now=ctx.now,
        signal_id=signal_id,
        field=payload.field,
        confidence=None if payload.confidence is None else round(payload.confidence * 100),
        notes=payload.notes,
        phase=payload.phase,
        environment=payload.environment,
        run_id=payload.run_id or ctx.request.run_id,
    )
    row = engine.require_signal(ctx.connection, tenant_id=ctx.tenant_id, signal_id=standing)
    return EmittedSignal(**engine.view(row).model_dump(), seen=standing != signal_id)


def get_signals(ctx: OperationContext, payload: ListSignals) -> Page[SignalView]:
    """Return signals, most often seen first, then newest."""
    filters = payload.model_dump(mode="json", exclude={"limit", "cursor"})
    binding = dumps([ctx.tenant_id, "activity.discovery.get_signals", filters])
    found = engine.list_signals(
        ctx.connection,
        payload,
        tenant_id=ctx.tenant_id,
        after=read_cursor(payload.cursor, binding, int, datetime, str),
        limit=payload.limit + 1,
    )
    return page_of(
        found,
        limit=payload.limit,
        binding=binding,
        key=lambda row: (row["seen_count"], row["last_seen_at"], row["signal_id"]),
        view=engine.view,
    )


def acknowledge(ctx: OperationContext, payload: SignalPath) -> SignalView:
    """Say that a person has seen the signal; its status stays, and doing it again is a no-op."""
    row = _lock(ctx, payload.signal_id)
    if row["acked_at"] is not None:
        return engine.view(row)
    return _change(ctx, row, engine.acknowledged(by=ctx.actor.id, now=ctx.now), "SignalAcknowledged")


def suppress(ctx: OperationContext, payload: SuppressSignal) -> SignalView:
    """Ignore a signal for so many minutes; the first sighting after them shows it again."""
    row = _lock(ctx, payload.signal_id)
    return _change(ctx, row, engine.suppressed(payload.minutes, now=ctx.now), "SignalSuppressed")


def escalate(ctx: OperationContext, payload: EscalateSignal) -> EscalatedSignal:
    """Open the signal's incident, once; where an INCIDENT rule prevents it the signal stays as it is."""
    seen = engine.require_signal(ctx.connection, tenant_id=ctx.tenant_id, signal_id=payload.signal_id)
    # The run's lock comes before the signal's.
    last = seen["last_run_id"]
    run = None if last is None else runs.lock_run(ctx.connection, tenant_id=ctx.tenant_id, run_id=last)
    row = _lock(ctx, payload.signal_id)
    draft = IncidentDraft(
        title=f"{row['signal_type']} on {row['artifact']}"[:MAX_TITLE],
        category=IncidentCategory.MANUAL,
        cause_type=CauseType.HUMAN if ctx.actor.type == "HUMAN" else CauseType.SYSTEM,
        source_type=SourceType.SIGNAL,
        severity=payload.severity,
        description=row["notes"],
        trigger_ref=f"signal:{row['signal_type']}",
        dedupe_key=f"signal:{row['signal_id']}",
    )
    snapshot = None if run is None else load_governing(ctx, run).snapshot
    opened = open_incident(ctx, draft, run=run, snapshot=snapshot)
    if opened.incident is None:
        return EscalatedSignal(
            **engine.view(row).model_dump(),
            result="PREVENTED",
            prevention_id=opened.prevention_id,
            rule_id=opened.rule_id,
        )
    incidents.link(ctx, opened.incident, [(LinkKind.SIGNAL, row["signal_id"])])
    values = engine.promoted(opened.incident["incident_id"], now=ctx.now)
    changed = _change(ctx, row, values, "SignalEscalated")
    return EscalatedSignal(**changed.model_dump(), result="ESCALATED", prevention_id=None, rule_id=None)


def _lock(ctx: OperationContext, signal_id: str) -> Mapping[str, Any]:
    row = engine.lock_open(ctx.connection, tenant_id=ctx.tenant_id, signal_id=signal_id)
    ctx.require_version(row["version"])
    return row


def _change(
    ctx: OperationContext, row: Mapping[str, Any], values: Mapping[str, Any], event: str
) -> SignalView:
    changed = engine.set_signal(ctx.connection, row, values, tenant_id=ctx.tenant_id)
    ctx.audit(
        event,
        ENTITY,
        row["signal_id"],
        before=engine.image(row),
        after=engine.image(changed),
        run_id=row["last_run_id"],
    )
    return engine.view(changed)


declare = OperationsOf("activity", "signals")
OPERATIONS = (
    declare.write(
        "activity.discovery.emit_signal",
        EmitSignal,
        EmittedSignal,
        emit_signal,
        gate="fact",
        creates=True,
        no_audit="the ledger of signals is the record of what was noticed",
    ),
    declare.read("activity.discovery.get_signals", ListSignals, Page[SignalView], get_signals),
    declare.write("activity.signals.acknowledge", SignalPath, SignalView, acknowledge, gate="fact"),
    declare.write("activity.signals.suppress", SuppressSignal, SignalView, suppress, gate="fact"),
    declare.write("activity.signals.escalate", EscalateSignal, EscalatedSignal, escalate, gate="fact"),
)
