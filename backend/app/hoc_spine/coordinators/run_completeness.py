"""Spine: is the governance of a run complete: what was due against what was committed; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple

from app.domains.activity.models.vocabulary import OutcomeKind, RunStatus
from app.kernel.inputs import Identifier, Input, Output, OutputTime

GRACE = timedelta(seconds=5)
# A round looks at what ended within it; the next rounds look again.
WINDOW = timedelta(hours=1)
Row = Mapping[str, Any]


class Completeness(StrEnum):
    """STALE beats INCOMPLETE beats COMPLETE."""

    COMPLETE = "COMPLETE"
    INCOMPLETE = "INCOMPLETE"
    STALE = "STALE"


class ActionStatus(StrEnum):
    """PENDING is not due yet, MISSING is due and not there, FAILED is there and says that it was not done."""

    PENDING = "PENDING"
    ACKED = "ACKED"
    MISSING = "MISSING"
    FAILED = "FAILED"


class Action(NamedTuple):
    """What a domain does for an attempt of a run."""

    domain: str
    action: str
    attempt: int


START_TRACE = ("logs", "start_trace")
EVALUATE = ("policies", "evaluate_policy")
INCIDENT = ("incidents", "create_incident")
FINALIZE = ("orchestrator", "finalize_run")


@dataclass(frozen=True, slots=True)
class Expectation:
    """An action that has to be committed by `due_at`."""

    action: Action
    due_at: datetime


@dataclass(frozen=True, slots=True)
class Ack:
    """A committed fact about an action: done, or `failed`."""

    action: Action
    failed: bool = False


class CompletenessInput(Input):
    run_id: Identifier


class ActionView(Output):
    domain: str
    action: str
    attempt: int


class ExpectationView(ActionView):
    due_at: OutputTime
    status: ActionStatus


class RunCompleteness(Output):
    """What a run's governance should have done by now, and whether it did."""

    run_id: str
    status: Completeness
    missing_actions: list[ActionView]
    drift_actions: list[ActionView]
    failed_actions: list[ActionView]
    stale_run: bool
    expectations: list[ExpectationView]
    reconciled_at: OutputTime


@dataclass(frozen=True, slots=True)
class Reconciled:
    """The outcome of a reconciliation."""

    status: Completeness
    statuses: Mapping[Action, ActionStatus]
    drift: Sequence[Action]
    stale: bool

    def having(self, status: ActionStatus) -> list[Action]:
        """Return the actions of a status, in the order in which they were expected."""
        return [action for action, found in self.statuses.items() if found is status]


def reconcile(expectations: Sequence[Expectation], acks: Sequence[Ack], now: datetime) -> Reconciled:
    """Hold what was expected against what was committed.

    Missing is due and not acked, drift is acked and not expected, and a run is stale when its end is overdue.
    """
    acked = {ack.action: ack.failed for ack in acks}
    statuses: dict[Action, ActionStatus] = {}
    for expectation in expectations:
        action = expectation.action
        if action in acked:
            statuses[action] = ActionStatus.FAILED if acked[action] else ActionStatus.ACKED
        else:
            due = expectation.due_at <= now
            statuses[action] = ActionStatus.MISSING if due else ActionStatus.PENDING
    drift = [action for action in acked if action not in statuses]
    stale = any(
        status is ActionStatus.MISSING and action[:2] == FINALIZE for action, status in statuses.items()
    )
    status = Completeness.COMPLETE
    if stale:
        status = Completeness.STALE
    elif drift or set(statuses.values()) & {ActionStatus.MISSING, ActionStatus.FAILED}:
        status = Completeness.INCOMPLETE
    return Reconciled(status, statuses, drift, stale)


def expectations_of(run: Row, traces: Mapping[int, Row]) -> list[Expectation]:
    """Return what has to be there for each attempt of a run, from what is known of its times."""
    expected = []
    started_at = run["started_at"]
    for attempt in range(1, run["attempt"] + 1):
        expected.append(Expectation(Action(*START_TRACE, attempt), started_at + GRACE))
        ended_at = _ended_at(run, traces.get(attempt), attempt)
        if ended_at is None:
            continue
        expected += [
            Expectation(Action(*domain_action, attempt), ended_at + GRACE)
            for domain_action in (EVALUATE, INCIDENT)
        ]
        started_at = ended_at
    return [
        *expected,
        Expectation(Action(*FINALIZE, run["attempt"]), run["deadline_at"] + GRACE),
    ]


def _ended_at(run: Row, trace: Row | None, attempt: int) -> datetime | None:
    """Return when an attempt ended, None for the one that goes on; one without trace ended when it could."""
    ended: datetime | None = run["completed_at"]
    if attempt < run["attempt"]:
        ended = (None if trace is None else trace["completed_at"]) or run["started_at"]
    return ended


def acks_of(run: Row, traces: Mapping[int, Row], evaluations: Sequence[Row]) -> list[Ack]:
    """Return what was committed: an ack is that fact, so nobody can claim one."""
    acks = [Ack(Action(*START_TRACE, attempt)) for attempt in sorted(traces)]
    for evaluation in evaluations:
        attempt, left = evaluation["attempt"], evaluation["outcome_kind"] != OutcomeKind.NONE
        acks.append(Ack(Action(*EVALUATE, attempt)))
        acks.append(Ack(Action(*INCIDENT, attempt), failed=not left and _leaves_one(run, attempt)))
    if run["status"] != RunStatus.RUNNING:
        acks.append(Ack(Action(*FINALIZE, run["attempt"])))
    return acks


def _leaves_one(run: Row, attempt: int) -> bool:
    """Tell whether an attempt that ended has to leave an incident or a prevention behind."""
    return attempt == run["attempt"] and run["status"] in (RunStatus.FAILED, RunStatus.HALTED)


def completeness_view(
    run_id: str, expectations: Sequence[Expectation], found: Reconciled, *, now: datetime
) -> RunCompleteness:
    """Return what a caller sees of a reconciliation."""
    return RunCompleteness(
        run_id=run_id,
        status=found.status,
        missing_actions=_views(found.having(ActionStatus.MISSING)),
        drift_actions=_views(found.drift),
        failed_actions=_views(found.having(ActionStatus.FAILED)),
        stale_run=found.stale,
        expectations=[
            ExpectationView(
                **expectation.action._asdict(),
                due_at=expectation.due_at,
                status=found.statuses[expectation.action],
            )
            for expectation in expectations
        ],
        reconciled_at=now,
    )


def _views(actions: Sequence[Action]) -> list[ActionView]:
    return [ActionView(**action._asdict()) for action in actions]
