"""Spine: the evidence of a run from its sources; pure, facts in, a result out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from app.domains.activity.models.runs import EvaluationView
from app.domains.retrieval.models import EvidenceView
from app.kernel.inputs import Identifier, Input, Output, OutputTime

MAX_ITEMS = 1000
FAILED = "SOURCE_FAILED"


class EvidenceInput(Input):
    run_id: Identifier


class SourceStatus(Output):
    """How one source answered; `total` and `truncated` are null where it did not."""

    status: Literal["ok", "error"]
    total: int | None = None
    truncated: bool | None = None
    error_code: str | None = None


class IncidentCaused(Output):
    incident_id: str
    severity: str
    title: str
    lifecycle_state: str
    created_at: OutputTime


class PolicyEvaluated(Output):
    """A rule that matched; `policy_name` is that of the version which did."""

    prevention_id: str
    policy_id: str
    policy_name: str
    outcome: str
    evaluated_at: OutputTime


class LimitHit(Output):
    """A limit that was passed, with its value of that moment."""

    breach_id: str
    limit_id: str
    limit_name: str
    breached_value: float
    threshold_value: float
    breach_type: str
    breached_at: OutputTime


class DecisionMade(Output):
    decision_id: str
    decision_type: str
    outcome: str
    decided_at: OutputTime
    attempt: int | None


class RunEvidence(Output):
    """All that is recorded about a run; a list is null where its source failed, empty where there is none."""

    run_id: str
    computed_at: OutputTime
    complete: bool
    sources: dict[str, SourceStatus]
    incidents_caused: list[IncidentCaused] | None
    policies_evaluated: list[PolicyEvaluated] | None
    limits_hit: list[LimitHit] | None
    decisions_made: list[DecisionMade] | None
    policy_evaluations: list[EvaluationView] | None
    retrievals: list[EvidenceView] | None
    artifacts: list[dict[str, Any]] | None


# The list of the result that each source fills.
LISTS = {
    "incidents": "incidents_caused",
    "policies": "policies_evaluated",
    "limits": "limits_hit",
    "decisions": "decisions_made",
    "policy_evaluations": "policy_evaluations",
    "retrievals": "retrievals",
    "artifacts": "artifacts",
}


@dataclass(frozen=True, slots=True)
class SourceRead:
    """What reading one source gave: items newest first, and how many there are; or an error."""

    items: Sequence[Any] | None = None
    total: int | None = None
    error_code: str | None = None


def compose_evidence(run_id: str, reads: Mapping[str, SourceRead], *, now: datetime) -> RunEvidence:
    """Put the sources together; one that did not answer is said so and makes the whole incomplete."""
    lists = {
        LISTS[name]: None if read.items is None else list(read.items[:MAX_ITEMS])
        for name, read in reads.items()
    }
    return RunEvidence(
        run_id=run_id,
        computed_at=now,
        complete=all(read.error_code is None for read in reads.values()),
        sources={name: _status(read) for name, read in reads.items()},
        **lists,
    )


def _status(read: SourceRead) -> SourceStatus:
    if read.items is None:
        return SourceStatus(status="error", error_code=read.error_code)
    total = len(read.items) if read.total is None else read.total
    return SourceStatus(status="ok", total=total, truncated=total > MAX_ITEMS)


def read_source(read: Callable[[], SourceRead], on_failure: Callable[[Exception], None]) -> SourceRead:
    """Read one source; whatever it raises makes that source an error and leaves the others intact."""
    try:
        return read()
    except Exception as error:  # noqa: BLE001 - a failing source is part of the answer
        on_failure(error)
        return SourceRead(error_code=FAILED)
