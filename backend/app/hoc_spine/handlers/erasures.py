"""Spine L4: erasure of protected values, and its records."""

from __future__ import annotations

from app.domains.logs.engines import erasure
from app.domains.logs.models.erasure import EraseEvidence, ErasureView, EvidenceErased, ListErasures
from app.hoc_spine.coordinators.erasure import ERASED, erase_values
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import OperationsOf
from app.kernel.pages import Page, newest_first
from app.kernel.redaction import redact_text

LIST = "evidence.erasures.list"


def erase(ctx: OperationContext, given: EraseEvidence) -> EvidenceErased:
    """Take protected values away, up to 10 000 rows at once; call again while some remain.

    Refuse REFERENCE_NOT_FOUND, LEGAL_HOLD, NOTHING_TO_ERASE.
    """
    request = given.model_copy(update={"reason": redact_text(given.reason)[0]})
    done, run_ids = erase_values(ctx, request)
    # The reason stands in the state, in clear: as the entry's own it would be a value of the run again.
    after = {**request.model_dump(mode="json"), **done.model_dump(mode="json")}
    run_id = next(iter(run_ids)) if len(run_ids) == 1 else None
    ctx.audit("EvidenceErased", "EVIDENCE", done.erasure_ids[0], after=after, run_id=run_id)
    ctx.after_commit(ERASED.labels(request.scope.value).inc)
    return done


def list_erasures(ctx: OperationContext, query: ListErasures) -> Page[ErasureView]:
    """Return the records of erasures, newest first."""
    return newest_first(
        query,
        tenant_id=ctx.tenant_id,
        operation=LIST,
        columns=("created_at", "erasure_id"),
        fetch=lambda before, limit: erasure.list_page(
            ctx.connection, tenant_id=ctx.tenant_id, run_id=query.run_id, before=before, limit=limit
        ),
        view=erasure.view,
    )


declare = OperationsOf("logs")
OPERATIONS = (
    declare.write("evidence.erase", EraseEvidence, EvidenceErased, erase, verb="admin", creates=True),
    declare.read(LIST, ListErasures, Page[ErasureView], list_erasures, verb="admin"),
)
