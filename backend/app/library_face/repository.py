"""Library: the three repositories, one for each kind of database."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from app.domains.repository.models.library import Capabilities, RetryableError, ValidationError
from app.domains.repository.models.snapshots import (
    Policy,
    SnapshotExported,
    SnapshotImported,
    SnapshotVerified,
)
from app.kernel.files import LocalFile
from app.library_face.artifacts import ArtifactCalls
from app.library_face.delivery import save_snapshot
from app.library_face.store import View
from app.library_face.workflow import PackageCalls, RelationshipCalls, RunCalls


class MaintenanceCalls(View):
    """Checks, collection of unused bytes, and snapshots."""

    def verify(self, scope: str = "all", *, read_content: bool = True) -> Any:
        """Check every chain, digest and projection; findings are an answer and no error."""
        return self._call("repository.verify", {"scope": scope, "read_content": read_content})

    def gc(self, *, dry_run: bool = True, grace_days: int | None = None) -> Any:
        """Collect bytes that nothing cites any more."""
        return self._call("repository.gc", {"dry_run": dry_run, "grace_days": grace_days})

    def export_snapshot(
        self, path: str | PathLike[str], *, collections: Sequence[str] | None = None
    ) -> SnapshotExported:
        """Write a snapshot of everything or of some collections: a zip where the path ends so, else a folder.

        The call may not be part of a larger transaction that is taken back later: the file would stay.
        """
        wanted = None if collections is None else list(collections)
        made: SnapshotExported = self._call("repository.snapshots.export", {"collections": wanted})
        try:
            save_snapshot(made, Path(path), now=self._store.spine.services.clock.now())
        except FileExistsError as error:
            raise ValidationError("INVALID_INPUT", str(error)) from None
        except OSError as error:
            raise RetryableError(
                "STORAGE_FAILED", f"The snapshot cannot be written: {error.strerror}."
            ) from None
        return made

    def import_snapshot(
        self, path: str | PathLike[str], *, policy: Policy = "fail", dry_run: bool = False
    ) -> SnapshotImported:
        """Bring a snapshot in, all or nothing; `dry_run` says what would become of it."""
        payload = {"content": _local(path), "policy": policy, "dry_run": dry_run}
        answer: SnapshotImported = self._call("repository.snapshots.import", payload)
        return answer

    def verify_snapshot(self, path: str | PathLike[str]) -> SnapshotVerified:
        """Read a snapshot from end to end; what is wrong with it is an answer and no error."""
        answer: SnapshotVerified = self._call("repository.snapshots.verify", {"content": _local(path)})
        return answer


def _local(path: str | PathLike[str]) -> LocalFile:
    found = Path(path)
    if not found.exists():
        raise ValidationError("INVALID_INPUT", "There is no snapshot at this path.")
    return LocalFile(found)


class SpineRepository(ArtifactCalls, RelationshipCalls, RunCalls, PackageCalls, MaintenanceCalls):
    """A knowledge repository over a spine; made by `open_repository`."""


class InMemoryKnowledgeRepository(SpineRepository):
    """A private database in memory, made by the same migrations; gone when it is closed."""

    capabilities = Capabilities(durable=False, concurrent_writers=False)


class SQLiteKnowledgeRepository(SpineRepository):
    """One SQLite file."""

    capabilities = Capabilities(durable=True, concurrent_writers=False)


class PostgresKnowledgeRepository(SpineRepository):
    """A PostgreSQL database."""

    capabilities = Capabilities(durable=True, concurrent_writers=True)
