"""Bootstrap: the composition root; settings become one spine, the same for server, CLI, jobs and tests."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime

import app.db.catalogue  # noqa: F401 - fills the register of governed tables
from app.connectors.repository import RepositoryConnector, RepositoryReads
from app.db.connection import DriverConnection
from app.db.engine import make_engine
from app.db.migrations import check_schema
from app.domains.activity.engines import runs as run_engine
from app.domains.knowledge.engines import search
from app.domains.logs.engines import idempotency, ledger
from app.domains.logs.engines.facts import flush
from app.domains.logs.engines.tiles import TileCache
from app.domains.logs.models import Fact
from app.domains.policies.engines.snapshot_cache import SnapshotCache
from app.domains.repository.engines import artifacts, operation_runs, tokenizer
from app.domains.tenants.engines import credentials, state
from app.hoc_spine.audit_store import AuditStore
from app.hoc_spine.consequences.adapters.dispatch_metrics import DispatchMetricsAdapter
from app.hoc_spine.consequences.pipeline import ConsequencePipeline
from app.hoc_spine.coordinators.log_files import LogFiles
from app.hoc_spine.coordinators.retrieval_access import RevokedRules
from app.hoc_spine.handlers import (
    evidence,
    keys,
    knowledge_bindings,
    knowledge_jobs,
    knowledge_planes,
    knowledge_transitions,
    logs,
    policies,
    repository,
    repository_artifacts,
    repository_bundles,
    repository_collections,
    repository_lineage,
    repository_maintenance,
    repository_outputs,
    repository_packages,
    repository_queries,
    repository_redaction,
    repository_relationships,
    repository_revisions,
    repository_runs,
    repository_snapshots,
    retrieval,
    run_endings,
    runs,
    switches,
    tenant_log,
    tenants,
    traces,
)
from app.hoc_spine.log_watch import LogWatch
from app.hoc_spine.maintenance import MaintenanceLoop
from app.hoc_spine.operation_registry import OperationRegistry
from app.hoc_spine.ports import Services, SpinePorts
from app.hoc_spine.sequencer import LogSequencerLoop
from app.hoc_spine.spine import Spine
from app.hoc_spine.transactions import Transactions
from app.hoc_spine.worker import PlaneWorkers
from app.kernel.clock import Clock, SystemClock
from app.kernel.ids import IdFactory, Uuid7Ids
from app.settings import Settings

# Every operation of the product, module by module.
HANDLERS = (
    evidence,
    keys,
    knowledge_bindings,
    knowledge_jobs,
    knowledge_planes,
    knowledge_transitions,
    logs,
    policies,
    repository,
    repository_artifacts,
    repository_bundles,
    repository_collections,
    repository_lineage,
    repository_outputs,
    repository_packages,
    repository_maintenance,
    repository_queries,
    repository_redaction,
    repository_relationships,
    repository_revisions,
    repository_snapshots,
    repository_runs,
    retrieval,
    run_endings,
    runs,
    switches,
    tenant_log,
    tenants,
    traces,
)


def build_spine(
    settings: Settings,
    *,
    clock: Clock | None = None,
    ids: IdFactory | None = None,
    verify_schema: bool = True,
) -> Spine:
    """Build the spine of a process; raise SchemaError when the database cannot serve it."""
    if verify_schema:
        check_schema(settings.database_url)
    pipeline = ConsequencePipeline()
    metrics = DispatchMetricsAdapter()
    pipeline.register(metrics)
    pipeline.freeze()
    audit_store = AuditStore(settings.redis_url)
    clock = clock or SystemClock()
    transactions = _transactions(settings)
    files = LogFiles(settings.log_key_path, settings.checkpoint_path, makes_key=settings.backend == "sqlite")
    watch = LogWatch(
        lambda: transactions.read("_system", role="hoc_maintenance"),
        settings=settings,
        files=files,
        clock=clock,
    )
    services = Services(
        settings=settings,
        clock=clock,
        ids=ids or Uuid7Ids(),
        digest_key=state.DigestKeys().get,
        connectors={"repository": _repository_connector()},
        caches={
            "dispatch_metrics": metrics,
            "audit_store": audit_store,
            "snapshots": SnapshotCache(),
            "revoked_rules": RevokedRules(),
            "plane_wake": threading.Event(),
            "log_files": files,
            "log_tiles": TileCache(),
            "log_watch": watch,
        },
    )
    spine = Spine(
        registry=_registry(),
        transactions=transactions,
        ports=_ports(watch),
        services=services,
        audit_store=audit_store,
        pipeline=pipeline,
    )
    spine.background.extend((PlaneWorkers(spine), MaintenanceLoop(spine), watch))
    if settings.log_sequencer == "inline":
        spine.background.append(LogSequencerLoop(spine))
    return spine


def _registry() -> OperationRegistry:
    registry = OperationRegistry()
    for module in HANDLERS:
        for operation in module.OPERATIONS:
            registry.register(operation)
    registry.freeze()
    return registry


def _transactions(settings: Settings) -> Transactions:
    engine = make_engine(
        settings.database_url, pool_size=settings.pool_size, busy_timeout_ms=settings.lock_timeout_ms
    )
    return Transactions(
        engine,
        statement_timeout_ms=settings.statement_timeout_ms,
        lock_timeout_ms=settings.lock_timeout_ms,
    )


def _repository_connector() -> RepositoryConnector:
    return RepositoryConnector(
        RepositoryReads(
            find_documents=search.find_documents,
            read_hits=search.read_hits,
            read_documents=search.read_documents,
            list_documents=search.list_documents,
            query_tokens=tokenizer.query_tokens,
            list_live=artifacts.list_liveness,
        )
    )


def _ports(watch: LogWatch) -> SpinePorts:
    def flush_facts(
        connection: DriverConnection, facts: Sequence[Fact], *, tenant_id: str, now: datetime
    ) -> None:
        if facts:
            watch.require_room()
        flush(connection, facts, tenant_id=tenant_id, now=now)

    return SpinePorts(
        load_standing=state.load_standing,
        flush_facts=flush_facts,
        append_entries=ledger.append_entries,
        append_events=ledger.append_events,
        claim_key=idempotency.claim,
        complete_key=idempotency.complete,
        run_exists=run_engine.run_exists,
        operation_run_exists=operation_runs.run_exists,
        find_credential=credentials.find_credential,
    )
