"""Authentication: a key opens its tenant, and one that was stopped stops within a second."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest

from app.hoc_spine import authentication
from app.hoc_spine.authentication import CACHE_SECONDS, Authenticator, AuthFailure, Credential
from app.hoc_spine.spine import Spine
from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant, make_tenant, operator_context

KEY = {"name": "k", "actor_type": "AGENT", "actor_id": "a-1", "scopes": ["runs:read", "runs:write"]}


class Desk:
    """An authenticator with a stopwatch that stands still, over the product's own look-up."""

    def __init__(self, spine: Spine) -> None:
        self.seconds = 0.0
        self.looked = 0
        self.hold: threading.Event | None = None
        self.holds = threading.Event()
        self._find = spine.executor.ports.find_credential
        self.authenticator = Authenticator(
            spine.transactions, self._look, spine.services.clock, monotonic=lambda: self.seconds
        )

    def __call__(self, api_key: str) -> str:
        """Return `ok`, or the reason of the failure."""
        found = self.authenticator.authenticate(api_key)
        return found.reason if isinstance(found, AuthFailure) else "ok"

    def _look(self, connection: Any, *, key_hash: str) -> Mapping[str, Any] | None:
        self.looked += 1
        row = self._find(connection, key_hash=key_hash)
        held, self.hold = self.hold, None
        if held is not None:
            self.holds.set()
            assert held.wait(10)
        return row


@pytest.fixture
def desk(spine: Spine) -> Desk:
    return Desk(spine)


def make_key(tenant: Tenant, **members: Any) -> Any:
    return tenant.call("keys.create", KEY | members)


def test_a_key_is_its_tenant_its_actor_and_its_scopes(desk: Desk, new_tenant: Callable[..., Tenant]) -> None:
    tenant = new_tenant(plan="PRO")
    made = make_key(tenant, rate_limit_rpm=7)
    found = desk.authenticator.authenticate(made.api_key)
    assert isinstance(found, Credential)
    assert (found.tenant_id, found.key_id) == (tenant.tenant_id, made.key_id)
    assert (found.actor.type, found.actor.id) == ("AGENT", "a-1")
    assert found.scopes == {"runs:read", "runs:write"}
    assert (found.plan, found.requests_per_minute, found.rate_limit_rpm) == ("PRO", 1200, 7)


@pytest.mark.parametrize("text", ["", "hoc_", "hoc_" + "x" * 43, "ä", "\ud800", "x" * 100_000, "'; --"])
def test_any_other_text_is_no_key(desk: Desk, text: str) -> None:
    assert desk(text) == "KEY_UNKNOWN"


def test_the_stored_hash_is_no_key(desk: Desk, tenant: Tenant) -> None:
    made = make_key(tenant)
    assert desk(made.prefix) == desk(made.key_id) == "KEY_UNKNOWN"
    assert desk(made.api_key) == "ok"


@pytest.mark.parametrize(("operation", "reason"), [("freeze", "KEY_FROZEN"), ("revoke", "KEY_REVOKED")])
def test_a_stopped_key_says_why_to_the_log(desk: Desk, tenant: Tenant, operation: str, reason: str) -> None:
    made = make_key(tenant)
    tenant.call(f"keys.{operation}", {"key_id": made.key_id, "reason": "test"})
    assert desk(made.api_key) == reason


@pytest.mark.parametrize(
    ("operation", "reason"), [("suspend", "TENANT_SUSPENDED"), ("close", "TENANT_CLOSED")]
)
def test_the_keys_of_a_stopped_tenant_stop(
    desk: Desk, spine: Spine, tenant: Tenant, operation: str, reason: str
) -> None:
    made = make_key(tenant)
    payload = {"tenant_id": tenant.tenant_id, "reason": "test"}
    spine.dispatch(f"ops.tenants.{operation}", operator_context(), payload).unwrap()
    assert desk(made.api_key) == reason


def test_a_key_expires_at_its_moment_even_when_it_is_known(
    desk: Desk, tenant: Tenant, clock: SteerableClock
) -> None:
    expires_at = clock.freeze() + timedelta(minutes=1)
    made = make_key(tenant, expires_at=expires_at.isoformat())
    assert desk(made.api_key) == "ok"
    clock.advance(minutes=1)
    assert (desk(made.api_key), desk.looked) == ("KEY_EXPIRED", 1)


