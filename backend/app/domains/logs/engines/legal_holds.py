"""Logs L5: legal holds, placed once and released once, and which of them cover something."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.db.connection import DriverConnection, Row
from app.db.governed import row_image
from app.domains.logs.drivers import erasures as driver
from app.domains.logs.errors import hold_not_found, hold_released
from app.domains.logs.models.erasure import HoldScope, HoldStatus, HoldView, ListHolds


@dataclass(frozen=True, slots=True)
class ActiveHolds:
    """The holds of a tenant that are not released."""

    rows: Sequence[Row]

    def __bool__(self) -> bool:
        return bool(self.rows)

    def names(self, scope: HoldScope) -> frozenset[str]:
        """Return what holds of this scope are about."""
        return frozenset(row["scope_id"] for row in self.rows if row["scope"] == scope)

    def covering(
        self, *, runs: Collection[str] = (), subjects: Collection[str] = (), planes: Collection[str] = ()
    ) -> list[str]:
        """Return the holds that cover any of these; one on the tenant covers everything."""
        named = {HoldScope.RUN: runs, HoldScope.SUBJECT: subjects, HoldScope.PLANE: planes}
        return [
            row["hold_id"]
            for row in self.rows
            if row["scope"] == HoldScope.TENANT or row["scope_id"] in named[HoldScope(row["scope"])]
        ]


def read_active(connection: DriverConnection, *, tenant_id: str) -> ActiveHolds:
    """Return the holds that are not released."""
    return ActiveHolds(driver.list_active(connection, tenant_id=tenant_id))


def place(connection: DriverConnection, row: Mapping[str, Any], *, tenant_id: str) -> None:
    """Store a new hold."""
    driver.insert_hold(connection, row, tenant_id=tenant_id)


def lock_active(connection: DriverConnection, *, tenant_id: str, hold_id: str) -> Row:
    """Return a hold and keep it until the transaction ends; refuse HOLD_NOT_FOUND, HOLD_RELEASED."""
    row = driver.lock_hold(connection, tenant_id=tenant_id, hold_id=hold_id)
    if row is None:
        raise hold_not_found()
    if row["released_at"] is not None:
        raise hold_released()
    return row


def release(
    connection: DriverConnection, row: Row, *, tenant_id: str, by: str, now: datetime
) -> dict[str, Any]:
    """Release a locked hold for good and return it."""
    values = {"released_by": by, "released_at": now, "version": row["version"] + 1}
    driver.set_released(connection, tenant_id=tenant_id, hold_id=row["hold_id"], values=values)
    return {**row, **values}


def list_page(
    connection: DriverConnection,
    query: ListHolds,
    *,
    tenant_id: str,
    before: tuple[datetime, str] | None,
    limit: int,
) -> Sequence[Row]:
    """Return holds, newest first."""
    return driver.list_holds(
        connection,
        tenant_id=tenant_id,
        released=None if query.status is None else query.status is HoldStatus.RELEASED,
        before=before,
        limit=limit,
    )


def image(row: Row) -> dict[str, Any]:
    """Return the audit image of a hold."""
    return row_image("legal_holds", row)


def view(row: Row) -> HoldView:
    """Return what a caller sees of a hold."""
    status = HoldStatus.ACTIVE if row["released_at"] is None else HoldStatus.RELEASED
    return HoldView.model_validate({**row, "status": status})
