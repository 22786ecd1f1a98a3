"""Spine: the class of a plane, from what was scanned: its documents, or rows of a foreign source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.domains.knowledge.engines import classification, jobs
from app.domains.knowledge.engines.classification import ScanTotals
from app.domains.knowledge.engines.config_shapes import OperationalConfig
from app.domains.knowledge.engines.plane_config import read_operational
from app.domains.knowledge.errors import conflict
from app.domains.knowledge.models.vocabulary import (
    ConnectorType,
    JobType,
)
from app.hoc_spine.operation_context import OperationContext
from app.kernel.errors import HocError

_SCANS = (JobType.INGEST_DATA, JobType.REFRESH_DATA)


def classify(ctx: OperationContext, plane: Mapping[str, Any]) -> dict[str, Any] | HocError:
    """Return the columns that classify a plane, or CLASSIFICATION_FAILED with nothing scanned or declared."""
    config = read_operational(plane["connector_type"], plane["config"])
    values = class_values(ctx, _totals(ctx, plane), config)
    if not values:
        return conflict("CLASSIFICATION_FAILED", "Nothing is scanned and no sensitivity is declared.")
    return values


def class_values(ctx: OperationContext, totals: ScanTotals, config: OperationalConfig) -> dict[str, Any]:
    """Return the columns that totals and a declaration lead to; none without either."""
    declared = config.declared_sensitivity
    found = classification.decide_classification(
        totals, declared=None if declared is None else declared.value, now=ctx.now
    )
    return {} if found is None else classification.columns_of(found)


def _totals(ctx: OperationContext, plane: Mapping[str, Any]) -> ScanTotals:
    keys: dict[str, Any] = {"tenant_id": ctx.tenant_id, "plane_id": plane["plane_id"]}
    if plane["connector_type"] == ConnectorType.REPOSITORY:
        return classification.read_totals(ctx.connection, **keys, generation=plane["generation"])
    data = jobs.get_newest_data(ctx.connection, **keys, job_types=_SCANS)
    if data is None:
        return classification.sum_scans(())
    return classification.totals_from_json(data["scan"])
