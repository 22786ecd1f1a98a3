"""Dispatch record: what telemetry says of one dispatch (G4: made after the transaction ended)."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from datetime import UTC, datetime
from typing import Any

import pytest

from app.hoc_spine.dispatch_audit import DispatchRecord, build_dispatch_record
from app.kernel.context import Actor, RequestContext
from app.kernel.errors import ErrorKind, HocError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONTEXT = RequestContext("t-1", Actor("AGENT", "agent-1"), "req-1", run_id="r-1")
DENIED = HocError(ErrorKind.FORBIDDEN, "INSUFFICIENT_SCOPE", "No.")
BUG = HocError(ErrorKind.INTERNAL, "HANDLER_EXCEPTION:KeyError", "The operation failed.")


def build(**members: Any) -> DispatchRecord:
    plain: dict[str, Any] = {
        "committed": True,
        "began": True,
        "error": None,
        "authority_refusal": None,
        "authority_degraded": False,
        "duration_ms": 1.23456,
        "now": NOW,
    }
    return build_dispatch_record("runs.start", 1, CONTEXT, **(plain | members))


def test_the_same_facts_make_the_same_record() -> None:
    assert build() == build()


def test_a_record_never_changes() -> None:
    with pytest.raises(FrozenInstanceError):
        build().success = False  # type: ignore[misc]


def test_a_success_tells_who_did_what_when_for_whom() -> None:
    assert build().to_dict() == {
        "operation": "runs.start",
        "operation_version": 1,
        "tenant_id": "t-1",
        "success": True,
        "outcome": "COMMITTED",
        "duration_ms": 1.23,
        "timestamp": "2026-01-01T00:00:00.000000Z",
        "authority_allowed": True,
        "authority_degraded": False,
        "request_id": "req-1",
        "actor_id": "agent-1",
        "run_id": "r-1",
    }


def test_a_refusal_by_authority_says_why() -> None:
    record = build(committed=False, error=DENIED, authority_refusal=DENIED).to_dict()
    assert (record["outcome"], record["success"], record["authority_allowed"]) == ("REFUSED", False, False)
    assert (record["authority_code"], record["authority_reason"]) == ("INSUFFICIENT_SCOPE", "No.")
    assert (record["error_code"], record["error"]) == ("INSUFFICIENT_SCOPE", "No.")


@pytest.mark.parametrize(
    ("members", "outcome"),
    [
        ({"committed": True, "error": DENIED}, "COMMITTED"),
        ({"committed": False, "error": BUG}, "ROLLED_BACK"),
        ({"committed": False, "error": DENIED, "authority_refusal": DENIED}, "REFUSED"),
        ({"committed": False, "began": False, "error": DENIED}, "REFUSED"),
    ],
)
def test_the_outcome_is_what_became_of_the_work(members: dict[str, Any], outcome: str) -> None:
    record = build(**members)
    assert (record.outcome, record.success) == (outcome, False)


def test_degraded_mode_is_flagged() -> None:
    assert build(authority_degraded=True).to_dict()["authority_degraded"] is True
