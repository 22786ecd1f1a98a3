"""Lists: evidence is paged by its time, and pages of evidence, observations and the ledger have indexes."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

EVIDENCE = {"run": "run_id", "plane": "plane_id", "query": "query_hash"}
ACTORS = {"actor": "actor_id", "actor_type": "actor_type"}
REFUSED = sa.text("outcome <> 'ALLOWED'")


def upgrade() -> None:
    for name, column in _by_id():
        op.drop_index(name, "retrieval_evidence")
        op.create_index(name, "retrieval_evidence", ["tenant_id", column, "requested_at", "evidence_id"])
    op.create_index(
        "ix_retrieval_evidence_time", "retrieval_evidence", ["tenant_id", "requested_at", "evidence_id"]
    )
    for column in ("outcome", "reason_code"):
        op.create_index(
            f"ix_retrieval_evidence_{column}",
            "retrieval_evidence",
            ["tenant_id", column, "requested_at", "evidence_id"],
            sqlite_where=REFUSED,
            postgresql_where=REFUSED,
        )
    op.create_index(
        "ix_retrieval_observations_time",
        "retrieval_observations",
        ["tenant_id", "started_at", "trace_id", "span_id"],
    )
    for name, column in ACTORS.items():
        op.create_index(
            f"ix_audit_ledger_{name}", "audit_ledger", ["tenant_id", column, "created_at", "entry_id"]
        )


def downgrade() -> None:
    for name in ACTORS:
        op.drop_index(f"ix_audit_ledger_{name}", "audit_ledger")
    op.drop_index("ix_retrieval_observations_time", "retrieval_observations")
    for name in ("time", "outcome", "reason_code"):
        op.drop_index(f"ix_retrieval_evidence_{name}", "retrieval_evidence")
    for name, column in _by_id():
        op.drop_index(name, "retrieval_evidence")
        op.create_index(name, "retrieval_evidence", ["tenant_id", column, "evidence_id"])


def _by_id() -> Iterator[tuple[str, str]]:
    """Yield the indexes of evidence that ended in its id alone, and what they are about."""
    for name, column in EVIDENCE.items():
        yield f"ix_retrieval_evidence_{name}", column
