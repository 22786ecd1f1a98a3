"""Consequences: what follows a dispatch is registered once, isolated, and told what happened."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from app.hoc_spine.consequences.adapters.dispatch_metrics import DispatchMetricsAdapter
from app.hoc_spine.consequences.pipeline import ConsequencePipeline
from app.hoc_spine.dispatch_audit import DispatchRecord
from app.hoc_spine.operation_registry import Refusal
from app.hoc_spine.spine import Spine
from app.kernel.errors import ErrorKind, HocError
from tests.factories.operations import Echo, probe, probe_spine
from tests.factories.tenants import Tenant


class Listener:
    """An adapter that keeps what it is told, or raises."""

    def __init__(self, name: str, *, committed_only: bool = True, error: Exception | None = None) -> None:
        self.name = name
        self.committed_only = committed_only
        self.heard: list[DispatchRecord] = []
        self._error = error

    def handle(self, record: DispatchRecord) -> None:
        self.heard.append(record)
        if self._error is not None:
            raise self._error


def filled(*adapters: Any) -> ConsequencePipeline:
    pipeline = ConsequencePipeline()
    for adapter in adapters:
        pipeline.register(adapter)
    return pipeline


def test_a_pipeline_knows_its_adapters() -> None:
    pipeline = filled(Listener("a"), Listener("b"))
    assert (pipeline.adapter_count, pipeline.adapter_names) == (2, ("a", "b"))


def test_a_name_is_given_once() -> None:
    with pytest.raises(RuntimeError, match="registered already"):
        filled(Listener("a"), Listener("a"))


def test_nothing_is_added_after_the_freeze() -> None:
    pipeline = filled(Listener("a"))
    assert not pipeline.is_frozen
    pipeline.freeze()
    assert pipeline.is_frozen
    with pytest.raises(RuntimeError, match="frozen"):
        pipeline.register(Listener("b"))
    assert pipeline.adapter_names == ("a",)


def test_what_is_no_adapter_is_not_taken() -> None:
    with pytest.raises(TypeError, match="no consequence adapter"):
        filled(object())


Outcomes = Callable[[str], DispatchRecord]


@pytest.fixture
def outcomes(spine: Spine, tenant: Tenant) -> Outcomes:
    """Make a dispatch end in one of its ways and return its record."""
    no = HocError(ErrorKind.CONFLICT, "NO", "No.")

    def handler(_ctx: Any, payload: Any) -> Any:
        if payload.label == "rolled back":
            raise ZeroDivisionError
        return Refusal(no) if payload.label == "recorded refusal" else Echo()

    def make(way: str) -> DispatchRecord:
        listener = Listener("all", committed_only=False)
        extended = probe_spine(spine, probe(handler), adapters=(listener,))
        scopes = [] if way == "refused" else ["runs:write"]
        extended.dispatch("probe.do", tenant.context(scopes=scopes), {"label": way})
        (record,) = listener.heard
        return record

    return make


@pytest.mark.parametrize(
    ("way", "outcome", "told"),
    [
        ("success", "COMMITTED", True),
        ("recorded refusal", "COMMITTED", True),
        ("rolled back", "ROLLED_BACK", False),
        ("refused", "REFUSED", False),
    ],
)
def test_an_adapter_may_ask_for_committed_work_only(
    outcomes: Outcomes, way: str, outcome: str, told: bool
) -> None:
    record = outcomes(way)
    assert record.outcome == outcome
    committed, everything = Listener("committed"), Listener("all", committed_only=False)
    filled(committed, everything).run(record)
    assert committed.heard == ([record] if told else [])
    assert everything.heard == [record]


def test_an_adapter_that_raises_harms_no_other(outcomes: Outcomes) -> None:
    before, broken, after = Listener("before"), Listener("broken", error=OSError("no")), Listener("after")

    def failures() -> float:
        return REGISTRY.get_sample_value("hoc_consequence_failures_total", {"adapter": "broken"}) or 0.0

    counted = failures()
    record = outcomes("success")
    with capture_logs() as logs:
        filled(before, broken, after).run(record)
    assert before.heard == after.heard == [record]
    assert failures() == counted + 1
    (line,) = logs
    assert (line["event"], line["adapter"]) == ("consequence.adapter_failed", "broken")
    assert "OSError: no" in line["trace"]


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_the_metrics_agree_with_what_prometheus_is_told(spine: Spine, tenant: Tenant) -> None:
    metrics = DispatchMetricsAdapter()
    operation = f"probe.of.{tenant.tenant_id}"

    def handler(_ctx: Any, payload: Any) -> Any:
        if payload.value:
            raise ZeroDivisionError
        return Echo()

    extended = probe_spine(spine, probe(handler, name=operation), adapters=(metrics,))
    for value, scopes in ((0, ["*"]), (0, ["*"]), (0, ["*"]), (1, ["*"]), (0, [])):
        extended.dispatch(operation, tenant.context(scopes=scopes), {"value": value})
    (tally,) = metrics.snapshot()
    assert (tally["operation"], tally["total"], tally["success"], tally["failure"]) == (operation, 5, 3, 2)
    assert tally["error_rate"] == 0.4
    assert 0 < tally["min_latency_ms"] <= tally["avg_latency_ms"] <= tally["max_latency_ms"]
    counted = {
        (outcome, success): sample(
            "hoc_dispatches_total", operation=operation, outcome=outcome, success=success
        )
        for outcome in ("COMMITTED", "ROLLED_BACK", "REFUSED")
        for success in ("true", "false")
    }
    assert sum(counted.values()) == tally["total"]
    assert counted["COMMITTED", "true"] == tally["success"]
    assert (counted["ROLLED_BACK", "false"], counted["REFUSED", "false"]) == (1, 1)
    assert sample("hoc_dispatch_seconds_count", operation=operation) == tally["total"]
    seconds = sample("hoc_dispatch_seconds_sum", operation=operation)
    assert seconds * 1000 / tally["total"] == pytest.approx(tally["avg_latency_ms"], abs=0.01)


def test_the_product_counts_every_dispatch(spine: Spine, tenant: Tenant) -> None:
    assert spine.pipeline.is_frozen
    assert "dispatch_metrics" in spine.pipeline.adapter_names

    def total() -> int:
        tallies = spine.services.caches["dispatch_metrics"].snapshot()
        return sum(tally["total"] for tally in tallies if tally["operation"] == "tenants.get")

    before = total()
    tenant.call("tenants.get")
    tenant.dispatch("tenants.get", scopes=[])
    assert total() == before + 2
