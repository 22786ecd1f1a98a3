"""Models of the repository slice: the library's context, refusals, capabilities and its one Protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from os import PathLike
from typing import Any, Final, Literal, Protocol, Self, runtime_checkable

from app.domains.repository.models.views import (
    ArtifactDeleted,
    ArtifactRestored,
    ArtifactUpdated,
    ArtifactView,
    BulkResult,
    ChangePage,
    CollectionDeleted,
    CollectionView,
    RevisionDiff,
    RevisionView,
)
from app.kernel.pages import Page


class Keep(Enum):
    """The type of KEEP."""

    KEEP = "KEEP"

    def __repr__(self) -> str:
        return "KEEP"


KEEP: Final = Keep.KEEP
"""Leaves a member as it is; None sets it to null where null is legal."""


@dataclass(frozen=True, slots=True)
class RepositoryContext:
    """Who writes, for which tenant, on behalf of what; `reason` is the default of writes that take one.

    `trace_id` is a W3C trace id (32 lowercase hex digits); `run_id` names a run of the tenant.
    """

    tenant_id: str
    actor_id: str
    run_id: str | None = None
    trace_id: str | None = None
    request_id: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do; callers ask here and not for its class."""

    durable: bool
    concurrent_writers: bool
    full_text: bool = True
    schema_revision: bool = True
    proofs: bool = True


class RepositoryError(Exception):
    """A refusal: stable `code`, English `detail`, `errors` (items), `extra` (further members)."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        errors: Sequence[Mapping[str, Any]] = (),
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.errors = tuple(dict(item) for item in errors)
        self.extra = dict(extra or {})


class NotFoundError(RepositoryError):
    """Unknown, or another tenant's; the two look the same."""


class GoneError(RepositoryError):
    """It was deleted, or its content is no longer kept."""


class DuplicateError(RepositoryError):
    """An id, name or relationship is taken."""


class ConflictError(RepositoryError):
    """The state of things does not allow this."""


class VersionMismatchError(ConflictError):
    """The object is not at the expected version; `extra["current_version"]` is the one it is at."""


class ReferenceMissingError(RepositoryError):
    """Something that the input points at is not there."""


class ValidationError(RepositoryError):
    """The input does not fit."""


class LimitError(RepositoryError):
    """More than the limit."""


class SnapshotError(RepositoryError):
    """A snapshot that is not valid, or does not fit the repository it is imported into."""


class RetryableError(RepositoryError):
    """The database is busy or cannot store now; the same call may succeed later."""


class OpenError(RepositoryError):
    """The repository cannot be opened, or was closed."""


