"""The knowledge repository: collections, artifacts, revisions, blobs, search, changes, runs, packages."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op
from hoc_ddl import (
    APP_ROLE,
    BIGINT,
    BYTES,
    FLAG,
    MAINTENANCE_ROLE,
    TS,
    append_only,
    drop_tables,
    fixed_columns,
    no_delete,
    on_postgresql,
    refuse,
    row_level_security,
    run_ddl,
)

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TABLES = (
    "context_items", "context_packages", "run_manifests", "run_outputs", "workflow_steps",
    "input_bundle_items", "operation_runs", "input_bundles", "repository_changes", "relationships",
    "artifact_search", "artifact_metadata", "artifact_revisions", "artifacts", "blobs", "collections",
    "repository_state",
)  # fmt: skip
STAMPS = "created_at:time created_by updated_at:time updated_by"
TOMBSTONE = "deleted_at?:time deleted_by?"


def _column(table: str, spec: str) -> tuple[sa.schema.SchemaItem, ...]:
    """Read `name[?][:kind]`: `?` is nullable; kinds text, bytes_order, tokens, int, positive, digest, ..."""
    name, _, kind = spec.partition(":")
    nullable = name.endswith("?")
    name = name.rstrip("?")
    kinds: dict[str, object] = {
        "int": sa.Integer,
        "positive": sa.Integer,
        "big": BIGINT,
        "flag": FLAG,
        "time": TS(),
        "bytes": BYTES,
        "bytewise": sa.Text(collation="C") if on_postgresql() else sa.Text(),
        "tokens": postgresql.TSVECTOR() if on_postgresql() else sa.Text(),
    }
    column = sa.Column(name, kinds.get(kind, sa.Text), nullable=nullable)
    conditions = {"positive": f"{name} >= 1", "digest": f"length({name}) = 71"}
    if kind in conditions:
        return column, sa.CheckConstraint(conditions[kind], name=f"ck_{table}_{name}")
    return (column,)


def _table(
    table: str,
    columns: str,
    *,
    key: tuple[str, ...],
    unique: dict[str, tuple[str, ...]] | None = None,
    refs: tuple[tuple[str, str], ...] = (),
    checks: dict[str, str] | None = None,
    fact: bool = False,
) -> None:
    """Create a tenant table; `refs` are (columns, table.columns) pairs, both without tenant_id."""
    specs = columns.split() + (["fact_id"] if fact else [])
    items = [item for spec in specs for item in _column(table, spec)]
    for name, names in (unique or {}).items():
        items.append(sa.UniqueConstraint(*names, name=f"uq_{table}_{name}"))
    for name, condition in (checks or {}).items():
        items.append(sa.CheckConstraint(condition, name=f"ck_{table}_{name}"))
    for names, target in refs:
        referred, _, referred_names = target.partition(".")
        own = names.split(",")
        items.append(
            sa.ForeignKeyConstraint(
                ["tenant_id", *own],
                [f"{referred}.tenant_id", *(f"{referred}.{name}" for name in referred_names.split(","))],
                name=f"fk_{table}_tenant_id_{'_'.join(own)}",
                ondelete="RESTRICT",
            )
        )
    if fact:
        items.append(sa.UniqueConstraint("tenant_id", "fact_id", name=f"uq_{table}_fact_id"))
        items.append(
            sa.ForeignKeyConstraint(
                ["tenant_id", "fact_id"],
                ["log_leaves.tenant_id", "log_leaves.fact_id"],
                name=f"fk_{table}_fact_id",
                ondelete="RESTRICT",
                deferrable=True,
                initially="DEFERRED",
            )
        )
    op.create_table(
        table,
        sa.Column("tenant_id", sa.Text, nullable=False),
        *items,
        sa.PrimaryKeyConstraint("tenant_id", *key, name=f"pk_{table}"),
    )


def _index(name: str, table: str, *columns: str, unique: bool = False, live: bool = False) -> None:
    condition = sa.text("deleted_at IS NULL") if live else None
    op.create_index(
        name,
        table,
        ["tenant_id", *columns],
        unique=unique,
        sqlite_where=condition,
        postgresql_where=condition,
    )


def _one_of(column: str, words: str) -> str:
    return f"{column} IN ({', '.join(repr(word) for word in words.split())})"


def _content() -> None:
    _table(
        "repository_state",
        "last_seq:big last_hash:digest last_occurred_at?:time",
        key=(),
        checks={"last_seq": "last_seq >= 0"},
    )
    _table(
        "collections",
        f"id name name_key:bytewise description? metadata version:positive created_seq:big {STAMPS} "
        f"{TOMBSTONE}",
        key=("id",),
        unique={"created_seq": ("tenant_id", "created_seq")},
    )
    _index("uq_collections_live_name", "collections", "name_key", unique=True, live=True)
    _table(
        "blobs",
        "digest:digest size:big data?:bytes state blocked:flag created_at:time state_at?:time",
        key=("digest",),
        checks={
            "size": "size >= 0",
            "state": _one_of("state", "PRESENT REDACTED COLLECTED"),
            "data": "(state = 'PRESENT') = (data IS NOT NULL)",
        },
    )
    _table(
        "artifacts",
        "id collection_id name:bytewise name_key:bytewise artifact_type head_revision:positive "
        f"version:positive created_seq:big updated_seq:big {STAMPS} {TOMBSTONE} delete_change_set_id?",
        key=("id",),
        unique={"created_seq": ("tenant_id", "created_seq")},
        refs=(("collection_id", "collections.id"),),
    )
    _index("uq_artifacts_live_name", "artifacts", "collection_id", "name_key", unique=True, live=True)
    _index("ix_artifacts_collection", "artifacts", "collection_id", "created_seq")
    _index("ix_artifacts_changed", "artifacts", "collection_id", "updated_seq")
    _index("ix_artifacts_type", "artifacts", "artifact_type", "created_seq")
    _index("ix_artifacts_updated", "artifacts", "updated_at", "id")
    _table(
        "artifact_revisions",
        "artifact_id revision:positive parent_digest?:digest content_digest?:digest size?:big "
        "media_type? name? name_digest:digest collection_id artifact_type metadata? "
        "metadata_digest:digest provenance? provenance_digest:digest produced_by_run? created_at:time "
        "created_by revision_digest:digest redaction? redacted_at?:time",
        key=("artifact_id", "revision"),
        unique={"digest": ("tenant_id", "revision_digest")},
        refs=(("artifact_id", "artifacts.id"), ("content_digest", "blobs.digest")),
        checks={
            "redaction": _one_of("redaction", "FULL CONTENT"),
            "parent": "(revision = 1) = (parent_digest IS NULL)",
            "content": "(content_digest IS NULL) = (size IS NULL)",
        },
    )
    _index("ix_artifact_revisions_content", "artifact_revisions", "content_digest")
    _index("ix_artifact_revisions_run", "artifact_revisions", "produced_by_run")


def _search() -> None:
    _table(
        "artifact_metadata",
        "artifact_id ptr elem:flag ord:int vtype vkey?:bytewise vfull?:bytewise",
        key=("artifact_id", "ptr", "elem", "ord"),
        refs=(("artifact_id", "artifacts.id"),),
        checks={"vtype": _one_of("vtype", "s n b z o a")},
    )
    _index("ix_artifact_metadata_value", "artifact_metadata", "ptr", "elem", "vtype", "vkey")
    _table(
        "artifact_search",
        "artifact_id search_no:big token_count:int truncated:flag tokens:tokens",
        key=("artifact_id",),
        unique={"no": ("search_no",)},
        refs=(("artifact_id", "artifacts.id"),),
    )
    run_ddl(
        postgresql=(
            # An identity needs no right beyond INSERT, which a sequence of its own would.
            "ALTER TABLE artifact_search ALTER COLUMN search_no ADD GENERATED BY DEFAULT AS IDENTITY",
            "CREATE INDEX ix_artifact_search_tokens ON artifact_search USING gin (tokens)",
            # Row security keeps the planner from using an index for `@@`, which is not leakproof. The
            # function runs as a role that sees all rows, and matches within the session's tenant alone.
            """CREATE FUNCTION repository_search(wanted tsquery) RETURNS TABLE (artifact_id text)
                LANGUAGE sql STABLE SECURITY DEFINER PARALLEL SAFE ROWS 200
                SET search_path = pg_catalog, public, pg_temp AS $$
                SELECT s.artifact_id FROM artifact_search s
                WHERE s.tenant_id = current_setting('hoc.tenant_id') AND s.tokens @@ wanted $$""",
            f"""DO $$ DECLARE place text := current_schema(); BEGIN
                EXECUTE format('GRANT CREATE ON SCHEMA %I TO {MAINTENANCE_ROLE}', place);
                ALTER FUNCTION repository_search(tsquery) OWNER TO {MAINTENANCE_ROLE};
                EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM {MAINTENANCE_ROLE}', place);
            END $$""",
            "REVOKE ALL ON FUNCTION repository_search(tsquery) FROM PUBLIC",
            f"GRANT EXECUTE ON FUNCTION repository_search(tsquery) TO {APP_ROLE}, {MAINTENANCE_ROLE}",
        ),
        sqlite=(
            """CREATE VIRTUAL TABLE artifact_search_fts USING fts5(tokens, content='artifact_search',
                content_rowid='search_no', tokenize='ascii', detail='none', columnsize=0)""",
            """CREATE TRIGGER artifact_search_indexed AFTER INSERT ON artifact_search BEGIN
                INSERT INTO artifact_search_fts (rowid, tokens) VALUES (NEW.search_no, NEW.tokens); END""",
            """CREATE TRIGGER artifact_search_dropped AFTER DELETE ON artifact_search BEGIN
                INSERT INTO artifact_search_fts (artifact_search_fts, rowid, tokens)
                VALUES ('delete', OLD.search_no, OLD.tokens); END""",
            """CREATE TRIGGER artifact_search_changed AFTER UPDATE ON artifact_search BEGIN
                INSERT INTO artifact_search_fts (artifact_search_fts, rowid, tokens)
                VALUES ('delete', OLD.search_no, OLD.tokens);
                INSERT INTO artifact_search_fts (rowid, tokens) VALUES (NEW.search_no, NEW.tokens); END""",
        ),
    )


def _graph_and_changes() -> None:
    _table(
        "relationships",
        "id source_id target_id type source_revision?:int target_revision?:int metadata provenance "
        f"version:positive created_seq:big {STAMPS} {TOMBSTONE} delete_change_set_id?",
        key=("id",),
        refs=(
            ("source_id", "artifacts.id"),
            ("target_id", "artifacts.id"),
            ("source_id,source_revision", "artifact_revisions.artifact_id,revision"),
            ("target_id,target_revision", "artifact_revisions.artifact_id,revision"),
        ),
        checks={"ends": "source_id <> target_id"},
    )
    _index("uq_relationships_live", "relationships", "source_id", "type", "target_id", unique=True, live=True)
    _index("ix_relationships_source", "relationships", "source_id", "type", live=True)
    _index("ix_relationships_target", "relationships", "target_id", "type", live=True)
    _table(
        "repository_changes",
        "seq:big change_id change_set_id entity_type entity_id action old_version?:positive "
        "new_version?:positive old_revision?:positive new_revision?:positive old_digest?:digest "
        "new_digest?:digest old_revision_digest?:digest new_revision_digest?:digest changed_fields "
        "actor_id reason? run_id? trace_id? request_id? occurred_at:time detail prev_hash:digest "
        "hash:digest",
        key=("seq",),
        unique={"id": ("tenant_id", "change_id")},
        checks={
            "entity_type": _one_of(
                "entity_type", "COLLECTION ARTIFACT RELATIONSHIP RUN BUNDLE CONTEXT_PACKAGE BLOB"
            ),
            "action": _one_of(
                "action",
                "CREATED UPDATED DELETED RESTORED REDACTED LINKED UNLINKED TRANSITIONED OUTPUT_LINKED SEALED "
                "COLLECTED IMPORTED",
            ),
        },
    )
    _index("ix_repository_changes_entity", "repository_changes", "entity_type", "entity_id", "seq")
    _index("ix_repository_changes_set", "repository_changes", "change_set_id")
    _index("ix_repository_changes_run", "repository_changes", "run_id", "seq")


def _runs() -> None:
    _table(
        "input_bundles",
        "id bundle_digest:digest created_at:time created_by",
        key=("id",),
        unique={"digest": ("tenant_id", "bundle_digest")},
        fact=True,
    )
    _table(
        "input_bundle_items",
        "bundle_id position:int artifact_id revision:int revision_digest:digest role",
        key=("bundle_id", "position"),
        refs=(
            ("bundle_id", "input_bundles.id"),
            ("artifact_id,revision", "artifact_revisions.artifact_id,revision"),
        ),
    )
    _index("ix_input_bundle_items_revision", "input_bundle_items", "artifact_id", "revision")
    _table(
        "operation_runs",
        "run_id operation status version:positive parameters bundle_id? parent_run_id? attempt:positive "
        "requested_by created_at:time started_at?:time finished_at?:time error_code? error_message? "
        "trace_id? lease_owner? lease_until?:time",
        key=("run_id",),
        refs=(("bundle_id", "input_bundles.id"), ("parent_run_id", "operation_runs.run_id")),
        checks={
            "status": _one_of("status", "pending running waiting succeeded failed cancelled"),
            "finished": "(status IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)",
            "lease": "(lease_owner IS NULL) = (lease_until IS NULL)",
        },
    )
    _index("ix_operation_runs_lease", "operation_runs", "status", "lease_until", "run_id")
    _table(
        "workflow_steps",
        "run_id step_id position:int status attempt:positive depends_on inputs outputs diagnostics "
        "started_at?:time finished_at?:time",
        key=("run_id", "step_id"),
        unique={"position": ("tenant_id", "run_id", "position")},
        refs=(("run_id", "operation_runs.run_id"),),
        checks={"status": _one_of("status", "pending running succeeded failed skipped cancelled")},
    )
    _table(
        "run_outputs",
        "run_id artifact_id revision:int role created_at:time",
        key=("run_id", "artifact_id", "revision"),
        unique={"revision": ("tenant_id", "artifact_id", "revision")},
        refs=(
            ("run_id", "operation_runs.run_id"),
            ("artifact_id,revision", "artifact_revisions.artifact_id,revision"),
        ),
        fact=True,
    )
    _table(
        "run_manifests",
        "run_id body manifest_digest:digest sealed_at:time sealed_by",
        key=("run_id",),
        refs=(("run_id", "operation_runs.run_id"),),
        fact=True,
    )


def _packages() -> None:
    _table(
        "context_packages",
        "id name purpose? metadata provenance supersedes? package_digest:digest created_seq:big "
        "created_at:time created_by",
        key=("id",),
        refs=(("supersedes", "context_packages.id"),),
        fact=True,
    )
    filled = {
        "artifact": ("artifact_id", "revision", "revision_digest"),
        "relationship": ("relationship_id",),
        "run": ("run_id",),
        "external_memory": ("memory_system", "memory_ref", "memory_ref_digest"),
    }
    item = [f"(kind = '{kind}') = ({name} IS NOT NULL)" for kind, names in filled.items() for name in names]
    item += [f"(kind = 'external_memory' OR {name} IS NULL)" for name in ("memory_kind", "memory_digest")]
    _table(
        "context_items",
        "package_id position:int kind artifact_id? revision?:int revision_digest?:digest "
        "relationship_id? run_id? memory_system? memory_ref? memory_ref_digest?:digest memory_kind? "
        "memory_digest? provenance note?",
        key=("package_id", "position"),
        refs=(
            ("package_id", "context_packages.id"),
            ("artifact_id,revision", "artifact_revisions.artifact_id,revision"),
            ("relationship_id", "relationships.id"),
            ("run_id", "operation_runs.run_id"),
        ),
        checks={
            "kind": _one_of("kind", "artifact relationship run external_memory"),
            "item": " AND ".join(item),
        },
    )
    _index("ix_context_items_revision", "context_items", "artifact_id", "revision")
    _index("ix_context_items_memory", "context_items", "memory_system", "memory_ref_digest")


def _revision_guard() -> None:
    """Refuse every change of a revision but its redaction: bytes and values may go, ids and digests stay."""
    same = "IS NOT DISTINCT FROM" if on_postgresql() else "IS"
    kept = [
        "tenant_id", "artifact_id", "revision", "parent_digest", "content_digest", "size", "media_type",
        "name_digest", "collection_id", "artifact_type", "metadata_digest", "provenance_digest",
        "produced_by_run", "created_at", "created_by", "revision_digest",
    ]  # fmt: skip
    erasable = ("name", "metadata", "provenance")
    allowed = [f"NEW.{name} {same} OLD.{name}" for name in kept]
    allowed += [f"(NEW.{name} IS NULL OR NEW.{name} {same} OLD.{name})" for name in erasable]
    allowed += [
        "NEW.redaction IS NOT NULL",
        "NEW.redacted_at IS NOT NULL",
        # Once; only a revision that lost shared bytes alone may still lose its own values.
        "(OLD.redaction IS NULL OR (OLD.redaction = 'CONTENT' AND NEW.redaction = 'FULL'))",
        f"(NEW.redaction = 'CONTENT' OR ({' AND '.join(f'NEW.{name} IS NULL' for name in erasable)}))",
    ]
    refuse(
        "artifact_revisions_no_update",
        "artifact_revisions",
        "UPDATE",
        "artifact_revisions is append-only",
        when=f"NOT ({' AND '.join(allowed)})",
    )
    no_delete("artifact_revisions")


def upgrade() -> None:
    _content()
    _search()
    _graph_and_changes()
    _runs()
    _packages()
    for table in reversed(TABLES):
        row_level_security(table, delete=table in ("artifact_metadata", "artifact_search"))
    _revision_guard()
    for table in (
        "repository_changes", "input_bundles", "input_bundle_items", "run_outputs", "run_manifests",
        "context_packages", "context_items",
    ):  # fmt: skip
        append_only(table)
    for table in ("repository_state", "collections", "blobs", "artifacts", "relationships"):
        no_delete(table)
    fixed_columns("blobs", ("tenant_id", "digest", "size", "created_at"))
    born = ("tenant_id", "id", "created_seq", "created_at", "created_by")
    fixed_columns("collections", born)
    fixed_columns("artifacts", (*born, "artifact_type"))
    fixed_columns(
        "relationships", (*born, "source_id", "target_id", "type", "source_revision", "target_revision")
    )


def downgrade() -> None:
    # The owner of the tables sees their rows only without forced row security.
    run_ddl(postgresql="ALTER TABLE repository_changes NO FORCE ROW LEVEL SECURITY")
    if op.get_bind().execute(sa.text("SELECT 1 FROM repository_changes LIMIT 1")).first() is not None:
        raise RuntimeError("the repository holds records; export them, a downgrade would drop them")
    run_ddl(
        sqlite="DROP TABLE artifact_search_fts",
        postgresql="DROP FUNCTION repository_search(tsquery)",
    )
    drop_tables(*TABLES)
