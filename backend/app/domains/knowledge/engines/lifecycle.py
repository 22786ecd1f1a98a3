"""L5 lifecycle of a knowledge plane: the 25 legal edges as data, and pure questions about them (GAP-089)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from app.domains.knowledge.models.vocabulary import (
    KnowledgePlaneLifecycleState,
    LifecycleAction,
    TransitionResult,
)

State = KnowledgePlaneLifecycleState
Edge = tuple[State, State]

_RETRY = LifecycleAction.RETRY
_FAIL = LifecycleAction.FAIL
_JOB_COMPLETE = LifecycleAction.JOB_COMPLETE

# Each edge with the actions that may take it, the edge's own name first. ACTIVE -> FAILED is absent on
# purpose: a broken plane in service is suspended at once, then deregistered, then failed.
EDGES: Mapping[Edge, tuple[LifecycleAction, ...]] = MappingProxyType(
    {
        (State.DRAFT, State.PENDING_VERIFY): (LifecycleAction.VERIFY,),
        (State.DRAFT, State.FAILED): (_FAIL,),
        (State.PENDING_VERIFY, State.VERIFIED): (_JOB_COMPLETE,),
        (State.PENDING_VERIFY, State.DRAFT): (_RETRY,),
        (State.PENDING_VERIFY, State.FAILED): (_FAIL,),
        (State.VERIFIED, State.INGESTING): (LifecycleAction.INGEST,),
        (State.VERIFIED, State.FAILED): (_FAIL,),
        (State.INGESTING, State.INDEXED): (_JOB_COMPLETE, LifecycleAction.INDEX),
        (State.INGESTING, State.VERIFIED): (_RETRY,),
        (State.INGESTING, State.FAILED): (_FAIL,),
        (State.INDEXED, State.CLASSIFIED): (LifecycleAction.CLASSIFY,),
        (State.INDEXED, State.FAILED): (_FAIL,),
        (State.CLASSIFIED, State.PENDING_ACTIVATE): (LifecycleAction.REQUEST_ACTIVATION,),
        (State.CLASSIFIED, State.FAILED): (_FAIL,),
        (State.PENDING_ACTIVATE, State.ACTIVE): (LifecycleAction.ACTIVATE,),
        (State.PENDING_ACTIVATE, State.CLASSIFIED): (_RETRY,),
        (State.PENDING_ACTIVATE, State.FAILED): (_FAIL,),
        (State.ACTIVE, State.PENDING_DEACTIVATE): (LifecycleAction.DEREGISTER,),
        (State.PENDING_DEACTIVATE, State.DEACTIVATED): (LifecycleAction.DEACTIVATE,),
        (State.PENDING_DEACTIVATE, State.ACTIVE): (LifecycleAction.CANCEL_DEREGISTER,),
        (State.PENDING_DEACTIVATE, State.FAILED): (_FAIL,),
        (State.DEACTIVATED, State.ARCHIVED): (LifecycleAction.ARCHIVE,),
        (State.DEACTIVATED, State.FAILED): (_FAIL,),
        (State.ARCHIVED, State.PURGED): (LifecycleAction.PURGE,),
        (State.ARCHIVED, State.FAILED): (_FAIL,),
    }
)
GATE_EDGES: frozenset[Edge] = frozenset(
    {
        (State.PENDING_ACTIVATE, State.ACTIVE),
        (State.PENDING_DEACTIVATE, State.DEACTIVATED),
        (State.PENDING_DEACTIVATE, State.ACTIVE),
        (State.ARCHIVED, State.PURGED),
    }
)
ASYNC_EDGES: frozenset[Edge] = frozenset(
    {
        (State.DRAFT, State.PENDING_VERIFY),
        (State.VERIFIED, State.INGESTING),
        (State.DEACTIVATED, State.ARCHIVED),
    }
)
# Edges that go back: their event is a rollback.
ROLLBACK_EDGES: frozenset[Edge] = frozenset(
    edge
    for edge, actions in EDGES.items()
    if _RETRY in actions or LifecycleAction.CANCEL_DEREGISTER in actions
)
# Forward edges that wait for the job of the present visit to succeed.
JOB_EDGES: frozenset[Edge] = frozenset(edge for edge, actions in EDGES.items() if _JOB_COMPLETE in actions)

_ONBOARDING = (
    State.DRAFT,
    State.PENDING_VERIFY,
    State.VERIFIED,
    State.INGESTING,
    State.INDEXED,
    State.CLASSIFIED,
    State.PENDING_ACTIVATE,
    State.ACTIVE,
)
_OFFBOARDING = (State.ACTIVE, State.PENDING_DEACTIVATE, State.DEACTIVATED, State.ARCHIVED, State.PURGED)


def validate_transition(from_state: State, to_state: State) -> TransitionResult:
    """Return the verdict on one pair of states, with the reason of a refusal (LIFECYCLE-002, -003)."""
    edge = (from_state, to_state)
    allowed = edge in EDGES
    return TransitionResult(
        allowed=allowed,
        from_state=from_state,
        to_state=to_state,
        reason="legal transition" if allowed else _refusal_reason(from_state, to_state),
        requires_gate=edge in GATE_EDGES,
        requires_async=edge in ASYNC_EDGES,
    )


def _refusal_reason(from_state: State, to_state: State) -> str:
    if from_state is to_state:
        return f"{from_state.name} is already the state"
    if from_state.is_terminal:
        return f"{from_state.name} is final"
    if from_state is State.ACTIVE and to_state is State.FAILED:
        return "an ACTIVE plane is suspended and deregistered before it is failed"
    return f"{from_state.name} does not lead to {to_state.name}"


def is_valid_transition(from_state: State, to_state: State) -> bool:
    """Tell whether the pair is one of the 25 edges."""
    return (from_state, to_state) in EDGES


def get_valid_transitions(from_state: State) -> tuple[State, ...]:
    """Return the states that the state leads to, in the order of the matrix."""
    return tuple(target for source, target in EDGES if source is from_state)


def get_action_for_transition(from_state: State, to_state: State) -> LifecycleAction | None:
    """Return the name of the edge, or None when the pair is not legal."""
    actions = EDGES.get((from_state, to_state))
    return actions[0] if actions else None


def get_actor_action(from_state: State, to_state: State) -> LifecycleAction | None:
    """Return the action an actor names for the edge: the one beside job_complete where there is one."""
    actions = EDGES.get((from_state, to_state))
    return actions[-1] if actions else None


def get_transition_for_action(action: LifecycleAction, from_state: State) -> State | None:
    """Return the state that the action leads to from here, or None when it is not legal here."""
    for (source, target), actions in EDGES.items():
        if source is from_state and action in actions:
            return target
    return None


def get_next_onboarding_state(state: State) -> State | None:
    """Return the next state on the way to ACTIVE, or None when the state is not on that way."""
    return _next(_ONBOARDING, state)


def get_next_offboarding_state(state: State) -> State | None:
    """Return the next state on the way to PURGED, or None when the state is not on that way."""
    return _next(_OFFBOARDING, state)


def _next(path: tuple[State, ...], state: State) -> State | None:
    if state not in path[:-1]:
        return None
    return path[path.index(state) + 1]
