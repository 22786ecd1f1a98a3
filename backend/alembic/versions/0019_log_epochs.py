"""Results of verifications belong to an epoch of the log."""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

TABLE = "log_verifications"
INDEX = "ix_log_verifications_status"


def upgrade() -> None:
    op.add_column(TABLE, sa.Column("epoch", sa.Integer, nullable=False, server_default="1"))
    op.create_index(INDEX, TABLE, ["tenant_id", "epoch", "status", "finished_at"])


def downgrade() -> None:
    op.drop_index(INDEX, TABLE)
    op.drop_column(TABLE, "epoch")
