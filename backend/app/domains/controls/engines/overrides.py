"""Controls L5: overrides: another value of a limit for a while, asked for by one and approved by another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from app.db.connection import DriverConnection, Row
from app.db.governed import row_image
from app.domains.controls.drivers import overrides as driver
from app.domains.controls.errors import (
    invalid_transition,
    override_not_found,
    override_quota,
    override_stacking,
    override_too_long,
    override_window,
    self_approval,
)
from app.domains.controls.models.overrides import ListOverrides, OverrideView, RequestOverride
from app.domains.controls.models.usage import OverrideInForce
from app.domains.controls.models.vocabulary import OverrideStatus
from app.kernel.amounts import as_number

MAX_HOURS: Final = 168
MAX_LIVE: Final = 5
ENDS: Final[Mapping[OverrideStatus, frozenset[OverrideStatus]]] = {
    OverrideStatus.PENDING: frozenset(
        {
            OverrideStatus.APPROVED,
            OverrideStatus.REJECTED,
            OverrideStatus.CANCELLED,
            OverrideStatus.EXPIRED,
        }
    ),
    OverrideStatus.APPROVED: frozenset({OverrideStatus.CANCELLED, OverrideStatus.EXPIRED}),
}


def check_step(current: OverrideStatus, wanted: OverrideStatus) -> None:
    """Refuse INVALID_TRANSITION for a step that the state does not allow."""
    if wanted not in ENDS.get(current, frozenset()):
        raise invalid_transition(current.value, wanted.value)


def check_review(row: Mapping[str, Any], *, actor_id: str, allow_self_approval: bool, now: datetime) -> None:
    """Refuse SELF_APPROVAL by the requester, and INVALID_TRANSITION once the override has run out."""
    if row["requested_by"] == actor_id and not allow_self_approval:
        raise self_approval()
    if row["expires_at"] <= now:
        raise invalid_transition(OverrideStatus.EXPIRED.value, OverrideStatus.APPROVED.value)


def check_window(given: RequestOverride, *, now: datetime) -> tuple[datetime, datetime]:
    """Return when the override would act; refuse OVERRIDE_TOO_LONG and a window that is over or turned."""
    starts_at = given.starts_at or now
    if given.expires_at <= starts_at:
        raise override_window("must be later than starts_at")
    if given.expires_at <= now:
        raise override_window("lies in the past")
    if given.expires_at - starts_at > timedelta(hours=MAX_HOURS):
        raise override_too_long(MAX_HOURS)
    return starts_at, given.expires_at


def check_beside(live: Sequence[Row], limit_id: str) -> None:
    """Refuse OVERRIDE_STACKING and OVERRIDE_QUOTA; the caller holds the tenant's state row."""
    for row in live:
        if row["limit_id"] == limit_id:
            raise override_stacking(row["override_id"])
    if len(live) >= MAX_LIVE:
        raise override_quota(MAX_LIVE)


def build(
    given: RequestOverride,
    window: tuple[datetime, datetime],
    *,
    override_id: str,
    requested_by: str,
    protected: Mapping[str, Any],
    now: datetime,
) -> dict[str, Any]:
    """Return the row of a PENDING override; `protected` holds the redacted reason with its commitment."""
    return {
        "override_id": override_id,
        "limit_id": given.limit_id,
        "override_value": given.override_value,
        "starts_at": window[0],
        "expires_at": window[1],
        "requested_by": requested_by,
        "status": OverrideStatus.PENDING.value,
        "reviewed_at": None,
        "reviewed_by": None,
        "cancelled_at": None,
        "cancelled_by": None,
        "created_at": now,
        "updated_at": now,
        "version": 1,
        **protected,
    }


def insert(connection: DriverConnection, row: Mapping[str, Any], *, tenant_id: str) -> None:
    """Insert an override."""
    driver.insert_override(connection, tenant_id=tenant_id, row=row)


def require(connection: DriverConnection, *, tenant_id: str, override_id: str, lock: bool = False) -> Row:
    """Return an override's row, held for a change if asked; refuse OVERRIDE_NOT_FOUND."""
    row = driver.get_override(connection, tenant_id=tenant_id, override_id=override_id, lock=lock)
    if row is None:
        raise override_not_found()
    return row


def list_live(connection: DriverConnection, *, tenant_id: str) -> Sequence[Row]:
    """Return the overrides that are pending or approved."""
    return driver.list_live(connection, tenant_id=tenant_id)


def list_approved(connection: DriverConnection, *, tenant_id: str) -> tuple[OverrideInForce, ...]:
    """Return the approved overrides, whether their time has come or not; live_epoch moves with them."""
    return tuple(
        OverrideInForce(
            row["override_id"], row["limit_id"], row["override_value"], row["starts_at"], row["expires_at"]
        )
        for row in driver.list_live(connection, tenant_id=tenant_id)
        if row["status"] == OverrideStatus.APPROVED
    )


def lock_due(connection: DriverConnection, *, tenant_id: str, now: datetime, limit: int) -> Sequence[Row]:
    """Return and hold live overrides that have run out."""
    return driver.lock_due(connection, tenant_id=tenant_id, now=now, limit=limit)


def list_tenants_due(connection: DriverConnection, *, now: datetime) -> Sequence[str]:
    """Return the tenants that have live overrides that have run out."""
    return driver.list_tenants_due(connection, now=now)


def write(
    connection: DriverConnection, row: Row, values: Mapping[str, Any], *, tenant_id: str, now: datetime
) -> dict[str, Any]:
    """Write a change of an override that is held and return the row."""
    written = {**values, "updated_at": now}
    if not driver.set_override(
        connection,
        tenant_id=tenant_id,
        override_id=row["override_id"],
        version=row["version"],
        values=written,
    ):
        raise LookupError(f"override {row['override_id']} moved under its own lock")
    return {**row, **written, "version": row["version"] + 1}


def list_page(
    connection: DriverConnection,
    query: ListOverrides,
    *,
    tenant_id: str,
    before: tuple[datetime, str] | None,
    limit: int,
) -> Sequence[Row]:
    """Return overrides newest first."""
    equal = query.model_dump(mode="json", include={"status", "limit_id"})
    return driver.list_overrides(connection, tenant_id=tenant_id, equal=equal, before=before, limit=limit)


def image(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the audit image of an override."""
    return row_image("limit_overrides", row)


def view(row: Mapping[str, Any]) -> OverrideView:
    """Return what a caller sees of an override."""
    return OverrideView.model_validate(
        {
            **{name: row[name] for name in OverrideView.model_fields if name != "protected_state"},
            "override_value": as_number(row["override_value"]),
            "protected_state": "INTACT" if row["erased_fact_id"] is None else "ERASED",
        }
    )
