"""The Merkle tree of the tenant logs: heads, entries, tiles, checkpoints, cosignatures, verifications."""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op
from hoc_ddl import (
    APP_ROLE,
    BIGINT,
    BYTES,
    TS,
    append_only,
    drop_tables,
    fixed_columns,
    no_delete,
    refuse,
    row_level_security,
    run_ddl,
)  # fmt: skip

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def _epoch(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["tenant_id", "epoch"],
        ["log_heads.tenant_id", "log_heads.epoch"],
        name=f"fk_{table}_epoch",
        ondelete="RESTRICT",
    )


def _heads() -> None:
    op.create_table(
        "log_heads",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("origin", sa.Text, nullable=False),
        sa.Column("size", BIGINT, nullable=False),
        sa.Column("root", sa.Text, nullable=False),
        sa.Column("signed_size", BIGINT, nullable=False),
        sa.Column("min_index", BIGINT, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("halted_reason", sa.Text),
        sa.Column("updated_at", TS(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "epoch", name="pk_log_heads"),
        sa.UniqueConstraint("origin", name="uq_log_heads_origin"),
        sa.CheckConstraint("epoch >= 1", name="ck_log_heads_epoch"),
        sa.CheckConstraint("size >= 0", name="ck_log_heads_size"),
        sa.CheckConstraint("signed_size >= 0 AND signed_size <= size", name="ck_log_heads_signed_size"),
        sa.CheckConstraint("min_index >= 0 AND min_index <= size", name="ck_log_heads_min_index"),
        sa.CheckConstraint("state IN ('ACTIVE', 'HALTED', 'CLOSED')", name="ck_log_heads_state"),
    )
    unsigned = sa.text("size > signed_size")
    op.create_index(
        "ix_log_heads_unsigned",
        "log_heads",
        ["tenant_id", "epoch"],
        sqlite_where=unsigned,
        postgresql_where=unsigned,
    )
    row_level_security("log_heads")
    fixed_columns("log_heads", ("tenant_id", "epoch", "origin"))
    falls = "NEW.size < OLD.size OR NEW.signed_size < OLD.signed_size OR NEW.min_index < OLD.min_index"
    refuse("log_heads_grows", "log_heads", "UPDATE", "log_heads: a log never shrinks", when=falls)
    refuse(
        "log_heads_closed",
        "log_heads",
        "UPDATE",
        "log_heads: a closed log is final",
        when="OLD.state = 'CLOSED'",
    )
    no_delete("log_heads")


def _tree() -> None:
    op.create_table(
        "log_entries",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("idx", BIGINT, nullable=False),
        sa.Column("fact_id", sa.Text, nullable=False),
        sa.Column("integrated_at", TS(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "epoch", "idx", name="pk_log_entries"),
        sa.UniqueConstraint("tenant_id", "epoch", "fact_id", name="uq_log_entries_fact_id"),
        sa.CheckConstraint("idx >= 0", name="ck_log_entries_idx"),
    )
    row_level_security("log_entries")
    append_only("log_entries")
    op.create_table(
        "log_tiles",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("level", sa.Integer, nullable=False),
        sa.Column("tile_no", BIGINT, nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("hashes", BYTES, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "epoch", "level", "tile_no", name="pk_log_tiles"),
        _epoch("log_tiles"),
        sa.CheckConstraint("level BETWEEN 0 AND 7", name="ck_log_tiles_level"),
        sa.CheckConstraint("tile_no >= 0", name="ck_log_tiles_tile_no"),
        sa.CheckConstraint(
            "width BETWEEN 1 AND 256 AND length(hashes) = 32 * width", name="ck_log_tiles_width"
        ),
    )
    row_level_security("log_tiles")
    fixed_columns("log_tiles", ("tenant_id", "epoch", "level", "tile_no"))
    # A length of 32 times the width is a CHECK, so comparing bytes compares hashes.
    other = "NEW.width < OLD.width OR substr(NEW.hashes, 1, length(OLD.hashes)) <> OLD.hashes"
    refuse("log_tiles_lengthens", "log_tiles", "UPDATE", "log_tiles: a tile only lengthens", when=other)
    no_delete("log_tiles")


def _checkpoints() -> None:
    op.create_table(
        "log_checkpoints",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("size", BIGINT, nullable=False),
        sa.Column("root", sa.Text, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("key_ids", sa.Text, nullable=False),
        sa.Column("signed_at", TS(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "epoch", "size", name="pk_log_checkpoints"),
        _epoch("log_checkpoints"),
        sa.CheckConstraint("size >= 0", name="ck_log_checkpoints_size"),
    )
    row_level_security("log_checkpoints")
    append_only("log_checkpoints")
    op.create_table(
        "log_cosignatures",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("size", BIGINT, nullable=False),
        sa.Column("key_name", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("line", sa.Text, nullable=False),
        sa.Column("received_at", TS(), nullable=False),
        sa.PrimaryKeyConstraint(
            "tenant_id", "epoch", "size", "key_name", "key_id", name="pk_log_cosignatures"
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "epoch", "size"],
            ["log_checkpoints.tenant_id", "log_checkpoints.epoch", "log_checkpoints.size"],
            name="fk_log_cosignatures_size",
            ondelete="RESTRICT",
        ),
    )
    row_level_security("log_cosignatures")
    append_only("log_cosignatures")


def _verifications() -> None:
    op.create_table(
        "log_verifications",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("verification_id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("from_idx", BIGINT),
        sa.Column("to_idx", BIGINT),
        sa.Column("size", BIGINT),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("counts", sa.Text, nullable=False),
        sa.Column("failures", sa.Text, nullable=False),
        sa.Column("started_at", TS(), nullable=False),
        sa.Column("finished_at", TS(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "verification_id", name="pk_log_verifications"),
        sa.CheckConstraint("kind IN ('INCREMENTAL', 'SWEEP', 'ON_DEMAND')", name="ck_log_verifications_kind"),
        sa.CheckConstraint(
            "status IN ('VERIFIED', 'FAILED', 'UNSUPPORTED')", name="ck_log_verifications_status"
        ),
    )
    op.create_index(
        "ix_log_verifications_time", "log_verifications", ["tenant_id", "finished_at", "verification_id"]
    )
    row_level_security("log_verifications")
    append_only("log_verifications")


def upgrade() -> None:
    _heads()
    _tree()
    _checkpoints()
    _verifications()
    # The tree grows under the sequencer's role alone; the application reads it.
    for table in ("log_heads", "log_entries", "log_tiles", "log_checkpoints"):
        run_ddl(postgresql=f"REVOKE INSERT, UPDATE ON {table} FROM {APP_ROLE}")


def downgrade() -> None:
    drop_tables(
        "log_verifications", "log_cosignatures", "log_checkpoints", "log_tiles", "log_entries", "log_heads"
    )
