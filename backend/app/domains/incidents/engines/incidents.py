"""Incidents L5: severity, recurrence, the state table, and the storing of incidents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from app.db.connection import DriverConnection, Row
from app.db.gather import Question
from app.db.governed import row_image
from app.db.unit import GovernedUnit
from app.domains.incidents.drivers import incident_parts as part_rows
from app.domains.incidents.drivers import incidents as incident_rows
from app.domains.incidents.errors import incident_not_found, incident_resolved, severity_not_higher
from app.domains.incidents.models.records import IncidentDraft
from app.domains.incidents.models.vocabulary import (
    ImpactScope,
    IncidentEventType,
    LifecycleState,
    LinkKind,
    ResolutionMethod,
    Severity,
)
from app.kernel.canonical_json import dumps
from app.kernel.hashing import text_hash
from app.kernel.redaction import redact_text

SIGNATURE_VERSION: Final = "sig-1"
RECURRENCE_DAYS: Final = 30
MAX_TITLE: Final = 255
SEVERITY_BY_CODE: Final[Mapping[str, Severity]] = {
    "AGENT_CRASH": Severity.CRITICAL,
    "EXECUTION_TIMEOUT": Severity.HIGH,
    "STEP_FAILURE": Severity.HIGH,
    "SKILL_ERROR": Severity.HIGH,
    "POLICY_VIOLATION": Severity.HIGH,
    "CANCELLED": Severity.LOW,
    "MANUAL_STOP": Severity.LOW,
}
# Gravest first, as the vocabulary lists them.
_RANKS: Final = {severity: rank for rank, severity in enumerate(Severity)}
_PROTECTED: Final = ("title", "description", "error_message", "resolution_summary", "resolution_notes")


class IncidentOperation(StrEnum):
    """What a caller may do with an incident that exists."""

    ACKNOWLEDGE = "acknowledge"
    ESCALATE = "escalate"
    RESOLVE = "resolve"
    CLOSE = "close"


class Step(StrEnum):
    """Whether an operation changes the incident or finds it already so."""

    APPLY = "apply"
    NO_OP = "no-op"


def severity_of(error_code: str | None, stated: Severity | None = None) -> Severity:
    """Return how grave an incident is: as stated, else by its error code, else MEDIUM."""
    return stated or SEVERITY_BY_CODE.get(error_code or "UNKNOWN", Severity.MEDIUM)


def signature_of(draft: IncidentDraft, agent_id: str | None) -> str:
    """Return the recurrence signature (sig-1): equal for incidents that are the same trouble again."""
    members = {
        "v": SIGNATURE_VERSION,
        "category": draft.category.value,
        "error_code": draft.error_code,
        "agent_id": agent_id,
        "trigger_ref": draft.trigger_ref,
    }
    return text_hash(dumps(members))[:32]


def decide_step(state: LifecycleState, operation: IncidentOperation) -> Step:
    """Return what an operation does in a state; refuse INCIDENT_RESOLVED."""
    if state is LifecycleState.RESOLVED:
        raise incident_resolved()
    if state is LifecycleState.ACKED and operation is IncidentOperation.ACKNOWLEDGE:
        return Step.NO_OP
    return Step.APPLY


def check_escalation(current: Severity, wanted: Severity) -> None:
    """Refuse SEVERITY_NOT_HIGHER unless the severity rises."""
    if _RANKS[wanted] >= _RANKS[current]:
        raise severity_not_higher(current, wanted)


def redacted(draft: IncidentDraft) -> dict[str, str | None]:
    """Return the draft's texts as they are judged and stored."""
    texts = {
        "title": draft.title,
        "description": draft.description,
        "error_message": draft.error_message,
    }
    clean = {name: None if text is None else redact_text(text)[0] for name, text in texts.items()}
    return clean | {"title": str(clean["title"])[:MAX_TITLE]}


def acked_values(by: str, now: datetime) -> dict[str, Any]:
    """Return what an acknowledgement changes."""
    return {"lifecycle_state": LifecycleState.ACKED.value, "acked_at": now, "acked_by": by}


def resolved_values(method: ResolutionMethod, kind: str | None, by: str, now: datetime) -> dict[str, Any]:
    """Return what a resolution changes beside its texts."""
    return {
        "lifecycle_state": LifecycleState.RESOLVED.value,
        "resolved_at": now,
        "resolved_by": by,
        "resolution_method": method.value,
        "resolution_type": kind,
    }


def insert(unit: GovernedUnit, draft: IncidentDraft, *, run: Row | None) -> Row | None:
    """Store an incident with its CREATED event and both facts; None when its id or dedupe key is taken.

    Its recurrence is counted by the statement that stores it.
    """
    row = incident_rows.insert_incident(
        unit.connection,
        tenant_id=unit.tenant_id,
        row=_row(unit, draft, run),
        since=unit.now - timedelta(days=RECURRENCE_DAYS),
    )
    if row is None:
        return None
    unit.facts.add("incident", row, run_id=row["source_run_id"], attempt=row["attempt"])
    append_event(
        unit,
        row,
        IncidentEventType.CREATED,
        description="The incident was opened.",
        data={"severity": row["severity"], "recurrence_count": row["recurrence_count"]},
    )
    return row


