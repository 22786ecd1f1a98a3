"""Spine: operations on lessons: learned, shown, converted into proposals, deferred, dismissed, taken up."""

from __future__ import annotations

from app.db.connection import Row
from app.domains.activity.engines import runs
from app.domains.activity.errors import cited_run_not_found
from app.domains.activity.models.facts import Projections
from app.domains.lessons.engines import learning, lessons
from app.domains.lessons.engines.lessons import LessonOperation
from app.domains.lessons.models.records import (
    DeferLesson,
    DismissLesson,
    LearnCriticalSuccess,
    LearnNearThreshold,
    LessonDetail,
    LessonEffect,
    LessonRef,
    LessonResult,
    LessonStats,
    LessonStatsInput,
    LessonView,
    ListLessons,
    ReactivatedLessons,
    ReactivateDue,
)
from app.domains.lessons.models.vocabulary import LessonStatus
from app.domains.policies.engines import effects, proposals
from app.domains.policies.models.judgements import ListPreventions
from app.domains.policies.models.vocabulary import ProposalKind, ProposalSource
from app.hoc_spine.coordinators.lesson_proposals import propose
from app.hoc_spine.coordinators.policy_proposals import check_proposed
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import Operation, OperationsOf
from app.kernel.pages import Page
from app.kernel.redaction import redact_json, redact_text

ENTITY = "LESSON"
SHOWN_PREVENTIONS = 20
_IS_FACT = "the lesson is a governed fact itself (lesson)"


def learn_near_threshold(ctx: OperationContext, given: LearnNearThreshold) -> LessonResult:
    """Learn from a use near its limit; below 85 percent, and above 100, there is nothing to learn."""
    _require_run(ctx, given.run_id)
    draft = learning.near_lesson(
        metric=given.metric,
        percent=given.utilization,
        threshold_value=given.threshold_value,
        current_value=given.current_value,
        source_event_id=given.source_event_id,
        limit_id=given.limit_id,
        run_id=given.run_id,
        is_synthetic=given.is_synthetic,
    )
    return lessons.learn_one(ctx, draft)


def learn_critical_success(ctx: OperationContext, given: LearnCriticalSuccess) -> LessonResult:
    """Learn from a success that used little."""
    _require_run(ctx, given.run_id)
    draft = learning.success_lesson(
        success_type=given.success_type,
        metrics=redact_json(given.metrics)[0],
        source_event_id=given.source_event_id,
        agent_id=given.agent_id,
        run_id=given.run_id,
        is_synthetic=given.is_synthetic,
    )
    return lessons.learn_one(ctx, draft)


def get_lesson(ctx: OperationContext, query: LessonRef) -> LessonDetail:
    """Show one lesson with what was measured of it; refuse LESSON_NOT_FOUND."""
    row = lessons.require(ctx.connection, tenant_id=ctx.tenant_id, lesson_id=query.lesson_id)
    return LessonDetail(**lessons.view_members(row), effect=_effect(ctx, row))


def list_lessons(ctx: OperationContext, query: ListLessons) -> Page[LessonView]:
    """List lessons, newest first; synthetic ones only when asked for."""
    return lessons.list_page(ctx.connection, query, tenant_id=ctx.tenant_id)


def count_lessons(ctx: OperationContext, query: LessonStatsInput) -> LessonStats:
    """Count lessons by type, status and severity."""
    return lessons.stats(ctx.connection, tenant_id=ctx.tenant_id, include_synthetic=query.include_synthetic)


def convert_lesson(ctx: OperationContext, given: LessonRef) -> LessonView:
    """Make the proposal that a lesson leads to; refuse INVALID_TRANSITION and LESSON_NOT_CONVERTIBLE."""
    known = lessons.require(ctx.connection, tenant_id=ctx.tenant_id, lesson_id=given.lesson_id)
    run_id = known["source_run_id"]
    if run_id is not None:
        # The run's row comes before the lesson's among the locks.
        runs.lock_run_state(ctx.connection, tenant_id=ctx.tenant_id, run_id=run_id)
    row = _open(ctx, given.lesson_id, LessonOperation.CONVERT)
    proposed = propose(row)
    check_proposed(ctx, proposed.kind, proposed.content)
    proposal = proposals.insert(
        ctx,
        proposal_id=None,
        kind=proposed.kind,
        source=ProposalSource.LESSON,
        source_ref=row["lesson_id"],
        source_run_id=run_id,
        title=proposed.title,
        rationale=proposed.rationale,
        proposed=proposed.content,
    )
    if proposal is None:
        raise RuntimeError("a new proposal id is taken")
    ctx.audit(
        "PolicyProposalCreated",
        "POLICY_PROPOSAL",
        proposal["proposal_id"],
        after=proposals.image(proposal),
        run_id=run_id,
    )
    converted = lessons.change(
        ctx,
        row,
        {
            "status": LessonStatus.CONVERTED_TO_DRAFT.value,
            "draft_proposal_id": proposal["proposal_id"],
            "converted_at": ctx.now,
            "converted_by": ctx.actor.id,
        },
    )
    if run_id is not None:
        runs.raise_projections(
            ctx.connection,
            tenant_id=ctx.tenant_id,
            run_id=run_id,
            raised=Projections(drafts=1),
            now=ctx.now,
        )
    return _audited(ctx, "LessonConverted", row, converted)


