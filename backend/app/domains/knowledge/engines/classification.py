"""L5 rule: the sensitivity of a plane, decided from one aggregate over the scan of its documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.db.connection import DriverConnection
from app.domains.knowledge.drivers import plane_documents
from app.domains.knowledge.engines.scan import CATEGORIES, PII_TYPES, Scan, decide_level
from app.domains.knowledge.models.vocabulary import (
    SensitivityLevel,
)
from app.kernel.canonical_json import dumps
from app.kernel.clock import format_time

SCHEMA_VERSION = 1
_RANKS = {level.value: rank for rank, level in enumerate(SensitivityLevel)}


@dataclass(frozen=True, slots=True)
class Classification:
    """The sensitivity of a plane as its registry row keeps it; `classification` is canonical JSON."""

    sensitivity_level: SensitivityLevel
    pii_detected: bool
    pii_count: int
    classification: str


@dataclass(frozen=True, slots=True)
class ScanTotals:
    """The scan of all visible documents of a plane, summed up."""

    documents: int
    pii_counts: dict[str, int]
    categories: tuple[str, ...]
    highest: SensitivityLevel


def read_totals(
    connection: DriverConnection, *, tenant_id: str, plane_id: str, generation: int
) -> ScanTotals:
    """Return the totals of the scan of a generation's documents, in one statement."""
    row = plane_documents.get_scan_totals(
        connection,
        tenant_id=tenant_id,
        plane_id=plane_id,
        generation=generation,
        pii_types=PII_TYPES,
        categories=tuple(CATEGORIES),
        levels=tuple(_RANKS),
    )
    return ScanTotals(
        documents=int(row["documents"]),
        pii_counts={kind: int(row[f"pii_{kind}"] or 0) for kind in PII_TYPES if row[f"pii_{kind}"]},
        categories=tuple(name for name in CATEGORIES if row[f"category_{name}"]),
        highest=tuple(SensitivityLevel)[int(row["highest_rank"] or 0)],
    )


def sum_scans(scans: Iterable[Scan]) -> ScanTotals:
    """Return the totals of scans that no document holds: those of the rows of a foreign source."""
    seen = tuple(scans)
    counts: Counter[str] = Counter()
    for scan in seen:
        counts.update(scan.pii_counts)
    found = {name for scan in seen for name in scan.categories}
    return ScanTotals(
        documents=len(seen),
        pii_counts={kind: counts[kind] for kind in PII_TYPES if counts[kind]},
        categories=tuple(name for name in CATEGORIES if name in found),
        highest=max((scan.level for scan in seen), key=_rank, default=SensitivityLevel.PUBLIC),
    )


def totals_as_json(totals: ScanTotals) -> dict[str, Any]:
    """Return totals as a job's result keeps them."""
    return {
        "documents": totals.documents,
        "pii_counts": dict(totals.pii_counts),
        "categories": list(totals.categories),
        "highest": totals.highest.value,
    }


def totals_from_json(stored: Mapping[str, Any]) -> ScanTotals:
    """Return totals from their stored form."""
    return ScanTotals(
        documents=stored["documents"],
        pii_counts=dict(stored["pii_counts"]),
        categories=tuple(stored["categories"]),
        highest=SensitivityLevel(stored["highest"]),
    )


def columns_of(found: Classification) -> dict[str, Any]:
    """Return the columns of the registry row that a classification sets."""
    return {
        "sensitivity_level": found.sensitivity_level.value,
        "pii_detected": found.pii_detected,
        "pii_count": found.pii_count,
        "classification": found.classification,
    }


def decide_classification(
    totals: ScanTotals, *, declared: str | None, now: datetime
) -> Classification | None:
    """Return the level of a plane: the highest of its documents, of its totals and of what was declared.

    A declaration only raises the level, but `public` stands where neither personal data nor a category was
    found. None when nothing was scanned and nothing declared.
    """
    if not totals.documents and declared is None:
        return None
    found = sum(totals.pii_counts.values())
    level = max(decide_level(totals.pii_counts, totals.categories), totals.highest, key=_rank)
    if declared is not None:
        wanted = SensitivityLevel(declared)
        if wanted is SensitivityLevel.PUBLIC:
            level = wanted if not found and not totals.categories else level
        else:
            level = max(level, wanted, key=_rank)
    body: dict[str, Any] = {
        "content_categories": list(totals.categories),
        "counts": totals.pii_counts,
        "documents": totals.documents,
        "schema_version": SCHEMA_VERSION,
        "classified_at": format_time(now),
    }
    return Classification(level, found > 0, found, dumps(body))


def _rank(level: SensitivityLevel) -> int:
    return _RANKS[level.value]