def _row(unit: GovernedUnit, draft: IncidentDraft, run: Row | None) -> dict[str, Any]:
    agent_id = None if run is None else run["agent_id"]
    texts = redacted(draft)
    protected = {name: texts.get(name) for name in _PROTECTED}
    scope = draft.impact_scope or (ImpactScope.TENANT if run is None else ImpactScope.SINGLE_RUN)
    attempt = draft.attempt if draft.attempt is not None else (None if run is None else run["attempt"])
    return {
        "incident_id": draft.incident_id or unit.new_id("inc"),
        "source_run_id": None if run is None else run["run_id"],
        "attempt": attempt,
        "cause_type": draft.cause_type.value,
        "source_type": draft.source_type.value,
        "category": draft.category.value,
        "error_code": draft.error_code,
        # A reference, no text: digits inside an id may look like a number of a card.
        "trigger_ref": draft.trigger_ref,
        "impact_scope": scope.value,
        "affected_agent_id": agent_id,
        "recurrence_signature": signature_of(draft, agent_id),
        "signature_version": SIGNATURE_VERSION,
        "dedupe_key": draft.dedupe_key,
        "is_synthetic": False if run is None else bool(run["is_synthetic"]),
        "created_by": unit.actor.id,
        "severity": severity_of(draft.error_code, draft.severity).value,
        "lifecycle_state": LifecycleState.ACTIVE.value,
        "created_at": unit.now,
        "updated_at": unit.now,
        "version": 1,
        **unit.protect(protected),
    }


def find_known(
    connection: DriverConnection, *, tenant_id: str, incident_id: str | None, dedupe_key: str | None
) -> Row | None:
    """Return the incident that has taken this id or dedupe key."""
    known = None
    if incident_id is not None:
        known = incident_rows.get_incident(connection, tenant_id=tenant_id, incident_id=incident_id)
    if known is None and dedupe_key is not None:
        known = incident_rows.get_by_dedupe_key(connection, tenant_id=tenant_id, dedupe_key=dedupe_key)
    return known


def lock(connection: DriverConnection, *, tenant_id: str, incident_id: str) -> Row:
    """Return an incident and hold it until the transaction ends; refuse INCIDENT_NOT_FOUND."""
    row = incident_rows.lock_incident(connection, tenant_id=tenant_id, incident_id=incident_id)
    if row is None:
        raise incident_not_found()
    return row


def change(
    unit: GovernedUnit, row: Row, values: Mapping[str, Any], *, texts: Mapping[str, str | None] | None = None
) -> Row:
    """Store a change of a locked incident and return it; `texts` are redacted and protected."""
    protected: dict[str, Any] = {}
    # An erased incident takes no new texts: its commitment is the one that the erasure fact lists.
    if texts and row["erased_fact_id"] is None:
        clean = {name: None if text is None else redact_text(text)[0] for name, text in texts.items()}
        protected = unit.protect({**{name: row[name] for name in _PROTECTED}, **clean})
    changed = incident_rows.set_incident(
        unit.connection,
        tenant_id=unit.tenant_id,
        incident_id=row["incident_id"],
        version=row["version"],
        values={**values, **protected, "updated_at": unit.now},
    )
    if changed is None:
        raise RuntimeError(f"incident {row['incident_id']} moved under its own lock")
    return changed


def append_event(
    unit: GovernedUnit, row: Row, event: IncidentEventType, *, description: str, data: Mapping[str, Any]
) -> None:
    """Append what just happened to an incident, with its fact; each version has one event."""
    entry: dict[str, Any] = {
        "incident_id": row["incident_id"],
        "seq": row["version"],
        "event_type": event.value,
        "actor_type": unit.actor.type,
        "actor_id": unit.actor.id,
        "created_at": unit.now,
        **unit.protect({"description": redact_text(description)[0], "data": dumps(dict(data))}),
    }
    entry["fact_id"] = unit.facts.add(
        "incident.event", entry, run_id=row["source_run_id"], attempt=row["attempt"]
    )
    part_rows.insert_event(unit.connection, tenant_id=unit.tenant_id, row=entry)


def link(unit: GovernedUnit, row: Row, targets: Sequence[tuple[LinkKind, str]]) -> None:
    """Let a new incident point at what belongs to it, with one fact for each link."""
    entries: list[dict[str, Any]] = []
    for kind, ref in targets:
        entry: dict[str, Any] = {
            "incident_id": row["incident_id"],
            "kind": kind.value,
            "ref": ref,
            "created_at": unit.now,
        }
        entry["fact_id"] = unit.facts.add(
            "incident.link", entry, run_id=row["source_run_id"], attempt=row["attempt"]
        )
        entries.append(entry)
    if entries:
        part_rows.insert_links(unit.connection, tenant_id=unit.tenant_id, rows=entries)


def ask_attempt(connection: DriverConnection, *, tenant_id: str, run_id: str, attempt: int) -> Question:
    """Ask how many incidents of each category an attempt has: word the category, number the count."""
    return incident_rows.ask_attempt(connection, tenant_id=tenant_id, run_id=run_id, attempt=attempt)


def image(row: Row) -> dict[str, Any]:
    """Return the audit image of an incident."""
    return row_image("incidents", row)
