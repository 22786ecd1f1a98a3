"""Spine: what the verifier remembers of a log between rounds, and which results are worth a row."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from app.domains.logs.engines.verifications import Report
from app.domains.logs.models.tree import (
    VerificationKind,
)
from app.hoc_spine.coordinators.log_results import Past
from app.hoc_spine.coordinators.log_verification import SLICE

# A result that repeats the last one is written down no more often than this: the table only grows.
REPEAT_AFTER: Final = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Failed:
    """A stretch that failed, and the codes that told."""

    first: int
    last: int
    codes: tuple[str, ...]

    def is_within(self, report: Report) -> bool:
        """Tell whether a result is over the whole stretch."""
        return report.first <= self.first and report.last >= self.last


@dataclass(slots=True)
class Memory:
    """All of it can be found out again."""

    epoch: int
    verified: int
    verified_at: datetime
    place: int
    # Stretches that failed, by the slice they are in; a head stands for itself. As in the stored results,
    # only a result over the whole stretch lifts it.
    failed: dict[int, Failed]
    after_fact: str = ""
    recounted_at: datetime | None = None
    written_at: dict[object, datetime] = field(default_factory=dict)

    @classmethod
    def of(cls, past: Past, *, now: datetime) -> Memory:
        """Return what a process knows that has just begun."""
        failed = {
            _place_of(first, last): Failed(first, last, codes) for (first, last), codes in past.failed.items()
        }
        return cls(past.epoch, past.verified, past.verified_at or now, past.place, failed)

    def is_news(self, report: Report, kind: VerificationKind, *, now: datetime) -> bool:
        """Tell whether a result says anything that the last one of its stretch did not."""
        place, codes = _place_of(report.first, report.last), tuple(report.codes)
        known = self.failed.get(place)
        if codes and (known is None or known.codes != codes):
            return True
        if known is not None and not codes and known.is_within(report):
            return True
        if kind is VerificationKind.INCREMENTAL and report.last > report.first:
            return True
        written = self.written_at.get((kind, place) if codes else kind)
        return written is None or now - written >= REPEAT_AFTER

    def note(self, report: Report, kind: VerificationKind, *, now: datetime) -> None:
        """Remember a result that was written down."""
        place, codes = _place_of(report.first, report.last), tuple(report.codes)
        if kind is VerificationKind.ON_DEMAND:
            # What of the whole log failed, the sweep finds again in its slices.
            if not codes:
                self.failed.clear()
            return
        self.written_at[(kind, place) if codes else kind] = now
        if codes:
            self.failed[place] = Failed(report.first, report.last, codes)
        elif place in self.failed and self.failed[place].is_within(report):
            del self.failed[place]


def _place_of(first: int, last: int) -> int:
    """Return what stands for a stretch: its slice, or -1 for a head that was looked at alone."""
    return first // SLICE if last > first else -1
