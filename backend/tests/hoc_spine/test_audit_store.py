"""Audit store: dispatch records are bounded, shared through Redis when there is one, and never in the way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
import redis
from prometheus_client import REGISTRY

from app.hoc_spine.audit_store import CAPACITY, CHUNK, REDIS_KEY, AuditStore
from app.hoc_spine.dispatch_audit import DispatchRecord

NOBODY = "redis://127.0.0.1:1/0"


def record(number: int, **members: Any) -> DispatchRecord:
    plain: dict[str, Any] = {
        "operation": "runs.start",
        "operation_version": 1,
        "tenant_id": "t-1",
        "success": True,
        "outcome": "COMMITTED",
        "duration_ms": 1.0,
        "timestamp": datetime(2026, 1, 1, tzinfo=UTC),
        "authority_allowed": True,
        "authority_degraded": False,
        "authority_reason": None,
        "authority_code": None,
        "error": None,
        "error_code": None,
        "request_id": f"req-{number}",
        "actor_id": "u",
        "run_id": None,
    }
    return DispatchRecord(**(plain | members))


def numbers(store: AuditStore, **query: Any) -> list[str]:
    return [found["request_id"] for found in store.get_dispatch_records(**query)]


def lost() -> float:
    return REGISTRY.get_sample_value("hoc_dispatch_records_lost_total") or 0.0


@pytest.fixture
def shared(redis_url: str) -> Iterator[AuditStore]:
    store = AuditStore(redis_url)
    yield store
    store.close()


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> Iterator[AuditStore]:
    made = AuditStore(request.getfixturevalue("redis_url") if request.param == "redis" else None)
    yield made
    made.close()


def test_records_come_newest_first(store: AuditStore) -> None:
    for number in range(3):
        store.record_dispatch(record(number))
    store.flush()
    assert numbers(store) == ["req-2", "req-1", "req-0"]
    assert store.get_dispatch_records()[0] == record(2).to_dict()


def test_records_are_found_by_operation_and_tenant(store: AuditStore) -> None:
    for number, (operation, tenant_id) in enumerate([("a", "t-1"), ("b", "t-1"), ("a", "t-2"), ("a", "t-1")]):
        store.record_dispatch(record(number, operation=operation, tenant_id=tenant_id))
    store.flush()
    assert numbers(store, operation="a") == ["req-3", "req-2", "req-0"]
    assert numbers(store, tenant_id="t-1") == ["req-3", "req-1", "req-0"]
    assert numbers(store, operation="a", tenant_id="t-1") == ["req-3", "req-0"]
    assert numbers(store, tenant_id="t-3") == []


@pytest.mark.parametrize(("limit", "given"), [(1, 1), (100, 100), (1000, 1000), (5000, 1000), (0, 1)])
def test_a_question_has_at_most_a_thousand_answers(store: AuditStore, limit: int, given: int) -> None:
    for number in range(1100):
        store.record_dispatch(record(number))
    store.flush()
    assert len(numbers(store, limit=limit)) == given
    assert len(numbers(store)) == 100


def test_memory_holds_the_newest_ten_thousand() -> None:
    store = AuditStore()
    for number in range(CAPACITY + 5):
        store.record_dispatch(record(number, operation="old" if number < 5 else "new"))
    assert CAPACITY == 10_000
    assert len(store._ring) == CAPACITY
    assert numbers(store, operation="old") == []


def test_the_shared_list_is_trimmed_to_ten_thousand(shared: AuditStore, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.rpush(REDIS_KEY, *[orjson.dumps(record(number).to_dict()) for number in range(CAPACITY)])
        shared.record_dispatch(record(CAPACITY, operation="newest"))
        shared.flush()
        assert client.llen(REDIS_KEY) == CAPACITY
    assert numbers(shared, operation="newest") == [f"req-{CAPACITY}"]


def test_old_records_are_found_behind_many_others(shared: AuditStore, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.rpush(REDIS_KEY, *[orjson.dumps(record(number).to_dict()) for number in range(2 * CHUNK)])
        client.rpush(REDIS_KEY, orjson.dumps(record(0, operation="old").to_dict()))
    assert numbers(shared, operation="old") == ["req-0"]


def test_two_processes_see_each_others_records(shared: AuditStore, redis_url: str) -> None:
    other = AuditStore(redis_url)
    other.record_dispatch(record(1))
    other.flush()
    other.close()
    assert numbers(shared) == ["req-1"]


def test_a_dead_redis_costs_records_and_nothing_else() -> None:
    store = AuditStore(NOBODY)
    before = lost()
    for number in range(3):
        store.record_dispatch(record(number))
    store.flush()
    assert lost() == before + 3
    assert numbers(store) == ["req-2", "req-1", "req-0"]
    store.close()


def test_a_full_queue_costs_records_and_nothing_else(redis_url: str) -> None:
    store = AuditStore(redis_url, queue_size=2)
    entered, go_on = threading.Event(), threading.Event()
    write = store._write

    def held(held_record: DispatchRecord) -> None:
        entered.set()
        assert go_on.wait(10)
        write(held_record)

    store._write = held  # type: ignore[method-assign]
    before = lost()
    store.record_dispatch(record(0))
    assert entered.wait(10)
    for number in range(1, 6):
        store.record_dispatch(record(number))
    assert lost() == before + 3
    go_on.set()
    store.flush()
    assert numbers(store) == ["req-2", "req-1", "req-0"]
    assert len(store._ring) == 6
    store.close()


def test_a_record_that_cannot_be_written_does_not_stop_the_writer(shared: AuditStore) -> None:
    before = lost()
    shared.record_dispatch(record(1, operation="\ud800"))
    shared.record_dispatch(record(2))
    shared.flush()
    assert lost() == before + 1
    assert numbers(shared) == ["req-2"]


def test_a_closed_store_has_written_what_it_was_given(redis_url: str) -> None:
    store = AuditStore(redis_url)
    for number in range(50):
        store.record_dispatch(record(number))
    store.close()
    store.close()
    with redis.Redis.from_url(redis_url) as client:
        assert client.llen(REDIS_KEY) == 50
    store.record_dispatch(record(50))
    assert numbers(store, limit=1) == ["req-50"]


def test_a_store_that_gives_up_loses_what_is_left_and_counts_it() -> None:
    store = AuditStore(NOBODY)
    store._give_up()
    before = lost()
    for number in range(5):
        store.record_dispatch(record(number))
    store.close()
    assert lost() == before + 5
