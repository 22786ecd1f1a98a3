"""Unit: the run's proof finds every way of damaging a trace, each under its own code."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.domains.traces import tables
from app.domains.traces.engines import chain
from app.domains.traces.engines.verification import summarise, verify_traces
from app.kernel.clock import format_time

NOW = datetime(2026, 2, 9, tzinfo=UTC)
Parts = dict[str, list[dict[str, Any]]]


def _trace(attempt: int) -> dict[str, Any]:
    members: dict[str, Any] = {
        "tenant_id": "t",
        "run_id": "r",
        "attempt": attempt,
        "trace_id": chain.trace_id_of("r", attempt),
        "schema_version": 1,
        "plan_hash": None,
        "seed": None,
        "started_at": NOW,
    }
    genesis = chain.genesis_hash(chain.genesis_statement(policy_snapshot="snap_1", **members))
    return members | {
        "policy_snapshot_id": "snap_1",
        "genesis_hash": genesis,
        "head_hash": genesis,
        "status": "OPEN",
        "outcome": None,
        "root_hash": None,
        "step_count": 0,
        "input_tokens": None,
        "output_tokens": None,
        "cost_micro": 0,
        "completed_at": None,
        "sealed_at": None,
    }


def _step(trace: dict[str, Any], index: int, previous: str, **changes: Any) -> dict[str, Any]:
    salt = f"{index:064x}"
    row: dict[str, Any] = dict.fromkeys(column.name for column in tables.aos_trace_steps.c)
    row |= {
        "tenant_id": "t",
        "trace_id": trace["trace_id"],
        "step_index": index,
        "skill_id": "s",
        "skill_name": f"name {index}",
        "params": f'{{"n":{index}}}',
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
        "occurred_at": NOW,
        "recorded_at": NOW,
        "content_hash": "c",
        "protected_salt": salt,
    } | changes
    row["protected_commit"] = chain.step_commitment(
        salt, params=row["params"], outcome_data=row["outcome_data"]
    )
    row["prev_hash"] = previous
    row["step_hash"] = chain.next_link(previous, chain.statement_hash(chain.step_statement(row)))
    return row


def _leaf(kind: str, **body: Any) -> dict[str, Any]:
    return {"type": kind, "statement": json.dumps({"type": kind, "body": body})}


def build(attempts: int = 1, *, steps: int = 4, seal: bool = True) -> Parts:
    """Return traces, steps and leaves of a run as the server would have written them, two batches each."""
    traces: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    leaves: list[dict[str, Any]] = []
    for attempt in range(1, attempts + 1):
        trace = _trace(attempt)
        claim = {name: trace[name] for name in ("trace_id", "attempt", "genesis_hash")}
        leaves.append(_leaf("run.started" if attempt == 1 else "run.attempt", trace=claim))
        link = trace["genesis_hash"]
        for index in range(steps):
            row = _step(trace, index, link)
            rows.append(row)
            link = row["step_hash"]
            if index in (steps // 2 - 1, steps - 1):
                first = 0 if index < steps // 2 else steps // 2
                leaves.append(
                    _leaf(
                        "trace.extended",
                        trace_id=trace["trace_id"],
                        attempt=attempt,
                        from_index=first,
                        to_index=index,
                        head_hash=link,
                    )
                )
        trace |= {"head_hash": link, "step_count": steps}
        if seal or attempt < attempts:
            trace |= {
                "status": "SEALED",
                "outcome": "success",
                "root_hash": link,
                "completed_at": NOW,
                "sealed_at": NOW,
            }
            leaves.append(_leaf("trace.sealed", **_seal_body(trace)))
        traces.append(trace)
    if seal:
        closed = [
            {name: t[name] for name in ("trace_id", "attempt", "step_count", "root_hash")} for t in traces
        ]
        leaves.append(_leaf("run.completed", closure={"traces": closed, "step_count": steps * attempts}))
    return {"traces": traces, "steps": rows, "leaves": leaves}


def _seal_body(trace: dict[str, Any]) -> dict[str, Any]:
    names = (
        "trace_id",
        "attempt",
        "status",
        "outcome",
        "root_hash",
        "step_count",
        "input_tokens",
        "output_tokens",
    )
    times = {name: format_time(trace[name]) for name in ("completed_at", "sealed_at")}
    return {name: trace[name] for name in names} | {"cost_micro": trace["cost_micro"]} | times


def integrity(parts: Parts, **options: Any) -> dict[str, Any]:
    verdicts = verify_traces(parts["traces"], parts["steps"], parts["leaves"])
    return summarise("r", verdicts, parts["steps"], **options)


def relink(parts: Parts, start: int) -> None:
    """Rewrite all links from a step on, as an attacker who knows the formulas would."""
    rows = parts["steps"]
    for place in range(start, len(rows)):
        previous = rows[place - 1]["step_hash"] if place else parts["traces"][0]["genesis_hash"]
        rows[place]["prev_hash"] = previous
        rows[place]["step_hash"] = chain.next_link(
            previous, chain.statement_hash(chain.step_statement(rows[place]))
        )


def test_an_untouched_sealed_run_is_verified() -> None:
    parts = build(attempts=2)
    found = integrity(parts)
    assert found["verification_status"] == "VERIFIED"
    assert (found["model"], found["chain_length"], found["failure_reason"]) == ("HASH_CHAIN", 8, None)
    assert found["root_hash"] == parts["traces"][1]["root_hash"]


def _swap(parts: Parts) -> None:
    parts["steps"][1]["step_index"], parts["steps"][2]["step_index"] = 2, 1


def _insert_after_seal(parts: Parts) -> None:
    parts["steps"].append(_step(parts["traces"][0], 4, parts["steps"][-1]["step_hash"]))


def _rewrite_chain(parts: Parts) -> None:
    parts["steps"][1]["status"] = "failure"
    relink(parts, 1)


def _rewrite_chain_and_trace(parts: Parts) -> None:
    _rewrite_chain(parts)
    parts["traces"][0]["root_hash"] = parts["traces"][0]["head_hash"] = parts["steps"][-1]["step_hash"]


def _reopen(parts: Parts) -> None:
    parts["traces"][0] |= {
        "status": "OPEN",
        "outcome": None,
        "root_hash": None,
        "completed_at": None,
        "sealed_at": None,
    }


def _foreign_attempt(parts: Parts) -> None:
    parts["traces"][0]["attempt"] = 2


ATTACKS: list[tuple[str, Callable[[Parts], Any], str, int | None]] = [
    ("the newest step deleted", lambda p: p["steps"].pop(), "TRUNCATED", 3),
    ("the last two steps deleted", lambda p: p["steps"].__delitem__(slice(2, 4)), "TRUNCATED", 2),
    ("all steps deleted", lambda p: p["steps"].clear(), "TRUNCATED", 0),
    ("the first step deleted", lambda p: p["steps"].pop(0), "GAP", 0),
    ("a middle step deleted", lambda p: p["steps"].pop(1), "GAP", 1),
    ("two indices swapped", _swap, "REORDERED", 1),
    ("a step after the seal", _insert_after_seal, "APPENDED_AFTER_SEAL", 4),
    ("a cut link", lambda p: p["steps"][2].update(prev_hash="0" * 64), "LINK_MISMATCH", 2),
    ("an edited field", lambda p: p["steps"][2].update(status="failure"), "FIELD_MISMATCH", 2),
    ("a rewritten chain", _rewrite_chain, "SEAL_MISMATCH", None),
    ("a rewritten chain and trace", _rewrite_chain_and_trace, "SEAL_MISMATCH", None),
    ("a reopened trace", _reopen, "SEAL_MISMATCH", None),
    ("a deleted trace", lambda p: p["traces"].clear(), "TRACE_MISSING", None),
    ("another genesis", lambda p: p["traces"][0].update(seed=1), "GENESIS_MISMATCH", None),
    (
        "another snapshot",
        lambda p: p["traces"][0].update(policy_snapshot_id="snap_2"),
        "GENESIS_MISMATCH",
        None,
    ),
    ("another attempt", _foreign_attempt, "GENESIS_MISMATCH", None),
    ("another tenant", lambda p: p["traces"][0].update(tenant_id="u"), "GENESIS_MISMATCH", None),
    ("edited params", lambda p: p["steps"][1].update(params='{"n":2}'), "VALUE_TAMPERED", 1),
    ("params with a space more", lambda p: p["steps"][1].update(params='{"n": 1}'), "VALUE_TAMPERED", 1),
    ("added outcome data", lambda p: p["steps"][1].update(outcome_data="0"), "VALUE_TAMPERED", 1),
    ("an edited salt", lambda p: p["steps"][1].update(protected_salt="0" * 64), "VALUE_TAMPERED", 1),
    ("a salt that is none", lambda p: p["steps"][1].update(protected_salt="x"), "VALUE_TAMPERED", 1),
    ("a salt without values", lambda p: p["steps"][1].update(params=None), "VALUE_TAMPERED", 1),
    ("values gone", lambda p: p["steps"][1].update(params=None, protected_salt=None), "VALUE_MISSING", 1),
    ("a time that is none", lambda p: p["steps"][1].update(recorded_at="now"), "FIELD_MISMATCH", 1),
    ("bytes that are no text", lambda p: p["steps"][1].update(skill_id=b"\xff"), "FIELD_MISMATCH", 1),
    ("an index that is none", lambda p: p["steps"][-1].update(step_index="last"), "GAP", 3),
    ("a genesis at no time", lambda p: p["traces"][0].update(started_at="now"), "GENESIS_MISMATCH", None),
    ("a seal at no time", lambda p: p["traces"][0].update(sealed_at="now"), "SEAL_MISMATCH", None),
]


@pytest.mark.parametrize(
    ("attack", "code", "index"), [entry[1:] for entry in ATTACKS], ids=[e[0] for e in ATTACKS]
)
def test_an_attack_on_a_sealed_trace_has_its_code(
    attack: Callable[[Parts], Any], code: str, index: int | None
) -> None:
    parts = build()
    attack(parts)
    found = integrity(parts)
    assert (found["verification_status"], found["failure_code"]) == ("FAILED", code)
    assert (found["failed_trace_id"], found["failed_step_index"]) == ("trace_r", index)
    at = "" if index is None else f" at step {index}"
    assert found["failure_reason"] == f"{code}{at} of trace trace_r"
    assert found["root_hash"] is None


@pytest.mark.parametrize(
    ("attack", "code"),
    [
        (lambda p: p["steps"].pop(), "TRUNCATED"),
        (lambda p: p["steps"].clear(), "TRUNCATED"),
        (_rewrite_chain, "HEAD_MISMATCH"),
        (_rewrite_chain_and_trace, "HEAD_MISMATCH"),
        (_insert_after_seal, "HEAD_MISMATCH"),
        (lambda p: p["traces"][0].update(head_hash="0" * 64), "HEAD_MISMATCH"),
    ],
)
def test_an_attack_on_an_open_trace_has_its_code(attack: Callable[[Parts], Any], code: str) -> None:
    parts = build(seal=False)
    attack(parts)
    assert integrity(parts)["failure_code"] == code


@pytest.mark.parametrize("name", [column.name for column in tables.aos_trace_steps.c])
def test_one_altered_column_of_a_step_is_found_unless_it_is_unhashed(name: str) -> None:
    parts = build()
    row = parts["steps"][2]
    value = row[name]
    if isinstance(value, datetime):
        row[name] = value + timedelta(microseconds=1)
    elif isinstance(value, bool):
        row[name] = not value
    elif isinstance(value, int):
        row[name] = value + 1
    else:
        row[name] = "x" if not value else value[:-1] + chr(ord(value[-1]) ^ 1)
    expected = "VERIFIED" if name in ("tenant_id", "content_hash", "erased_fact_id") else "FAILED"
    assert integrity(parts)["verification_status"] == expected


def test_an_erased_value_is_no_failure_when_an_erasure_lists_it() -> None:
    parts = build()
    row = parts["steps"][1]
    row.update(params=None, protected_salt=None, erased_fact_id="fct_1")
    parts["leaves"].append(_leaf("erasure", commitments=[row["protected_commit"]]))
    (verdict,) = verify_traces(parts["traces"], parts["steps"], parts["leaves"])
    assert (verdict.code, verdict.values) == (None, {"intact": 3, "erased": 1})


def test_a_failed_attempt_beats_an_open_and_a_verified_one() -> None:
    parts = build(attempts=2, seal=False)
    assert integrity(parts)["failure_reason"] == "Trace not sealed"
    parts["steps"][0]["status"] = "failure"
    assert integrity(parts)["failure_code"] == "FIELD_MISMATCH"


def test_a_run_without_trace_is_unsupported() -> None:
    assert integrity({"traces": [], "steps": [], "leaves": []}) == {
        "model": "NONE",
        "root_hash": None,
        "chain_length": 0,
        "verification_status": "UNSUPPORTED",
        "failure_reason": "No trace found for run",
        "failure_code": None,
        "failed_trace_id": None,
        "failed_step_index": None,
        "legacy_digest": chain.legacy_run_digest("r", []),
    }


@pytest.mark.parametrize("seal", [True, False])
def test_a_trace_without_steps_is_unsupported(seal: bool) -> None:
    found = integrity(build(steps=0, seal=seal))
    assert (found["model"], found["verification_status"]) == ("HASH_CHAIN", "UNSUPPORTED")
    assert (found["failure_reason"], found["root_hash"]) == ("No steps to verify", None)


def test_an_empty_sealed_attempt_is_neutral_beside_one_with_steps() -> None:
    parts = build(steps=0)
    other = build(attempts=2)
    parts["traces"].append(other["traces"][1])
    parts["steps"] = [step for step in other["steps"] if step["trace_id"] == "trace_r.2"]
    parts["leaves"] = []
    assert integrity(parts)["verification_status"] == "VERIFIED"


@pytest.mark.parametrize(
    ("model", "shown", "reason"),
    [
        ("NONE", "NONE", "Integrity model is NONE"),
        ("MERKLE_TREE", "MERKLE_TREE", "MERKLE_TREE not yet implemented"),
        ("PIGEON", "NONE", "Unknown integrity model: PIGEON"),
    ],
)
def test_other_integrity_models_are_unsupported(model: str, shown: str, reason: str) -> None:
    found = integrity(build(), model=model)
    assert (found["model"], found["chain_length"]) == (shown, 0)
    assert (found["verification_status"], found["failure_reason"]) == ("UNSUPPORTED", reason)


def test_the_order_of_the_rows_does_not_matter() -> None:
    parts = build(attempts=2)
    expected = integrity(parts)
    assert integrity({name: list(reversed(copy.copy(rows))) for name, rows in parts.items()}) == expected
