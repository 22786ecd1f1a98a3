"""Spine L4: evidence and proof of a run, each read at one moment."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from app.domains.activity.engines import evaluation, runs
from app.domains.logs.engines import completeness, inclusion
from app.domains.retrieval.engines import evidence as retrievals
from app.domains.retrieval.models import ListEvidence
from app.domains.traces.engines import steps, traces
from app.hoc_spine.coordinators.log_files import LogFiles
from app.hoc_spine.coordinators.repository_runs import list_run_artifacts, read_leavings
from app.hoc_spine.coordinators.run_evidence import (
    MAX_ITEMS,
    EvidenceInput,
    RunEvidence,
    SourceRead,
    compose_evidence,
    read_source,
)
from app.hoc_spine.coordinators.run_proof import ProofInput, RunProof, prove_run
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import Operation

_log = structlog.get_logger(__name__)


def get_evidence(ctx: OperationContext, payload: EvidenceInput) -> RunEvidence:
    """Return what every source has on the run; a source that fails is said so, never an empty list."""
    run_id = payload.run_id
    runs.require_run(ctx.connection, tenant_id=ctx.tenant_id, run_id=run_id)
    readers: dict[str, Callable[[], SourceRead]] = {
        "policy_evaluations": lambda: _evaluations(ctx, run_id),
        "retrievals": lambda: _retrievals(ctx, run_id),
        "artifacts": lambda: _artifacts(ctx, run_id),
    }
    reads = {name: _guarded(ctx, name, reader) for name, reader in readers.items()}
    return compose_evidence(run_id, reads, now=ctx.now)


def _guarded(ctx: OperationContext, name: str, reader: Callable[[], SourceRead]) -> SourceRead:
    def in_savepoint() -> SourceRead:
        with ctx.savepoint():
            return reader()

    def log(error: Exception) -> None:
        _log.error("run_evidence.source_failed", source=name, error=type(error).__name__)

    return read_source(in_savepoint, log)


def _evaluations(ctx: OperationContext, run_id: str) -> SourceRead:
    found = evaluation.list_evaluations(ctx.connection, tenant_id=ctx.tenant_id, run_id=run_id)
    return SourceRead(items=list(reversed(found)))


def _retrievals(ctx: OperationContext, run_id: str) -> SourceRead:
    found = retrievals.list_page(
        ctx.connection, ListEvidence(run_id=run_id), tenant_id=ctx.tenant_id, before=None, limit=MAX_ITEMS
    )
    total = len(found)
    if total == MAX_ITEMS:
        total = retrievals.count_run(ctx.connection, tenant_id=ctx.tenant_id, run_id=run_id)
    return SourceRead(items=found, total=total)


def _artifacts(ctx: OperationContext, run_id: str) -> SourceRead:
    items, total = list_run_artifacts(ctx, run_id, limit=MAX_ITEMS)
    return SourceRead(items=items, total=total)


def get_proof(ctx: OperationContext, payload: ProofInput) -> RunProof:
    """Verify the run's chains and facts; FAILED and UNSUPPORTED are answers, not errors."""
    run = runs.require_run(ctx.connection, tenant_id=ctx.tenant_id, run_id=payload.run_id)
    key = {"tenant_id": ctx.tenant_id, "run_id": payload.run_id}
    snapshot = {"policy_snapshot_id": run["policy_snapshot_id"], "tenant_id": ctx.tenant_id}
    files: LogFiles = ctx.services.caches["log_files"]
    leaves, counter = completeness.read_facts(ctx.connection, **key)
    return prove_run(
        payload,
        traces=[{**trace, **snapshot} for trace in traces.list_proof_traces(ctx.connection, **key)],
        steps=steps.list_run_steps(ctx.connection, **key),
        leaves=leaves,
        counter=counter,
        log=inclusion.read_log(ctx.connection, leaves, tenant_id=ctx.tenant_id, key=files.signing_key()),
        repository=read_leavings(ctx, payload.run_id),
        now=ctx.now,
    )


OPERATIONS = (
    Operation(
        "runs.evidence",
        "activity",
        "read",
        "runs:read",
        EvidenceInput,
        RunEvidence,
        get_evidence,
        snapshot=True,
    ),
    Operation("runs.proof", "traces", "read", "runs:read", ProofInput, RunProof, get_proof, snapshot=True),
)
