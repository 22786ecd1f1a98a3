"""Spine L4: the bundle of a run: wait until a checkpoint covers it, prove it, hand it over as a file."""

from __future__ import annotations

import time
from typing import Final

from prometheus_client import Histogram

from app.domains.activity.engines import runs
from app.domains.logs.engines import bundle_reads, checkpoints, heads, purge
from app.domains.logs.errors import (
    checkpoint_pending,
    integrity_failed,
    log_halted,
    no_signing_key,
    run_open,
)
from app.domains.logs.models.tree import (
    LogState,
)
from app.domains.traces.engines import traces
from app.hoc_spine.coordinators.log_files import LogFiles
from app.hoc_spine.coordinators.run_bundle import BundleFile, BundleInput, Request, make_bundle
from app.hoc_spine.operation_context import OperationContext, PrepareContext
from app.hoc_spine.operation_registry import OperationsOf

POLL_SECONDS: Final = 0.05
SECONDS = Histogram("hoc_bundle_seconds", "Making a run's bundle, after its proof")


def await_checkpoint(ctx: PrepareContext, query: BundleInput) -> None:
    """Wait until the newest checkpoint covers the run's facts, working at the log where nobody else does.

    Refuse RUN_NOT_FOUND, RUN_PURGED, RUN_OPEN, NO_SIGNING_KEY, LOG_HALTED, and CHECKPOINT_PENDING after
    `wait_ms`.
    """
    files: LogFiles = ctx.services.caches["log_files"]
    deadline = time.monotonic() + query.wait_ms / 1000
    while not _is_covered(ctx, query):
        if not files.can_sign():
            raise no_signing_key()
        if time.monotonic() >= deadline:
            raise checkpoint_pending()
        # A round is nothing but a question where another sequencer holds the lease; that one is at work.
        if not ctx.services.caches["log_round"]():
            time.sleep(POLL_SECONDS)


def _is_covered(ctx: PrepareContext, query: BundleInput) -> bool:
    key = {"tenant_id": ctx.tenant_id, "run_id": query.run_id}
    with ctx.read_unit() as connection:
        counter = bundle_reads.get_counter(connection, **key)
        if counter is None:
            purge.refuse_purged(connection, **key)
        runs.require_run(connection, **key)
        if not query.allow_open and (counter is None or not counter["closed"]):
            raise run_open(query.run_id)
        head = heads.get_head(connection, tenant_id=ctx.tenant_id)
        if head is None:
            return False
        newest = checkpoints.get_newest(connection, tenant_id=ctx.tenant_id, epoch=head["epoch"])
        size = 0 if newest is None else newest["size"]
        if size and bundle_reads.is_covered(connection, **key, epoch=head["epoch"], size=size):
            return True
    if head["state"] != LogState.ACTIVE:
        raise log_halted(head["halted_reason"])
    return False


def get_bundle(ctx: OperationContext, query: BundleInput) -> BundleFile:
    """Prove the run and make its bundle, both of the moment that this unit sees.

    Refuse what the proof finds with INTEGRITY_FAILED: nothing is signed over damaged records.
    """
    key = {"tenant_id": ctx.tenant_id, "run_id": query.run_id}
    run = runs.require_run(ctx.connection, **key)
    counter = bundle_reads.get_counter(ctx.connection, **key)
    if counter is None:
        raise integrity_failed("FACT_GAP")
    request = Request(
        tenant_id=ctx.tenant_id,
        run=run,
        counter=counter,
        traces=traces.list_proof_traces(ctx.connection, **key),
        query=query,
        files=ctx.services.caches["log_files"],
        tiles=ctx.services.caches["log_tiles"],
    )
    request.require_size()
    proof = ctx.dispatch("runs.proof", {"run_id": query.run_id, "steps_limit": 0})
    if proof.integrity.verification_status == "FAILED":
        raise integrity_failed(str(proof.integrity.failure_code))
    with SECONDS.time():
        return make_bundle(ctx.connection, request)


declare = OperationsOf("logs")
OPERATIONS = (
    declare.read("runs.bundle", BundleInput, BundleFile, get_bundle, prepare=await_checkpoint, snapshot=True),
)
