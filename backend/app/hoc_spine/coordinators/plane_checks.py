"""Spine: what a verification really checks: collections, ingest roots, and foreign sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.connectors.values import ConnectorFailedError, ForeignConnector
from app.domains.knowledge.engines import classification, plane_collections
from app.domains.knowledge.engines.classification import ScanTotals
from app.domains.knowledge.engines.config_shapes import PlaneConfig, RepositoryConfig
from app.domains.knowledge.engines.plane_config import wanted_collections
from app.domains.knowledge.engines.scan import scan_text
from app.domains.repository.engines import collections
from app.hoc_spine.coordinators import plane_files
from app.hoc_spine.coordinators.plane_ingest import StageFailedError
from app.hoc_spine.coordinators.plane_sources import read_collections
from app.hoc_spine.operation_context import PrepareContext

PlaneRow = Mapping[str, Any]
SAMPLED_ROWS = 1000
# What may be over at the next try; everything else needs a person.
_PASSING = frozenset({"CONNECTOR_TIMEOUT", "CONNECTOR_BUSY", "CONNECTOR_UNAVAILABLE", "CONNECTOR_ERROR"})


def check_source(
    ctx: PrepareContext, plane: PlaneRow, config: PlaneConfig, *, candidate: bool
) -> dict[str, Any]:
    """Return what a verification found; raise StageFailedError when the source cannot be read."""
    clock = ctx.services.clock
    started = clock.now()
    if isinstance(config, RepositoryConfig):
        found = _check_collections(ctx, plane, config if candidate else None)
        _check_root(ctx, config)
    else:
        connector: ForeignConnector = ctx.services.connectors[plane["connector_type"]]
        try:
            found = connector.verify(tenant_id=ctx.tenant_id, plane=plane, config=_members(config))
        except ConnectorFailedError as failure:
            raise _failed("VERIFICATION_FAILED", failure) from failure
    latency = max(0, int((clock.now() - started).total_seconds() * 1000))
    return {
        "source_type": plane["connector_type"],
        "schema_info": found,
        "connection_latency_ms": latency,
    }


def scan_source(ctx: PrepareContext, plane: PlaneRow, config: PlaneConfig) -> ScanTotals:
    """Scan at most 1000 rows of a foreign source; nothing of them is kept; raise StageFailedError."""
    connector: ForeignConnector = ctx.services.connectors[plane["connector_type"]]
    try:
        texts = connector.sample(
            tenant_id=ctx.tenant_id, plane=plane, config=_members(config), rows=SAMPLED_ROWS
        )
    except ConnectorFailedError as failure:
        raise _failed("INGESTION_FAILED", failure) from failure
    return classification.sum_scans(map(scan_text, texts))


def _members(config: PlaneConfig) -> Mapping[str, Any]:
    return config.model_dump(mode="json")


def _failed(code: str, failure: ConnectorFailedError) -> StageFailedError:
    # The detail may tell of the source's inside; it goes to the log with the failure, and its code to people.
    passing = failure.code in _PASSING and not failure.lasting
    return StageFailedError(code, f"The source cannot be read: {failure.code}.", retryable=passing)


def _check_root(ctx: PrepareContext, config: RepositoryConfig) -> None:
    if config.source.kind != "files":
        return
    root = ctx.services.settings.ingest_roots.get(config.source.root or "")
    if not plane_files.is_readable(root, config.source.folder):
        raise StageFailedError("VERIFICATION_FAILED", "The ingest root or its folder cannot be read.")


def _check_collections(
    ctx: PrepareContext, plane: PlaneRow, candidate: RepositoryConfig | None
) -> dict[str, Any]:
    """Check that the plane owns a collection and that every collection it reads is live."""
    plane_id = plane["plane_id"]
    with ctx.read_unit() as connection:
        owned, shared = read_collections(
            connection, tenant_id=ctx.tenant_id, plane_id=plane_id, candidate=candidate
        )
        if owned is None:
            raise StageFailedError("VERIFICATION_FAILED", "The plane owns no collection.")
        known = collections.look_up(connection, tenant_id=ctx.tenant_id, collection_ids=[*shared, owned])
    # A candidate that names no collection gets the plane's own one, which the ingest makes.
    unmade = candidate is not None and wanted_collections(candidate)[0] is None
    own = plane_collections.own_collection_id(plane_id)
    for collection_id in (owned, *shared):
        if collection_id not in known.live and not (unmade and collection_id == own):
            raise StageFailedError("VERIFICATION_FAILED", f"The collection {collection_id} is not live.")
    return {"owned_collection": owned, "shared_collections": list(shared)}
