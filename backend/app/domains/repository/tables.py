"""L7 tables of the repository slice: artifacts and their history, blobs, search, runs, packages."""

from __future__ import annotations

from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from app.db.governed import exempt, govern
from app.db.metadata import enum_check, fact_id_column, fact_id_constraints, tenant_ref, tenant_table
from app.db.types import BigInt, Bytes, CanonicalText, Flag, Timestamp
from app.domains.repository.models.vocabulary import (
    Action,
    BlobState,
    ContextItemKind,
    EntityType,
    OperationRunStatus,
    Redaction,
    ScalarKind,
    StepStatus,
)

# Order by UTF-8 bytes, equal on both dialects, and an index that serves it.
Bytewise = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
# Our tokens only: a tsvector on PostgreSQL, the text that feeds the FTS5 index on SQLite.
TokenIndex = sa.Text().with_variant(postgresql.TSVECTOR(), "postgresql")


def _column(kind: Any, name: str, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=null)


_text, _json, _int = partial(_column, sa.Text), partial(_column, CanonicalText), partial(_column, sa.Integer)
_big, _time = partial(_column, BigInt), partial(_column, Timestamp)


def _digest(name: str, *, null: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, sa.CheckConstraint(f"length({name}) = 71", name=name), nullable=null)


def _positive(name: str, *, null: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, sa.CheckConstraint(f"{name} >= 1", name=name), nullable=null)


def _stamps(*, deleted: bool = True) -> tuple[sa.Column[Any], ...]:
    columns = (_time("created_at"), _text("created_by"), _time("updated_at"), _text("updated_by"))
    return (*columns, _time("deleted_at", null=True), _text("deleted_by", null=True)) if deleted else columns


def _live(name: str, table: sa.Table, *columns: str, unique: bool = True) -> None:
    condition = sa.text("deleted_at IS NULL")
    sa.Index(
        name,
        table.c.tenant_id,
        *(table.c[column] for column in columns),
        unique=unique,
        sqlite_where=condition,
        postgresql_where=condition,
    )


def _gone(name: str, table: sa.Table, column: str) -> None:
    condition = sa.text("deleted_at IS NOT NULL")
    sa.Index(name, table.c.tenant_id, table.c[column], sqlite_where=condition, postgresql_where=condition)


def _index(name: str, table: sa.Table, *columns: str) -> None:
    sa.Index(name, table.c.tenant_id, *(table.c[column] for column in columns))


def _artifact_ref(column: str = "artifact_id") -> sa.ForeignKeyConstraint:
    return tenant_ref(column, "artifacts.id")


def _revision_ref(artifact: str = "artifact_id", revision: str = "revision") -> sa.ForeignKeyConstraint:
    return tenant_ref((artifact, revision), "artifact_revisions.artifact_id,revision")


repository_state = tenant_table(
    "repository_state",
    sa.Column("last_seq", BigInt, sa.CheckConstraint("last_seq >= 0", name="last_seq"), nullable=False),
    _digest("last_hash"),
    _time("last_occurred_at", null=True),
    primary_key=(),
)

collections = tenant_table(
    "collections",
    _text("id"),
    _text("name"),
    sa.Column("name_key", Bytewise, nullable=False),
    _text("description", null=True),
    _json("metadata"),
    _positive("version"),
    _big("created_seq"),
    *_stamps(),
    sa.UniqueConstraint("tenant_id", "created_seq", name="uq_collections_created_seq"),
    primary_key=("id",),
)
_live("uq_collections_live_name", collections, "name_key")

blobs = tenant_table(
    "blobs",
    _digest("digest"),
    sa.Column("size", BigInt, sa.CheckConstraint("size >= 0", name="size"), nullable=False),
    sa.Column("data", Bytes),
    _text("state"),
    sa.Column("blocked", Flag, nullable=False),
    _time("created_at"),
    _time("state_at", null=True),
    enum_check("state", BlobState),
    sa.CheckConstraint("(state = 'PRESENT') = (data IS NOT NULL)", name="data"),
    primary_key=("digest",),
)

artifacts = tenant_table(
    "artifacts",
    _text("id"),
    _text("collection_id"),
    sa.Column("name", Bytewise, nullable=False),
    sa.Column("name_key", Bytewise, nullable=False),
    _text("artifact_type"),
    _positive("head_revision"),
    _positive("version"),
    _big("created_seq"),
    _big("updated_seq"),
    *_stamps(),
    _text("delete_change_set_id", null=True),
    sa.UniqueConstraint("tenant_id", "created_seq", name="uq_artifacts_created_seq"),
    tenant_ref("collection_id", "collections.id"),
    primary_key=("id",),
)
_live("uq_artifacts_live_name", artifacts, "collection_id", "name_key")
_index("ix_artifacts_collection", artifacts, "collection_id", "created_seq")
_index("ix_artifacts_changed", artifacts, "collection_id", "updated_seq")
_index("ix_artifacts_type", artifacts, "artifact_type", "created_seq")
_index("ix_artifacts_updated", artifacts, "updated_at", "id")

