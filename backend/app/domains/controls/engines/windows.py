"""Controls L5: which window of a limit a moment falls into, and which limits judge; pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from app.domains.controls.models.limits import LimitRule
from app.domains.controls.models.vocabulary import LimitCategory, LimitScope, LimitSource, ResetPeriod

ALL: Final = "ALL"
_RANK: Final = {LimitScope.TENANT: 0, LimitScope.PROJECT: 1, LimitScope.AGENT: 2}


def window_key(rule: LimitRule, now: datetime, run_id: str) -> str:
    """Return the key of the window (UTC) that use at this moment counts in."""
    if rule.category is LimitCategory.THRESHOLD:
        return f"run:{run_id}"
    if rule.category is LimitCategory.RATE:
        return f"R:{int(now.timestamp()) // (rule.window_seconds or 1)}"
    if rule.reset_period is ResetPeriod.DAILY:
        return f"D:{now:%Y-%m-%d}"
    if rule.reset_period is ResetPeriod.WEEKLY:
        return f"W:{now:%G-W%V}"
    if rule.reset_period is ResetPeriod.MONTHLY:
        return f"M:{now:%Y-%m}"
    return ALL


def judging_ids(rules: Iterable[LimitRule]) -> frozenset[str]:
    """Return the limits that judge: of those over one category, metric and window the most specific.

    The limits of the SYSTEM judge always; every other one merely counts.
    """
    best: dict[tuple[object, ...], int] = {}
    listed = tuple(rules)
    for rule in listed:
        kind = _kind(rule)
        best[kind] = max(best.get(kind, 0), _RANK[rule.scope])
    return frozenset(
        rule.limit_id
        for rule in listed
        if rule.source is LimitSource.SYSTEM or _RANK[rule.scope] == best[_kind(rule)]
    )


def _kind(rule: LimitRule) -> tuple[object, ...]:
    return rule.category, rule.metric, rule.reset_period, rule.window_seconds
