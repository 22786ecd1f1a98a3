"""Spine: operations on incidents: reported, shown, acknowledged, escalated, resolved, closed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.db.connection import Row
from app.domains.activity.engines import runs
from app.domains.activity.errors import cited_run_not_found
from app.domains.incidents.engines import incident_views, incidents
from app.domains.incidents.engines.incidents import IncidentOperation, Step
from app.domains.incidents.errors import incident_exists
from app.domains.incidents.models.records import (
    CloseIncident,
    CreateIncident,
    EscalateIncident,
    IncidentDraft,
    IncidentEventView,
    IncidentLinkView,
    IncidentRef,
    IncidentView,
    ListIncidentParts,
    ListIncidents,
    ListSignatures,
    OpenedIncident,
    OpenIntegrity,
    ResolveIncident,
    SignatureView,
)
from app.domains.incidents.models.vocabulary import (
    CauseType,
    ImpactScope,
    IncidentCategory,
    IncidentEventType,
    LifecycleState,
    ResolutionMethod,
    Severity,
    SourceType,
)
from app.hoc_spine.coordinators.completion_rules import load_governing
from app.hoc_spine.coordinators.incident_opening import Opened, find_prevented, open_incident
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import Operation, OperationsOf
from app.kernel.pages import Page
from app.kernel.redaction import redact_text


def create_incident(ctx: OperationContext, given: CreateIncident) -> OpenedIncident:
    """Report an incident, which an INCIDENT rule may say is none; refuse INCIDENT_EXISTS."""
    run = _cited_run(ctx, given.source_run_id)
    draft = IncidentDraft(
        title=given.title,
        category=given.category,
        cause_type=_cause(ctx, run),
        source_type=SourceType.MANUAL,
        severity=given.severity,
        error_code=given.error_code,
        description=given.description,
        impact_scope=given.impact_scope,
        incident_id=given.incident_id,
    )
    before = _find_before(ctx, draft)
    if before is None:
        snapshot = None if run is None else load_governing(ctx, run).snapshot
        before = open_incident(ctx, draft, run=run, snapshot=snapshot)
        if before.created or before.incident is None:
            return _opened(before, replayed=False)
    if before.incident is not None and not incident_views.is_same_report(
        ctx.connection, before.incident, given, tenant_id=ctx.tenant_id
    ):
        raise incident_exists(str(given.incident_id))
    return _opened(before, replayed=True)


def open_integrity(ctx: OperationContext, given: OpenIntegrity) -> OpenedIncident:
    """Open the incident of a damaged store, once for each code and table; nothing suppresses it."""
    run = _cited_run(ctx, given.run_id)
    # A rule that lost its hash is the rule's trouble; everything else is the store's.
    of_policy = given.code == "POLICY_INTEGRITY"
    draft = IncidentDraft(
        title=f"Integrity failure: {given.code} in {given.table}",
        category=IncidentCategory.INTEGRITY,
        cause_type=CauseType.SYSTEM,
        source_type=SourceType.POLICY if of_policy else SourceType.VERIFIER,
        severity=Severity.HIGH if of_policy else Severity.CRITICAL,
        error_code=given.code,
        description=given.detail,
        trigger_ref=given.table,
        impact_scope=ImpactScope.TENANT if of_policy else ImpactScope.SYSTEM,
        dedupe_key=f"integrity:{given.code}:{given.table}",
        suppressible=False,
    )
    opened = open_incident(ctx, draft, run=run, snapshot=None)
    return _opened(opened, replayed=not opened.created)


def get_incident(ctx: OperationContext, query: IncidentRef) -> IncidentView:
    """Show one incident; refuse INCIDENT_NOT_FOUND."""
    return incident_views.view(
        incident_views.require(ctx.connection, tenant_id=ctx.tenant_id, incident_id=query.incident_id)
    )


def list_incidents(ctx: OperationContext, query: ListIncidents) -> Page[IncidentView]:
    """List incidents, newest first."""
    return incident_views.list_page(ctx.connection, query, tenant_id=ctx.tenant_id)


def list_events(ctx: OperationContext, query: ListIncidentParts) -> Page[IncidentEventView]:
    """List what happened to an incident, first first; refuse INCIDENT_NOT_FOUND."""
    return incident_views.list_events(ctx.connection, query, tenant_id=ctx.tenant_id)


def list_links(ctx: OperationContext, query: ListIncidentParts) -> Page[IncidentLinkView]:
    """List what an incident points at; refuse INCIDENT_NOT_FOUND."""
    return incident_views.list_links(ctx.connection, query, tenant_id=ctx.tenant_id)


def list_signatures(ctx: OperationContext, query: ListSignatures) -> Page[SignatureView]:
    """List what recurs, most often first."""
    return incident_views.list_signatures(ctx.connection, query, tenant_id=ctx.tenant_id, now=ctx.now)


def acknowledge_incident(ctx: OperationContext, given: IncidentRef) -> IncidentView:
    """Say that somebody looks after an incident; a no-op when somebody does already."""
    row = _lock(ctx, given.incident_id)
    if incidents.decide_step(LifecycleState(row["lifecycle_state"]), IncidentOperation.ACKNOWLEDGE) is (
        Step.NO_OP
    ):
        return incident_views.view(row)
    changed = incidents.change(ctx, row, incidents.acked_values(ctx.actor.id, ctx.now))
    return _record(
        ctx,
        row,
        changed,
        IncidentEventType.ACKNOWLEDGED,
        "IncidentAcknowledged",
        description="The incident was acknowledged.",
        data={},
    )


def escalate_incident(ctx: OperationContext, given: EscalateIncident) -> IncidentView:
    """Raise an incident's severity; refuse SEVERITY_NOT_HIGHER."""
    row = _lock(ctx, given.incident_id)
    incidents.decide_step(LifecycleState(row["lifecycle_state"]), IncidentOperation.ESCALATE)
    incidents.check_escalation(Severity(row["severity"]), given.severity)
    values = {"severity": given.severity.value, "escalated_at": ctx.now}
    changed = incidents.change(ctx, row, values)
    return _record(
        ctx,
        row,
        changed,
        IncidentEventType.ESCALATED,
        "IncidentEscalated",
        description=given.reason,
        data={"from": row["severity"], "to": changed["severity"]},
        reason=given.reason,
    )