artifact_revisions = tenant_table(
    "artifact_revisions",
    _text("artifact_id"),
    _positive("revision"),
    _digest("parent_digest", null=True),
    _digest("content_digest", null=True),
    _big("size", null=True),
    _text("media_type", null=True),
    _text("name", null=True),
    _digest("name_digest"),
    _text("collection_id"),
    _text("artifact_type"),
    _json("metadata", null=True),
    _digest("metadata_digest"),
    _json("provenance", null=True),
    _digest("provenance_digest"),
    _text("produced_by_run", null=True),
    _time("created_at"),
    _text("created_by"),
    _digest("revision_digest"),
    _text("redaction", null=True),
    _time("redacted_at", null=True),
    enum_check("redaction", Redaction),
    sa.CheckConstraint("(revision = 1) = (parent_digest IS NULL)", name="parent"),
    sa.CheckConstraint("(content_digest IS NULL) = (size IS NULL)", name="content"),
    sa.UniqueConstraint("tenant_id", "revision_digest", name="uq_artifact_revisions_digest"),
    _artifact_ref(),
    tenant_ref("content_digest", "blobs.digest"),
    primary_key=("artifact_id", "revision"),
)
_index("ix_artifact_revisions_content", artifact_revisions, "content_digest")
_index("ix_artifact_revisions_run", artifact_revisions, "produced_by_run")

artifact_metadata = tenant_table(
    "artifact_metadata",
    _text("artifact_id"),
    _text("ptr"),
    sa.Column("elem", Flag, nullable=False),
    _int("ord"),
    _text("vtype"),
    sa.Column("vkey", Bytewise),
    sa.Column("vfull", Bytewise),
    enum_check("vtype", ScalarKind),
    _artifact_ref(),
    primary_key=("artifact_id", "ptr", "elem", "ord"),
)
_index("ix_artifact_metadata_value", artifact_metadata, "ptr", "elem", "vtype", "vkey")

artifact_search = tenant_table(
    "artifact_search",
    _text("artifact_id"),
    _big("search_no"),
    _int("token_count"),
    sa.Column("truncated", Flag, nullable=False),
    sa.Column("tokens", TokenIndex, nullable=False),
    sa.UniqueConstraint("search_no", name="uq_artifact_search_no"),
    _artifact_ref(),
    primary_key=("artifact_id",),
)


relationships = tenant_table(
    "relationships",
    _text("id"),
    _text("source_id"),
    _text("target_id"),
    _text("type"),
    _int("source_revision", null=True),
    _int("target_revision", null=True),
    _json("metadata"),
    _json("provenance"),
    _positive("version"),
    _big("created_seq"),
    *_stamps(),
    _text("delete_change_set_id", null=True),
    sa.CheckConstraint("source_id <> target_id", name="ends"),
    _artifact_ref("source_id"),
    _artifact_ref("target_id"),
    _revision_ref("source_id", "source_revision"),
    _revision_ref("target_id", "target_revision"),
    primary_key=("id",),
)
_live("uq_relationships_live", relationships, "source_id", "type", "target_id")
_live("ix_relationships_source", relationships, "source_id", "type", unique=False)
_live("ix_relationships_target", relationships, "target_id", "type", unique=False)
_gone("ix_relationships_gone_source", relationships, "source_id")
_gone("ix_relationships_gone_target", relationships, "target_id")

repository_changes = tenant_table(
    "repository_changes",
    _big("seq"),
    _text("change_id"),
    _text("change_set_id"),
    _text("entity_type"),
    _text("entity_id"),
    _text("action"),
    _positive("old_version", null=True),
    _positive("new_version", null=True),
    _positive("old_revision", null=True),
    _positive("new_revision", null=True),
    _digest("old_digest", null=True),
    _digest("new_digest", null=True),
    _digest("old_revision_digest", null=True),
    _digest("new_revision_digest", null=True),
    _json("changed_fields"),
    _text("actor_id"),
    _text("reason", null=True),
    _text("run_id", null=True),
    _text("trace_id", null=True),
    _text("request_id", null=True),
    _time("occurred_at"),
    _json("detail"),
    _digest("prev_hash"),
    _digest("hash"),
    enum_check("entity_type", EntityType),
    enum_check("action", Action),
    sa.UniqueConstraint("tenant_id", "change_id", name="uq_repository_changes_id"),
    primary_key=("seq",),
)
_index("ix_repository_changes_entity", repository_changes, "entity_type", "entity_id", "seq")
_index("ix_repository_changes_set", repository_changes, "change_set_id")
_index("ix_repository_changes_run", repository_changes, "run_id", "seq")

