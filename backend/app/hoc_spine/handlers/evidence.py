"""Spine L4: evidence and proof of a run, each read at one moment."""

from __future__ import annotations

import structlog

from app.domains.activity.engines import runs
from app.domains.activity.errors import run_not_found
from app.domains.logs.engines import purge
from app.domains.repository.models.runs import RunLeavings
from app.hoc_spine.coordinators.evidence_sources import read_sources
from app.hoc_spine.coordinators.log_files import LogFiles
from app.hoc_spine.coordinators.repository_runs import read_leavings
from app.hoc_spine.coordinators.run_evidence import EvidenceInput, RunEvidence, compose_evidence
from app.hoc_spine.coordinators.run_judgement import read_proof_facts
from app.hoc_spine.coordinators.run_proof import ProofInput, RunProof, prove_run
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import Operation, OperationsOf

_log = structlog.get_logger(__name__)


def get_evidence(ctx: OperationContext, payload: EvidenceInput) -> RunEvidence:
    """Return what every source has on the run; a source that fails is said so, never an empty list."""
    runs.require_run(ctx.connection, tenant_id=ctx.tenant_id, run_id=payload.run_id)
    return compose_evidence(payload.run_id, read_sources(ctx, payload.run_id), now=ctx.now)


def get_proof(ctx: OperationContext, payload: ProofInput) -> RunProof:
    """Verify the run's chains, rows and facts; FAILED and UNSUPPORTED are answers, not errors.

    Refuse RUN_NOT_FOUND, RUN_PURGED.
    """
    files: LogFiles = ctx.services.caches["log_files"]
    repository = _leavings(ctx, payload.run_id)
    facts = read_proof_facts(
        ctx.connection, tenant_id=ctx.tenant_id, run_id=payload.run_id, keys=files.keys()
    )
    proof = None if facts is None else prove_run(payload, facts, repository=repository, now=ctx.now)
    if proof is None or proof.integrity.verification_status == "FAILED":
        purge.refuse_purged(ctx.connection, tenant_id=ctx.tenant_id, run_id=payload.run_id)
    if proof is None:
        raise run_not_found()
    return proof


def _leavings(ctx: OperationContext, run_id: str) -> RunLeavings:
    """Return what the run left in the repository; nothing when its rows are damaged beyond showing."""
    try:
        return read_leavings(ctx, run_id)
    except Exception as error:  # noqa: BLE001 - an outage fails the statements after this one too
        _log.error("run_proof.leavings_unreadable", error=type(error).__name__)
        return RunLeavings(manifest_digest=None, outputs=[], outputs_total=0)


declare = OperationsOf("activity", "runs")
OPERATIONS = (
    declare.read("runs.evidence", EvidenceInput, RunEvidence, get_evidence, snapshot=True),
    Operation("runs.proof", "traces", "read", "runs:read", ProofInput, RunProof, get_proof, snapshot=True),
)
