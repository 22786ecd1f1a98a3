"""Plane content: jobs, pinned documents, passages and terms, with the search indexes over the passages."""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op
from hoc_ddl import (
    APP_ROLE,
    BIGINT,
    FLAG,
    MAINTENANCE_ROLE,
    TS,
    drop_tables,
    fixed_columns,
    no_delete,
    row_level_security,
    run_ddl,
)  # fmt: skip

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

JOB_TYPES = ("verify_connectivity", "ingest_data", "refresh_data", "archive_data", "delete_archive")
JOB_STATUSES = ("QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED")
LEVELS = ("public", "internal", "confidential", "restricted")
OPEN = "status IN ('QUEUED', 'RUNNING')"

# Every key of a passage begins with its plane, so no look-up meets another plane's passages. A stored term is
# ASCII letters and digits, and an id is of the characters that the tokenizer below counts as part of a word.
# Stored terms stand between blanks of their own: ` aone  atwo `.
SQLITE_KEYS = "{row}.plane_id || replace(trim({row}.terms), '  ', ' ' || {row}.plane_id)"
POSTGRESQL_KEYS = "string_to_array(plane_id || replace(btrim(terms), '  ', ' ' || plane_id), ' ')"


def upgrade() -> None:
    _jobs()
    _documents()
    _passages()
    _terms()
    _search()


def downgrade() -> None:
    run_ddl(
        sqlite=("DROP TABLE plane_passages_fts", "DROP TABLE plane_passages_fts_rows"),
        postgresql=("DROP FUNCTION plane_passage_candidates", "DROP FUNCTION plane_passages_merge"),
    )
    drop_tables("plane_terms", "plane_passages", "plane_documents", "knowledge_plane_jobs")


def _words(column: str, words: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(repr(word) for word in words)})"


def _plane(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["tenant_id", "plane_id"],
        ["knowledge_plane_registry.tenant_id", "knowledge_plane_registry.plane_id"],
        name=op.f(f"fk_{table}_plane_id"),
        ondelete="RESTRICT",
    )


