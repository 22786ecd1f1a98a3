"""Spine: the work that maintenance does for tenants, and how it learns which tenants have it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from app.db.connection import DriverConnection
from app.domains.activity.engines import reconciliation, runs
from app.domains.controls.engines import ledger, overrides
from app.domains.lessons.engines import lessons
from app.domains.logs.engines import heads, idempotency, outbox
from app.domains.retrieval.engines import attempts, observations
from app.hoc_spine.coordinators import plan_limits, plane_upkeep, retention_values
from app.hoc_spine.coordinators.run_completeness import GRACE, WINDOW
from app.hoc_spine.ports import Services

FindTenants = Callable[[DriverConnection, Services], Collection[str]]


@dataclass(frozen=True, slots=True)
class TenantWork:
    """How to find the tenants that have due work, and how to count what an answer says was done."""

    find: FindTenants
    count: Callable[[Any], int]


def _now(find: Callable[..., Collection[str]]) -> FindTenants:
    return lambda connection, services: find(connection, now=services.clock.now())


def _reconciled(connection: DriverConnection, services: Services) -> Collection[str]:
    now = services.clock.now()
    return reconciliation.list_tenants_due(connection, since=now - WINDOW, until=now - GRACE)


def _observed(connection: DriverConnection, services: Services) -> Collection[str]:
    grace = timedelta(seconds=services.settings.bypass_grace_seconds)
    return observations.list_tenants_due(connection, until=services.clock.now() - grace)


# What is done, in this order. An operation that leaves more to do says so by `more`, or by a `next_cursor`
# from which it goes on. Who is found may have nothing to do any more; whoever has work must be found.
TENANT_WORK: Mapping[str, TenantWork] = {
    "runs.expire": TenantWork(_now(runs.list_tenants_due), lambda done: len(done.expired)),
    "usage.expire_reservations": TenantWork(_now(ledger.list_tenants_due), lambda done: done.count),
    "controls.overrides.expire": TenantWork(_now(overrides.list_tenants_due), lambda done: done.count),
    "controls.limits.settle_plan": TenantWork(
        lambda connection, _services: plan_limits.list_tenants_unsettled(connection), lambda done: done.count
    ),
    "lessons.reactivate_due": TenantWork(_now(lessons.list_tenants_due), lambda done: len(done.reactivated)),
    "runs.reconcile": TenantWork(_reconciled, lambda done: len(done.incomplete)),
    "knowledge.planes.tend": TenantWork(
        _now(plane_upkeep.list_tenants_due), lambda done: len(done.refreshed)
    ),
    "retrieval.recover": TenantWork(_now(attempts.list_tenants_due), lambda done: done.recovered),
    "retrieval.reconcile": TenantWork(_observed, lambda done: done.matched + done.bypasses),
    "evidence.erase_over_age": TenantWork(retention_values.list_tenants_due, lambda done: done.erased),
    "idempotency.forget": TenantWork(_now(idempotency.list_tenants_due), lambda done: done.forgotten),
}
find_undelivered: FindTenants = _now(outbox.list_tenants_due)


def find_unanchored(connection: DriverConnection, services: Services) -> bool:
    """Tell whether the log of the system is to tell the heads of others."""
    return next(heads.list_unanchored(connection, now=services.clock.now()), None) is not None
