"""In process: waiting for a plane tells how it ended and never raises."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from app.domains.knowledge.models.vocabulary import (
    KnowledgePlaneLifecycleState as State,
)
from app.hoc_spine.coordinators.plane_wait import WaitResult, wait_until
from tests.factories.lifecycle import move_plane, path_to, plane_in
from tests.factories.tenants import Tenant


class Passing:
    """Time that passes only by sleeping, and what happens to the plane meanwhile."""

    def __init__(self, *happenings: Callable[[], None]) -> None:
        self.now = 0.0
        self._happenings = list(happenings)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self._happenings:
            self._happenings.pop(0)()

    def monotonic(self) -> float:
        return self.now


def wait(tenant: Tenant, plane_id: str, passing: Passing, state: State = State.ACTIVE) -> WaitResult:
    return wait_until(
        tenant.spine,
        tenant.context(),
        plane_id,
        state,
        timeout_seconds=5,
        poll_seconds=2,
        sleep=passing.sleep,
        monotonic=passing.monotonic,
    )


def test_waiting_ends_when_the_plane_gets_there(second_connection: sa.Connection, tenant: Tenant) -> None:
    plane_id = plane_in(second_connection, tenant, State.PENDING_ACTIVATE)
    passing = Passing(lambda: None, lambda: move_plane(second_connection, tenant, plane_id, State.ACTIVE))
    assert wait(tenant, plane_id, passing) == WaitResult(True, State.ACTIVE)
    assert passing.now == 4


def test_waiting_ends_with_the_time(second_connection: sa.Connection, tenant: Tenant) -> None:
    plane_id = plane_in(second_connection, tenant, State.DRAFT)
    passing = Passing()
    assert wait(tenant, plane_id, passing) == WaitResult(False, State.DRAFT, "TIMEOUT")
    assert passing.now == 5


@pytest.mark.parametrize(
    ("final", "code"), [(State.FAILED, "PLANE_FAILED"), (State.PURGED, "TERMINAL_STATE")]
)
def test_waiting_ends_where_the_plane_can_no_longer_get_there(
    second_connection: sa.Connection, tenant: Tenant, final: State, code: str
) -> None:
    plane_id = plane_in(second_connection, tenant, State.DRAFT)
    passing = Passing(lambda: move_plane(second_connection, tenant, plane_id, *path_to(final)))
    assert wait(tenant, plane_id, passing) == WaitResult(False, final, code)


def test_waiting_for_the_end_itself_reaches_it(second_connection: sa.Connection, tenant: Tenant) -> None:
    plane_id = plane_in(second_connection, tenant, State.FAILED)
    assert wait(tenant, plane_id, Passing(), State.FAILED) == WaitResult(True, State.FAILED)


def test_nobody_waits_for_a_plane_that_is_not_there(tenant: Tenant, other_tenant: Tenant) -> None:
    assert wait(tenant, "kp_unknown", Passing()) == WaitResult(False, None, "PLANE_NOT_FOUND")
