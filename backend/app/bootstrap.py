"""Bootstrap: the composition root; settings become one spine, the same for server, CLI, jobs and tests."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import app.db.catalogue  # noqa: F401 - fills the register of governed tables
from app.connectors.credentials import Credentials
from app.connectors.hosts import HostPolicy
from app.connectors.http import HttpConnector
from app.connectors.repository import RepositoryConnector, RepositoryReads
from app.connectors.sql import SqlConnector
from app.connectors.sql_postgresql import PostgresqlSource
from app.connectors.sql_sqlite import SqliteSource
from app.db.connection import DriverConnection
from app.db.engine import make_engine
from app.db.migrations import check_schema
from app.domains.activity.engines import runs as run_engine
from app.domains.knowledge.engines import search
from app.domains.logs.engines import idempotency, ledger
from app.domains.logs.engines.facts import flush
from app.domains.logs.engines.tiles import TileCache
from app.domains.logs.models.ledger import (
    Fact,
)
from app.domains.policies.engines.snapshot_cache import SnapshotCache
from app.domains.repository.engines import artifacts, operation_runs, tokenizer
from app.domains.tenants.engines import credentials, state
from app.hoc_spine.audit_store import AuditStore
from app.hoc_spine.consequences.adapters.dispatch_metrics import DispatchMetricsAdapter
from app.hoc_spine.consequences.adapters.export_bundle import ExportBundleAdapter
from app.hoc_spine.consequences.pipeline import ConsequencePipeline
from app.hoc_spine.coordinators.limit_use import LiveOverrides
from app.hoc_spine.coordinators.log_files import LogFiles
from app.hoc_spine.coordinators.retrieval_access import RevokedRules
from app.hoc_spine.coordinators.run_governance import governance_of
from app.hoc_spine.coordinators.verify_requests import VerifyRequests
from app.hoc_spine.handlers import (
    bundles,
    checks,
    completeness,
    decisions,
    erasures,
    evidence,
    incidents,
    keys,
    knowledge_bindings,
    knowledge_credentials,
    knowledge_jobs,
    knowledge_planes,
    knowledge_refresh,
    knowledge_transitions,
    legal_holds,
    lessons,
    limits,
    log_keeping,
    log_verifications,
    logs,
    otlp,
    outbox,
    overrides,
    policies,
    policy_judgements,
    proposals,
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
    retention,
    retention_purge,
    retrieval,
    retrieval_affected,
    retrieval_observations,
    run_endings,
    runs,
    signals,
    switches,
    tenant_log,
    tenants,
    traces,
    usage,
)
from app.hoc_spine.log_watch import LogWatch
from app.hoc_spine.maintenance import MaintenanceLoop
from app.hoc_spine.operation_registry import OperationRegistry
from app.hoc_spine.ports import Services, SpinePorts
from app.hoc_spine.run_governance_facade import wire_run_governance_facade
from app.hoc_spine.sequencer import LogSequencer, LogSequencerLoop
from app.hoc_spine.spine import Spine
from app.hoc_spine.transactions import Transactions
from app.hoc_spine.verifier_loop import LogVerifierLoop
from app.hoc_spine.worker import PlaneWorkers
from app.kernel.clock import Clock, SystemClock
from app.kernel.context import Actor, RequestContext
from app.kernel.files import LocalFile
from app.kernel.ids import IdFactory, Uuid7Ids
from app.settings import Settings

if TYPE_CHECKING:
    from app.connectors.webhook import WebhookSink

# Every operation of the product, module by module.
HANDLERS = (
    checks,
    bundles,
    completeness,
    decisions,
    erasures,
    evidence,
    incidents,
    keys,
    knowledge_bindings,
    knowledge_credentials,
    knowledge_jobs,
    knowledge_planes,
    knowledge_refresh,
    knowledge_transitions,
    legal_holds,
    lessons,
    limits,
    log_verifications,
    logs,
    otlp,
    outbox,
    overrides,
    policies,
    proposals,
    policy_judgements,
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
    retention,
    retention_purge,
    retrieval,
    retrieval_affected,
    retrieval_observations,
    run_endings,
    runs,
    signals,
    switches,
    log_keeping,
    tenant_log,
    tenants,
    traces,
    usage,
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
    metrics = DispatchMetricsAdapter()
    exporter = None if settings.bundle_dir is None else ExportBundleAdapter(settings.bundle_dir)
    pipeline = _pipeline(metrics, exporter)
    audit_store = AuditStore(settings.redis_url)
    clock = clock or SystemClock()
    transactions = _transactions(settings)
    files = _log_files(settings)
    watch = LogWatch(
        lambda: transactions.read("_system", role="hoc_maintenance"),
        settings=settings,
        files=files,
        clock=clock,
    )
    caches = _caches(metrics, audit_store, files, watch)
    credentials, hosts = _credentials(settings), HostPolicy(settings.connector_hosts)
    postgresql, sqlite = PostgresqlSource(hosts), SqliteSource(settings.connector_sqlite_dir)
    caches["credentials"] = credentials
    caches["event_sink"] = _event_sink(settings, clock)
    services = Services(
        settings=settings,
        clock=clock,
        ids=ids or Uuid7Ids(),
        digest_key=state.DigestKeys().get,
        connectors={
            "repository": _repository_connector(),
            "sql": SqlConnector({"postgresql": postgresql, "sqlite": sqlite}, credentials),
            "http": HttpConnector(hosts, credentials),
        },
        caches=caches,
    )
    spine = Spine(
        registry=_registry(),
        transactions=transactions,
        ports=_ports(watch, exporter),
        services=services,
        audit_store=audit_store,
        pipeline=pipeline,
    )
    caches["log_round"] = _log_round(spine)
    spine.background.extend((postgresql, PlaneWorkers(spine), MaintenanceLoop(spine), watch))
    spine.background.append(LogVerifierLoop(spine))
    if settings.log_sequencer == "inline":
        spine.background.append(LogSequencerLoop(spine))
    if exporter is not None:
        exporter.bind(_bundle_maker(spine))
        spine.background.append(exporter)
    wire_run_governance_facade(governance_of(spine))
    return spine


def bootstrap_hoc_spine(settings: Settings | None = None) -> Spine:
    """Build the spine of a host program, by its environment where no settings are given.

    Afterwards `get_run_governance_facade()` answers; raises where the spine cannot be whole.
    """
    return build_spine(settings or Settings())


def _log_files(settings: Settings) -> LogFiles:
    return LogFiles(
        settings.log_key_path,
        settings.checkpoint_path,
        makes_key=settings.backend == "sqlite",
        witness_keys=settings.witness_keys_file,
    )


def _event_sink(settings: Settings, clock: Clock) -> WebhookSink | None:
    if settings.outbox_url is None or settings.outbox_secret is None:
        return None
    # Loaded by whoever has somewhere to deliver to.
    from app.connectors.webhook import WebhookSink

    return WebhookSink(str(settings.outbox_url), settings.outbox_secret.get_secret_value(), clock=clock)


def _pipeline(metrics: DispatchMetricsAdapter, exporter: ExportBundleAdapter | None) -> ConsequencePipeline:
    pipeline = ConsequencePipeline()
    pipeline.register(metrics)
    if exporter is not None:
        pipeline.register(exporter)
    pipeline.freeze()
    return pipeline


def _caches(
    metrics: DispatchMetricsAdapter, audit_store: AuditStore, files: LogFiles, watch: LogWatch
) -> dict[str, Any]:
    return {
        "dispatch_metrics": metrics,
        "audit_store": audit_store,
        "snapshots": SnapshotCache(),
        "revoked_rules": RevokedRules(),
        "live_overrides": LiveOverrides(),
        "plane_wake": threading.Event(),
        "log_files": files,
        "log_tiles": TileCache(),
        "log_watch": watch,
        "verify_requests": VerifyRequests(),
    }


def _log_round(spine: Spine) -> Callable[[], bool]:
    def work() -> bool:
        """Do one round of the sequencer where nobody holds its lease; tell whether there was work."""
        sequencer = LogSequencer(spine)
        try:
            done = sequencer.run_round(sign_all=True)
        finally:
            sequencer.release()
        return bool(done.taken or done.signed)

    return work


def _bundle_maker(spine: Spine) -> Callable[[str, str], LocalFile]:
    def make(tenant_id: str, run_id: str) -> LocalFile:
        context = RequestContext(
            tenant_id=tenant_id,
            actor=Actor("SYSTEM", "export_bundle"),
            request_id=spine.services.ids.new("req"),
            door="worker",
        )
        file: LocalFile = (
            spine.dispatch("runs.bundle", context, {"run_id": run_id, "wait_ms": 10_000}).unwrap().content
        )
        return file

    return make


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


def _credentials(settings: Settings) -> Credentials:
    key, old = settings.credential_key, settings.credential_keys_old
    return Credentials(
        key=None if key is None else key.get_secret_value(),
        old_keys=[] if old is None else [word.strip() for word in old.get_secret_value().split(",")],
        environment=os.environ,
        env_allow=settings.credential_env_allow,
    )


def _repository_connector() -> RepositoryConnector:
    return RepositoryConnector(
        RepositoryReads(
            find_documents=search.find_documents,
            read_documents=search.read_documents,
            list_documents=search.list_documents,
            query_tokens=tokenizer.query_tokens,
            list_live=artifacts.list_liveness,
        )
    )


def _ports(watch: LogWatch, exporter: ExportBundleAdapter | None) -> SpinePorts:
    def flush_facts(
        connection: DriverConnection, facts: Sequence[Fact], *, tenant_id: str, now: datetime
    ) -> None:
        if facts:
            watch.require_room()
        flush(connection, facts, tenant_id=tenant_id, now=now)
        if exporter is not None:
            exporter.learn(tenant_id, facts)

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
