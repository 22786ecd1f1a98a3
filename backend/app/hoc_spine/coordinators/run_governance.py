"""Spine: the engines behind the run governance facade; each call is one operation of the spine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from app.domains.lessons.models.records import LessonResult
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.run_governance_facade import RunGovernanceFacade
from app.hoc_spine.spine import Spine
from app.kernel.context import Actor, RequestContext

ACTOR: Final = Actor("SYSTEM", "run-governance")
NEAR_THRESHOLD: Final = "lessons.learn_near_threshold"
CRITICAL_SUCCESS: Final = "lessons.learn_critical_success"
EVALUATION: Final = "runs.require_evaluation"


class _Caller:
    """Dispatches as a worker of a tenant, or inside the transaction that the caller has open."""

    def __init__(self, spine: Spine) -> None:
        self._spine = spine

    def call(
        self, operation: str, tenant_id: str, payload: Mapping[str, Any], unit: OperationContext | None
    ) -> Any:
        if unit is not None:
            if unit.tenant_id != tenant_id:
                raise ValueError("the open unit belongs to another tenant")
            return unit.dispatch(operation, payload)
        request_id = self._spine.services.ids.new("req")
        context = RequestContext(tenant_id=tenant_id, actor=ACTOR, request_id=request_id, door="worker")
        return self._spine.dispatch(operation, context, payload).unwrap()


class SpineLessons(_Caller):
    """Learns through the operations of the lessons slice."""

    def emit_near_threshold_lesson(
        self,
        *,
        tenant_id: str,
        metric: str,
        utilization: float,
        threshold_value: float,
        current_value: float,
        source_event_id: str,
        unit: OperationContext | None = None,
        **more: Any,
    ) -> LessonResult:
        """Learn from a use at so many percent of its limit, once in 24 hours for each band."""
        payload = {
            "metric": metric,
            "utilization": utilization,
            "threshold_value": threshold_value,
            "current_value": current_value,
            "source_event_id": source_event_id,
            **more,
        }
        result: LessonResult = self.call(NEAR_THRESHOLD, tenant_id, payload, unit)
        return result

    def emit_critical_success_lesson(
        self,
        *,
        tenant_id: str,
        success_type: str,
        metrics: Mapping[str, Any],
        source_event_id: str,
        unit: OperationContext | None = None,
        **more: Any,
    ) -> LessonResult:
        """Learn from a success that used little, once in 24 hours for each agent."""
        payload = {
            "success_type": success_type,
            "metrics": dict(metrics),
            "source_event_id": source_event_id,
            **more,
        }
        result: LessonResult = self.call(CRITICAL_SUCCESS, tenant_id, payload, unit)
        return result


class SpineEvaluations(_Caller):
    """Finds the evaluation that a run's completion wrote."""

    def create_policy_evaluation(
        self,
        *,
        run_id: str,
        tenant_id: str,
        run_status: str,
        policies_checked: int = 0,  # noqa: ARG002 - completion has counted them; the caller's word adds nothing
        is_synthetic: bool = False,  # noqa: ARG002
        synthetic_scenario_id: str | None = None,  # noqa: ARG002
        unit: OperationContext | None = None,
    ) -> str:
        """Return the id of the last attempt's evaluation; raise where there is none of this ending."""
        payload = {"run_id": run_id, "run_status": run_status}
        found = self.call(EVALUATION, tenant_id, payload, unit)
        return str(found.evaluation_id)


def governance_of(spine: Spine) -> RunGovernanceFacade:
    """Return the facade of a spine with both its engines; refuse UNKNOWN_OPERATION where it lacks one."""
    for operation in (NEAR_THRESHOLD, CRITICAL_SUCCESS, EVALUATION):
        spine.registry.get(operation)
    return RunGovernanceFacade(SpineLessons(spine), SpineEvaluations(spine))
