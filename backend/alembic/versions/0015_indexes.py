"""Indexes that lists, maintenance and text search look into."""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op
from hoc_ddl import run_ddl

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    ended = sa.text("completed_at IS NOT NULL")
    op.create_index(
        "ix_runs_completed",
        "runs",
        ["tenant_id", "completed_at", "run_id"],
        sqlite_where=ended,
        postgresql_where=ended,
    )
    op.create_index("ix_runs_snapshot", "runs", ["tenant_id", "policy_snapshot_id", "started_at"])
    op.create_index(
        "ix_policy_proposals_created", "policy_proposals", ["tenant_id", "created_at", "proposal_id"]
    )
    op.create_index("ix_prevention_records_decision", "prevention_records", ["tenant_id", "decision_id"])
    # From the number of a match to its artifact without the row, which is fat with the text.
    run_ddl(
        sqlite="CREATE INDEX ix_artifact_search_found ON artifact_search (search_no, tenant_id, artifact_id)"
    )


def downgrade() -> None:
    run_ddl(sqlite="DROP INDEX ix_artifact_search_found")
    op.drop_index("ix_prevention_records_decision", "prevention_records")
    op.drop_index("ix_policy_proposals_created", "policy_proposals")
    op.drop_index("ix_runs_snapshot", "runs")
    op.drop_index("ix_runs_completed", "runs")
