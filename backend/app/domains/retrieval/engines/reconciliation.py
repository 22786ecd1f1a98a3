"""Retrieval L5: the rules that tell mediated retrieval from bypass; pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from app.domains.retrieval.models import BypassReason, ObservationStatus

MARGIN: Final = timedelta(seconds=5)
# A tool that names a source may read it in ways that are no retrieval.
CONFIDENCE: Final = {"retrieval": 90}
CONFIDENCE_OF_OTHERS: Final = 60


@dataclass(frozen=True, slots=True)
class Sighting:
    """A retrieval span as it was reported."""

    trace_id: str
    span_id: str
    run_id: str | None
    operation: str
    data_source_id: str | None
    document_ids: frozenset[str]
    started_at: datetime
    ended_at: datetime
    claimed_evidence_id: str | None

    @property
    def confidence(self) -> int:
        """How sure it is that the span was a retrieval, in percent."""
        return CONFIDENCE.get(self.operation, CONFIDENCE_OF_OTHERS)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An unused ALLOWED evidence row that could speak for a span, and what it cites."""

    evidence_id: str
    cited: frozenset[str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a span: its evidence, or why there is none."""

    status: ObservationStatus
    evidence_id: str | None = None
    reason: BypassReason | None = None


def window_of(sighting: Sighting) -> tuple[datetime, datetime]:
    """Return the interval that the access of an unclaimed span must meet: clocks of two hosts differ."""
    return sighting.started_at - MARGIN, sighting.ended_at + MARGIN


def decide_sighting(sighting: Sighting, candidate: Candidate | None) -> Verdict:
    """Return MATCHED when an access speaks for the span and for every document that it lists."""
    if candidate is None:
        return Verdict(ObservationStatus.BYPASS, reason=_missing(sighting))
    if not sighting.document_ids <= candidate.cited:
        return Verdict(ObservationStatus.BYPASS, reason=BypassReason.DOCUMENT_MISMATCH)
    return Verdict(ObservationStatus.MATCHED, evidence_id=candidate.evidence_id)


def _missing(sighting: Sighting) -> BypassReason:
    if sighting.claimed_evidence_id is not None:
        return BypassReason.EVIDENCE_MISMATCH
    return BypassReason.NO_RUN if sighting.run_id is None else BypassReason.NO_MEDIATED_ACCESS
