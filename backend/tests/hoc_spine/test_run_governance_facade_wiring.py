"""Spine: the run governance facade: wired whole or not at all, and never silent (G1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

import app.hoc_spine.run_governance_facade as module
from app.bootstrap import bootstrap_hoc_spine
from app.hoc_spine.coordinators.run_governance import governance_of
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import OperationResult
from app.hoc_spine.ports import LessonsEnginePort, PolicyEvaluationPort
from app.hoc_spine.run_governance_facade import (
    RunGovernanceFacade,
    get_run_governance_facade,
    wire_run_governance_facade,
)
from app.hoc_spine.spine import Spine
from app.kernel.errors import ErrorKind, HocError
from app.settings import Settings
from tests.factories.operations import Echo, Probe, probe, probe_spine
from tests.factories.tenants import Tenant
from tests.factories.worlds import start_run


@pytest.fixture
def facade(spine: Spine) -> RunGovernanceFacade:
    """The facade of the worker's spine, whatever other tests have wired since."""
    return governance_of(spine)


def near(facade: RunGovernanceFacade, tenant_id: str, percent: float, **more: Any) -> Any:
    return facade.emit_near_threshold_lesson(
        tenant_id, "COST_USD", percent, 100.0, percent, f"event-{percent}", **more
    )


class TestRunGovernanceFacadeWiring:
    """The guard tests of the facade's wiring."""

    def test_facade_is_not_wired_before_bootstrap(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module._wiring, "facade", None)
        with pytest.raises(RuntimeError, match="run governance facade is not wired"):
            get_run_governance_facade()

    def test_bootstrap_wires_the_facade_with_real_engines(
        self, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module._wiring, "facade", None)
        built = bootstrap_hoc_spine(Settings(database_url=database_url))
        try:
            wired = get_run_governance_facade()
            assert isinstance(wired._lessons_engine, LessonsEnginePort)
            assert isinstance(wired._policy_evaluator, PolicyEvaluationPort)
        finally:
            built.close()

    def test_half_a_facade_is_refused(self, facade: RunGovernanceFacade) -> None:
        whole: tuple[Any, Any] = (facade._lessons_engine, facade._policy_evaluator)
        for engines in ((None, whole[1]), (whole[0], None), (whole[1], whole[0])):
            with pytest.raises(TypeError):
                RunGovernanceFacade(*engines)
        with pytest.raises(TypeError):
            wire_run_governance_facade(None)  # type: ignore[arg-type]


def test_create_policy_evaluation_gives_the_id_that_completion_wrote(
    tenant: Tenant, facade: RunGovernanceFacade, second_connection: sa.Connection
) -> None:
    start_run(tenant, run_id="test-run-001")
    with pytest.raises(HocError) as refused:
        facade.create_policy_evaluation("test-run-001", tenant.tenant_id, "succeeded")
    assert refused.value.code == "RUN_NOT_TERMINAL"
    ended = tenant.call("runs.complete", {"run_id": "test-run-001", "status": "succeeded"})
    ids = {
        facade.create_policy_evaluation(
            run_id="test-run-001",
            tenant_id=tenant.tenant_id,
            run_status="succeeded",
            policies_checked=3,
            is_synthetic=True,
            synthetic_scenario_id="s",
        )
        for _ in range(2)
    }
    assert ids == {ended.evaluation.evaluation_id}
    asked = {"run_id": "test-run-001", "run_status": "succeeded"}
    assert tenant.call("runs.require_evaluation", asked, door="worker") == ended.evaluation
    stored = second_connection.execute(
        sa.text("SELECT evaluation_id FROM policy_evaluations WHERE tenant_id = :t"), {"t": tenant.tenant_id}
    ).all()
    assert stored == [(ended.evaluation.evaluation_id,)]
    for run_id, status, code in (
        ("test-run-001", "failed", "EVALUATION_CONFLICT"),
        ("nobody", "succeeded", "RUN_NOT_FOUND"),
    ):
        with pytest.raises(HocError) as refused:
            facade.create_policy_evaluation(run_id, tenant.tenant_id, status)
        assert refused.value.code == code


def test_lesson_calls_answer_what_became_of_them(tenant: Tenant, facade: RunGovernanceFacade) -> None:
    assert near(facade, tenant.tenant_id, 84).result == "BELOW_THRESHOLD"
    first, second = near(facade, tenant.tenant_id, 91), near(facade, tenant.tenant_id, 91)
    assert (first.result, second.result) == ("CREATED", "DEBOUNCED")
    assert tenant.call("lessons.get", {"lesson_id": first.lesson_id}).threshold_band == "90-95"
    won = facade.emit_critical_success_lesson(tenant.tenant_id, "cost_efficiency", {"cost": 0.1}, "event-2")
    assert won.result == "CREATED"


def test_with_the_database_gone_every_call_raises(
    tenant: Tenant, make_spine: Callable[..., Spine], tmp_path: Any
) -> None:
    spine = make_spine()
    facade = governance_of(spine)
    gone = sa.create_engine(f"sqlite:///{tmp_path}/no/such/folder/x.db")
    spine.transactions.engine.dispose()
    spine.transactions.engine = gone
    calls: tuple[Callable[[], Any], ...] = (
        lambda: near(facade, tenant.tenant_id, 91),
        lambda: facade.emit_critical_success_lesson(tenant.tenant_id, "x", {}, "e"),
        lambda: facade.create_policy_evaluation("test-run-001", tenant.tenant_id, "succeeded"),
    )
    for call in calls:
        with pytest.raises(HocError):
            call()


def test_a_lesson_inside_a_transaction_stays_or_goes_with_it(spine: Spine, tenant: Tenant) -> None:
    facade = governance_of(spine)

    def learn(ctx: OperationContext, given: Probe) -> Echo:
        near(facade, ctx.tenant_id, 96, unit=ctx)
        if given.value:
            raise HocError(ErrorKind.CONFLICT, "NO", "no")
        return Echo()

    def dispatch(value: int) -> OperationResult:
        return probe_spine(spine, probe(learn)).dispatch("probe.do", tenant.context(), {"value": value})

    assert dispatch(1).error_code == "NO"
    assert tenant.call("lessons.list").items == []
    assert dispatch(0).success
    assert len(tenant.call("lessons.list").items) == 1
    with pytest.raises(HocError):
        near(facade, "another-tenant", 96)
