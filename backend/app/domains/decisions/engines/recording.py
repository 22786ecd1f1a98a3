"""Decisions L5: write decision records with their facts, and link those that came before a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.db.connection import Row
from app.db.unit import GovernedUnit
from app.domains.decisions.drivers import decision_records as driver
from app.domains.decisions.errors import DecisionRacedError, reason_required
from app.domains.decisions.models.records import DecisionDraft
from app.kernel.canonical_json import dumps
from app.kernel.hashing import keyed_digest

__all__ = ["DecisionDraft", "inputs_digest", "link_pre_run", "record_decisions"]


def inputs_digest(key: bytes, inputs: Mapping[str, Any]) -> str:
    """Return the keyed digest of a decision's inputs, which tells a replay."""
    return _digest(key, dumps(dict(inputs)))


def is_digest_of(record: Row, key: bytes) -> bool:
    """Tell whether a record's inputs_digest is that of its inputs, which are there."""
    return bool(record["inputs_digest"] == _digest(key, record["decision_inputs"]))


def _digest(key: bytes, inputs_text: str) -> str:
    return keyed_digest(key, "decision.inputs\n" + inputs_text)


def record_decisions(unit: GovernedUnit, drafts: Sequence[DecisionDraft]) -> list[str]:
    """Record decisions in one statement, each with its fact, and return their ids in order.

    A blank reason is refused INVALID_INPUT. An idempotency key that another transaction has taken
    raises DecisionRacedError: who may race holds a savepoint and looks the key up again.
    """
    if not drafts:
        return []
    key = unit.digest_key()
    rows = [_row(unit, draft, key) for draft in drafts]
    for row in rows:
        row["fact_id"] = unit.facts.add("decision", row, run_id=row["run_id"], attempt=row["attempt"])
    if driver.insert_records(unit.connection, rows, tenant_id=unit.tenant_id) != len(rows):
        raise DecisionRacedError
    return [row["decision_id"] for row in rows]


def _row(unit: GovernedUnit, draft: DecisionDraft, key: bytes) -> dict[str, Any]:
    if not draft.decision_reason.strip():
        raise reason_required()
    inputs = dumps(dict(draft.decision_inputs))
    return {
        "decision_id": draft.decision_id or unit.new_id("dec"),
        "decision_type": draft.decision_type.value,
        "decision_source": draft.decision_source.value,
        "decision_trigger": draft.decision_trigger.value,
        "causal_role": draft.causal_role.value,
        "inputs_digest": _digest(key, inputs),
        "decision_outcome": draft.decision_outcome.value,
        "run_id": draft.run_id,
        "attempt": draft.attempt,
        "workflow_id": draft.workflow_id,
        "request_id": draft.request_id,
        "snapshot_id": draft.snapshot_id,
        "matched": dumps([dict(match) for match in draft.matched]),
        "reservation_id": draft.reservation_id,
        "idempotency_key": draft.idempotency_key,
        "decided_at": unit.now,
        "created_at": unit.now,
        **unit.protect(
            {
                "decision_inputs": inputs,
                "decision_reason": draft.decision_reason,
                "details": dumps(dict(draft.details)),
            }
        ),
    }


def link_pre_run(unit: GovernedUnit, run_id: str, request_id: str) -> list[str]:
    """Link the request's decisions from before the run to the run that came of them; return their ids."""
    found = driver.list_unlinked(unit.connection, tenant_id=unit.tenant_id, request_id=request_id)
    rows: list[dict[str, Any]] = [
        {"decision_id": decision_id, "run_id": run_id, "created_at": unit.now} for decision_id in found
    ]
    for row in rows:
        row["fact_id"] = unit.facts.add("decision.link", row, run_id=run_id, attempt=1)
    if rows:
        driver.insert_links(unit.connection, rows, tenant_id=unit.tenant_id)
    return [row["decision_id"] for row in rows]
