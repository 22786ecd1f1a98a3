"""Tenants L5: the system's kill switch and degraded mode, two independent flags."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from app.db.connection import DriverConnection, Row
from app.domains.tenants.drivers import switches as driver
from app.domains.tenants.models import SwitchesView
from app.kernel.clock import format_time

Switch = Literal["kill", "degraded"]
_FLAG = {"kill": "kill_engaged", "degraded": "degraded"}


def read(connection: DriverConnection) -> Row:
    """Return both switches."""
    return driver.get_switches(connection)


def set_switch(
    connection: DriverConnection, switch: Switch, *, engaged: bool, now: datetime, by: str, reason: str
) -> bool:
    """Set one switch; return False when it stood that way already."""
    values = {
        _FLAG[switch]: engaged,
        f"{switch}_at": now if engaged else None,
        f"{switch}_by": by if engaged else None,
        f"{switch}_reason": reason if engaged else None,
    }
    return driver.set_switch(connection, values, flag=_FLAG[switch], engaged=engaged)


def view(row: Row) -> SwitchesView:
    """Return the view of the system's row."""
    return SwitchesView.model_validate({name: row[name] for name in SwitchesView.model_fields})


def image(row: Row) -> dict[str, Any]:
    """Return the audit image of the system's row, without reasons: they are protected in the entry itself."""
    shown = {name: row[name] for name in SwitchesView.model_fields if not name.endswith("_reason")}
    return {name: format_time(part) if isinstance(part, datetime) else part for name, part in shown.items()}
