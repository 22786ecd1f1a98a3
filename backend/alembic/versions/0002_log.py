"""Leaves of the tenant logs, idempotency keys, the outbox."""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op
from hoc_ddl import BIGINT, FLAG, TS, append_only, drop_tables, row_level_security, run_ddl

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "log_leaves",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("fact_id", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("v", sa.Integer, nullable=False),
        sa.Column("ref_table", sa.Text),
        sa.Column("ref_key", sa.Text),
        sa.Column("ref_version", BIGINT),
        sa.Column("run_id", sa.Text),
        sa.Column("attempt", sa.Integer),
        sa.Column("fact_no", sa.Integer),
        sa.Column("late", FLAG, nullable=False),
        sa.Column("statement", sa.Text, nullable=False),
        sa.Column("leaf_hash", sa.Text, nullable=False),
        sa.Column("created_at", TS(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "fact_id", name="pk_log_leaves"),
        sa.UniqueConstraint("tenant_id", "run_id", "late", "fact_no", name="uq_log_leaves_fact_no"),
    )
    op.create_index("ix_log_leaves_ref", "log_leaves", ["tenant_id", "ref_table", "ref_key", "ref_version"])
    row_level_security("log_leaves")
    append_only("log_leaves")
    op.create_table(
        "log_pending",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("fact_id", sa.Text, nullable=False),
        sa.Column("enqueued_at", TS(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "fact_id", name="pk_log_pending"),
    )
    row_level_security("log_pending")
    run_ddl(
        sqlite="""CREATE TRIGGER log_leaves_enqueue AFTER INSERT ON log_leaves FOR EACH ROW
            BEGIN INSERT INTO log_pending (tenant_id, fact_id, enqueued_at)
            VALUES (NEW.tenant_id, NEW.fact_id, NEW.created_at); END""",
        postgresql=(
            """CREATE FUNCTION log_leaves_enqueue() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                INSERT INTO log_pending (tenant_id, fact_id, enqueued_at)
                SELECT tenant_id, fact_id, created_at FROM added; RETURN NULL; END $$""",
            """CREATE TRIGGER log_leaves_enqueue AFTER INSERT ON log_leaves REFERENCING NEW TABLE AS added
                FOR EACH STATEMENT EXECUTE FUNCTION log_leaves_enqueue()""",
        ),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("operation", sa.Text, nullable=False),
        sa.Column("request_digest", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("response", sa.Text),
        sa.Column("created_at", TS(), nullable=False),
        sa.Column("expires_at", TS(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "key", name="pk_idempotency_keys"),
        sa.CheckConstraint("status IN ('PENDING', 'DONE')", name="ck_idempotency_keys_status"),
    )
    op.create_index("ix_idempotency_keys_expires_at", "idempotency_keys", ["expires_at"])
    row_level_security("idempotency_keys", delete=True)
    op.create_table(
        "outbox",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("next_at", TS(), nullable=False),
        sa.Column("delivered_at", TS()),
        sa.Column("last_error", sa.Text),
        sa.Column("created_at", TS(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "event_id", name="pk_outbox"),
    )
    undelivered = sa.text("delivered_at IS NULL")
    op.create_index(
        "ix_outbox_due", "outbox", ["next_at"], sqlite_where=undelivered, postgresql_where=undelivered
    )
    row_level_security("outbox")


def downgrade() -> None:
    drop_tables("outbox", "idempotency_keys", "log_pending", "log_leaves")
