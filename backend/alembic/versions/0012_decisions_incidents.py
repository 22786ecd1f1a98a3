"""Decisions, preventions, incidents, lessons, signals."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from alembic import op
from hoc_ddl import (
    FLAG,
    TS,
    append_only,
    drop_tables,
    fixed_columns,
    no_delete,
    on_postgresql,
    row_level_security,
    run_ddl,
)

revision = "0012"
down_revision = "0011"
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


def _leaf(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["tenant_id", "fact_id"],
        ["log_leaves.tenant_id", "log_leaves.fact_id"],
        name=f"fk_{table}_fact_id",
        ondelete="RESTRICT",
        deferrable=True,
        initially="DEFERRED",
    )


def _decision_records() -> None:
    op.create_table(
        "decision_records",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("decision_id", sa.Text, nullable=False),
        sa.Column("decision_type", sa.Text, nullable=False),
        sa.Column("decision_source", sa.Text, nullable=False),
        sa.Column("decision_trigger", sa.Text, nullable=False),
        sa.Column("causal_role", sa.Text, nullable=False),
        sa.Column("decision_inputs", sa.Text),
        sa.Column("inputs_digest", sa.Text, nullable=False),
        sa.Column("decision_outcome", sa.Text, nullable=False),
        sa.Column("decision_reason", sa.Text),
        sa.Column("run_id", sa.Text),
        sa.Column("attempt", sa.Integer),
        sa.Column("workflow_id", sa.Text),
        sa.Column("request_id", sa.Text),
        sa.Column("snapshot_id", sa.Text),
        sa.Column("matched", sa.Text, nullable=False, server_default=sa.text("'[]'")),
        sa.Column("reservation_id", sa.Text),
        sa.Column("idempotency_key", sa.Text),
        sa.Column("details", sa.Text),
        sa.Column("decided_at", TS(), nullable=False),
        sa.Column("created_at", TS(), nullable=False),
        sa.Column("fact_id", sa.Text, nullable=False),
        sa.Column("protected_salt", sa.Text),
        sa.Column("protected_commit", sa.Text),
        sa.Column("erased_fact_id", sa.Text),
        sa.PrimaryKeyConstraint("tenant_id", "decision_id", name="pk_decision_records"),
        sa.UniqueConstraint("tenant_id", "fact_id", name="uq_decision_records_fact_id"),
        sa.UniqueConstraint("tenant_id", "idempotency_key", name="uq_decision_records_idempotency_key"),
        _leaf("decision_records"),
        _reference("fk_decision_records_run_id", ("run_id",), "runs", ("run_id",)),
        sa.CheckConstraint(
            "decision_trigger IN ('EXPLICIT', 'AUTONOMOUS', 'REACTIVE')",
            name="ck_decision_records_decision_trigger",
        ),
        sa.CheckConstraint(
            "decision_outcome IN ('SELECTED', 'REJECTED', 'SKIPPED', 'BLOCKED', 'NONE',"
            " 'EXECUTION_HALTED', 'POLICY_BLOCKED', 'POLICY_UNAVAILABLE', 'RECOVERY_APPLIED',"
            " 'RECOVERY_SUGGESTED', 'RECOVERY_SKIPPED', 'BASELINE_SELECTED', 'OPTIMIZED_SELECTED',"
            " 'ALLOWED', 'AUDITED', 'WARNED', 'STOPPED', 'KILLED', 'PREVENTED')",
            name="ck_decision_records_decision_outcome",
        ),
        sa.CheckConstraint(
            "causal_role <> 'IN_RUN' OR run_id IS NOT NULL", name="ck_decision_records_in_run"
        ),
        sa.CheckConstraint(
            "causal_role IN ('PRE_RUN', 'IN_RUN', 'POST_RUN')", name="ck_decision_records_causal_role"
        ),
        sa.CheckConstraint(
            "decision_type IN ('ROUTING', 'RECOVERY', 'MEMORY', 'POLICY', 'BUDGET',"
            " 'BUDGET_ENFORCEMENT', 'POLICY_PRE_CHECK', 'RECOVERY_EVALUATION',"
            " 'CARE_ROUTING_OPTIMIZED', 'POLICY_EVALUATION')",
            name="ck_decision_records_decision_type",
        ),
        sa.CheckConstraint(
            "decision_source IN ('HUMAN', 'SYSTEM', 'HYBRID')", name="ck_decision_records_decision_source"
        ),
    )
    op.create_index(
        "ix_decision_records_outcome",
        "decision_records",
        ["tenant_id", "decision_outcome", "decided_at", "decision_id"],
    )
    op.create_index(
        "ix_decision_records_request",
        "decision_records",
        ["tenant_id", "request_id", "decided_at", "decision_id"],
    )
    op.create_index(
        "ix_decision_records_role",
        "decision_records",
        ["tenant_id", "causal_role", "decided_at", "decision_id"],
    )
    op.create_index(
        "ix_decision_records_run", "decision_records", ["tenant_id", "run_id", "decided_at", "decision_id"]
    )
    op.create_index(
        "ix_decision_records_time", "decision_records", ["tenant_id", "decided_at", "decision_id"]
    )
    op.create_index(
        "ix_decision_records_type",
        "decision_records",
        ["tenant_id", "decision_type", "decided_at", "decision_id"],
    )
    row_level_security("decision_records")
    append_only("decision_records")


def _decision_links() -> None:
    op.create_table(
        "decision_links",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("decision_id", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("created_at", TS(), nullable=False),
        sa.Column("fact_id", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "decision_id", "run_id", name="pk_decision_links"),
        sa.UniqueConstraint("tenant_id", "fact_id", name="uq_decision_links_fact_id"),
        _reference("fk_decision_links_decision_id", ("decision_id",), "decision_records", ("decision_id",)),
        _leaf("decision_links"),
        _reference("fk_decision_links_run_id", ("run_id",), "runs", ("run_id",)),
    )
    op.create_index("ix_decision_links_run", "decision_links", ["tenant_id", "run_id", "decision_id"])
    row_level_security("decision_links")
    append_only("decision_links")


def _prevention_records() -> None:
    op.create_table(
        "prevention_records",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("prevention_id", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text),
        sa.Column("attempt", sa.Integer),
        sa.Column("rule_id", sa.Text, nullable=False),
        sa.Column("rule_version", sa.Integer, nullable=False),
        sa.Column("rule_hash", sa.Text, nullable=False),
        sa.Column("snapshot_id", sa.Text),
        sa.Column("decision_id", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("moment", sa.Text, nullable=False),
        sa.Column("signature", sa.Text),
        sa.Column("confidence", sa.Integer, nullable=False, server_default=sa.text("100")),
        sa.Column("prevented_event", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("is_synthetic", FLAG, nullable=False),
        sa.Column("created_at", TS(), nullable=False),
        sa.Column("fact_id", sa.Text, nullable=False),
        sa.Column("protected_salt", sa.Text),
        sa.Column("protected_commit", sa.Text),
        sa.Column("erased_fact_id", sa.Text),
        sa.PrimaryKeyConstraint("tenant_id", "prevention_id", name="pk_prevention_records"),
        sa.UniqueConstraint("tenant_id", "fact_id", name="uq_prevention_records_fact_id"),
        _reference(
            "fk_prevention_records_decision_id", ("decision_id",), "decision_records", ("decision_id",)
        ),
        _leaf("prevention_records"),
        _reference(
            "fk_prevention_records_rule_id",
            ("rule_id", "rule_version"),
            "policy_rule_versions",
            ("rule_id", "rule_version"),
        ),
        _reference("fk_prevention_records_run_id", ("run_id",), "runs", ("run_id",)),
        sa.CheckConstraint("confidence BETWEEN 0 AND 100", name="ck_prevention_records_confidence"),
        sa.CheckConstraint("length(rule_hash) = 64", name="ck_prevention_records_rule_hash"),
        sa.CheckConstraint(
            "moment IN ('START', 'STEP', 'USAGE', 'COMPLETION', 'INCIDENT')",
            name="ck_prevention_records_moment",
        ),
        sa.CheckConstraint(
            "outcome IN ('AUDITED', 'WARNED', 'BLOCKED', 'STOPPED', 'PREVENTED')",
            name="ck_prevention_records_outcome",
        ),
    )
    op.create_index(
        "ix_prevention_records_rule",
        "prevention_records",
        ["tenant_id", "rule_id", "created_at", "prevention_id"],
    )
    op.create_index(
        "ix_prevention_records_run",
        "prevention_records",
        ["tenant_id", "run_id", "created_at", "prevention_id"],
    )
    op.create_index(
        "ix_prevention_records_time", "prevention_records", ["tenant_id", "created_at", "prevention_id"]
    )
    row_level_security("prevention_records")
    append_only("prevention_records")


def _incidents() -> None:
    op.create_table(
        "incidents",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("incident_id", sa.Text, nullable=False),
        sa.Column("source_run_id", sa.Text),
        sa.Column("attempt", sa.Integer),
        sa.Column("cause_type", sa.Text, nullable=False),
        sa.Column("source_type", sa.Text, nullable=False),
        sa.Column("category", sa.Text, nullable=False),
        sa.Column("title", sa.Text),
        sa.Column("description", sa.Text),
        sa.Column("error_code", sa.Text),
        sa.Column("error_message", sa.Text),
        sa.Column("trigger_ref", sa.Text),
        sa.Column("impact_scope", sa.Text, nullable=False),
        sa.Column("affected_agent_id", sa.Text),
        sa.Column("recurrence_signature", sa.Text, nullable=False),
        sa.Column("signature_version", sa.Text, nullable=False, server_default="sig-1"),
        sa.Column("recurrence_of", sa.Text),
        sa.Column("recurrence_count", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("dedupe_key", sa.Text),
        sa.Column("is_synthetic", FLAG, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("severity", sa.Text, nullable=False),
        sa.Column("lifecycle_state", sa.Text, nullable=False, server_default="ACTIVE"),
        sa.Column("acked_at", TS()),
        sa.Column("acked_by", sa.Text),
        sa.Column("escalated_at", TS()),
        sa.Column("resolved_at", TS()),
        sa.Column("resolved_by", sa.Text),
        sa.Column("resolution_method", sa.Text),
        sa.Column("resolution_type", sa.Text),
        sa.Column("resolution_summary", sa.Text),
        sa.Column("resolution_notes", sa.Text),
        sa.Column("protected_salt", sa.Text),
        sa.Column("protected_commit", sa.Text),
        sa.Column("erased_fact_id", sa.Text),
        sa.Column("created_at", TS(), nullable=False),
        sa.Column("updated_at", TS(), nullable=False),
        sa.Column("version", sa.Integer, nullable=False, server_default=sa.text("1")),
        sa.PrimaryKeyConstraint("tenant_id", "incident_id", name="pk_incidents"),
        sa.UniqueConstraint("tenant_id", "dedupe_key", name="uq_incidents_dedupe_key"),
        _reference("fk_incidents_recurrence_of", ("recurrence_of",), "incidents", ("incident_id",)),
        _reference("fk_incidents_source_run_id", ("source_run_id",), "runs", ("run_id",)),
        sa.CheckConstraint("cause_type IN ('LLM_RUN', 'SYSTEM', 'HUMAN')", name="ck_incidents_cause_type"),
        sa.CheckConstraint(
            "impact_scope IN ('SINGLE_RUN', 'AGENT', 'TENANT', 'SYSTEM')", name="ck_incidents_impact_scope"
        ),
        sa.CheckConstraint(
            "(lifecycle_state = 'RESOLVED') = (resolved_at IS NOT NULL)"
            " AND (lifecycle_state = 'RESOLVED') = (resolved_by IS NOT NULL)"
            " AND (lifecycle_state = 'RESOLVED') = (resolution_method IS NOT NULL)",
            name="ck_incidents_resolved",
        ),
        sa.CheckConstraint(
            "category IN ('EXECUTION_FAILURE', 'BUDGET_EXCEEDED', 'RATE_LIMIT', 'RESOURCE_EXHAUSTION',"
            " 'POLICY_VIOLATION', 'INTEGRITY', 'MANUAL')",
            name="ck_incidents_category",
        ),
        sa.CheckConstraint("(acked_at IS NULL) = (acked_by IS NULL)", name="ck_incidents_acked"),
        sa.CheckConstraint(
            "lifecycle_state IN ('ACTIVE', 'ACKED', 'RESOLVED')", name="ck_incidents_lifecycle_state"
        ),
        sa.CheckConstraint(
            "source_type IN ('RUN', 'POLICY', 'LIMIT', 'SIGNAL', 'VERIFIER', 'MANUAL')",
            name="ck_incidents_source_type",
        ),
        sa.CheckConstraint("recurrence_count >= 0", name="ck_incidents_recurrence_count"),
        sa.CheckConstraint("length(recurrence_signature) = 32", name="ck_incidents_recurrence_signature"),
        sa.CheckConstraint("severity IN ('CRITICAL', 'HIGH', 'MEDIUM', 'LOW')", name="ck_incidents_severity"),
        sa.CheckConstraint(
            "resolution_method IN ('AUTO', 'MANUAL', 'ROLLBACK', 'MANUAL_CLOSURE')",
            name="ck_incidents_resolution_method",
        ),
    )
    op.create_index(
        "ix_incidents_category", "incidents", ["tenant_id", "category", "created_at", "incident_id"]
    )
    op.create_index(
        "ix_incidents_run", "incidents", ["tenant_id", "source_run_id", "created_at", "incident_id"]
    )
    op.create_index(
        "ix_incidents_severity", "incidents", ["tenant_id", "severity", "created_at", "incident_id"]
    )
    op.create_index(
        "ix_incidents_signature",
        "incidents",
        ["tenant_id", "recurrence_signature", "created_at", "incident_id"],
    )
    op.create_index(
        "ix_incidents_state", "incidents", ["tenant_id", "lifecycle_state", "created_at", "incident_id"]
    )
    op.create_index("ix_incidents_time", "incidents", ["tenant_id", "created_at", "incident_id"])
    row_level_security("incidents")
    no_delete("incidents")
    fixed_columns(
        "incidents",
        (
            "tenant_id",
            "incident_id",
            "source_run_id",
            "attempt",
            "cause_type",
            "source_type",
            "category",
            "title",
            "description",
            "error_code",
            "error_message",
            "trigger_ref",
            "impact_scope",
            "affected_agent_id",
            "recurrence_signature",
            "signature_version",
            "recurrence_of",
            "recurrence_count",
            "dedupe_key",
            "is_synthetic",
            "created_by",
            "created_at",
        ),
    )


def _incident_events() -> None:
    op.create_table(
        "incident_events",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("incident_id", sa.Text, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("event_type", sa.Text, nullable=False),
        sa.Column("description", sa.Text),
        sa.Column("data", sa.Text),
        sa.Column("actor_type", sa.Text, nullable=False),
        sa.Column("actor_id", sa.Text),
        sa.Column("created_at", TS(), nullable=False),
        sa.Column("fact_id", sa.Text, nullable=False),
        sa.Column("protected_salt", sa.Text),
        sa.Column("protected_commit", sa.Text),
        sa.Column("erased_fact_id", sa.Text),
        sa.PrimaryKeyConstraint("tenant_id", "incident_id", "seq", name="pk_incident_events"),
        sa.UniqueConstraint("tenant_id", "fact_id", name="uq_incident_events_fact_id"),
        _leaf("incident_events"),
        _reference("fk_incident_events_incident_id", ("incident_id",), "incidents", ("incident_id",)),
        sa.CheckConstraint(
            "event_type IN ('CREATED', 'ACKNOWLEDGED', 'ESCALATED', 'RESOLVED', 'MANUALLY_CLOSED')",
            name="ck_incident_events_event_type",
        ),
        sa.CheckConstraint("seq >= 1", name="ck_incident_events_seq"),
        sa.CheckConstraint(
            "actor_type IN ('HUMAN', 'SYSTEM', 'AGENT')", name="ck_incident_events_actor_type"
        ),
    )
    row_level_security("incident_events")
    append_only("incident_events")


def _incident_links() -> None:
    op.create_table(
        "incident_links",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("incident_id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("ref", sa.Text, nullable=False),
        sa.Column("created_at", TS(), nullable=False),
        sa.Column("fact_id", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "incident_id", "kind", "ref", name="pk_incident_links"),
        sa.UniqueConstraint("tenant_id", "fact_id", name="uq_incident_links_fact_id"),
        _leaf("incident_links"),
        _reference("fk_incident_links_incident_id", ("incident_id",), "incidents", ("incident_id",)),
        sa.CheckConstraint(
            "kind IN ('BREACH', 'PREVENTION', 'DECISION', 'RETRIEVAL', 'LESSON', 'SIGNAL')",
            name="ck_incident_links_kind",
        ),
    )
    op.create_index("ix_incident_links_ref", "incident_links", ["tenant_id", "kind", "ref"])
    row_level_security("incident_links")
    append_only("incident_links")


def _lessons_learned() -> None:
    op.create_table(
        "lessons_learned",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("lesson_id", sa.Text, nullable=False),
        sa.Column("lesson_type", sa.Text, nullable=False),
        sa.Column("severity", sa.Text),
        sa.Column("source_event_id", sa.Text, nullable=False),
        sa.Column("source_event_type", sa.Text, nullable=False),
        sa.Column("source_run_id", sa.Text),
        sa.Column("title", sa.Text),
        sa.Column("description", sa.Text),
        sa.Column("proposed_action", sa.Text),
        sa.Column("detected_pattern", sa.Text, nullable=False),
        sa.Column("threshold_band", sa.Text),
        sa.Column("is_synthetic", FLAG, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("draft_proposal_id", sa.Text),
        sa.Column("converted_at", TS()),
        sa.Column("converted_by", sa.Text),
        sa.Column("deferred_until", TS()),
        sa.Column("dismissed_at", TS()),
        sa.Column("dismissed_by", sa.Text),
        sa.Column("dismissed_reason", sa.Text),
        sa.Column("protected_salt", sa.Text),
        sa.Column("protected_commit", sa.Text),
        sa.Column("erased_fact_id", sa.Text),
        sa.Column("created_at", TS(), nullable=False),
        sa.Column("updated_at", TS(), nullable=False),
        sa.Column("version", sa.Integer, nullable=False, server_default=sa.text("1")),
        sa.PrimaryKeyConstraint("tenant_id", "lesson_id", name="pk_lessons_learned"),
        sa.UniqueConstraint("tenant_id", "source_event_id", "lesson_type", name="uq_lessons_learned_source"),
        _reference(
            "fk_lessons_learned_draft_proposal_id",
            ("draft_proposal_id",),
            "policy_proposals",
            ("proposal_id",),
        ),
        _reference("fk_lessons_learned_source_run_id", ("source_run_id",), "runs", ("run_id",)),
        sa.CheckConstraint(
            "(status = 'DEFERRED') = (deferred_until IS NOT NULL)", name="ck_lessons_learned_deferred"
        ),
        sa.CheckConstraint(
            "(status = 'CONVERTED_TO_DRAFT') = (draft_proposal_id IS NOT NULL)"
            " AND (status = 'CONVERTED_TO_DRAFT') = (converted_at IS NOT NULL)"
            " AND (status = 'CONVERTED_TO_DRAFT') = (converted_by IS NOT NULL)",
            name="ck_lessons_learned_converted",
        ),
        sa.CheckConstraint(
            "lesson_type IN ('FAILURE', 'NEAR_THRESHOLD', 'CRITICAL_SUCCESS')",
            name="ck_lessons_learned_lesson_type",
        ),
        sa.CheckConstraint(
            "(status = 'DISMISSED') = (dismissed_at IS NOT NULL)"
            " AND (status = 'DISMISSED') = (dismissed_by IS NOT NULL)",
            name="ck_lessons_learned_dismissed",
        ),
        sa.CheckConstraint(
            "source_event_type IN ('RUN', 'INCIDENT', 'LIMIT')", name="ck_lessons_learned_source_event_type"
        ),
        sa.CheckConstraint(
            "status IN ('PENDING', 'CONVERTED_TO_DRAFT', 'DEFERRED', 'DISMISSED')",
            name="ck_lessons_learned_status",
        ),
        sa.CheckConstraint(
            "severity IN ('CRITICAL', 'HIGH', 'MEDIUM', 'LOW', 'NONE')", name="ck_lessons_learned_severity"
        ),
    )
    op.create_index(
        "ix_lessons_learned_due",
        "lessons_learned",
        ["deferred_until", "tenant_id"],
        sqlite_where=sa.text("status = 'DEFERRED'"),
        postgresql_where=sa.text("status = 'DEFERRED'"),
    )
    op.create_index(
        "ix_lessons_learned_run", "lessons_learned", ["tenant_id", "source_run_id", "created_at", "lesson_id"]
    )
    op.create_index(
        "ix_lessons_learned_severity", "lessons_learned", ["tenant_id", "severity", "created_at", "lesson_id"]
    )
    op.create_index(
        "ix_lessons_learned_status", "lessons_learned", ["tenant_id", "status", "created_at", "lesson_id"]
    )
    op.create_index("ix_lessons_learned_time", "lessons_learned", ["tenant_id", "created_at", "lesson_id"])
    op.create_index(
        "ix_lessons_learned_type", "lessons_learned", ["tenant_id", "lesson_type", "created_at", "lesson_id"]
    )
    row_level_security("lessons_learned")
    no_delete("lessons_learned")
    fixed_columns(
        "lessons_learned",
        (
            "tenant_id",
            "lesson_id",
            "lesson_type",
            "severity",
            "source_event_id",
            "source_event_type",
            "source_run_id",
            "title",
            "description",
            "proposed_action",
            "detected_pattern",
            "threshold_band",
            "is_synthetic",
            "created_at",
        ),
    )


def _lesson_debounce() -> None:
    op.create_table(
        "lesson_debounce",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("debounce_key", sa.Text, nullable=False),
        sa.Column("last_at", TS(), nullable=False),
        sa.Column("created_at", TS(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "debounce_key", name="pk_lesson_debounce"),
    )
    row_level_security("lesson_debounce")
    no_delete("lesson_debounce")
    fixed_columns("lesson_debounce", ("tenant_id", "debounce_key", "created_at"))


def _discovery_ledger() -> None:
    op.create_table(
        "discovery_ledger",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("signal_id", sa.Text, nullable=False),
        sa.Column("artifact", sa.Text, nullable=False),
        sa.Column("field", sa.Text),
        sa.Column("signal_type", sa.Text, nullable=False),
        sa.Column("detected_by", sa.Text, nullable=False),
        sa.Column("phase", sa.Text),
        sa.Column("environment", sa.Text),
        sa.Column("first_seen_at", TS(), nullable=False),
        sa.Column("notes", sa.Text),
        sa.Column("evidence", sa.Text, nullable=False),
        sa.Column("confidence", sa.Integer),
        sa.Column("last_seen_at", TS(), nullable=False),
        sa.Column("seen_count", sa.Integer, nullable=False, server_default=sa.text("1")),
        sa.Column("last_run_id", sa.Text),
        sa.Column("status", sa.Text, nullable=False, server_default="OBSERVED"),
        sa.Column("acked_at", TS()),
        sa.Column("acked_by", sa.Text),
        sa.Column("suppressed_until", TS()),
        sa.Column("incident_id", sa.Text),
        sa.Column("created_at", TS(), nullable=False),
        sa.Column("updated_at", TS(), nullable=False),
        sa.Column("version", sa.Integer, nullable=False, server_default=sa.text("1")),
        sa.PrimaryKeyConstraint("tenant_id", "signal_id", name="pk_discovery_ledger"),
        _reference("fk_discovery_ledger_incident_id", ("incident_id",), "incidents", ("incident_id",)),
        _reference("fk_discovery_ledger_last_run_id", ("last_run_id",), "runs", ("run_id",)),
        sa.CheckConstraint(
            "confidence IS NULL OR confidence BETWEEN 0 AND 100", name="ck_discovery_ledger_confidence"
        ),
        sa.CheckConstraint(
            "status IN ('OBSERVED', 'IGNORED', 'PROMOTED')", name="ck_discovery_ledger_status"
        ),
        sa.CheckConstraint("seen_count >= 1", name="ck_discovery_ledger_seen_count"),
    )
    op.create_index(
        "ix_discovery_ledger_seen",
        "discovery_ledger",
        ["tenant_id", "seen_count", "last_seen_at", "signal_id"],
    )
    op.create_index(
        "ix_discovery_ledger_status",
        "discovery_ledger",
        ["tenant_id", "status", "seen_count", "last_seen_at", "signal_id"],
    )
    op.create_index(
        "ix_discovery_ledger_type",
        "discovery_ledger",
        ["tenant_id", "signal_type", "seen_count", "last_seen_at", "signal_id"],
    )
    op.create_index(
        "uq_discovery_ledger_with_field",
        "discovery_ledger",
        ["tenant_id", "artifact", "field", "signal_type"],
        unique=True,
        sqlite_where=sa.text("field IS NOT NULL"),
        postgresql_where=sa.text("field IS NOT NULL"),
    )
    op.create_index(
        "uq_discovery_ledger_without_field",
        "discovery_ledger",
        ["tenant_id", "artifact", "signal_type"],
        unique=True,
        sqlite_where=sa.text("field IS NULL"),
        postgresql_where=sa.text("field IS NULL"),
    )
    row_level_security("discovery_ledger")
    no_delete("discovery_ledger")
    fixed_columns(
        "discovery_ledger",
        (
            "tenant_id",
            "signal_id",
            "artifact",
            "field",
            "signal_type",
            "detected_by",
            "phase",
            "environment",
            "first_seen_at",
            "notes",
            "created_at",
        ),
    )


_DECISION = "fk_aos_trace_steps_decision_id"
_DECISION_SQL = f""",
    CONSTRAINT {_DECISION} FOREIGN KEY(tenant_id, decision_id)
        REFERENCES decision_records (tenant_id, decision_id) ON DELETE RESTRICT
)"""


def _rewrite_steps(change: Callable[[str], str]) -> None:
    """Make the steps table of SQLite anew with a changed definition: SQLite adds no key to a table."""
    parts = (
        op.get_bind()
        .execute(
            sa.text(
                "SELECT type, name, sql FROM sqlite_master"
                " WHERE tbl_name = 'aos_trace_steps' AND sql IS NOT NULL"
            )
        )
        .all()
    )
    (table,) = (part.sql for part in parts if part.type == "table")
    others = [part for part in parts if part.type != "table"]
    run_ddl(
        sqlite=(
            *(f"DROP {part.type} {part.name}" for part in others),
            "ALTER TABLE aos_trace_steps RENAME TO aos_trace_steps_before",
            change(table),
            "INSERT INTO aos_trace_steps SELECT * FROM aos_trace_steps_before",
            "DROP TABLE aos_trace_steps_before",
            *(part.sql for part in others),
        )
    )


def _with_decision_key(table: str) -> str:
    return table.rstrip()[:-1].rstrip() + _DECISION_SQL


def _without_decision_key(table: str) -> str:
    return table.replace(_DECISION_SQL, "\n)")


def upgrade() -> None:
    _decision_records()
    _decision_links()
    _prevention_records()
    _incidents()
    _incident_events()
    _incident_links()
    _lessons_learned()
    _lesson_debounce()
    _discovery_ledger()
    if on_postgresql():
        op.create_foreign_key(
            _DECISION,
            "aos_trace_steps",
            "decision_records",
            ["tenant_id", "decision_id"],
            ["tenant_id", "decision_id"],
            ondelete="RESTRICT",
        )
    else:
        _rewrite_steps(_with_decision_key)


def downgrade() -> None:
    if on_postgresql():
        op.drop_constraint(_DECISION, "aos_trace_steps", type_="foreignkey")
    else:
        _rewrite_steps(_without_decision_key)
    drop_tables(
        "discovery_ledger",
        "lesson_debounce",
        "lessons_learned",
        "incident_links",
        "incident_events",
        "incidents",
        "prevention_records",
        "decision_links",
        "decision_records",
    )
