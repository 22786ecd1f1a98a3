"""Spine L4: which runs were given a document that has turned out to be wrong."""

from __future__ import annotations

from datetime import datetime

from app.domains.retrieval.engines.affected import check_question
from app.domains.retrieval.models import AffectedRuns, BlastRadius
from app.hoc_spine.coordinators import affected_runs
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import OperationsOf
from app.kernel.clock import format_time
from app.kernel.pages import encode_cursor, read_cursor


def list_affected(ctx: OperationContext, asked: AffectedRuns) -> BlastRadius:
    """Return the runs that were given a document, as of one moment; refuse INVALID_QUERY."""
    check_question(asked)
    if asked.depth > 1:
        runs, complete = affected_runs.find_all(ctx, asked)
        return BlastRadius(runs=runs, next_cursor=None, complete=complete, as_of=ctx.now)
    filters = asked.model_dump_json(exclude={"limit", "cursor"})
    binding = f"{ctx.tenant_id}:retrieval.affected_runs:{filters}"
    after = read_cursor(asked.cursor, binding, datetime, str)
    found = affected_runs.find_page(
        ctx, asked, after=None if after is None else (after[0], after[1]), limit=asked.limit + 1
    )
    shown = found[: asked.limit]
    more = len(found) > asked.limit
    cursor = encode_cursor(binding, [format_time(shown[-1].first_at), shown[-1].run_id]) if more else None
    return BlastRadius(runs=shown, next_cursor=cursor, complete=not more, as_of=ctx.now)


declare = OperationsOf("retrieval")
OPERATIONS = (
    declare.read("retrieval.affected_runs", AffectedRuns, BlastRadius, list_affected, snapshot=True),
)
