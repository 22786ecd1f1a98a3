"""Rules of workflow runs without a database: endings, circles of steps, digests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domains.repository.engines import bundles, operation_runs, workflow_steps
from app.domains.repository.engines.context_packages import memory_ref_digest, package_digest
from app.domains.repository.models.runs import StepSpec
from app.domains.repository.models.vocabulary import OperationRunStatus as Status
from app.kernel.errors import HocError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
IDS = [f"s{number}" for number in range(7)]


@pytest.mark.parametrize(
    ("current", "ending", "expected"),
    [
        (Status.RUNNING, "succeeded", Status.SUCCEEDED),
        (Status.RUNNING, "failed", Status.FAILED),
        (Status.RUNNING, "halted", Status.CANCELLED),
        (Status.RUNNING, "cancelled", Status.CANCELLED),
        *[
            (current, ending, Status.CANCELLED)
            for current in (Status.PENDING, Status.WAITING)
            for ending in ("succeeded", "failed", "halted", "cancelled")
        ],
    ],
)
def test_a_governed_runs_end_ends_a_running_one_alike_and_cancels_the_others(
    current: Status, ending: str, expected: Status
) -> None:
    assert operation_runs.decide_end(current, ending) is expected
    assert expected in operation_runs.TRANSITIONS[current]


def test_a_lease_is_live_up_to_its_end_and_not_at_it() -> None:
    row = {"lease_owner": "w", "lease_until": NOW}
    assert operation_runs.is_leased(row, NOW - timedelta(microseconds=1))
    assert not operation_runs.is_leased(row, NOW)
    with pytest.raises(HocError, match="holds the run"):
        operation_runs.check_lease(row, None, NOW - timedelta(seconds=1))
    operation_runs.check_lease(row, "w", NOW - timedelta(seconds=1))
    operation_runs.check_lease(row, "other", NOW)


@given(st.dictionaries(st.sampled_from(IDS), st.lists(st.sampled_from(IDS), max_size=3)))
def test_a_circle_is_found_exactly_when_no_order_exists(drawn: dict[str, list[str]]) -> None:
    graph = {step: [other for other in others if other in drawn] for step, others in drawn.items()}
    circle = workflow_steps.find_cycle(graph)
    assert bool(circle) == any(_reaches(graph, step, step) for step in graph)
    # Who is named leads to a circle and is led to by one.
    for step in circle:
        around = [other for other in graph if _reaches(graph, other, other)]
        assert any(other == step or _reaches(graph, step, other) for other in around)
        assert any(other == step or _reaches(graph, other, step) for other in around)
    assert {step for step in graph if _reaches(graph, step, step)} <= set(circle)


def _reaches(graph: dict[str, list[str]], start: str, goal: str) -> bool:
    seen: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        step = waiting.pop()
        if step == goal:
            return True
        if step not in seen:
            seen.add(step)
            waiting += graph[step]
    return False


def test_a_long_chain_of_steps_is_no_circle() -> None:
    chain = [
        StepSpec(step_id=f"s{n}", position=n, depends_on=[] if n == 0 else [f"s{n - 1}"]) for n in range(1000)
    ]
    assert len(workflow_steps.read_specs(list(reversed(chain)))) == 1000


def test_the_digest_of_a_bundle_is_fixed() -> None:
    item = {"artifact_id": "a", "revision": 1, "revision_digest": "sha256:" + "0" * 64, "role": "source"}
    assert bundles.bundle_digest([]) == (
        "sha256:45a864f6d9381976e96e1aebcec6e10d6509a288c20b111262468cd75b67f661"
    )
    assert bundles.bundle_digest([item]) != bundles.bundle_digest([item, item])
    assert bundles.bundle_digest([item | {"position": 3}]) == bundles.bundle_digest([item])


def test_the_digest_of_a_package_covers_all_that_it_says() -> None:
    row: dict[str, Any] = {
        "name": "n",
        "purpose": None,
        "metadata": "{}",
        "provenance": "{}",
        "supersedes": None,
    }
    item: dict[str, Any] = {
        "kind": "external_memory",
        "memory_system": "s",
        "memory_ref": "r",
        "memory_kind": None,
        "memory_digest": None,
        "provenance": "{}",
        "note": None,
    }
    plain = package_digest(row, [item])
    changed = [
        package_digest(row | {"name": "m"}, [item]),
        package_digest(row | {"purpose": ""}, [item]),
        package_digest(row | {"metadata": '{"a":1}'}, [item]),
        package_digest(row | {"provenance": '{"a":1}'}, [item]),
        package_digest(row | {"supersedes": "ctx_1"}, [item]),
        package_digest(row, []),
        package_digest(row, [item, item]),
        *[
            package_digest(row, [item | {name: '"x"' if name == "provenance" else "x"}])
            for name in item
            if name != "kind"
        ],
    ]
    assert len({plain, *changed}) == len(changed) + 1


def test_references_that_look_alike_have_keys_of_their_own() -> None:
    alike = ["a", "A", " a", "a ", "\u00e9", "e\u0301", "a/", "a/.", "%61"]
    assert len({memory_ref_digest(ref) for ref in alike}) == len(alike)
