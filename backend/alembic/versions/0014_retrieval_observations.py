"""What spans told of retrieval, to be matched with evidence."""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op
from hoc_ddl import TS, drop_tables, fixed_columns, no_delete, refuse, row_level_security

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def _reference(
    name: str, columns: tuple[str, ...], table: str, referred: tuple[str, ...]
) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["tenant_id", *columns],
        [f"{table}.tenant_id", *(f"{table}.{column}" for column in referred)],
        name=name,
        ondelete="RESTRICT",
    )


def _retrieval_observations() -> None:
    op.create_table(
        "retrieval_observations",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("trace_id", sa.Text, nullable=False),
        sa.Column("span_id", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text),
        sa.Column("operation", sa.Text, nullable=False),
        sa.Column("data_source_id", sa.Text),
        sa.Column("document_ids", sa.Text, nullable=False),
        sa.Column("started_at", TS(), nullable=False),
        sa.Column("ended_at", TS(), nullable=False),
        sa.Column("claimed_evidence_id", sa.Text),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("bypass_reason", sa.Text),
        sa.Column("evidence_id", sa.Text),
        sa.Column("signal_id", sa.Text),
        sa.PrimaryKeyConstraint("tenant_id", "trace_id", "span_id", name="pk_retrieval_observations"),
        _reference(
            "fk_retrieval_observations_evidence_id", ("evidence_id",), "retrieval_evidence", ("evidence_id",)
        ),
        _reference("fk_retrieval_observations_signal_id", ("signal_id",), "discovery_ledger", ("signal_id",)),
        sa.CheckConstraint(
            "(status = 'BYPASS') = (bypass_reason IS NOT NULL)", name="ck_retrieval_observations_bypass"
        ),
        sa.CheckConstraint(
            "status IN ('PENDING', 'MATCHED', 'BYPASS')", name="ck_retrieval_observations_status"
        ),
        sa.CheckConstraint(
            "(status = 'MATCHED') = (evidence_id IS NOT NULL)", name="ck_retrieval_observations_matched"
        ),
    )
    op.create_index(
        "ix_retrieval_observations_due",
        "retrieval_observations",
        ["ended_at", "tenant_id"],
        sqlite_where=sa.text("status = 'PENDING'"),
        postgresql_where=sa.text("status = 'PENDING'"),
    )
    op.create_index(
        "ix_retrieval_observations_run",
        "retrieval_observations",
        ["tenant_id", "run_id", "started_at", "trace_id", "span_id"],
    )
    op.create_index(
        "ix_retrieval_observations_status",
        "retrieval_observations",
        ["tenant_id", "status", "started_at", "trace_id", "span_id"],
    )
    op.create_index(
        "uq_retrieval_observations_evidence",
        "retrieval_observations",
        ["tenant_id", "evidence_id"],
        unique=True,
        sqlite_where=sa.text("status = 'MATCHED'"),
        postgresql_where=sa.text("status = 'MATCHED'"),
    )
    row_level_security("retrieval_observations")
    no_delete("retrieval_observations")
    fixed_columns(
        "retrieval_observations",
        (
            "tenant_id",
            "trace_id",
            "span_id",
            "run_id",
            "operation",
            "data_source_id",
            "document_ids",
            "started_at",
            "ended_at",
            "claimed_evidence_id",
        ),
    )
    refuse(
        "retrieval_observations_once",
        "retrieval_observations",
        "UPDATE",
        "retrieval_observations: a sighting is judged once",
        when="OLD.status <> 'PENDING'",
    )


def upgrade() -> None:
    _retrieval_observations()


def downgrade() -> None:
    drop_tables("retrieval_observations")