operation_runs = tenant_table(
    "operation_runs",
    _text("run_id"),
    _text("operation"),
    _text("status"),
    _positive("version"),
    _json("parameters"),
    _text("bundle_id", null=True),
    _text("parent_run_id", null=True),
    _positive("attempt"),
    _text("requested_by"),
    _time("created_at"),
    _time("started_at", null=True),
    _time("finished_at", null=True),
    _text("error_code", null=True),
    _text("error_message", null=True),
    _text("trace_id", null=True),
    _text("lease_owner", null=True),
    _time("lease_until", null=True),
    enum_check("status", OperationRunStatus),
    sa.CheckConstraint(
        "(status IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)", name="finished"
    ),
    sa.CheckConstraint("(lease_owner IS NULL) = (lease_until IS NULL)", name="lease"),
    tenant_ref("bundle_id", "input_bundles.id"),
    tenant_ref("parent_run_id", "operation_runs.run_id"),
    primary_key=("run_id",),
)
_index("ix_operation_runs_lease", operation_runs, "status", "lease_until", "run_id")

workflow_steps = tenant_table(
    "workflow_steps",
    _text("run_id"),
    _text("step_id"),
    _int("position"),
    _text("status"),
    _positive("attempt"),
    _json("depends_on"),
    _json("inputs"),
    _json("outputs"),
    _json("diagnostics"),
    _time("started_at", null=True),
    _time("finished_at", null=True),
    enum_check("status", StepStatus),
    sa.UniqueConstraint("tenant_id", "run_id", "position", name="uq_workflow_steps_position"),
    tenant_ref("run_id", "operation_runs.run_id"),
    primary_key=("run_id", "step_id"),
)

input_bundles = tenant_table(
    "input_bundles",
    _text("id"),
    _digest("bundle_digest"),
    _time("created_at"),
    _text("created_by"),
    fact_id_column(),
    sa.UniqueConstraint("tenant_id", "bundle_digest", name="uq_input_bundles_digest"),
    *fact_id_constraints("input_bundles"),
    primary_key=("id",),
)

input_bundle_items = tenant_table(
    "input_bundle_items",
    _text("bundle_id"),
    _int("position"),
    _text("artifact_id"),
    _int("revision"),
    _digest("revision_digest"),
    _text("role"),
    tenant_ref("bundle_id", "input_bundles.id"),
    _revision_ref(),
    primary_key=("bundle_id", "position"),
)
_index("ix_input_bundle_items_revision", input_bundle_items, "artifact_id", "revision")

run_outputs = tenant_table(
    "run_outputs",
    _text("run_id"),
    _text("artifact_id"),
    _int("revision"),
    _text("role"),
    _time("created_at"),
    fact_id_column(),
    sa.UniqueConstraint("tenant_id", "artifact_id", "revision", name="uq_run_outputs_revision"),
    *fact_id_constraints("run_outputs"),
    tenant_ref("run_id", "operation_runs.run_id"),
    _revision_ref(),
    primary_key=("run_id", "artifact_id", "revision"),
)

run_manifests = tenant_table(
    "run_manifests",
    _text("run_id"),
    _json("body"),
    _digest("manifest_digest"),
    _time("sealed_at"),
    _text("sealed_by"),
    fact_id_column(),
    *fact_id_constraints("run_manifests"),
    tenant_ref("run_id", "operation_runs.run_id"),
    primary_key=("run_id",),
)

context_packages = tenant_table(
    "context_packages",
    _text("id"),
    _text("name"),
    _text("purpose", null=True),
    _json("metadata"),
    _json("provenance"),
    _text("supersedes", null=True),
    _digest("package_digest"),
    _big("created_seq"),
    _time("created_at"),
    _text("created_by"),
    fact_id_column(),
    *fact_id_constraints("context_packages"),
    tenant_ref("supersedes", "context_packages.id"),
    primary_key=("id",),
)

_ITEM_COLUMNS = {
    "artifact": ("artifact_id", "revision", "revision_digest"),
    "relationship": ("relationship_id",),
    "run": ("run_id",),
    "external_memory": ("memory_system", "memory_ref", "memory_ref_digest"),
}
_ITEM_OPTIONAL = {"memory_kind": "external_memory", "memory_digest": "external_memory"}