def resolve_incident(ctx: OperationContext, given: ResolveIncident) -> IncidentView:
    """Record how an incident came to its end."""
    row = _lock(ctx, given.incident_id)
    incidents.decide_step(LifecycleState(row["lifecycle_state"]), IncidentOperation.RESOLVE)
    method = ResolutionMethod(given.resolution_method)
    kind = None if given.type is None else redact_text(given.type)[0]
    changed = incidents.change(
        ctx,
        row,
        incidents.resolved_values(method, kind, ctx.actor.id, ctx.now),
        texts={"resolution_summary": given.summary, "resolution_notes": given.notes},
    )
    return _record(
        ctx,
        row,
        changed,
        IncidentEventType.RESOLVED,
        "IncidentResolved",
        description=given.summary or "The incident was resolved.",
        data={"resolution_method": method.value, "resolution_type": kind},
    )


def close_incident(ctx: OperationContext, given: CloseIncident) -> IncidentView:
    """Close an incident by hand, with the reason."""
    row = _lock(ctx, given.incident_id)
    incidents.decide_step(LifecycleState(row["lifecycle_state"]), IncidentOperation.CLOSE)
    values = incidents.resolved_values(ResolutionMethod.MANUAL_CLOSURE, None, ctx.actor.id, ctx.now)
    changed = incidents.change(ctx, row, values, texts={"resolution_notes": given.reason})
    return _record(
        ctx,
        row,
        changed,
        IncidentEventType.MANUALLY_CLOSED,
        "IncidentManuallyClosed",
        description=given.reason,
        data={},
        reason=given.reason,
    )


def _cited_run(ctx: OperationContext, run_id: str | None) -> Row | None:
    """Return the run that a body cites and hold it, first of all locks; refuse REFERENCE_NOT_FOUND."""
    if run_id is None:
        return None
    run = runs.find_and_lock(ctx.connection, tenant_id=ctx.tenant_id, run_id=run_id)
    if run is None:
        raise cited_run_not_found("source_run_id")
    return run


def _cause(ctx: OperationContext, run: Row | None) -> CauseType:
    if run is not None:
        return CauseType.LLM_RUN
    return CauseType.HUMAN if ctx.actor.type == "HUMAN" else CauseType.SYSTEM


def _find_before(ctx: OperationContext, draft: IncidentDraft) -> Opened | None:
    """Return what became of an earlier report under the same id; refuse INCIDENT_EXISTS for another one."""
    if draft.incident_id is None:
        return None
    known = incidents.find_known(
        ctx.connection, tenant_id=ctx.tenant_id, incident_id=draft.incident_id, dedupe_key=None
    )
    if known is not None:
        return Opened(known, created=False)
    prevented = find_prevented(ctx, draft)
    if prevented is not None and not prevented.same:
        raise incident_exists(draft.incident_id)
    return prevented


def _opened(opened: Opened, *, replayed: bool) -> OpenedIncident:
    if opened.incident is not None:
        return OpenedIncident(
            result="CREATED", incident=incident_views.view(opened.incident), replayed=replayed
        )
    return OpenedIncident(
        result="PREVENTED",
        prevention_id=opened.prevention_id,
        rule_id=opened.rule_id,
        decision_id=opened.decision_id,
        replayed=replayed,
    )


def _lock(ctx: OperationContext, incident_id: str) -> Row:
    row = incidents.lock(ctx.connection, tenant_id=ctx.tenant_id, incident_id=incident_id)
    ctx.require_version(row["version"])
    return row


def _record(
    ctx: OperationContext,
    before: Row,
    after: Row,
    event: IncidentEventType,
    audited: str,
    *,
    description: str,
    data: Mapping[str, Any],
    reason: str | None = None,
) -> IncidentView:
    incidents.append_event(ctx, after, event, description=description, data=data)
    ctx.audit(
        audited,
        "INCIDENT",
        after["incident_id"],
        before=incidents.image(before),
        after=incidents.image(after),
        reason=reason,
        run_id=after["source_run_id"],
    )
    return incident_views.view(after)


declare = OperationsOf("incidents")
OPERATIONS = (
    declare.write("incidents.create", CreateIncident, OpenedIncident, create_incident, creates=True),
    Operation(
        name="incidents.open_integrity",
        owner="incidents",
        mode="write",
        scope=None,
        door="worker",
        input=OpenIntegrity,
        output=OpenedIncident,
        handler=open_integrity,
    ),
    declare.read("incidents.list", ListIncidents, Page[IncidentView], list_incidents),
    declare.read("incidents.get", IncidentRef, IncidentView, get_incident),
    declare.read("incidents.events", ListIncidentParts, Page[IncidentEventView], list_events),
    declare.read("incidents.links", ListIncidentParts, Page[IncidentLinkView], list_links),
    declare.read("incidents.signatures", ListSignatures, Page[SignatureView], list_signatures),
    declare.write("incidents.acknowledge", IncidentRef, IncidentView, acknowledge_incident),
    declare.write("incidents.escalate", EscalateIncident, IncidentView, escalate_incident),
    declare.write("incidents.resolve", ResolveIncident, IncidentView, resolve_incident),
    declare.write("incidents.close", CloseIncident, IncidentView, close_incident),
)
