"""Traces L5: the step chain: statements, links and commitments."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from app.kernel.canonical_json import dumps
from app.kernel.clock import format_time
from app.kernel.hashing import tagged

STATEMENT_VERSION = 1
# Every column of a step but keys of the trace, the chain itself and what can be erased.
STEP_MEMBERS = (
    "step_index",
    "skill_id",
    "skill_name",
    "status",
    "outcome_category",
    "outcome_code",
    "cost_micro",
    "duration_us",
    "retry_count",
    "input_hash",
    "output_hash",
    "rng_state_before",
    "replay_behavior",
    "level",
    "side_effect",
    "decision_id",
    "reservation_id",
    "usage",
    "external_id",
    "redactions",
    "redaction_version",
    "occurred_at",
    "recorded_at",
    "protected_commit",
)
_TIMES = ("occurred_at", "recorded_at")
_PLAIN = tuple(name for name in STEP_MEMBERS if name not in (*_TIMES, "usage"))


def genesis_statement(
    *,
    tenant_id: str,
    run_id: str,
    attempt: int,
    trace_id: str,
    schema_version: int,
    policy_snapshot: str,
    plan_hash: str | None,
    seed: int | None,
    started_at: datetime,
) -> str:
    """Return the canonical statement that begins the chain of one attempt."""
    return dumps(
        {
            "type": "trace.genesis",
            "v": STATEMENT_VERSION,
            "tenant": tenant_id,
            "run": run_id,
            "attempt": attempt,
            "trace": trace_id,
            "schema_version": schema_version,
            "policy_snapshot": policy_snapshot,
            "plan_hash": plan_hash,
            "seed": seed,
            "started_at": format_time(started_at),
        }
    )


def genesis_hash(statement: str) -> str:
    """Return the hash of a genesis statement, the link before step 0."""
    return tagged("hoc/trace-genesis/1", statement.encode()).hex()


def step_statement(row: Mapping[str, Any]) -> str:
    """Return the canonical statement of a step row; `usage` is spliced in as it is stored."""
    members: dict[str, Any] = {name: row[name] for name in _PLAIN}
    members["type"] = "trace.step"
    for name in _TIMES:
        members[name] = format_time(row[name])
    # "usage" and "v" are the last two names in code point order, so the text can be closed by hand: one
    # pass of the C encoder instead of one for each member.
    return f'{dumps(members)[:-1]},"usage":{row["usage"]},"v":{STATEMENT_VERSION}}}'


def statement_hash(statement: str) -> bytes:
    """Return the 32 raw bytes of a step statement that enter its link."""
    return hashlib.sha256(statement.encode()).digest()


def next_link(previous: str, hashed_statement: bytes) -> str:
    """Return the link after `previous` over a step statement's hash."""
    return tagged("hoc/trace-link/1", bytes.fromhex(previous), hashed_statement).hex()


def step_commitment(salt_hex: str, *, params: str | None, outcome_data: str | None) -> str:
    """Return the commitment to a step's protected members, given as stored canonical texts."""
    text = f'{{"outcome_data":{_or_null(outcome_data)},"params":{_or_null(params)}}}'
    return "c1:" + tagged("hoc/commit/1", bytes.fromhex(salt_hex), text.encode()).hex()


def trace_id_of(run_id: str, attempt: int) -> str:
    """Return `trace_<run_id>` for the first attempt, `trace_<run_id>.<n>` for later ones."""
    return f"trace_{run_id}" if attempt == 1 else f"trace_{run_id}.{attempt}"


def legacy_run_digest(run_id: str, steps: Iterable[tuple[int, str, str]]) -> str:
    """Return the compatibility digest over (index, skill_name, status) in order; a label, no proof."""
    digest = hashlib.sha256(run_id.encode())
    for index, skill_name, status in steps:
        digest.update(f"{index}:{skill_name}:{status}".encode())
    return digest.hexdigest()


def _or_null(text: str | None) -> str:
    return "null" if text is None else text