def _jobs() -> None:
    table = "knowledge_plane_jobs"
    op.create_table(
        table,
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("job_id", sa.Text, nullable=False),
        sa.Column("plane_id", sa.Text, nullable=False),
        sa.Column("job_type", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("max_attempts", sa.Integer, nullable=False, server_default=sa.text("4")),
        sa.Column("expected_state", sa.Integer, nullable=False),
        sa.Column("target_state", sa.Integer),
        sa.Column("config", sa.Text),
        sa.Column("next_attempt_at", TS(), nullable=False),
        sa.Column("lease_owner", sa.Text),
        sa.Column("lease_token", sa.Text),
        sa.Column("lease_until", TS()),
        sa.Column("progress", sa.Text, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("result", sa.Text),
        sa.Column("error_code", sa.Text),
        sa.Column("error_message", sa.Text),
        sa.Column("retryable", FLAG),
        sa.Column("requested_by", sa.Text, nullable=False),
        sa.Column("created_at", TS(), nullable=False),
        sa.Column("started_at", TS()),
        sa.Column("finished_at", TS()),
        sa.PrimaryKeyConstraint("tenant_id", "job_id", name=op.f(f"pk_{table}")),
        _plane(table),
        sa.CheckConstraint(_words("job_type", JOB_TYPES), name=op.f(f"ck_{table}_job_type")),
        sa.CheckConstraint(_words("status", JOB_STATUSES), name=op.f(f"ck_{table}_status")),
    )
    open_jobs = sa.text(OPEN)
    op.create_index(
        "uq_knowledge_plane_jobs_open",
        table,
        ["tenant_id", "plane_id"],
        unique=True,
        sqlite_where=open_jobs,
        postgresql_where=open_jobs,
    )
    op.create_index(
        "ix_knowledge_plane_jobs_due",
        table,
        ["next_attempt_at"],
        sqlite_where=open_jobs,
        postgresql_where=open_jobs,
    )
    op.create_index("ix_knowledge_plane_jobs_plane", table, ["tenant_id", "plane_id", "job_id"])
    row_level_security(table)
    no_delete(table)
    fixed_columns(
        table,
        (
            "tenant_id",
            "job_id",
            "plane_id",
            "job_type",
            "max_attempts",
            "expected_state",
            "target_state",
            "config",
            "requested_by",
            "created_at",
        ),
    )


def _documents() -> None:
    table = "plane_documents"
    op.create_table(
        table,
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("plane_id", sa.Text, nullable=False),
        sa.Column("artifact_id", sa.Text, nullable=False),
        sa.Column("gen_from", sa.Integer, nullable=False),
        sa.Column("gen_to", sa.Integer),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("revision_digest", sa.Text, nullable=False),
        sa.Column("content_digest", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("media_type", sa.Text),
        sa.Column("size_bytes", BIGINT, nullable=False),
        sa.Column("token_count", sa.Integer, nullable=False),
        sa.Column("passage_count", sa.Integer, nullable=False),
        sa.Column("sensitivity_level", sa.Text, nullable=False),
        sa.Column("pii_counts", sa.Text, nullable=False),
        sa.Column("categories", sa.Text, nullable=False),
        sa.Column("pinned_at", TS(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "plane_id", "artifact_id", "gen_from", name=op.f(f"pk_{table}")),
        _plane(table),
        sa.CheckConstraint(_words("sensitivity_level", LEVELS), name=op.f(f"ck_{table}_sensitivity_level")),
    )
    row_level_security(table, delete=True)


def _passages() -> None:
    table = "plane_passages"
    op.create_table(
        table,
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("plane_id", sa.Text, nullable=False),
        sa.Column("artifact_id", sa.Text, nullable=False),
        sa.Column("gen_from", sa.Integer, nullable=False),
        sa.Column("passage_no", sa.Integer, nullable=False),
        sa.Column("gen_to", sa.Integer),
        sa.Column("start_char", sa.Integer, nullable=False),
        sa.Column("end_char", sa.Integer, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("term_total", sa.Integer, nullable=False),
        sa.Column("terms", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint(
            "tenant_id", "plane_id", "artifact_id", "gen_from", "passage_no", name=op.f(f"pk_{table}")
        ),
        _plane(table),
    )
    row_level_security(table, delete=True)


def _terms() -> None:
    table = "plane_terms"
    op.create_table(
        table,
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("plane_id", sa.Text, nullable=False),
        sa.Column("term", sa.Text, nullable=False),
        sa.Column("passage_frequency", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("staged_change", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.PrimaryKeyConstraint("tenant_id", "plane_id", "term", name=op.f(f"pk_{table}")),
        _plane(table),
    )
    row_level_security(table, delete=True)
    # Every batch of an ingest changes the same terms again: room in the page keeps that out of the index.
    run_ddl(postgresql=f"ALTER TABLE {table} SET (fillfactor = 50)")


def _search() -> None:
    """Index the passages by plane and term: an inverted index that follows every write by itself."""
    run_ddl(
        sqlite=(
            # FTS5 needs an integer key that survives VACUUM, which the row number of a text key does not.
            """CREATE TABLE plane_passages_fts_rows (search_no INTEGER PRIMARY KEY, tenant_id TEXT NOT NULL,
                plane_id TEXT NOT NULL, artifact_id TEXT NOT NULL, gen_from INTEGER NOT NULL,
                passage_no INTEGER NOT NULL,
                UNIQUE (tenant_id, plane_id, artifact_id, gen_from, passage_no))""",
            """CREATE VIRTUAL TABLE plane_passages_fts USING fts5(keys, content='', detail='none',
                columnsize=0, tokenize="ascii tokenchars '._:-'")""",
            f"""CREATE TRIGGER plane_passages_indexed AFTER INSERT ON plane_passages BEGIN
                INSERT INTO plane_passages_fts_rows (tenant_id, plane_id, artifact_id, gen_from, passage_no)
                VALUES (NEW.tenant_id, NEW.plane_id, NEW.artifact_id, NEW.gen_from, NEW.passage_no);
                INSERT INTO plane_passages_fts (rowid, keys)
                VALUES (last_insert_rowid(), {SQLITE_KEYS.format(row="NEW")}); END""",
            f"""CREATE TRIGGER plane_passages_dropped AFTER DELETE ON plane_passages BEGIN
                INSERT INTO plane_passages_fts (plane_passages_fts, rowid, keys)
                SELECT 'delete', search_no, {SQLITE_KEYS.format(row="OLD")} FROM plane_passages_fts_rows
                WHERE tenant_id = OLD.tenant_id AND plane_id = OLD.plane_id AND artifact_id = OLD.artifact_id
                AND gen_from = OLD.gen_from AND passage_no = OLD.passage_no;
                DELETE FROM plane_passages_fts_rows
                WHERE tenant_id = OLD.tenant_id AND plane_id = OLD.plane_id AND artifact_id = OLD.artifact_id
                AND gen_from = OLD.gen_from AND passage_no = OLD.passage_no; END""",
        ),
        postgresql=(
            # New entries wait in a list, which makes ingest twice as fast; its end merges them (below).
            f"CREATE INDEX ix_plane_passages_keys ON plane_passages USING gin (({POSTGRESQL_KEYS}))",
            *_merge_function(),
            *_candidates_function(),
        ),
    )
    fixed_columns(
        "plane_passages", ("tenant_id", "plane_id", "artifact_id", "gen_from", "passage_no", "terms")
    )


def _merge_function() -> tuple[str, ...]:
    """Return the DDL of what only the index's owner may do: merge the entries that wait."""
    return (
        """CREATE FUNCTION plane_passages_merge() RETURNS bigint LANGUAGE sql SECURITY DEFINER
            SET search_path = pg_catalog, public, pg_temp
            AS $$ SELECT gin_clean_pending_list('ix_plane_passages_keys'::regclass) $$""",
        "REVOKE ALL ON FUNCTION plane_passages_merge() FROM PUBLIC",
        f"GRANT EXECUTE ON FUNCTION plane_passages_merge() TO {APP_ROLE}",
    )


def _candidates_function() -> tuple[str, ...]:
    """Return the DDL of the one look-up that reads the index.

    Row security keeps the application's own queries from using it: array operators are not leakproof, so
    PostgreSQL tests them only after the tenant. The function runs as the maintenance role, which no policy
    narrows, and tests tenant and plane itself. Neither is written as a plain equality: the primary key would
    then look like a cheaper way in.
    """
    columns = "artifact_id text, passage_no integer, term_total integer, terms text"
    keys = POSTGRESQL_KEYS.replace("plane_id", "p.plane_id").replace("btrim(terms", "btrim(p.terms")
    query = f"""RETURN QUERY SELECT p.artifact_id, p.passage_no, p.term_total, p.terms FROM plane_passages p
        WHERE {keys} OPERATOR wanted_keys
        AND p.tenant_id || '' = wanted_tenant AND p.plane_id || '' = wanted_plane
        AND p.gen_from <= wanted_generation AND (p.gen_to IS NULL OR p.gen_to > wanted_generation)
        ORDER BY p.artifact_id COLLATE "C", p.passage_no LIMIT most;"""
    arguments = (
        "wanted_tenant text, wanted_plane text, wanted_generation integer, wanted_keys text[], every boolean,"
        " most integer"
    )
    types = "text, text, integer, text[], boolean, integer"
    return (
        f"""CREATE FUNCTION plane_passage_candidates({arguments}) RETURNS TABLE ({columns})
            LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
            SET enable_seqscan = off AS $$ BEGIN
            IF wanted_tenant IS DISTINCT FROM current_setting('hoc.tenant_id', true) THEN RETURN; END IF;
            IF every THEN {query.replace("OPERATOR", "@>")} ELSE {query.replace("OPERATOR", "&&")} END IF;
            END $$""",
        # A new owner needs CREATE on the schema at this moment, and at no other.
        f"GRANT CREATE ON SCHEMA public TO {MAINTENANCE_ROLE}",
        f"ALTER FUNCTION plane_passage_candidates({types}) OWNER TO {MAINTENANCE_ROLE}",
        f"REVOKE CREATE ON SCHEMA public FROM {MAINTENANCE_ROLE}",
        f"REVOKE ALL ON FUNCTION plane_passage_candidates({types}) FROM PUBLIC",
        f"GRANT EXECUTE ON FUNCTION plane_passage_candidates({types}) TO {APP_ROLE}",
    )
