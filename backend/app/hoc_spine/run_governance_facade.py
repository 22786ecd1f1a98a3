"""Spine: the facade through which a host program reaches the governance of runs; wired once, never half."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from app.hoc_spine.ports import LessonResultPort, LessonsEnginePort, PolicyEvaluationPort

_NOT_WIRED = "run governance facade is not wired"


class RunGovernanceFacade:
    """Evaluations and lessons of runs; every call answers with a result or raises, none with None."""

    def __init__(self, lessons_engine: LessonsEnginePort, policy_evaluator: PolicyEvaluationPort) -> None:
        """Take both engines; TypeError when either is missing or is none."""
        if not isinstance(lessons_engine, LessonsEnginePort):
            raise TypeError("lessons_engine is no LessonsEnginePort")
        if not isinstance(policy_evaluator, PolicyEvaluationPort):
            raise TypeError("policy_evaluator is no PolicyEvaluationPort")
        self._lessons_engine = lessons_engine
        self._policy_evaluator = policy_evaluator

    def create_policy_evaluation(
        self,
        run_id: str,
        tenant_id: str,
        run_status: str,
        policies_checked: int = 0,
        is_synthetic: bool = False,
        synthetic_scenario_id: str | None = None,
        unit: Any = None,
    ) -> str:
        """Return the id of the one evaluation of a run that has ended, the same at every call.

        With `unit`, an operation's context, it joins that open transaction. Raises RUN_NOT_FOUND,
        RUN_NOT_TERMINAL, and EVALUATION_CONFLICT when the run ended otherwise.
        """
        return self._policy_evaluator.create_policy_evaluation(
            run_id=run_id,
            tenant_id=tenant_id,
            run_status=run_status,
            policies_checked=policies_checked,
            is_synthetic=is_synthetic,
            synthetic_scenario_id=synthetic_scenario_id,
            unit=unit,
        )

    def emit_near_threshold_lesson(
        self,
        tenant_id: str,
        metric: str,
        utilization: float,
        threshold_value: float,
        current_value: float,
        source_event_id: str,
        **more: Any,
    ) -> LessonResultPort:
        """Learn from a use at so many percent of its limit; the result says what became of it.

        `more` names the limit_id, the run_id, and the `unit` whose transaction the lesson joins.
        """
        return self._lessons_engine.emit_near_threshold_lesson(
            tenant_id=tenant_id,
            metric=metric,
            utilization=utilization,
            threshold_value=threshold_value,
            current_value=current_value,
            source_event_id=source_event_id,
            **more,
        )

    def emit_critical_success_lesson(
        self,
        tenant_id: str,
        success_type: str,
        metrics: Mapping[str, Any],
        source_event_id: str,
        **more: Any,
    ) -> LessonResultPort:
        """Learn from a success that used little; the result says what became of it."""
        return self._lessons_engine.emit_critical_success_lesson(
            tenant_id=tenant_id,
            success_type=success_type,
            metrics=metrics,
            source_event_id=source_event_id,
            **more,
        )


class _Wiring:
    """The facade of this process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.facade: RunGovernanceFacade | None = None


_wiring = _Wiring()


def wire_run_governance_facade(facade: RunGovernanceFacade) -> None:
    """Make this the facade of the process; bootstrap does so for every spine that it builds."""
    if not isinstance(facade, RunGovernanceFacade):
        raise TypeError("only a whole RunGovernanceFacade is wired")
    with _wiring.lock:
        _wiring.facade = facade


def get_run_governance_facade() -> RunGovernanceFacade:
    """Return the facade of the process; RuntimeError before bootstrap has wired one."""
    facade = _wiring.facade
    if facade is None:
        raise RuntimeError(_NOT_WIRED)
    return facade