def _item_check() -> str:
    """Return the condition that an item fills exactly the columns of its kind."""
    parts = [
        f"(kind = '{kind}') = ({column} IS NOT NULL)"
        for kind, names in _ITEM_COLUMNS.items()
        for column in names
    ]
    parts += [f"(kind = '{kind}' OR {column} IS NULL)" for column, kind in _ITEM_OPTIONAL.items()]
    return " AND ".join(parts)


context_items = tenant_table(
    "context_items",
    _text("package_id"),
    _int("position"),
    _text("kind"),
    _text("artifact_id", null=True),
    _int("revision", null=True),
    _digest("revision_digest", null=True),
    _text("relationship_id", null=True),
    _text("run_id", null=True),
    _text("memory_system", null=True),
    _text("memory_ref", null=True),
    _digest("memory_ref_digest", null=True),
    _text("memory_kind", null=True),
    _text("memory_digest", null=True),
    _json("provenance"),
    _text("note", null=True),
    enum_check("kind", ContextItemKind),
    sa.CheckConstraint(_item_check(), name="item"),
    tenant_ref("package_id", "context_packages.id"),
    _revision_ref(),
    tenant_ref("relationship_id", "relationships.id"),
    tenant_ref("run_id", "operation_runs.run_id"),
    primary_key=("package_id", "position"),
)
_index("ix_context_items_revision", context_items, "artifact_id", "revision")
_index("ix_context_items_memory", context_items, "memory_system", "memory_ref_digest")

# How heads are read everywhere: the artifact, one of its revisions, and the state of the bytes.
_A, _R = artifacts.c, artifact_revisions.c
HEAD_COLUMNS: tuple[sa.ColumnElement[Any], ...] = (
    _A.id, _A.collection_id, _A.name, _A.name_key, _A.artifact_type, _A.head_revision, _A.version,
    _A.created_seq, _A.updated_seq, _A.created_at, _A.created_by, _A.updated_at, _A.updated_by,
    _A.deleted_at, _A.deleted_by, _A.delete_change_set_id, _R.revision, _R.name.label("revision_name"),
    _R.collection_id.label("revision_collection_id"), _R.content_digest, _R.size, _R.media_type,
    _R.metadata.label("metadata_text"), _R.metadata_digest, _R.provenance, _R.provenance_digest,
    _R.produced_by_run, _R.revision_digest, _R.redaction, blobs.c.state.label("blob_state"),
)  # fmt: skip


def head_with(revision: sa.ColumnElement[int] | int, source: sa.FromClause = artifacts) -> sa.FromClause:
    """Return artifacts, or a source that holds them, with one revision each and the state of its bytes."""
    return source.join(
        artifact_revisions,
        sa.and_(_R.tenant_id == _A.tenant_id, _R.artifact_id == _A.id, _R.revision == revision),
    ).outerjoin(blobs, sa.and_(blobs.c.tenant_id == _R.tenant_id, blobs.c.digest == _R.content_digest))


govern(
    repository_changes,
    mode="CHAINED",
    types=("repository.changed",),
    # One leaf for each transaction: the hash at its end covers every column of every record before it.
    bodies={
        "repository.changed": (
            "seq_from", "seq_to", "change_head_hash", "revision_count", "change_set_id", "actor_id",
            "entity_type", "entity_id", "action", "new_version", "new_revision_digest",
        )
    },
)  # fmt: skip
govern(artifact_revisions, mode="CHAINED")
govern(input_bundles, mode="APPEND", types=("run.input",))
govern(run_outputs, mode="APPEND", types=("run.output",))
govern(run_manifests, mode="APPEND", types=("run.manifest",), unhashed={"body": "BOUND by manifest_digest"})
govern(
    context_packages,
    mode="APPEND",
    types=("context.package",),
    unhashed=dict.fromkeys(
        ("name", "purpose", "metadata", "provenance", "supersedes"), "BOUND by package_digest"
    ),
)
exempt(
    repository_state,
    "head of the change chain, DERIVED from repository_changes, recounted by repository_check",
)
exempt(collections, "head row, DERIVED from the change records, recounted by repository_check")
exempt(artifacts, "head row, DERIVED from revisions and change records, recounted by repository_check")
exempt(relationships, "head row, DERIVED from the change records, recounted by repository_check")
exempt(artifact_metadata, "projection, DERIVED from the head revision, recounted by repository_check")
exempt(artifact_search, "search index, DERIVED from the head revision, recounted by repository_check")
exempt(blobs, "BOUND by the digest that names the bytes and stands in the revision")
exempt(operation_runs, "working state until its manifest seals it")
exempt(workflow_steps, "working state until its run's manifest seals it")
exempt(input_bundle_items, "BOUND by bundle_digest")
exempt(context_items, "BOUND by package_digest")
