"""Bootstrap: the composition root; settings become one spine, the same for server, CLI, jobs and tests."""

from __future__ import annotations

import threading

import app.db.catalogue  # noqa: F401 - fills the register of governed tables
from app.connectors.repository import RepositoryConnector, RepositoryReads
from app.db.engine import make_engine
from app.db.migrations import check_schema
from app.domains.activity.engines import runs as run_engine
from app.domains.knowledge.engines import search
from app.domains.logs.engines import facts, idempotency, ledger
from app.domains.policies.engines.snapshot_cache import SnapshotCache
from app.domains.repository.engines import artifacts, tokenizer
from app.domains.tenants.engines import credentials, state
from app.hoc_spine.audit_store import AuditStore
from app.hoc_spine.consequences.adapters.dispatch_metrics import DispatchMetricsAdapter
from app.hoc_spine.consequences.pipeline import ConsequencePipeline
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
    repository_collections,
    repository_queries,
    repository_revisions,
    retrieval,
    run_endings,
    runs,
    switches,
    tenants,
    traces,
)
from app.hoc_spine.maintenance import MaintenanceLoop
from app.hoc_spine.operation_registry import OperationRegistry
from app.hoc_spine.ports import Services, SpinePorts
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
    repository_collections,
    repository_queries,
    repository_revisions,
    retrieval,
    run_endings,
    runs,
    switches,
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
    engine = make_engine(
        settings.database_url, pool_size=settings.pool_size, busy_timeout_ms=settings.lock_timeout_ms
    )
    registry = OperationRegistry()
    for module in HANDLERS:
        for operation in module.OPERATIONS:
            registry.register(operation)
    registry.freeze()
    pipeline = ConsequencePipeline()
    metrics = DispatchMetricsAdapter()
    pipeline.register(metrics)
    pipeline.freeze()
    audit_store = AuditStore(settings.redis_url)
    services = Services(
        settings=settings,
        clock=clock or SystemClock(),
        ids=ids or Uuid7Ids(),
        digest_key=state.DigestKeys().get,
        connectors={"repository": _repository_connector()},
        caches={
            "dispatch_metrics": metrics,
            "audit_store": audit_store,
            "snapshots": SnapshotCache(),
            "revoked_rules": RevokedRules(),
            "plane_wake": threading.Event(),
        },
    )
    spine = Spine(
        registry=registry,
        transactions=Transactions(
            engine,
            statement_timeout_ms=settings.statement_timeout_ms,
            lock_timeout_ms=settings.lock_timeout_ms,
        ),
        ports=_ports(),
        services=services,
        audit_store=audit_store,
        pipeline=pipeline,
    )
    spine.background.extend((PlaneWorkers(spine), MaintenanceLoop(spine)))
    return spine


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


def _ports() -> SpinePorts:
    return SpinePorts(
        load_standing=state.load_standing,
        flush_facts=facts.flush,
        append_entries=ledger.append_entries,
        append_events=ledger.append_events,
        claim_key=idempotency.claim,
        complete_key=idempotency.complete,
        run_exists=run_engine.run_exists,
        find_credential=credentials.find_credential,
    )
