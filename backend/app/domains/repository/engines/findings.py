"""L5 rules of the repository check: its codes, and what a check collects."""

from __future__ import annotations

from enum import StrEnum

from app.domains.repository.models.upkeep import Finding, RepositoryVerified

MAX_FINDINGS = 1000


class Code(StrEnum):
    """What may be wrong; only W01 leaves the repository clean."""

    BLOB_DIGEST = "E01"
    BLOB_SIZE = "E02"
    BLOB_MISSING = "E03"
    REVISION_GAP = "E04"
    HEAD = "E05"
    PARENT = "E06"
    REVISION_DIGEST = "E07"
    VALUE_DIGEST = "E08"
    DANGLING_EDGE = "E09"
    TWIN_NAME = "E10"
    CHANGE_GAP = "E11"
    CHANGE_HASH = "E12"
    CHANGE_LEAF = "E13"
    INDEX = "E14"
    SEALED_DIGEST = "E15"
    MISSING_REVISION = "E16"
    UNCITED_BLOB = "W01"


class Findings:
    """What a check has found and counted so far; the first 1000 findings are kept, all are counted."""

    def __init__(self) -> None:
        self.shown: list[Finding] = []
        self.total = 0
        self.errors = 0
        self.checked: dict[str, int] = {}
        self.redacted = 0
        self.collected = 0
        # Artifacts and digests with a fault: what is derived from them differs for that reason alone.
        self.doubtful: set[str] = set()

    def add(self, code: Code, entity: str, detail: str) -> None:
        """Note a fault."""
        self.total += 1
        self.errors += code is not Code.UNCITED_BLOB
        if len(self.shown) < MAX_FINDINGS:
            self.shown.append(Finding(code=code.value, entity=entity, detail=detail))

    def count(self, what: str, number: int) -> None:
        """Note that so many rows were looked at."""
        self.checked[what] = self.checked.get(what, 0) + number

    def result(self) -> RepositoryVerified:
        """Return what was found."""
        return RepositoryVerified(
            clean=self.errors == 0,
            checked=self.checked,
            findings=self.shown,
            total=self.total,
            redacted=self.redacted,
            collected=self.collected,
        )