@runtime_checkable
class KnowledgeRepository(Protocol):
    """What every backend offers; a further one satisfies this and passes the contract suite.

    List forms answer one page, with `limit` and `cursor` among their conditions. Every method raises
    RepositoryError and nothing else.
    """

    @property
    def capabilities(self) -> Capabilities: ...

    def bind(self, context: RepositoryContext) -> Self: ...

    def transaction(self) -> AbstractContextManager[Self]: ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    def schema_revision(self) -> str: ...

    def create_artifact(
        self,
        collection_id: str | None,
        name: str,
        artifact_type: str,
        *,
        id: str | None = None,  # noqa: A002 - the word of the format, in every binding of it
        content: str | bytes | None = None,
        media_type: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        provenance: Mapping[str, Any] | None = None,
        produced_by_run: str | None = None,
        expected_digest: str | None = None,
        reason: str | None = None,
    ) -> ArtifactView: ...

    def create_artifacts(
        self,
        items: Sequence[Mapping[str, Any]],
        *,
        collection_id: str | None = None,
        on_existing: Literal["refuse", "update"] = "refuse",
        reason: str | None = None,
    ) -> BulkResult: ...

    def get_artifact(
        self,
        artifact_id: str,
        *,
        revision: int | None = None,
        as_of: int | datetime | None = None,
        include_deleted: bool = False,
    ) -> ArtifactView: ...

    def get_content(self, artifact_id: str, revision: int | None = None) -> bytes | None: ...

    def update_artifact(
        self,
        artifact_id: str,
        *,
        expected_version: int | None = None,
        content: str | bytes | Keep | None = KEEP,
        metadata: Mapping[str, Any] | Keep = KEEP,
        metadata_patch: Mapping[str, Any] | Keep = KEEP,
        name: str | Keep = KEEP,
        collection_id: str | Keep = KEEP,
        media_type: str | Keep | None = KEEP,
        provenance: Mapping[str, Any] | Keep = KEEP,
        produced_by_run: str | None = None,
        expected_digest: str | None = None,
        reason: str | None = None,
    ) -> ArtifactUpdated: ...

    def delete_artifact(
        self,
        artifact_id: str,
        *,
        expected_version: int | None = None,
        mode: Literal["restrict", "detach"] = "restrict",
        reason: str | None = None,
    ) -> ArtifactDeleted: ...

    def restore_artifact(
        self,
        artifact_id: str,
        *,
        expected_version: int | None = None,
        new_name: str | None = None,
        with_relationships: bool = False,
        reason: str | None = None,
    ) -> ArtifactRestored: ...

    def redact_artifact(
        self,
        artifact_id: str,
        *,
        reason: str,
        legal_basis: str,
        revisions: Sequence[int] | Literal["all"] = "all",
        shared: Literal["refuse", "redact", "keep"] = "refuse",
        block_reupload: bool = False,
        expected_version: int | None = None,
    ) -> Any: ...

    def list_artifacts(self, **conditions: Any) -> Page[ArtifactView]: ...

    def query_artifacts(self, **conditions: Any) -> Page[ArtifactView]: ...

    def count_artifacts(self, **conditions: Any) -> int: ...

    def list_revisions(self, artifact_id: str, **paging: Any) -> Page[RevisionView]: ...

    def get_revision(self, artifact_id: str, revision: int) -> RevisionView: ...

    def diff_revisions(
        self, artifact_id: str, from_revision: int, to_revision: int, *, text: bool = False
    ) -> RevisionDiff: ...

    def list_changes(self, **conditions: Any) -> ChangePage: ...

    def create_collection(
        self,
        name: str,
        *,
        id: str | None = None,  # noqa: A002
        description: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> CollectionView: ...

    def get_collection(self, collection_id: str, *, include_deleted: bool = False) -> CollectionView: ...

    def list_collections(self, **conditions: Any) -> Page[CollectionView]: ...

    def update_collection(
        self,
        collection_id: str,
        *,
        expected_version: int | None = None,
        name: str | Keep = KEEP,
        description: str | Keep | None = KEEP,
        metadata_patch: Mapping[str, Any] | Keep = KEEP,
    ) -> CollectionView: ...

    def delete_collection(
        self, collection_id: str, *, expected_version: int | None = None, reason: str | None = None
    ) -> CollectionDeleted: ...

    def lineage(self, artifact_id: str, **options: Any) -> Any: ...

    def neighbors(self, artifact_id: str, **options: Any) -> Any: ...

    def consumers_of(self, artifact_id: str, revision: int, **paging: Any) -> Any: ...

    def producer_of(self, artifact_id: str, revision: int) -> str | None: ...

    def create_relationship(self, source_id: str, target_id: str, type: str, **members: Any) -> Any: ...  # noqa: A002

    def get_relationship(self, relationship_id: str, *, include_deleted: bool = False) -> Any: ...

    def list_relationships(self, **conditions: Any) -> Any: ...

    def query_relationships(self, **conditions: Any) -> Any: ...

    def count_relationships(self, **conditions: Any) -> int: ...

    def update_relationship(
        self,
        relationship_id: str,
        *,
        expected_version: int | None = None,
        metadata_patch: Mapping[str, Any] | Keep = KEEP,
        provenance: Mapping[str, Any] | Keep = KEEP,
        reason: str | None = None,
    ) -> Any: ...

    def delete_relationship(
        self, relationship_id: str, *, expected_version: int | None = None, reason: str | None = None
    ) -> Any: ...

    def create_run(self, operation: str, **members: Any) -> Any: ...

    def get_run(self, run_id: str) -> Any: ...

    def list_runs(self, **conditions: Any) -> Any: ...

    def list_resumable(self, **paging: Any) -> Any: ...

    def transition_run(self, run_id: str, status: str, **members: Any) -> Any: ...

    def claim_run(self, run_id: str, *, worker: str, lease_seconds: int) -> Any: ...

    def release_run(self, run_id: str, *, worker: str) -> Any: ...

    def publish_run(self, run_id: str, **members: Any) -> Any: ...

    def put_step(self, run_id: str, step_id: str, **members: Any) -> Any: ...

    def list_steps(self, run_id: str, **paging: Any) -> Any: ...

    def add_run_output(self, run_id: str, artifact_id: str, revision: int, role: str) -> Any: ...

    def seal_manifest(
        self,
        run_id: str,
        *,
        diagnostics: Sequence[Mapping[str, Any]] = (),
        environment: Mapping[str, Any] | None = None,
    ) -> Any: ...

    def get_manifest(self, run_id: str) -> Any: ...

    def create_bundle(self, items: Sequence[Mapping[str, Any]]) -> Any: ...

    def get_bundle(self, bundle_id: str) -> Any: ...

    def create_context_package(
        self, name: str, items: Sequence[Mapping[str, Any]] = (), **members: Any
    ) -> Any: ...

    def get_context_package(self, package_id: str, *, resolve: bool = False) -> Any: ...

    def list_context_packages(self, **conditions: Any) -> Any: ...

    def context_for_artifact(self, artifact_id: str, **members: Any) -> Any: ...

    def verify(self, scope: str = "all", *, read_content: bool = True) -> Any: ...

    def gc(self, *, dry_run: bool = True, grace_days: int | None = None) -> Any: ...

    def export_snapshot(
        self, path: str | PathLike[str], *, collections: Sequence[str] | None = None
    ) -> Any: ...

    def import_snapshot(
        self,
        path: str | PathLike[str],
        *,
        policy: Literal["fail", "skip_identical", "fast_forward"] = "fail",
        dry_run: bool = False,
    ) -> Any: ...

    def verify_snapshot(self, path: str | PathLike[str]) -> Any: ...
