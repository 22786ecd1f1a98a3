"""Indexes by which maintenance learns which tenants have due work."""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_PARTIAL = (
    ("ix_runs_ended", "runs", ["completed_at", "tenant_id"], "completed_at IS NOT NULL"),
    ("ix_limits_system", "limits", ["limit_id", "tenant_id", "max_value"], "source = 'SYSTEM'"),
    ("ix_kp_registry_moved", "knowledge_plane_registry", ["updated_at", "tenant_id"], "generation > 1"),
)


def upgrade() -> None:
    for name, table, columns, condition in _PARTIAL:
        where = sa.text(condition)
        op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)
    op.create_index(
        "ix_kp_registry_refreshable",
        "knowledge_plane_registry",
        ["connector_type", "lifecycle_state_value", "tenant_id"],
    )


def downgrade() -> None:
    op.drop_index("ix_kp_registry_refreshable", "knowledge_plane_registry")
    for name, table, _columns, _condition in _PARTIAL:
        op.drop_index(name, table)
