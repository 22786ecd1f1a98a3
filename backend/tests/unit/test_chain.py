"""Unit: the step chain gives the published vectors, and every column of a step enters its link."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.db.governed import GOVERNED, body_of, statement_text
from app.domains.traces import tables
from app.domains.traces.engines import chain
from app.kernel.hashing import protected_commit

START = datetime(2026, 2, 9, tzinfo=UTC)
SALT = bytes(range(32)).hex()
COMMIT = "c1:6e3d02aac1a83f8ba34feea822a3e44331654c7e05a4abd611f953458b2cbcb7"


def genesis(**changes: Any) -> str:
    members: dict[str, Any] = {
        "tenant_id": "tenant-test-001",
        "run_id": "run-proof-test-001",
        "attempt": 1,
        "trace_id": "trace_run-proof-test-001",
        "schema_version": 1,
        "policy_snapshot": "snap_" + "0" * 32,
        "plan_hash": None,
        "seed": None,
        "started_at": START,
    }
    return chain.genesis_hash(chain.genesis_statement(**{**members, **changes}))


def step(index: int, name: str, **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(chain.STEP_MEMBERS)
    row |= {
        "step_index": index,
        "skill_id": name,
        "skill_name": name,
        "status": "success",
        "outcome_category": "UNSPECIFIED",
        "cost_micro": 0,
        "duration_us": 0,
        "retry_count": 0,
        "replay_behavior": "execute",
        "level": "INFO",
        "side_effect": False,
        "usage": "{}",
        "redactions": 0,
        "redaction_version": "rdx-1",
        "occurred_at": START,
        "recorded_at": START,
        "protected_commit": COMMIT,
    }
    return row | changes


def link(previous: str, row: dict[str, Any]) -> str:
    return chain.next_link(previous, chain.statement_hash(chain.step_statement(row)))


def test_the_genesis_vector_is_met() -> None:
    assert genesis() == "bb86c892684c00fdd641524d396440e881b0a97184c72fc4a29065f8214f4006"


def test_the_root_vector_of_three_steps_is_met() -> None:
    head = genesis()
    for index, name in enumerate(["validate_input", "process_data", "generate_report"]):
        head = link(head, step(index, name))
    assert head == "9d315d7426418cdd6a0a21b59839bfea2650082998d0f0ec1b3a34ebc3d4056b"


def test_the_commitment_vector_is_met() -> None:
    assert chain.step_commitment(SALT, params="{}", outcome_data=None) == COMMIT
    assert protected_commit(SALT, {"params": {}, "outcome_data": None}) == COMMIT


@pytest.mark.parametrize(
    ("run_id", "steps", "expected"),
    [
        (
            "run-proof-test-001",
            ["validate_input success", "process_data success", "generate_report success"],
            "0ca74e198c14a378a33c2ecad49ac725c74f3c33cce6dc1512fb32b258654c32",
        ),
        (
            "78d877a8-9f1e-4bf5-b060-1d5e23949a68",
            ["http_call failure"],
            "5583fbff25cd1129f6d19d662de123f367865ef69a24e0bc420040efc6480783",
        ),
    ],
)
def test_the_legacy_digest_vectors_are_met(run_id: str, steps: list[str], expected: str) -> None:
    triples = [(index, *entry.split()) for index, entry in enumerate(steps)]
    assert chain.legacy_run_digest(run_id, triples) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"tenant_id": "other"},
        {"run_id": "other"},
        {"attempt": 2},
        {"trace_id": "other"},
        {"schema_version": 2},
        {"policy_snapshot": "snap_" + "1" * 32},
        {"plan_hash": "0"},
        {"seed": 0},
        {"started_at": START + timedelta(microseconds=1)},
    ],
)
def test_every_member_of_the_genesis_enters_its_hash(change: dict[str, Any]) -> None:
    assert genesis(**change) != genesis()


@pytest.mark.parametrize("member", chain.STEP_MEMBERS)
def test_every_member_of_a_step_enters_its_link(member: str) -> None:
    row = step(0, "a")
    other = {
        "step_index": 1,
        "cost_micro": 1,
        "duration_us": 1,
        "retry_count": 1,
        "redactions": 1,
        "side_effect": True,
        "usage": '{"COST_USD":1}',
        "occurred_at": START + timedelta(microseconds=1),
        "recorded_at": START + timedelta(microseconds=1),
    }.get(member, "changed")
    assert link(genesis(), row | {member: other}) != link(genesis(), row)


def test_a_step_statement_holds_exactly_the_hashed_columns_of_its_table() -> None:
    entry = GOVERNED[tables.aos_trace_steps.name]
    assert set(chain.STEP_MEMBERS) == set(entry.hashed)


def test_the_quick_statement_equals_the_general_one() -> None:
    """The text closed by hand is the canonical text of the same members."""
    row = step(7, 'q"uote\u2028', usage='{"COST_USD":105500000}', rng_state_before="\x01", outcome_code="é")
    entry = GOVERNED[tables.aos_trace_steps.name]
    general = statement_text({}, {"type": "trace.step", "v": 1, **body_of(entry, row)})
    assert general == '{"body":' + chain.step_statement(row) + "}"


def test_a_link_depends_on_the_link_before() -> None:
    row = step(0, "a")
    assert link(genesis(), row) != link(genesis(attempt=2), row)


def test_later_attempts_have_numbered_trace_ids() -> None:
    assert chain.trace_id_of("r", 1) == "trace_r"
    assert chain.trace_id_of("r", 2) == "trace_r.2"
