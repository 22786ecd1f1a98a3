"""Activity L5: attribution rules R1-R5 of a run that starts (R6-R8 are the table's trigger)."""

from __future__ import annotations

from app.domains.activity.models.facts import Attribution, BrokenRule
from app.domains.activity.models.vocabulary import RunActorType

LEGACY_AGENT = "legacy-unknown"
LEGACY_ORIGIN = "legacy-migration"
ACTOR_TYPES = tuple(word.value for word in RunActorType)


def check_attribution(claim: Attribution) -> tuple[BrokenRule, ...]:
    """Return every attribution rule that the claim breaks, in rule order; empty when it stands."""
    broken = []
    if _blank(claim.agent_id):
        broken.append(_broken("R1", "agent_id", "present and not blank", claim.agent_id))
    elif str(claim.agent_id).strip() == LEGACY_AGENT:
        broken.append(_broken("R2", "agent_id", f"not {LEGACY_AGENT}", claim.agent_id))
    if _blank(claim.origin_system_id):
        broken.append(_broken("R3", "origin_system_id", "present and not blank", claim.origin_system_id))
    elif str(claim.origin_system_id).strip() == LEGACY_ORIGIN:
        broken.append(_broken("R3", "origin_system_id", f"not {LEGACY_ORIGIN}", claim.origin_system_id))
    if claim.actor_type not in ACTOR_TYPES:
        broken.append(_broken("R4", "actor_type", f"one of {', '.join(ACTOR_TYPES)}", claim.actor_type))
    if claim.actor_type == RunActorType.HUMAN:
        if _blank(claim.actor_id):
            broken.append(_broken("R5", "actor_id", "present for actor_type HUMAN", claim.actor_id))
    elif claim.actor_id is not None:
        broken.append(_broken("R5", "actor_id", "absent unless actor_type is HUMAN", claim.actor_id))
    return tuple(broken)


def _blank(value: str | None) -> bool:
    return value is None or not value.strip()


def _broken(rule: str, field: str, expected: str, actual: str | None) -> BrokenRule:
    shown = "absent" if actual is None else repr(actual)
    return BrokenRule(rule, field, expected, shown, reference=f"Attribution {rule}")
