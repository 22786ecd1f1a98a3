"""HTTP conventions of the server itself: quotas, pool, probes, log and metrics, the last resort."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from prometheus_client import REGISTRY

from app.api.exchange import exchange_of
from app.api.metrics import http_metrics
from app.api.middleware import RequestMiddleware
from app.api.rate_limits import Quota, RateLimiter, address_subject
from app.api.worker_pool import DispatchPool
from app.kernel.clock import SystemClock
from app.kernel.errors import HocError
from tests.api.asgi_client import AsgiClient
from tests.api.probes import GATE

if TYPE_CHECKING:
    from app.hoc_spine.spine import Spine
    from tests.factories.steering import SteerableClock
    from tests.factories.tenants import Tenant

P = "/api/v1/probe"


def _sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


# Quotas


def test_every_answer_says_what_is_left(http: AsgiClient, stranger: AsgiClient) -> None:
    reply = http.get(f"{P}/things/a")
    assert reply.header("ratelimit-policy") == '"key";q=6000;w=60, "tenant";q=6000;w=60'
    assert str(reply.header("ratelimit")).startswith('"key";r=5999;t=')
    assert str(stranger.get("/nothing").header("ratelimit-policy")).startswith('"address";q=')
    assert str(stranger.get(f"{P}/things/a").header("ratelimit")).startswith('"address";r=')


def test_a_used_up_quota_refuses_until_the_minute_is_over(
    make_app: Callable[..., Any], make_spine: Callable[..., Spine], clock: SteerableClock
) -> None:
    client = AsgiClient(make_app(make_spine(rate_limit_anonymous_rpm=2)))
    clock.freeze(datetime(2026, 3, 1, 12, 0, 10, tzinfo=UTC))
    assert [client.get("/nothing").status for _ in range(2)] == [404, 404]
    reply = client.get(f"{P}/things/a")
    assert (reply.status, reply.code, reply.header("retry-after")) == (429, "RATE_LIMITED", "50")
    assert reply.header("ratelimit") == '"address";r=0;t=50'
    assert AsgiClient(client.app, address="192.0.2.2").get("/nothing").status == 404
    clock.advance(seconds=50)
    assert client.get(f"{P}/things/a").status == 401


def test_a_key_with_a_rate_of_its_own_leaves_its_tenant_the_rest(
    make_app: Callable[..., Any], tenant: Tenant, clock: SteerableClock
) -> None:
    clock.freeze(datetime(2026, 3, 1, 12, tzinfo=UTC))
    wanted = {"name": "slow", "scopes": ["*"], "actor_type": "AGENT", "actor_id": "a", "rate_limit_rpm": 1}
    made = tenant.call("keys.create", wanted)
    app = make_app()
    slow = AsgiClient(app, headers={"x-api-key": made.api_key})
    assert slow.get(f"{P}/things/a").status == 200
    reply = slow.get(f"{P}/things/a")
    assert (reply.status, reply.code) == (429, "RATE_LIMITED")
    other = AsgiClient(app, headers=tenant.headers()).get(f"{P}/things/a")
    assert (other.status, other.header("ratelimit")) == (200, '"key";r=5999;t=60, "tenant";r=5998;t=60')


def test_the_limits_can_be_switched_off(
    make_app: Callable[..., Any], make_spine: Callable[..., Spine]
) -> None:
    client = AsgiClient(make_app(make_spine(rate_limit_enabled=False, rate_limit_anonymous_rpm=1)))
    assert [client.get("/nothing").header("ratelimit") for _ in range(3)] == [None, None, None]


def test_processes_share_their_counts_through_redis(redis_url: str, clock: SteerableClock) -> None:
    clock.freeze(datetime(2026, 3, 1, 12, tzinfo=UTC))
    one, two = (RateLimiter(clock=clock, metrics=http_metrics(), redis_url=redis_url) for _ in range(2))
    quota = [Quota("key", "shared", 2)]
    assert [limiter.spend(quota).exceeded for limiter in (one, two)] == [None, None]
    assert one.spend(quota).exceeded == quota[0]


def test_a_dead_redis_costs_precision_and_never_an_answer() -> None:
    limiter = RateLimiter(clock=SystemClock(), metrics=http_metrics(), redis_url="redis://127.0.0.1:1/0")
    before = _sample("hoc_http_rate_limit_store_errors_total")
    quota = [Quota("key", "alone", 2)]
    assert [limiter.spend(quota).exceeded is None for _ in range(3)] == [True, True, False]
    assert _sample("hoc_http_rate_limit_store_errors_total") == before + 3


def test_an_ipv6_client_counts_by_its_network() -> None:
    assert address_subject("2001:db8:1:2:3::4") == address_subject("2001:db8:1:2::1") == "2001:db8:1:2::/64"
    assert address_subject("::ffff:192.0.2.1") == address_subject("192.0.2.1") == "192.0.2.1"
    assert address_subject("unix") == "unix"


# The pool


def test_a_started_write_finishes_though_its_client_went_away(http: AsgiClient) -> None:
    async def hang_up() -> None:
        task = asyncio.create_task(http._run("POST", f"{P}/hold", list(http.headers.items()), [], False))
        await asyncio.get_running_loop().run_in_executor(None, GATE.entered.wait, 10)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(hang_up())
    assert not GATE.finished.is_set()
    GATE.release.set()
    assert GATE.finished.wait(10)


def test_a_full_queue_is_busy(
    make_app: Callable[..., Any], make_spine: Callable[..., Spine], tenant: Tenant
) -> None:
    app = make_app(make_spine(pool_size=1), waiting_per_thread=0)
    client = AsgiClient(app, headers=tenant.headers())
    holder = threading.Thread(target=client.post, args=(f"{P}/hold",))
    holder.start()
    assert GATE.entered.wait(10)
    reply = client.get(f"{P}/things/a")
    assert (reply.status, reply.code, reply.header("retry-after")) == (503, "BUSY", "1")
    GATE.release.set()
    holder.join()
    assert client.get(f"{P}/things/a").status == 200


def test_closing_the_pool_waits_for_started_work() -> None:
    pool = DispatchPool(1)
    started, release, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        release.wait(10)
        done.set()

    async def main() -> None:
        task = asyncio.create_task(pool.run(work))
        await asyncio.get_running_loop().run_in_executor(None, started.wait, 10)
        release.set()
        await asyncio.get_running_loop().run_in_executor(None, pool.close)
        assert done.is_set()
        await task

    asyncio.run(main())
    assert pool.pending == 0


# Probes


def test_health_needs_no_credential_and_spends_no_quota(stranger: AsgiClient) -> None:
    reply = stranger.get("/healthz")
    assert (reply.status, reply.json, reply.header("ratelimit")) == (200, {"status": "ok"}, None)


def test_ready_lists_its_components_and_does_not_claim_what_is_not_there(stranger: AsgiClient) -> None:
    reply = stranger.get("/readyz")
    assert (reply.status, reply.json["status"]) == (200, "ready")
    states = {component["name"]: component["status"] for component in reply.json["components"]}
    assert states == {
        "database": "ok",
        "schema": "ok",
        "redis": "not_configured",
        "log_sequencer": "not_configured",
    }


def test_a_database_without_a_schema_is_not_ready(
    make_app: Callable[..., Any],
    make_spine: Callable[..., Spine],
    new_database: Callable[..., str],
    spine: Spine,
) -> None:
    from app.hoc_spine.readiness import examine

    settings = spine.services.settings.model_copy(update={"database_url": new_database(migrated=False)})
    found = {component.name: component for component in examine(settings)}
    assert (found["schema"].status, found["schema"].reason) == ("failed", "SCHEMA_MISSING")


def test_a_dead_database_is_not_ready_and_its_address_stays_in_the_log(spine: Spine) -> None:
    from app.hoc_spine.readiness import examine

    dead = "postgresql+psycopg://someone:secret@127.0.0.1:1/nothing"
    settings = spine.services.settings.model_copy(update={"database_url": dead})
    found = {component.name: component for component in examine(settings)}
    assert found["database"].status == "failed"
    assert "secret" not in str(found)


def test_metrics_count_by_route_template(http: AsgiClient, stranger: AsgiClient) -> None:
    template = f"{P}/things/{{thing_id}}"
    labels = {"method": "GET", "route": template, "status": "200"}
    before = _sample("hoc_http_requests_total", **labels)
    http.get(f"{P}/things/metric-1")
    http.get(f"{P}/things/metric-2")
    assert _sample("hoc_http_requests_total", **labels) == before + 2
    text = stranger.get("/metrics").body.decode()
    assert f'route="{template}"' in text
    assert "metric-1" not in text


def test_strangers_cannot_make_labels(http: AsgiClient, stranger: AsgiClient) -> None:
    http.request("BREW", f"{P}/things")
    http.get("/never/heard/of")
    text = stranger.get("/metrics").body.decode()
    assert "BREW" not in text
    assert "/never/heard/of" not in text
    assert _sample("hoc_http_requests_total", method="GET", route="unmatched", status="404") >= 1


def test_the_true_reason_of_a_401_is_counted_and_logged(stranger: AsgiClient) -> None:
    before = _sample("hoc_http_refused_credentials_total", reason="KEY_UNKNOWN")
    with structlog.testing.capture_logs() as lines:
        stranger.get(f"{P}/things/a", headers={"x-api-key": "hoc_nobody"})
    assert _sample("hoc_http_refused_credentials_total", reason="KEY_UNKNOWN") == before + 1
    assert [line["reason"] for line in lines if line["event"] == "credential_refused"] == ["KEY_UNKNOWN"]
    assert "hoc_nobody" not in str(lines)


def test_the_document_is_served_to_whoever_asks(stranger: AsgiClient) -> None:
    reply = stranger.get("/openapi.json")
    assert (reply.status, reply.json["openapi"]) == (200, "3.1.0")
    assert f"{P}/things/{{thing_id}}" in reply.json["paths"]


# The middleware alone


def _wrapped(app: Any, *, slow_seconds: float = 60.0) -> AsgiClient:
    return AsgiClient(RequestMiddleware(app, metrics=http_metrics(), slow_seconds=slow_seconds))


async def _answering(scope: Any, _: Any, send: Any) -> None:
    exchange_of(scope).route = "/some/{thing}"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def test_a_slow_request_is_logged_as_a_warning_with_its_route() -> None:
    with structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as lines:
        _wrapped(_answering, slow_seconds=-1.0).get("/some/one", headers={"x-request-id": "slow-1"})
    (line,) = [line for line in lines if line["event"] == "slow_request"]
    assert (line["log_level"], line["method"], line["route"]) == ("warning", "GET", "/some/{thing}")
    assert line["request_id"] == "slow-1"
    assert line["duration_ms"] >= 0


def test_a_quick_request_is_logged_without_alarm() -> None:
    with structlog.testing.capture_logs() as lines:
        _wrapped(_answering).get("/some/one")
    assert [(line["event"], line["log_level"]) for line in lines] == [("request", "info")]


def test_an_exception_that_nobody_foresaw_is_a_500_that_says_nothing() -> None:
    async def broken(*_: Any) -> None:
        raise KeyError("swordfish")

    with structlog.testing.capture_logs() as lines:
        reply = _wrapped(broken).get("/x")
    assert (reply.status, reply.code) == (500, "INTERNAL_ERROR")
    assert b"swordfish" not in reply.body
    assert [line["event"] for line in lines] == ["unhandled_exception", "request"]


def test_half_an_answer_is_broken_off_rather_than_completed() -> None:
    async def broken(_: Any, __: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise KeyError("later")

    with structlog.testing.capture_logs(), pytest.raises(KeyError):
        _wrapped(broken).get("/x")


def test_a_client_that_left_before_its_answer_is_no_bug() -> None:
    async def gone(_: Any) -> None:
        raise RuntimeError("the handler is closed")

    async def main() -> None:
        await client.app(client._scope("GET", b"/x", b"", []), asyncio.sleep, gone)

    client = _wrapped(_answering)
    with structlog.testing.capture_logs() as lines:
        asyncio.run(main())
    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("client_gone", "info"),
        ("request", "info"),
    ]
    assert lines[1]["status"] == 499


def test_a_refused_job_does_not_count_as_pending() -> None:
    pool = DispatchPool(1, waiting_per_thread=-1)

    async def main() -> None:
        with pytest.raises(HocError, match="BUSY"):
            await pool.run(lambda: None)

    asyncio.run(main())
    assert pool.pending == 0
