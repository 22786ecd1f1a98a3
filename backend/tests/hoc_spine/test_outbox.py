"""The outbox: every event arrives at least once, signed; one that does not is tried later, then replayed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import sqlalchemy as sa

from app.hoc_spine.maintenance import Maintenance
from app.hoc_spine.spine import Spine
from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant, make_tenant
from tests.factories.worlds import start_run

SECRET = "the secret that signs what leaves here"


@dataclass
class Receiver:
    """The other end: what it got, and what it answers."""

    url: str = ""
    status: int = 204
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.got]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    end = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            end.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(end.status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    end.url = f"http://127.0.0.1:{server.server_address[1]}/events"
    yield end
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def sending(
    make_spine: Callable[..., Spine], new_database: Callable[..., str], receiver: Receiver
) -> tuple[Spine, Tenant]:
    """A spine that delivers to the receiver, and a tenant with one ended run."""
    spine = make_spine(database_url=new_database(), outbox_url=receiver.url, outbox_secret=SECRET)
    tenant = make_tenant(spine)
    run_id = start_run(tenant)
    tenant.call("runs.complete", {"run_id": run_id, "status": "succeeded"})
    return spine, tenant


def events(tenant: Tenant, **query: Any) -> list[Any]:
    return list(tenant.call("outbox.list", query, door="worker").items)


def test_every_event_arrives_once_and_signed(sending: tuple[Spine, Tenant], receiver: Receiver) -> None:
    spine, tenant = sending
    waiting = events(tenant, delivered=False)
    assert {event.type for event in waiting} == {"PolicyEvaluated", "RunCompleted"}
    assert Maintenance(spine).run_round().events_delivered == len(waiting)
    assert sorted(receiver.ids) == sorted(event.event_id for event in waiting)
    for headers, body in receiver.got:
        signed = b".".join((headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body))
        mac = base64.b64encode(hmac.digest(SECRET.encode(), signed, hashlib.sha256)).decode()
        assert headers["webhook-signature"] == f"v1,{mac}"
        event = json.loads(body)
        assert (event["specversion"], event["id"]) == ("1.0", headers["webhook-id"])
        assert event["source"] == f"urn:hoc-spine:{tenant.tenant_id}"
    assert Maintenance(spine).run_round().events_delivered == 0
    assert events(tenant, delivered=False) == []
    assert len(events(tenant, delivered=True)) == len(waiting)


def test_what_does_not_arrive_is_tried_later_and_later(
    sending: tuple[Spine, Tenant], receiver: Receiver, clock: SteerableClock
) -> None:
    spine, tenant = sending
    receiver.status = 500
    assert Maintenance(spine).run_round().events_delivered == 0
    tried = events(tenant)
    assert {(event.attempts, event.last_error, event.given_up) for event in tried} == {(1, "HTTP 500", False)}
    Maintenance(spine).run_round()
    assert len(receiver.got) == len(tried)
    clock.advance(seconds=11)
    Maintenance(spine).run_round()
    assert len(receiver.got) == 2 * len(tried)
    receiver.status = 204
    clock.advance(seconds=11)
    assert Maintenance(spine).run_round().events_delivered == 0
    clock.advance(seconds=11)
    assert Maintenance(spine).run_round().events_delivered == len(tried)


def test_a_worker_that_dies_with_events_in_its_hands_loses_none(
    sending: tuple[Spine, Tenant], receiver: Receiver, clock: SteerableClock
) -> None:
    spine, tenant = sending
    taken = tenant.call("outbox.claim", {"limit": 1}, door="worker").events
    Maintenance(spine).run_round()
    assert taken[0].event_id not in receiver.ids
    late = {"event_id": taken[0].event_id, "attempts": 1, "error": "no answer"}
    settled = tenant.call("outbox.settle", {"failed": [late]}, door="worker")
    assert (settled.delivered, settled.failed) == (0, 1)
    clock.advance(minutes=11)
    Maintenance(spine).run_round()
    assert receiver.ids.count(taken[0].event_id) == 1


def test_an_event_that_was_given_up_is_replayed(
    sending: tuple[Spine, Tenant], receiver: Receiver, clock: SteerableClock
) -> None:
    spine, tenant = sending
    (first, *_) = events(tenant)
    engine = sa.create_engine(spine.services.settings.database_url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE outbox SET attempts = 59"))
    receiver.status = 500
    Maintenance(spine).run_round()
    clock.advance(hours=2)
    receiver.status = 204
    receiver.got.clear()
    assert all(event.given_up for event in events(tenant))
    assert Maintenance(spine).run_round().events_delivered == 0
    tenant.call("outbox.replay", {"event_id": first.event_id}, door="worker")
    assert Maintenance(spine).run_round().events_delivered == 1
    assert receiver.ids == [first.event_id]
    refused = tenant.dispatch("outbox.replay", {"event_id": "evt_of_nobody"}, door="worker")
    assert refused.error_code == "EVENT_NOT_FOUND"


def test_keys_are_forgotten_when_their_day_is_over(
    make_spine: Callable[..., Spine], new_database: Callable[..., str], clock: SteerableClock
) -> None:
    spine = make_spine(database_url=new_database())
    tenant = make_tenant(spine)
    for number in range(3):
        tenant.call(
            "runs.start",
            {"agent_id": "a", "goal": "g", "actor_type": "SYSTEM", "origin_system_id": "tests"},
            idempotency_key=f"key-{number}",
        )
    assert tenant.call("idempotency.forget", {}, door="worker").forgotten == 0
    clock.advance(hours=25)
    part = tenant.call("idempotency.forget", {"limit": 2}, door="worker")
    assert (part.forgotten, part.more) == (2, True)
    assert Maintenance(spine).run_round().done["idempotency.forget"] == 1
