"""Classification: the level of a plane out of the totals of its scan and what was declared."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from app.domains.knowledge.engines.classification import ScanTotals, decide_classification
from app.domains.knowledge.models.vocabulary import (
    SensitivityLevel,
)
from app.kernel.canonical_json import loads

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
INTERNAL, CONFIDENTIAL = SensitivityLevel.INTERNAL, SensitivityLevel.CONFIDENTIAL


def totals(
    *,
    documents: int = 3,
    counts: dict[str, int] | None = None,
    categories: tuple[str, ...] = (),
    highest: SensitivityLevel = INTERNAL,
) -> ScanTotals:
    return ScanTotals(documents, counts or {}, categories, highest)


@pytest.mark.parametrize(
    ("facts", "declared", "level"),
    [
        ({}, None, "internal"),
        ({}, "public", "public"),
        ({}, "confidential", "confidential"),
        ({}, "restricted", "restricted"),
        ({"counts": {"email": 1}}, "public", "internal"),
        ({"categories": ("legal",)}, "public", "internal"),
        ({"counts": {"email": 4}}, None, "internal"),
        ({"counts": {"email": 3, "phone": 2}}, None, "confidential"),
        ({"counts": {"email": 1}, "categories": ("legal",)}, None, "confidential"),
        ({"counts": {"ssn": 1}}, "internal", "restricted"),
        ({"highest": CONFIDENTIAL, "counts": {"email": 1}}, "internal", "confidential"),
        ({"counts": {"email": 9}}, "public", "confidential"),
        ({"documents": 0}, "internal", "internal"),
        ({"documents": 0}, "public", "public"),
    ],
)
def test_the_level_is_the_highest_and_a_declaration_only_raises_it(
    facts: dict[str, Any], declared: str | None, level: str
) -> None:
    decided = decide_classification(totals(**facts), declared=declared, now=NOW)
    assert decided is not None
    assert decided.sensitivity_level == level


def test_nothing_scanned_and_nothing_declared_is_no_classification() -> None:
    assert decide_classification(totals(documents=0), declared=None, now=NOW) is None


def test_the_classification_counts_and_names_but_quotes_nothing() -> None:
    facts = totals(counts={"email": 2, "ssn": 1}, categories=("financial", "legal"))
    decided = decide_classification(facts, declared=None, now=NOW)
    assert decided is not None
    assert (decided.pii_detected, decided.pii_count) == (True, 3)
    assert loads(decided.classification) == {
        "content_categories": ["financial", "legal"],
        "counts": {"email": 2, "ssn": 1},
        "documents": 3,
        "schema_version": 1,
        "classified_at": "2026-01-02T03:04:05.000000Z",
    }
