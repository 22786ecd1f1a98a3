"""The journal of accesses whose source is being asked."""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op
from hoc_ddl import TS, drop_tables, row_level_security

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

TABLE = "retrieval_attempts"


def upgrade() -> None:
    op.create_table(
        TABLE,
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("evidence_id", sa.Text, nullable=False),
        sa.Column("evidence", sa.Text, nullable=False),
        sa.Column("deadline_at", TS(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "evidence_id", name="pk_retrieval_attempts"),
    )
    op.create_index("ix_retrieval_attempts_due", TABLE, ["deadline_at", "tenant_id"])
    row_level_security(TABLE, delete=True)


def downgrade() -> None:
    drop_tables(TABLE)
