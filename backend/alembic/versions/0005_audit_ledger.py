"""The audit ledger."""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op
from hoc_ddl import TS, append_only, drop_tables, row_level_security

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

EVENTS = [
    "TenantCreated",
    "TenantUpdated",
    "TenantSuspended",
    "TenantActivated",
    "TenantClosed",
    "EmergencyOverrideActivated",
    "EmergencyOverrideDeactivated",
    "DegradedModeEntered",
    "DegradedModeExited",
    "ApiKeyCreated",
    "ApiKeyFrozen",
    "ApiKeyUnfrozen",
    "ApiKeyRevoked",
    "RunHalted",
    "RunCancelled",
    "PolicyRuleCreated",
    "PolicyRuleModified",
    "PolicyRuleRetired",
    "PolicyProposalCreated",
    "PolicyProposalModified",
    "PolicyProposalApproved",
    "PolicyProposalRejected",
    "LimitCreated",
    "LimitUpdated",
    "LimitBreached",
    "LimitOverrideRequested",
    "LimitOverrideGranted",
    "LimitOverrideRejected",
    "LimitOverrideRevoked",
    "LimitOverrideExpired",
    "IncidentCreated",
    "IncidentAcknowledged",
    "IncidentEscalated",
    "IncidentResolved",
    "IncidentManuallyClosed",
    "LessonConverted",
    "LessonDeferred",
    "LessonDismissed",
    "LessonReactivated",
    "SignalAcknowledged",
    "SignalSuppressed",
    "SignalEscalated",
    "PlaneRegistered",
    "PlaneConfigUpdated",
    "PlaneTransitioned",
    "PlanePolicyBound",
    "PlanePolicyUnbound",
    "PlanePurgeApproved",
    "PlaneSuspended",
    "PlaneResumed",
    "PlaneRefreshRequested",
    "PlaneJobRetried",
    "PlaneJobCancelled",
    "RepositoryCollectionChanged",
    "RepositoryArtifactChanged",
    "RepositoryRelationshipChanged",
    "RepositoryRunChanged",
    "RepositoryContextPackageChanged",
    "RepositoryBundleCreated",
    "RepositoryRedacted",
    "RepositoryCollected",
    "RepositoryExported",
    "RepositoryImported",
    "RepositoryVerified",
    "EvidenceErased",
    "EvidenceArchived",
    "EvidencePurged",
    "LegalHoldPlaced",
    "LegalHoldReleased",
    "RetentionChanged",
    "LogKeyRotated",
    "LogEpochOpened",
    "LogResumed",
]
ENTITIES = [
    "TENANT",
    "SYSTEM",
    "API_KEY",
    "RUN",
    "POLICY_RULE",
    "POLICY_PROPOSAL",
    "LIMIT",
    "LIMIT_OVERRIDE",
    "INCIDENT",
    "LESSON",
    "SIGNAL",
    "PLANE",
    "REPOSITORY",
    "EVIDENCE",
    "LEGAL_HOLD",
    "RETENTION",
    "LOG",
]


def _one_of(column: str, words: list[str]) -> str:
    return f"{column} IN ({', '.join(repr(word) for word in words)})"


def upgrade() -> None:
    op.create_table(
        "audit_ledger",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("entry_id", sa.Text, nullable=False),
        sa.Column("event_type", sa.Text, nullable=False),
        sa.Column("entity_type", sa.Text, nullable=False),
        sa.Column("entity_id", sa.Text, nullable=False),
        sa.Column("actor_type", sa.Text, nullable=False),
        sa.Column("actor_id", sa.Text, nullable=False),
        sa.Column("actor_key_id", sa.Text),
        sa.Column("action_reason", sa.Text),
        sa.Column("before_state", sa.Text),
        sa.Column("after_state", sa.Text),
        sa.Column("run_id", sa.Text),
        sa.Column("operation", sa.Text, nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("correlation_id", sa.Text),
        sa.Column("created_at", TS(), nullable=False),
        sa.Column("fact_id", sa.Text, nullable=False),
        sa.Column("protected_salt", sa.Text),
        sa.Column("protected_commit", sa.Text),
        sa.Column("erased_fact_id", sa.Text),
        sa.PrimaryKeyConstraint("tenant_id", "entry_id", name="pk_audit_ledger"),
        sa.UniqueConstraint("tenant_id", "fact_id", name="uq_audit_ledger_fact_id"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "fact_id"],
            ["log_leaves.tenant_id", "log_leaves.fact_id"],
            name="fk_audit_ledger_fact_id",
            ondelete="RESTRICT",
            deferrable=True,
            initially="DEFERRED",
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "run_id"],
            ["runs.tenant_id", "runs.run_id"],
            name="fk_audit_ledger_run_id",
            ondelete="RESTRICT",
        ),
        sa.CheckConstraint(_one_of("event_type", EVENTS), name="ck_audit_ledger_event_type"),
        sa.CheckConstraint(_one_of("entity_type", ENTITIES), name="ck_audit_ledger_entity_type"),
        sa.CheckConstraint("actor_type IN ('HUMAN', 'SYSTEM', 'AGENT')", name="ck_audit_ledger_actor_type"),
    )
    for name, columns in (
        ("time", []),
        ("run", ["run_id"]),
        ("entity", ["entity_type", "entity_id"]),
        ("event", ["event_type"]),
    ):
        op.create_index(
            f"ix_audit_ledger_{name}", "audit_ledger", ["tenant_id", *columns, "created_at", "entry_id"]
        )
    row_level_security("audit_ledger")
    append_only("audit_ledger")


def downgrade() -> None:
    drop_tables("audit_ledger")
