"""Policies: rules as values, and the inputs and views of their operations."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from app.domains.policies.models.vocabulary import (
    MAX_CONDITION_LENGTH,
    AccessReason,
    ConflictSeverity,
    ConflictType,
    DependencyType,
    Effect,
    EnforcementMode,
    Moment,
    RuleKind,
    RuleScope,
    RuleSource,
    RuleStatus,
)
from app.kernel.inputs import Identifier, Input, ListInput, LongText, Name, Output, OutputTime, Reason, Text


@dataclass(frozen=True, slots=True)
class RuleVersion:
    """One version of a rule with everything it says; JSON members as values."""

    rule_id: str
    rule_version: int
    kind: RuleKind
    name: str
    description: str | None
    effect: Effect | None
    enforcement_mode: EnforcementMode | None
    moments: tuple[str, ...]
    scope: RuleScope
    scope_id: str | None
    condition: str | None
    constraints: Mapping[str, Any]
    halts_run: bool
    depends_on: tuple[str, ...]
    message: str | None
    content_hash: str


PlaneBinding = tuple[str, str]
"""(plane_id, rule_id) of a live binding, as the knowledge slice tells it."""


@dataclass(frozen=True, slots=True)
class MatchedRule:
    """A rule that matched, as evidence names it."""

    rule_id: str
    version: int
    content_hash: str
    effect: str

    def as_json(self) -> dict[str, Any]:
        """Return the JSON value that evidence stores."""
        return {
            "rule_id": self.rule_id,
            "version": self.version,
            "content_hash": self.content_hash,
            "effect": self.effect,
        }


@dataclass(frozen=True, slots=True)
class AccessDecision:
    """The verdict of the rules on one access; caps are null where no matching ALLOW rule sets one."""

    allowed: bool
    reason_code: AccessReason
    matched_rules: tuple[MatchedRule, ...] = ()
    max_documents: int | None = None
    max_tokens: int | None = None

    @property
    def matched_json(self) -> list[dict[str, Any]]:
        """Return `matched_rules` as the JSON list that evidence stores, by rule_id."""
        return [rule.as_json() for rule in self.matched_rules]


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two rules, or two limits, that disagree; `one_id` sorts before `other_id`."""

    conflict_type: ConflictType
    severity: ConflictSeverity
    one_id: str
    other_id: str
    detail: str
    entity_type: Literal["RULE", "LIMIT"] = "RULE"


Condition = Annotated[Text, StringConstraints(max_length=MAX_CONDITION_LENGTH)]
ActionName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z_]{0,31}$")]
Message = Annotated[Text, StringConstraints(max_length=1024)]


class Constraints(Input):
    """The caps of an ACCESS rule: most documents, most tokens, the only actions it speaks of."""

    max_documents: int | None = Field(None, ge=1, le=10_000)
    max_tokens: int | None = Field(None, ge=1, le=10_000_000)
    actions: list[ActionName] | None = Field(None, min_length=1, max_length=16)


class RuleFields(Input):
    """What a rule says, as its author gives it."""

    name: Name
    description: LongText | None = None
    effect: Effect | None = None
    enforcement_mode: EnforcementMode | None = None
    moments: list[Moment] = Field(default_factory=list, max_length=5)
    scope: RuleScope = RuleScope.TENANT
    scope_id: Identifier | None = None
    condition: Condition | None = None
    constraints: Constraints = Constraints()
    halts_run: bool = False
    depends_on: list[Identifier] = Field(default_factory=list, max_length=32)
    message: Message | None = None


class CreateRule(RuleFields):
    """Make a rule, as DRAFT or at once ACTIVE."""

    rule_id: Identifier | None = None
    kind: RuleKind
    activate: bool = False
    change_reason: Reason | None = None


