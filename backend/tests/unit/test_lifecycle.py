"""Unit: the lifecycle matrix of knowledge planes, its predicates and pure questions (GAP-089)."""

from __future__ import annotations

from itertools import pairwise, product

import pytest

from app.domains.knowledge.engines import lifecycle
from app.domains.knowledge.models.vocabulary import (
    KnowledgePlaneLifecycleState as State,
)
from app.domains.knowledge.models.vocabulary import (
    LifecycleAction as Action,
)

# GAP-089 written out a second time, not taken from the code: the engine must agree with it.
EDGES = {
    (100, 110): {"verify_knowledge_plane"},
    (100, 500): {"fail_knowledge_plane"},
    (110, 120): {"job_complete"},
    (110, 100): {"retry_knowledge_plane"},
    (110, 500): {"fail_knowledge_plane"},
    (120, 130): {"ingest_knowledge_plane"},
    (120, 500): {"fail_knowledge_plane"},
    (130, 140): {"job_complete", "index_knowledge_plane"},
    (130, 120): {"retry_knowledge_plane"},
    (130, 500): {"fail_knowledge_plane"},
    (140, 150): {"classify_knowledge_plane"},
    (140, 500): {"fail_knowledge_plane"},
    (150, 160): {"request_activation"},
    (150, 500): {"fail_knowledge_plane"},
    (160, 200): {"activate_knowledge_plane"},
    (160, 150): {"retry_knowledge_plane"},
    (160, 500): {"fail_knowledge_plane"},
    (200, 300): {"deregister_knowledge_plane"},
    (300, 310): {"deactivate_knowledge_plane"},
    (300, 200): {"cancel_deregister_knowledge_plane"},
    (300, 500): {"fail_knowledge_plane"},
    (310, 320): {"archive_knowledge_plane"},
    (310, 500): {"fail_knowledge_plane"},
    (320, 400): {"purge_knowledge_plane"},
    (320, 500): {"fail_knowledge_plane"},
}
PAIRS = list(product(State, State))
GATED = {(160, 200), (300, 310), (300, 200), (320, 400)}
ASYNC = {(100, 110), (120, 130), (310, 320)}


def test_there_are_thirteen_states_in_order() -> None:
    values = [int(state) for state in State]
    assert values == [100, 110, 120, 130, 140, 150, 160, 200, 300, 310, 320, 400, 500]
    assert all(before < after for before, after in pairwise(values))


def test_exactly_25_of_169_pairs_are_legal() -> None:
    assert len(PAIRS) == 169
    assert sum(bool(lifecycle.validate_transition(*pair)) for pair in PAIRS) == len(EDGES) == 25


@pytest.mark.parametrize(("source", "target"), PAIRS, ids=lambda state: state.name)
def test_each_pair_is_judged_as_the_page_says(source: State, target: State) -> None:
    result = lifecycle.validate_transition(source, target)
    pair = (int(source), int(target))
    assert bool(result) is result.allowed is (pair in EDGES)
    assert result.requires_gate is (pair in GATED)
    assert result.requires_async is (pair in ASYNC)
    assert (result.from_state, result.to_state) == (source, target)
    assert result.reason
    assert lifecycle.is_valid_transition(source, target) is (pair in EDGES)
    assert (target in lifecycle.get_valid_transitions(source)) is (pair in EDGES)


@pytest.mark.parametrize(("source", "target"), PAIRS, ids=lambda state: state.name)
def test_an_action_names_an_edge_and_nothing_else(source: State, target: State) -> None:
    expected = EDGES.get((int(source), int(target)), set())
    named = lifecycle.get_action_for_transition(source, target)
    assert (named in expected) if expected else named is None
    taking = {action for action in Action if lifecycle.get_transition_for_action(action, source) is target}
    assert taking == expected


def test_an_action_that_is_not_legal_here_leads_nowhere() -> None:
    assert lifecycle.get_transition_for_action(Action.ACTIVATE, State.DRAFT) is None
    assert lifecycle.get_transition_for_action(Action.FAIL, State.ACTIVE) is None
    assert all(lifecycle.get_transition_for_action(Action.REGISTER, state) is None for state in State)


def test_no_state_leads_to_itself_and_the_last_two_lead_nowhere() -> None:
    assert all(state not in lifecycle.get_valid_transitions(state) for state in State)
    assert (
        lifecycle.get_valid_transitions(State.PURGED) == lifecycle.get_valid_transitions(State.FAILED) == ()
    )


def test_an_active_plane_does_not_fail() -> None:
    result = lifecycle.validate_transition(State.ACTIVE, State.FAILED)
    assert not result
    assert "deregistered" in result.reason


def test_every_edge_to_failed_is_taken_by_one_action() -> None:
    to_failed = [edge for edge in lifecycle.EDGES if edge[1] is State.FAILED]
    assert {lifecycle.EDGES[edge] for edge in to_failed} == {(Action.FAIL,)}
    assert {edge[0] for edge in to_failed} == set(State) - {State.ACTIVE, State.PURGED, State.FAILED}


def test_the_way_in_and_the_way_out_are_walks_along_legal_edges() -> None:
    way_in = [State.DRAFT]
    while (following := lifecycle.get_next_onboarding_state(way_in[-1])) is not None:
        way_in.append(following)
    way_out = [State.ACTIVE]
    while (following := lifecycle.get_next_offboarding_state(way_out[-1])) is not None:
        way_out.append(following)
    assert (way_in[-1], way_out[-1]) == (State.ACTIVE, State.PURGED)
    assert all(lifecycle.is_valid_transition(*edge) for edge in (*pairwise(way_in), *pairwise(way_out)))
    assert len(set(way_in) | set(way_out)) == 12


def test_a_state_off_the_way_has_no_next_one() -> None:
    assert lifecycle.get_next_onboarding_state(State.ACTIVE) is None
    assert lifecycle.get_next_onboarding_state(State.FAILED) is None
    assert lifecycle.get_next_offboarding_state(State.DRAFT) is None
    assert lifecycle.get_next_offboarding_state(State.PURGED) is None


def test_rollbacks_are_the_three_retries_and_the_cancelled_deregistration() -> None:
    assert {(int(a), int(b)) for a, b in lifecycle.ROLLBACK_EDGES} == {
        (110, 100),
        (130, 120),
        (160, 150),
        (300, 200),
    }


PREDICATES = {
    "is_onboarding": {100, 110, 120, 130, 140, 150, 160},
    "is_operational": {200},
    "is_offboarding": {300, 310, 320},
    "is_terminal": {400, 500},
    "is_failed": {500},
    "allows_queries": {200},
    "allows_new_runs": {200},
    "allows_policy_binding": {160, 200},
    "allows_modifications": {100, 110, 120, 130, 140, 150, 160, 200},
    "requires_async_job": {110, 130, 320},
    "requires_policy_gate": {160, 300, 320},
}


@pytest.mark.parametrize("name", PREDICATES)
def test_a_predicate_holds_for_exactly_its_states(name: str) -> None:
    assert {int(state) for state in State if getattr(state, name)} == PREDICATES[name]
