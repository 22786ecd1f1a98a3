"""L5 transitions: what a caller asks for, and the refusals that need no gate (GAP-089)."""

from __future__ import annotations

from dataclasses import dataclass

from app.domains.knowledge.engines import lifecycle
from app.domains.knowledge.errors import (
    ambiguous_transition_intent,
    conflict,
    forbidden,
    invalid_target_state,
    missing_transition_intent,
    reason_required,
    unknown_action,
)
from app.domains.knowledge.models.planes import (
    TransitionPlane,
)
from app.domains.knowledge.models.vocabulary import (
    JobStatus,
    KnowledgePlaneLifecycleState,
    LifecycleAction,
)
from app.kernel.errors import HocError

State = KnowledgePlaneLifecycleState
ADMIN_SCOPE = "knowledge:admin"


@dataclass(frozen=True, slots=True)
class Intent:
    """A well-formed wish to move: exactly one of action and target."""

    action: LifecycleAction | None
    target: State | None
    reason: str | None
    force: bool


@dataclass(frozen=True, slots=True)
class Move:
    """A legal edge, by the action that takes it."""

    from_state: State
    to_state: State
    action: LifecycleAction


def read_state(name: str) -> State | None:
    """Return the state of this name in any case, or None."""
    return State.__members__.get(name.upper())


def read_intent(request: TransitionPlane) -> Intent:
    """Return the intent of a request, or raise the refusal of its shape."""
    if request.action is None and request.to_state is None:
        raise missing_transition_intent()
    if request.action is not None and request.to_state is not None:
        raise ambiguous_transition_intent()
    action = target = None
    if request.action is not None:
        if request.action not in set(LifecycleAction):
            raise unknown_action()
        action = LifecycleAction(request.action)
    else:
        target = read_state(str(request.to_state))
        if target is None:
            raise invalid_target_state()
    drastic = action in (LifecycleAction.FAIL, LifecycleAction.PURGE) or target in (
        State.FAILED,
        State.PURGED,
    )
    if (drastic or request.force) and request.reason is None:
        raise reason_required()
    return Intent(action, target, request.reason, request.force)


def decide_move(intent: Intent, state: State) -> Move | HocError:
    """Return the edge that the intent takes from here, or INVALID_ACTION or INVALID_TRANSITION."""
    if intent.action is not None:
        target = lifecycle.get_transition_for_action(intent.action, state)
        if target is None or intent.action is LifecycleAction.JOB_COMPLETE:
            return conflict("INVALID_ACTION", f"{intent.action} is not possible in {state.name}.")
        return Move(state, target, intent.action)
    if intent.target is None:
        raise ValueError("an intent names an action or a target")
    verdict = lifecycle.validate_transition(state, intent.target)
    action = lifecycle.get_actor_action(state, intent.target)
    if not verdict or action is None:
        return conflict("INVALID_TRANSITION", f"{verdict.reason[:1].upper()}{verdict.reason[1:]}.")
    return Move(state, intent.target, action)


def check_switch(to_state: State, *, halted: bool) -> HocError | None:
    """Return KILL_SWITCH_ACTIVE for the way into service while a switch is engaged; all else is repair."""
    if halted and to_state is State.ACTIVE:
        return conflict("KILL_SWITCH_ACTIVE", "The kill switch is engaged; no plane goes into service.")
    return None


def check_authority(move: Move, *, force: bool, is_admin: bool) -> HocError | None:
    """Return INSUFFICIENT_SCOPE for a purge or a forced move without knowledge:admin."""
    if (force or move.to_state is State.PURGED) and not is_admin:
        return forbidden("INSUFFICIENT_SCOPE", f"Purging and forcing need the scope {ADMIN_SCOPE}.")
    return None


def needs_job(move: Move) -> bool:
    """Tell whether the edge waits for the job of the present visit."""
    return (move.from_state, move.to_state) in lifecycle.JOB_EDGES


def check_job(status: JobStatus | None) -> HocError | None:
    """Return JOB_INCOMPLETE unless the job of this visit succeeded."""
    if status is JobStatus.SUCCEEDED:
        return None
    return conflict("JOB_INCOMPLETE", "The job of this stage has not succeeded.", required_action="await_job")