class UpdateRule(Input):
    """Change what a rule says; a member that is absent stays as it is."""

    rule_id: Identifier
    name: Name | None = None
    description: LongText | None = None
    effect: Effect | None = None
    enforcement_mode: EnforcementMode | None = None
    moments: list[Moment] | None = Field(None, max_length=5)
    scope: RuleScope | None = None
    scope_id: Identifier | None = None
    condition: Condition | None = None
    constraints: Constraints | None = None
    halts_run: bool | None = None
    depends_on: list[Identifier] | None = Field(None, max_length=32)
    message: Message | None = None
    change_reason: Reason | None = None


class RuleRef(Input):
    """Name one rule."""

    rule_id: Identifier


class ActivateRule(Input):
    """Let a DRAFT judge every new run in its scope."""

    rule_id: Identifier
    reason: Reason | None = None


class RetireRule(Input):
    """End a rule; `revoke` also takes it from running runs and overrides plane bindings."""

    rule_id: Identifier
    reason: Reason
    revoke: bool = False
    superseded_by: Identifier | None = None


class ListRules(ListInput):
    """List the rules of the tenant, newest first."""

    status: RuleStatus | None = None
    kind: RuleKind | None = None
    scope: RuleScope | None = None


class ListRuleVersions(ListInput):
    """List the versions of one rule, newest first."""

    rule_id: Identifier


class ListConflicts(Input):
    """Ask for every disagreement among the rules that are not retired, and among the ACTIVE limits."""


class SnapshotRef(Input):
    """Name one policy snapshot."""

    snapshot_id: Identifier


class RuleVersionView(Output):
    """One version of a rule; `verified` tells whether its columns have its content hash."""

    rule_id: str
    rule_version: int
    name: str
    description: str | None
    effect: Effect | None
    enforcement_mode: EnforcementMode | None
    moments: list[Moment]
    scope: RuleScope
    scope_id: str | None
    condition: str | None
    constraints: dict[str, Any]
    halts_run: bool
    depends_on: list[str]
    message: str | None
    content_hash: str
    changed_by: str
    change_reason: str | None
    created_at: OutputTime
    verified: bool


class RuleView(Output):
    """A rule as it stands, with what its current version says."""

    rule_id: str
    kind: RuleKind
    source: RuleSource
    source_proposal_id: str | None
    created_by: str
    name: str
    status: RuleStatus
    current_version: int
    superseded_by: str | None
    revoked: bool
    activated_at: OutputTime | None
    retired_at: OutputTime | None
    retired_by: str | None
    retired_reason: str | None
    created_at: OutputTime
    updated_at: OutputTime
    version: int
    description: str | None
    effect: Effect | None
    enforcement_mode: EnforcementMode | None
    moments: list[Moment]
    scope: RuleScope
    scope_id: str | None
    condition: str | None
    constraints: dict[str, Any]
    halts_run: bool
    depends_on: list[str]
    message: str | None
    content_hash: str
    verified: bool


class ConflictView(Output):
    """Two rules, or two limits, that disagree, and whether that forbids activation."""

    conflict_type: ConflictType
    severity: ConflictSeverity
    rule_id: str | None
    other_rule_id: str | None
    limit_id: str | None
    other_limit_id: str | None
    detail: str


class ConflictList(Output):
    """Every disagreement, BLOCKING first; `truncated` when there are more than are shown."""

    items: list[ConflictView]
    total: int
    truncated: bool


class DependencyView(Output):
    """One tie of a rule: what it relies on, or what relies on it."""

    dependency_type: DependencyType
    direction: str
    entity_type: str
    entity_id: str
    name: str | None
    status: RuleStatus | None


class DependencyList(Output):
    """The ties of one rule."""

    rule_id: str
    items: list[DependencyView]


class SnapshotView(Output):
    """The rules, bindings and limits that govern a set of runs, and whether the text has its hash."""

    snapshot_id: str
    content: dict[str, Any] | None
    content_hash: str
    rule_count: int
    limit_count: int
    created_at: OutputTime
    verified: bool
