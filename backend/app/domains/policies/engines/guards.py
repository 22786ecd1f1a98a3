"""Policies: judge one moment of a run by the GUARD rules of its snapshot; pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from app.domains.policies.engines.conditions import Answer, ConditionInputs
from app.domains.policies.engines.conditions import judge as judge_condition
from app.domains.policies.engines.snapshots import CompiledRule, CompiledSnapshot
from app.domains.policies.models.rules import RuleVersion
from app.domains.policies.models.vocabulary import EnforcementMode, Moment

RULE_ERROR: Final = "RULE_ERROR"


@dataclass(frozen=True, slots=True)
class GuardMatch:
    """A rule that matched; `mode` is what it does here, BLOCK when its condition could not be judged."""

    rule: RuleVersion
    mode: EnforcementMode
    error: bool = False

    @property
    def code(self) -> str:
        """The reason code: RULE_ERROR, RULE_BLOCK, RULE_WARN or RULE_AUDIT."""
        return RULE_ERROR if self.error else f"RULE_{self.mode.value}"

    @property
    def message(self) -> str:
        """What is said of the match: the rule's own message, else its name."""
        if self.error:
            return f"The condition of {self.rule.name} could not be judged."
        said = self.rule.message
        # A decision needs a reason that says something, and a message may be blank.
        return said if said is not None and said.strip() else self.rule.name

    def as_error(self) -> dict[str, Any]:
        """Return the match as an item of a refusal."""
        return {
            "field": "/",
            "code": self.code,
            "detail": self.message,
            "rule_id": self.rule.rule_id,
            "rule_version": self.rule.rule_version,
        }

    def as_json(self) -> dict[str, Any]:
        """Return the match as a decision record lists it."""
        return {
            "rule_id": self.rule.rule_id,
            "version": self.rule.rule_version,
            "content_hash": self.rule.content_hash,
            "effect": RULE_ERROR if self.error else self.mode.value,
        }


@dataclass(frozen=True, slots=True)
class GuardVerdict:
    """What the rules say of one moment: every match, by rule_id, and how many rules were judged."""

    matches: tuple[GuardMatch, ...] = ()
    judged: int = 0

    @property
    def blocking(self) -> tuple[GuardMatch, ...]:
        return self._of(EnforcementMode.BLOCK)

    @property
    def warned(self) -> tuple[GuardMatch, ...]:
        return self._of(EnforcementMode.WARN)

    @property
    def audited(self) -> tuple[GuardMatch, ...]:
        return self._of(EnforcementMode.AUDIT)

    @property
    def halting(self) -> GuardMatch | None:
        """The first blocking match whose rule halts the run."""
        return next((match for match in self.blocking if match.rule.halts_run), None)

    def _of(self, mode: EnforcementMode) -> tuple[GuardMatch, ...]:
        return tuple(match for match in self.matches if match.mode is mode)


def judge(
    snapshot: CompiledSnapshot,
    moment: Moment,
    inputs: Mapping[str, Any],
    *,
    revoked_rule_ids: Collection[str] = (),
) -> GuardVerdict:
    """Return what every GUARD rule of a moment says of the inputs; nothing stops at the first match.

    `inputs` holds the names of the moment; absent members are completed. A revoked rule no longer
    judges. A condition that cannot be judged is a BLOCK match, but for an incident, which then opens.
    """
    return judge_rules(snapshot.guards_at(moment), moment, inputs, revoked_rule_ids=revoked_rule_ids)


def judge_rules(
    rules: Collection[CompiledRule],
    moment: Moment,
    inputs: Mapping[str, Any],
    *,
    revoked_rule_ids: Collection[str] = (),
) -> GuardVerdict:
    """Return what these GUARD rules, all of the moment, say of the inputs (see `judge`)."""
    rules = [rule for rule in rules if rule.version.rule_id not in revoked_rule_ids]
    if not rules:
        return GuardVerdict()
    completed = ConditionInputs(inputs)
    found = (_match(rule, moment, judge_condition(rule.condition, completed)) for rule in rules)
    return GuardVerdict(tuple(match for match in found if match is not None), len(rules))


def _match(rule: CompiledRule, moment: Moment, answer: Answer) -> GuardMatch | None:
    version = rule.version
    if answer is Answer.NO_MATCH:
        return None
    if answer is Answer.ERROR:
        if moment is Moment.INCIDENT:
            return None
        return GuardMatch(version, EnforcementMode.BLOCK, error=True)
    return GuardMatch(version, version.enforcement_mode or EnforcementMode.BLOCK)