def test_a_look_up_serves_for_less_than_a_second(desk: Desk, tenant: Tenant) -> None:
    assert CACHE_SECONDS < 1
    made = make_key(tenant)
    assert desk(made.api_key) == "ok"
    tenant.call("keys.freeze", {"key_id": made.key_id, "reason": "leak"})
    desk.seconds = CACHE_SECONDS - 0.001
    assert (desk(made.api_key), desk.looked) == ("ok", 1)
    desk.seconds = CACHE_SECONDS
    assert (desk(made.api_key), desk.looked) == ("KEY_FROZEN", 2)


def test_a_new_or_thawed_key_works_within_a_second(desk: Desk, tenant: Tenant) -> None:
    made = make_key(tenant)
    tenant.call("keys.freeze", {"key_id": made.key_id, "reason": "leak"})
    assert desk(made.api_key) == "KEY_FROZEN"
    tenant.call("keys.unfreeze", {"key_id": made.key_id, "reason": "found"})
    desk.seconds = CACHE_SECONDS
    assert desk(made.api_key) == "ok"


def in_flight(desk: Desk, api_key: str) -> Callable[[], None]:
    """Start a look-up that has read its row and is held on its way back; return what lets it arrive."""
    desk.hold = release = threading.Event()
    thread = threading.Thread(target=desk, args=(api_key,))
    thread.start()
    assert desk.holds.wait(10)

    def arrive() -> None:
        release.set()
        thread.join(10)
        assert not thread.is_alive()

    return arrive


def test_a_look_up_that_a_freeze_overtook_is_as_old_as_it_began(desk: Desk, tenant: Tenant) -> None:
    made = make_key(tenant)
    arrive = in_flight(desk, made.api_key)
    tenant.call("keys.freeze", {"key_id": made.key_id, "reason": "leak"})
    desk.seconds = CACHE_SECONDS + 10
    arrive()
    assert desk(made.api_key) == "KEY_FROZEN"


def test_an_older_answer_never_replaces_a_newer_one(desk: Desk, tenant: Tenant) -> None:
    made = make_key(tenant)
    arrive = in_flight(desk, made.api_key)
    tenant.call("keys.freeze", {"key_id": made.key_id, "reason": "leak"})
    desk.seconds = 0.3
    assert desk(made.api_key) == "KEY_FROZEN"
    arrive()
    assert (desk(made.api_key), desk.looked) == ("KEY_FROZEN", 2)


def test_a_flood_of_invented_keys_pushes_no_working_one_out(
    desk: Desk, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authentication, "CACHE_SIZE", 5)
    made = make_key(tenant)
    assert desk(made.api_key) == "ok"
    for number in range(20):
        assert desk(f"hoc_invented-{number}") == "KEY_UNKNOWN"
        assert len(desk.authenticator._cache) <= 5
    assert (desk(made.api_key), desk.looked) == ("ok", 21)


def test_the_cache_has_an_end(desk: Desk, tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authentication, "CACHE_SIZE", 3)
    for _ in range(5):
        assert desk(make_key(tenant).api_key) == "ok"
        assert len(desk.authenticator._cache) <= 3
    desk.seconds = CACHE_SECONDS
    assert desk(make_key(tenant).api_key) == "ok"
    assert len(desk.authenticator._cache) <= 3


def test_no_secret_is_kept(desk: Desk, tenant: Tenant) -> None:
    made = make_key(tenant)
    desk(made.api_key)
    assert made.api_key not in repr(vars(desk.authenticator))


def test_degraded_mode_comes_with_the_credential(
    make_spine: Callable[..., Spine], new_database: Callable[..., str]
) -> None:
    own = make_spine(database_url=new_database())
    made = make_key(make_tenant(own))
    for switch, seen in (("enter", True), ("exit", False)):
        own.dispatch(f"ops.degraded.{switch}", operator_context(), {"reason": "test"}).unwrap()
        found = Desk(own).authenticator.authenticate(made.api_key)
        assert isinstance(found, Credential)
        assert found.degraded is seen
