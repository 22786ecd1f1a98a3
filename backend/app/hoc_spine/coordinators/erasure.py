"""Spine: erasure of protected values in one transaction: rows, records, answers to be replayed."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import Counter

from app.domains.activity.engines import runs, subjects
from app.domains.logs.engines import erasure, idempotency
from app.domains.logs.engines.erasure import Held, Scope
from app.domains.logs.engines.legal_holds import ActiveHolds
from app.domains.logs.errors import nothing_to_erase, scope_not_found
from app.domains.logs.models.erasure import (
    EraseEvidence,
    ErasureScope,
    EvidenceErased,
    HoldScope,
)
from app.hoc_spine.coordinators.legal_holds import (
    holds_on_runs,
    holds_on_subject,
    lock_holds,
    refuse_held,
)
from app.hoc_spine.operation_context import OperationContext
from app.kernel.canonical_json import dumps

ERASED = Counter("hoc_erasures", "Transactions that erased protected values", ["scope"])


def erase_values(ctx: OperationContext, request: EraseEvidence) -> tuple[EvidenceErased, set[str | None]]:
    """Take the values of up to 10 000 rows away, and return what went and the runs that it was of.

    Refuse REFERENCE_NOT_FOUND, LEGAL_HOLD, NOTHING_TO_ERASE.
    """
    key = {"tenant_id": ctx.tenant_id}
    scope = _scope(ctx, request)
    heads = erasure.lock_heads(ctx.connection, scope, **key)
    holds = lock_holds(ctx)
    # What was written before the lock is seen now; what comes after it is a row of its own.
    records = erasure.list_records(ctx.connection, scope, **key, most=erasure.MAX_ROWS - len(heads))
    held = [*heads, *records]
    refuse_held(_holds_on(ctx, holds, request, scope, held))
    if not held:
        raise nothing_to_erase()
    parts = erasure.parts_of(held)
    erasure_ids = [erase_part(ctx, request, run_id, rows) for run_id, rows in parts]
    taken = [row for _, rows in parts for row in rows]
    _forget_answers(ctx, request, taken)
    left = erasure.count_left(ctx.connection, scope, **key)
    done = EvidenceErased(erasure_ids=erasure_ids, erased=len(taken), remaining=left)
    return done, {run_id for run_id, _ in parts}


def _scope(ctx: OperationContext, request: EraseEvidence) -> Scope:
    key = {"tenant_id": ctx.tenant_id}
    if request.scope is ErasureScope.FACT:
        found = erasure.scope_of_fact(ctx.connection, **key, fact_id=request.scope_id)
        if found is None:
            raise scope_not_found()
        return found
    if request.scope is ErasureScope.RUN:
        if not runs.run_exists(ctx.connection, **key, run_id=request.scope_id):
            raise scope_not_found()
        return erasure.scope_of_run(request.scope_id)
    if not subjects.has_runs(ctx.connection, **key, subject_ref=request.scope_id):
        raise scope_not_found()
    return erasure.scope_of_subject(request.scope_id)


def _holds_on(
    ctx: OperationContext, holds: ActiveHolds, request: EraseEvidence, scope: Scope, held: Sequence[Held]
) -> list[str]:
    """Return the holds on the runs, the subject, or a plane that one of the rows is about."""
    key = {"tenant_id": ctx.tenant_id}
    if request.scope is ErasureScope.SUBJECT:
        found = holds_on_subject(ctx.connection, holds, request.scope_id, **key)
    else:
        run_ids = {row.run_id for row in held if row.run_id is not None}
        if request.scope is ErasureScope.RUN:
            run_ids.add(request.scope_id)
        found = holds_on_runs(ctx.connection, holds, run_ids, **key)
    planes = sorted(holds.names(HoldScope.PLANE))
    if planes:
        touched = erasure.list_planes(ctx.connection, scope, **key, plane_ids=planes)
        found += holds.covering(planes=touched)
    return list(dict.fromkeys(found))


def erase_part(
    ctx: OperationContext, request: EraseEvidence, run_id: str | None, rows: Sequence[Held]
) -> str:
    """Take the values of some rows, all of one run or of none, and record it; return the record's id."""
    row = erasure.record(
        request,
        rows,
        erasure_id=ctx.new_id("ers"),
        run_id=run_id,
        requested_by=ctx.actor.id,
        now=ctx.now,
    )
    row["fact_id"] = ctx.facts.add("erasure", row, run_id=run_id)
    erasure.erase(ctx.connection, row, rows, tenant_id=ctx.tenant_id)
    return str(row["erasure_id"])


def _forget_answers(ctx: OperationContext, request: EraseEvidence, taken: Sequence[Held]) -> None:
    """Forget the answers that a key would replay: they say of which run, or which row, they are."""
    named = {row.run_id for row in taken if row.run_id is not None}
    if request.scope is ErasureScope.FACT:
        named.update(part for row in taken for part in row.key if isinstance(part, str))
    texts = [dumps(name) for name in sorted(named)]
    idempotency.forget_answers(ctx.connection, tenant_id=ctx.tenant_id, prefix="", texts=texts)
