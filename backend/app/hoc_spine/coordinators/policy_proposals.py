"""Spine: what proposals contain, where they come from, and what an approved one becomes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from app.db.connection import Row
from app.domains.controls.engines import limits
from app.domains.controls.errors import limit_exists
from app.domains.controls.models.limits import CreateLimit
from app.domains.controls.models.vocabulary import LimitSource
from app.domains.policies.engines import rules
from app.domains.policies.errors import invalid_input
from app.domains.policies.models.rules import CreateRule
from app.domains.policies.models.vocabulary import ProposalKind, ProposalSource, RuleSource, RuleStatus
from app.domains.tenants.engines.state import bump_policy_version
from app.hoc_spine.coordinators.plan_limits import PLAN_LIMIT
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.payload import refusal_of
from app.kernel.canonical_json import dumps, loads

_M = TypeVar("_M", bound=BaseModel)
UNNAMED = "proposed"


def check_proposed(ctx: OperationContext, kind: ProposalKind, proposed: Mapping[str, Any]) -> None:
    """Refuse content that would not create what is proposed: INVALID_INPUT, INVALID_CONDITION."""
    if kind is ProposalKind.LIMIT:
        _read_limit(proposed)
        return
    given = _read_rule(proposed)
    rules.draft_version(ctx.tenant_id, given, rule_id=given.rule_id or UNNAMED)


def adopt(ctx: OperationContext, proposal: Row) -> str:
    """Create the rule ACTIVE, or the limit, that a held proposal asks for; return its id.

    Refuses what creating it by hand would refuse.
    """
    if proposal["proposed"] is None:
        raise invalid_input("proposed", "was erased; there is nothing left to approve")
    proposed = loads(proposal["proposed"])
    if proposal["kind"] == ProposalKind.LIMIT:
        return _adopt_limit(ctx, proposal, proposed)
    return _adopt_rule(ctx, proposal, proposed)


def _adopt_rule(ctx: OperationContext, proposal: Row, proposed: Mapping[str, Any]) -> str:
    given = _read_rule(proposed)
    version = rules.draft_version(ctx.tenant_id, given, rule_id=given.rule_id or ctx.new_id("rule"))
    rules.require_references(ctx.connection, version.depends_on, tenant_id=ctx.tenant_id, field="depends_on")
    rule = rules.insert(
        ctx.connection,
        version,
        tenant_id=ctx.tenant_id,
        status=RuleStatus.ACTIVE,
        by=ctx.actor.id,
        now=ctx.now,
        change_reason=given.change_reason,
        source=RuleSource.LEARNED if _is_learned(proposal) else RuleSource.MANUAL,
        source_proposal_id=proposal["proposal_id"],
    )
    # The tenant's state row orders this with every other change of its rules (see policies.rules.create).
    bump_policy_version(ctx.connection, tenant_id=ctx.tenant_id)
    others = rules.list_open(ctx.connection, tenant_id=ctx.tenant_id)
    rules.check_beside(rule.version, others, active=True)
    ctx.audit(
        "PolicyRuleCreated",
        "POLICY_RULE",
        rule.rule_id,
        after=rule.image(),
        run_id=proposal["source_run_id"],
    )
    return rule.rule_id


def _adopt_limit(ctx: OperationContext, proposal: Row, proposed: Mapping[str, Any]) -> str:
    given = _read_limit(proposed)
    row = limits.build(
        given,
        tenant_id=ctx.tenant_id,
        limit_id=given.limit_id or ctx.new_id("lim"),
        source=LimitSource.LEARNED if _is_learned(proposal) else LimitSource.MANUAL,
        created_by=ctx.actor.id,
        now=ctx.now,
    )
    limits.insert(ctx.connection, row, tenant_id=ctx.tenant_id)
    bump_policy_version(ctx.connection, tenant_id=ctx.tenant_id)
    ctx.audit(
        "LimitCreated", "LIMIT", row["limit_id"], after=limits.image(row), run_id=proposal["source_run_id"]
    )
    return str(row["limit_id"])


def _is_learned(proposal: Row) -> bool:
    return proposal["source"] in (ProposalSource.LESSON, ProposalSource.INCIDENT)


def _read_limit(proposed: Mapping[str, Any]) -> CreateLimit:
    given = _read(CreateLimit, proposed)
    # The limit of the plan is the operator's, also where a tenant does not have it yet.
    for field in ("limit_id", "name"):
        if getattr(given, field) == PLAN_LIMIT:
            raise limit_exists(field)
    return given


def _read_rule(proposed: Mapping[str, Any]) -> CreateRule:
    given = _read(CreateRule, proposed)
    if given.activate:
        raise invalid_input(
            "proposed/activate", "an approval activates the rule; the content does not say so"
        )
    return given


def _read(model: type[_M], proposed: Mapping[str, Any]) -> _M:
    try:
        return model.model_validate_json(dumps(dict(proposed)), strict=True)
    except ValidationError as error:
        raise refusal_of(error, under=("proposed",)) from None
