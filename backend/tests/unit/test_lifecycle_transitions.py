"""Unit: what a caller may ask of the lifecycle, and the refusals that need no gate (GAP-089)."""

from __future__ import annotations

from typing import Any

import pytest

from app.domains.knowledge.engines import transitions
from app.domains.knowledge.engines.transitions import Intent, Move
from app.domains.knowledge.models.planes import (
    TransitionPlane,
)
from app.domains.knowledge.models.vocabulary import (
    JobStatus,
)
from app.domains.knowledge.models.vocabulary import (
    KnowledgePlaneLifecycleState as State,
)
from app.domains.knowledge.models.vocabulary import (
    LifecycleAction as Action,
)
from app.kernel.errors import HocError


def read(**members: Any) -> Intent:
    return transitions.read_intent(TransitionPlane(plane_id="kp_1", **members))


def code_of(**members: Any) -> str:
    with pytest.raises(HocError) as refused:
        read(**members)
    return refused.value.code


def test_an_intent_names_an_action_or_a_target_and_only_one() -> None:
    assert code_of() == "MISSING_TRANSITION_INTENT"
    assert code_of(action="verify_knowledge_plane", to_state="VERIFIED") == "AMBIGUOUS_TRANSITION_INTENT"


def test_unknown_words_are_told_apart() -> None:
    assert code_of(action="verify") == "UNKNOWN_ACTION"
    assert code_of(to_state="READY") == "INVALID_TARGET_STATE"
    assert code_of(to_state="110") == "INVALID_TARGET_STATE"


@pytest.mark.parametrize("name", ["VERIFIED", "verified", "Verified"])
def test_a_state_is_named_in_any_case(name: str) -> None:
    assert read(to_state=name).target is State.VERIFIED


@pytest.mark.parametrize(
    "members",
    [
        {"action": "fail_knowledge_plane"},
        {"action": "purge_knowledge_plane"},
        {"to_state": "failed"},
        {"to_state": "PURGED"},
        {"action": "deactivate_knowledge_plane", "force": True},
    ],
)
def test_failing_purging_and_forcing_need_a_reason(members: dict[str, Any]) -> None:
    assert code_of(**members) == "REASON_REQUIRED"
    assert read(**members, reason="it must go").reason == "it must go"


def decide(state: State, *, action: Action | None = None, target: State | None = None) -> Move | HocError:
    return transitions.decide_move(Intent(action, target, None, False), state)


def test_an_action_that_is_not_legal_here_is_refused() -> None:
    refused = decide(State.DRAFT, action=Action.ACTIVATE)
    assert isinstance(refused, HocError)
    assert refused.code == "INVALID_ACTION"


@pytest.mark.parametrize("state", [State.PENDING_VERIFY, State.INGESTING, State.ARCHIVED])
def test_job_complete_belongs_to_the_job_runner(state: State) -> None:
    refused = decide(state, action=Action.JOB_COMPLETE)
    assert isinstance(refused, HocError)
    assert refused.code == "INVALID_ACTION"


def test_a_pair_outside_the_matrix_is_refused() -> None:
    refused = decide(State.ACTIVE, target=State.FAILED)
    assert isinstance(refused, HocError)
    assert refused.code == "INVALID_TRANSITION"
    assert isinstance(decide(State.DRAFT, target=State.DRAFT), HocError)


def test_a_target_is_reached_by_the_action_an_actor_may_take() -> None:
    assert decide(State.INGESTING, target=State.INDEXED) == Move(State.INGESTING, State.INDEXED, Action.INDEX)
    assert decide(State.DRAFT, action=Action.VERIFY) == Move(State.DRAFT, State.PENDING_VERIFY, Action.VERIFY)


def test_the_kill_switch_stops_only_the_way_into_service() -> None:
    refused = transitions.check_switch(State.ACTIVE, halted=True)
    assert refused is not None
    assert refused.code == "KILL_SWITCH_ACTIVE"
    assert transitions.check_switch(State.ACTIVE, halted=False) is None
    assert all(
        transitions.check_switch(state, halted=True) is None for state in State if state is not State.ACTIVE
    )


def test_purging_and_forcing_need_the_admin_scope() -> None:
    purge = Move(State.ARCHIVED, State.PURGED, Action.PURGE)
    leave = Move(State.PENDING_DEACTIVATE, State.DEACTIVATED, Action.DEACTIVATE)
    for move, force in ((purge, False), (leave, True)):
        refused = transitions.check_authority(move, force=force, is_admin=False)
        assert refused is not None
        assert refused.code == "INSUFFICIENT_SCOPE"
        assert transitions.check_authority(move, force=force, is_admin=True) is None
    assert transitions.check_authority(leave, force=False, is_admin=False) is None


@pytest.mark.parametrize("status", [None, *JobStatus])
def test_a_stage_is_left_forward_only_after_its_job_succeeded(status: JobStatus | None) -> None:
    refused = transitions.check_job(status)
    if status is JobStatus.SUCCEEDED:
        assert refused is None
    else:
        assert refused is not None
        assert (refused.code, refused.extra["required_action"]) == ("JOB_INCOMPLETE", "await_job")


def test_only_the_two_stages_with_a_job_wait_for_it() -> None:
    waiting = {
        (source, target)
        for source in State
        for target in State
        if transitions.needs_job(Move(source, target, Action.VERIFY))
    }
    assert waiting == {(State.PENDING_VERIFY, State.VERIFIED), (State.INGESTING, State.INDEXED)}
