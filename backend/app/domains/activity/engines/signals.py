"""Activity L5: signals: what was noticed, how often, and what became of it; nothing decides by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from app.db.connection import DriverConnection, Row
from app.domains.activity.drivers import discovery_ledger as driver
from app.domains.activity.errors import missing_member, signal_not_found, signal_promoted
from app.domains.activity.models.signals import (
    ListSignals,
    SignalStatus,
    SignalView,
)
from app.kernel.canonical_json import dumps, loads
from app.kernel.clock import format_time
from app.kernel.redaction import redact_json, redact_text

_NEW: Mapping[str, Any] = {
    "seen_count": 1,
    "status": SignalStatus.OBSERVED.value,
    "acked_at": None,
    "acked_by": None,
    "suppressed_until": None,
    "incident_id": None,
    "version": 1,
}


def emit_signal(
    connection: DriverConnection,
    *,
    tenant_id: str,
    artifact: str,
    signal_type: str,
    evidence: Mapping[str, Any],
    detected_by: str,
    now: datetime,
    signal_id: str,
    field: str | None = None,
    confidence: int | None = None,
    notes: str | None = None,
    phase: str | None = None,
    environment: str | None = None,
    run_id: str | None = None,
) -> str:
    """Record a sighting and return the id that stands: `signal_id`, or that of the first sighting.

    What was seen before is counted; its evidence takes the new members, its fixed columns stay.
    Refuses MISSING_ARTIFACT, MISSING_SIGNAL_TYPE, MISSING_EVIDENCE, MISSING_DETECTED_BY; raises on
    SQL errors, and never commits: the sighting is part of what it was noticed in.
    """
    _require("MISSING_ARTIFACT", "artifact", artifact.strip())
    _require("MISSING_SIGNAL_TYPE", "signal_type", signal_type.strip())
    _require("MISSING_EVIDENCE", "evidence", evidence)
    _require("MISSING_DETECTED_BY", "detected_by", detected_by.strip())
    seen, _ = redact_json(dict(evidence))
    row = {
        "signal_id": signal_id,
        "artifact": artifact,
        "field": field,
        "signal_type": signal_type,
        "detected_by": detected_by,
        "phase": phase,
        "environment": environment,
        "first_seen_at": now,
        "notes": None if notes is None else redact_text(notes)[0],
        "evidence": dumps(seen),
        "confidence": confidence,
        "last_seen_at": now,
        "last_run_id": run_id,
        "created_at": now,
        "updated_at": now,
        **_NEW,
    }
    if driver.insert_signal(connection, row, tenant_id=tenant_id):
        return signal_id
    known = driver.lock_sighting(
        connection, tenant_id=tenant_id, artifact=artifact, field=field, signal_type=signal_type
    )
    if known is None:
        raise LookupError(f"signal {signal_type} on {artifact} is neither insertable nor there")
    values = _seen_again(known, seen, confidence=confidence, run_id=run_id, now=now)
    driver.set_signal(connection, values, tenant_id=tenant_id, signal_id=known["signal_id"])
    return str(known["signal_id"])


def _require(code: str, name: str, value: object) -> None:
    if not value:
        raise missing_member(code, name)


def _seen_again(
    known: Row, evidence: Mapping[str, Any], *, confidence: int | None, run_id: str | None, now: datetime
) -> dict[str, Any]:
    until = known["suppressed_until"]
    wakes = known["status"] == SignalStatus.IGNORED and (until is None or until <= now)
    return {
        "seen_count": known["seen_count"] + 1,
        # Two transactions may see it in the other order than they began.
        "last_seen_at": max(now, known["last_seen_at"]),
        "evidence": dumps({**loads(known["evidence"]), **evidence}),
        "confidence": known["confidence"] if confidence is None else confidence,
        "last_run_id": run_id or known["last_run_id"],
        "status": SignalStatus.OBSERVED.value if wakes else known["status"],
        "suppressed_until": None if wakes else until,
        "updated_at": now,
    }


def require_signal(connection: DriverConnection, *, tenant_id: str, signal_id: str) -> Row:
    """Return a signal's row without a lock; refuse SIGNAL_NOT_FOUND."""
    row = driver.get_signal(connection, tenant_id=tenant_id, signal_id=signal_id)
    if row is None:
        raise signal_not_found()
    return row


def lock_open(connection: DriverConnection, *, tenant_id: str, signal_id: str) -> Row:
    """Lock and return a signal that somebody may act on; refuse SIGNAL_NOT_FOUND, SIGNAL_PROMOTED."""
    row = driver.lock_signal(connection, tenant_id=tenant_id, signal_id=signal_id)
    if row is None:
        raise signal_not_found()
    if row["status"] == SignalStatus.PROMOTED:
        raise signal_promoted(row["incident_id"])
    return row


def acknowledged(*, by: str, now: datetime) -> dict[str, Any]:
    """Return what an acknowledgement changes; the status stays as it is."""
    return {"acked_at": now, "acked_by": by, "updated_at": now}


def suppressed(minutes: int, *, now: datetime) -> dict[str, Any]:
    """Return what a suppression changes."""
    until = now + timedelta(minutes=minutes)
    return {"status": SignalStatus.IGNORED.value, "suppressed_until": until, "updated_at": now}


def promoted(incident_id: str, *, now: datetime) -> dict[str, Any]:
    """Return what an escalation changes: the signal points at its incident for good."""
    return {
        "status": SignalStatus.PROMOTED.value,
        "incident_id": incident_id,
        "suppressed_until": None,
        "updated_at": now,
    }


def set_signal(
    connection: DriverConnection, row: Row, values: Mapping[str, Any], *, tenant_id: str
) -> dict[str, Any]:
    """Change a signal that is held and return its row as changed."""
    driver.set_signal(connection, values, tenant_id=tenant_id, signal_id=row["signal_id"])
    return {**row, **values, "version": row["version"] + 1}


def list_signals(
    connection: DriverConnection,
    query: ListSignals,
    *,
    tenant_id: str,
    after: tuple[int, datetime, str] | None,
    limit: int,
) -> Sequence[Row]:
    """Return the rows of signals, most often seen first, then newest."""
    equal = query.model_dump(mode="json", include={"artifact", "signal_type", "status"}, exclude_none=True)
    return driver.list_signals(connection, tenant_id=tenant_id, equal=equal, after=after, limit=limit)


def image(row: Row) -> dict[str, Any]:
    """Return what the audit ledger keeps of a signal: its whole row."""
    plain = {
        name: format_time(value) if isinstance(value, datetime) else value for name, value in row.items()
    }
    return {**plain, "evidence": loads(row["evidence"])}


def view(row: Row) -> SignalView:
    """Return what a caller sees of a signal; confidence is 0..1 outside, percent inside."""
    confidence = row["confidence"]
    return SignalView.model_validate(
        {
            **{name: row[name] for name in SignalView.model_fields},
            "evidence": loads(row["evidence"]),
            "confidence": None if confidence is None else confidence / 100,
        }
    )