def defer_lesson(ctx: OperationContext, given: DeferLesson) -> LessonView:
    """Put a lesson off until a time in the next 90 days."""
    row = _open(ctx, given.lesson_id, LessonOperation.DEFER)
    lessons.check_until(given.until, ctx.now)
    values = {"status": LessonStatus.DEFERRED.value, "deferred_until": given.until}
    return _audited(ctx, "LessonDeferred", row, lessons.change(ctx, row, values))


def dismiss_lesson(ctx: OperationContext, given: DismissLesson) -> LessonView:
    """Put a lesson aside for good, with the reason."""
    row = _open(ctx, given.lesson_id, LessonOperation.DISMISS)
    values = {
        "status": LessonStatus.DISMISSED.value,
        "dismissed_at": ctx.now,
        "dismissed_by": ctx.actor.id,
    }
    changed = lessons.change(ctx, row, values, dismissed_reason=given.reason)
    return _audited(ctx, "LessonDismissed", row, changed, reason=given.reason)


def reactivate_lesson(ctx: OperationContext, given: LessonRef) -> LessonView:
    """Take up a deferred lesson again."""
    return _reactivate(ctx, _open(ctx, given.lesson_id, LessonOperation.REACTIVATE))


def reactivate_due(ctx: OperationContext, given: ReactivateDue) -> ReactivatedLessons:
    """Take up the deferred lessons whose time has come; those that others hold wait."""
    due = lessons.lock_due(ctx.connection, tenant_id=ctx.tenant_id, now=ctx.now, limit=given.limit)
    for row in due:
        _reactivate(ctx, row)
    return ReactivatedLessons(reactivated=[row["lesson_id"] for row in due], more=len(due) == given.limit)


def _reactivate(ctx: OperationContext, row: Row) -> LessonView:
    values = {"status": LessonStatus.PENDING.value, "deferred_until": None}
    return _audited(ctx, "LessonReactivated", row, lessons.change(ctx, row, values))


def _open(ctx: OperationContext, lesson_id: str, operation: LessonOperation) -> Row:
    row = lessons.lock(ctx.connection, tenant_id=ctx.tenant_id, lesson_id=lesson_id)
    ctx.require_version(row["version"])
    lessons.check_transition(LessonStatus(row["status"]), operation)
    return row


def _audited(
    ctx: OperationContext, event: str, before: Row, after: Row, *, reason: str | None = None
) -> LessonView:
    ctx.audit(
        event,
        ENTITY,
        after["lesson_id"],
        before=lessons.image(before),
        after=lessons.image(after),
        reason=None if reason is None else redact_text(reason)[0],
        run_id=after["source_run_id"],
    )
    return lessons.view(after)


def _require_run(ctx: OperationContext, run_id: str | None) -> None:
    if run_id is not None and not runs.run_exists(ctx.connection, tenant_id=ctx.tenant_id, run_id=run_id):
        raise cited_run_not_found()


def _effect(ctx: OperationContext, row: Row) -> LessonEffect | None:
    """Return what came of a converted lesson: its proposal, the rule or limit, and what that prevented."""
    if row["draft_proposal_id"] is None:
        return None
    proposal = proposals.require(
        ctx.connection, tenant_id=ctx.tenant_id, proposal_id=row["draft_proposal_id"]
    )
    effect = LessonEffect(
        proposal_id=proposal["proposal_id"],
        proposal_status=proposal["status"],
        result_ref=proposal["result_ref"],
    )
    if proposal["kind"] != ProposalKind.RULE or proposal["result_ref"] is None:
        return effect
    of_rule = ListPreventions(rule_id=proposal["result_ref"], limit=SHOWN_PREVENTIONS)
    latest = effects.list_prevention_views(ctx.connection, of_rule, tenant_id=ctx.tenant_id)
    counts = effects.count_outcomes(ctx.connection, tenant_id=ctx.tenant_id, rule_id=proposal["result_ref"])
    return effect.model_copy(
        update={
            "preventions": counts,
            "latest_prevention_ids": [record.prevention_id for record in latest.items],
        }
    )


declare = OperationsOf("lessons")
OPERATIONS = (
    declare.read("lessons.list", ListLessons, Page[LessonView], list_lessons),
    declare.read("lessons.get", LessonRef, LessonDetail, get_lesson),
    declare.read("lessons.stats", LessonStatsInput, LessonStats, count_lessons),
    declare.write("lessons.convert", LessonRef, LessonView, convert_lesson),
    declare.write("lessons.defer", DeferLesson, LessonView, defer_lesson),
    declare.write("lessons.dismiss", DismissLesson, LessonView, dismiss_lesson),
    declare.write("lessons.reactivate", LessonRef, LessonView, reactivate_lesson),
    Operation(
        "lessons.reactivate_due",
        "lessons",
        "write",
        None,
        ReactivateDue,
        ReactivatedLessons,
        reactivate_due,
        door="worker",
    ),
    Operation(
        "lessons.learn_near_threshold",
        "lessons",
        "write",
        None,
        LearnNearThreshold,
        LessonResult,
        learn_near_threshold,
        door="worker",
        no_audit=_IS_FACT,
    ),
    Operation(
        "lessons.learn_critical_success",
        "lessons",
        "write",
        None,
        LearnCriticalSuccess,
        LessonResult,
        learn_critical_success,
        door="worker",
        no_audit=_IS_FACT,
    ),
)
