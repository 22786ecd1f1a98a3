"""Evidence of mediated retrieval."""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op
from hoc_ddl import BIGINT, FLAG, TS, append_only, drop_tables, row_level_security

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

REASONS = [
    "OK",
    "TENANT_INACTIVE",
    "KILL_SWITCH",
    "RUN_NOT_FOUND",
    "RUN_NOT_RUNNING",
    "ATTEMPT_MISMATCH",
    "PLANE_NOT_FOUND",
    "PLANE_NOT_ACTIVE",
    "PLANE_SUSPENDED",
    "PLANE_CHANGED",
    "SNAPSHOT_INVALID",
    "NO_POLICY_BOUND",
    "DENIED_BY_RULE",
    "ACTION_NOT_ALLOWED",
    "POLICY_CONDITION_ERROR",
    "NO_MATCHING_RULE",
    "POLICY_REVOKED",
    "ACTION_NOT_SUPPORTED",
    "INVALID_PAYLOAD",
    "TEMPLATE_NOT_ALLOWED",
    "CONNECTOR_ERROR",
    "CREDENTIAL_UNAVAILABLE",
    "HOST_NOT_ALLOWED",
    "RESPONSE_INVALID",
    "RESPONSE_TOO_LARGE",
    "CONNECTOR_TIMEOUT",
    "CONNECTOR_BUSY",
    "CONNECTOR_UNAVAILABLE",
    "INTERNAL_ERROR",
]


def _evidence() -> None:
    reasons = ", ".join(f"'{reason}'" for reason in REASONS)
    op.create_table(
        "retrieval_evidence",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("evidence_id", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer),
        sa.Column("plane_id", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("purpose", sa.Text),
        sa.Column("step_index", sa.Integer),
        sa.Column("actor_id", sa.Text, nullable=False),
        sa.Column("request_id", sa.Text),
        sa.Column("trace_id", sa.Text),
        sa.Column("span_id", sa.Text),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("reason_code", sa.Text, nullable=False),
        sa.Column("revoked_in_flight", FLAG, nullable=False),
        sa.Column("connector_id", sa.Text),
        sa.Column("plane_state_value", sa.Integer),
        sa.Column("plane_version", BIGINT),
        sa.Column("config_digest", sa.Text),
        sa.Column("sensitivity_level", sa.Text),
        sa.Column("policy_snapshot_id", sa.Text),
        sa.Column("policy_snapshot_hash", sa.Text),
        sa.Column("matched_rules", sa.Text, nullable=False),
        sa.Column("query_hash", sa.Text, nullable=False),
        sa.Column("query", sa.Text),
        sa.Column("documents", sa.Text, nullable=False),
        sa.Column("doc_count", sa.Integer, nullable=False),
        sa.Column("token_count", sa.Integer, nullable=False),
        sa.Column("bytes_returned", BIGINT, nullable=False),
        sa.Column("truncated", FLAG, nullable=False),
        sa.Column("requested_at", TS(), nullable=False),
        sa.Column("completed_at", TS(), nullable=False),
        sa.Column("duration_ms", sa.Integer, nullable=False),
        sa.Column("created_at", TS(), nullable=False),
        sa.Column("fact_id", sa.Text, nullable=False),
        sa.Column("protected_salt", sa.Text),
        sa.Column("protected_commit", sa.Text),
        sa.Column("erased_fact_id", sa.Text),
        sa.PrimaryKeyConstraint("tenant_id", "evidence_id", name="pk_retrieval_evidence"),
        sa.UniqueConstraint("tenant_id", "fact_id", name="uq_retrieval_evidence_fact_id"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "fact_id"],
            ["log_leaves.tenant_id", "log_leaves.fact_id"],
            name="fk_retrieval_evidence_fact_id",
            ondelete="RESTRICT",
            deferrable=True,
            initially="DEFERRED",
        ),
        sa.CheckConstraint(
            "outcome IN ('ALLOWED', 'DENIED', 'FAILED')", name="ck_retrieval_evidence_outcome"
        ),
        sa.CheckConstraint(f"reason_code IN ({reasons})", name="ck_retrieval_evidence_reason_code"),
        sa.CheckConstraint(
            "action IN ('query', 'retrieve', 'search', 'list')", name="ck_retrieval_evidence_action"
        ),
        sa.CheckConstraint(
            "(outcome = 'ALLOWED') = (reason_code = 'OK')", name="ck_retrieval_evidence_allowed_is_ok"
        ),
        sa.CheckConstraint(
            "outcome <> 'ALLOWED' OR (plane_state_value = 200 AND attempt IS NOT NULL"
            " AND connector_id IS NOT NULL AND policy_snapshot_id IS NOT NULL)",
            name="ck_retrieval_evidence_allowed_is_complete",
        ),
        sa.CheckConstraint(
            "outcome = 'ALLOWED' OR"
            " (documents = '[]' AND doc_count = 0 AND token_count = 0 AND bytes_returned = 0)",
            name="ck_retrieval_evidence_refused_is_empty",
        ),
        sa.CheckConstraint("length(query_hash) = 64", name="ck_retrieval_evidence_query_hash"),
        sa.CheckConstraint("completed_at >= requested_at", name="ck_retrieval_evidence_times"),
    )
    for name, column in (("run", "run_id"), ("plane", "plane_id"), ("query", "query_hash")):
        op.create_index(
            f"ix_retrieval_evidence_{name}", "retrieval_evidence", ["tenant_id", column, "evidence_id"]
        )
    row_level_security("retrieval_evidence")
    append_only("retrieval_evidence")


def _documents() -> None:
    op.create_table(
        "retrieval_evidence_documents",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("evidence_id", sa.Text, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("doc_ref", sa.Text, nullable=False),
        sa.Column("revision", sa.Integer),
        sa.Column("digest", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint(
            "tenant_id", "evidence_id", "position", name="pk_retrieval_evidence_documents"
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "evidence_id"],
            ["retrieval_evidence.tenant_id", "retrieval_evidence.evidence_id"],
            name="fk_retrieval_evidence_documents_evidence_id",
            ondelete="RESTRICT",
        ),
    )
    op.create_index(
        "ix_retrieval_evidence_documents_ref",
        "retrieval_evidence_documents",
        ["tenant_id", "doc_ref", "revision", "evidence_id"],
    )
    op.create_index(
        "ix_retrieval_evidence_documents_digest",
        "retrieval_evidence_documents",
        ["tenant_id", "digest", "evidence_id"],
    )
    row_level_security("retrieval_evidence_documents")
    append_only("retrieval_evidence_documents")


def upgrade() -> None:
    _evidence()
    _documents()


def downgrade() -> None:
    drop_tables("retrieval_evidence_documents", "retrieval_evidence")
