"""Erasures, legal holds, and the one change that recorded rows allow: their protected values go."""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op
from hoc_ddl import (
    TS,
    append_only,
    drop_tables,
    erasure_of,
    fixed_columns,
    no_delete,
    on_postgresql,
    refuse,
    refuse_instead,
    row_level_security,
)

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

# Of each table: the members that an erasure takes, and all columns that it leaves as they are.
RECORDS = {
    "audit_ledger": (
        "action_reason",
        (
            "tenant_id entry_id event_type entity_type entity_id actor_type actor_id actor_key_id "
            "before_state after_state run_id operation request_id correlation_id created_at fact_id "
            "protected_commit"
        ),
    ),
    "aos_trace_steps": (
        "params outcome_data",
        (
            "tenant_id trace_id step_index skill_id skill_name status outcome_category outcome_code "
            "cost_micro duration_us retry_count input_hash output_hash rng_state_before replay_behavior "
            "level side_effect decision_id reservation_id usage external_id redactions redaction_version "
            "occurred_at recorded_at content_hash prev_hash step_hash protected_commit"
        ),
    ),
    "decision_records": (
        "decision_inputs decision_reason details",
        (
            "tenant_id decision_id decision_type decision_source decision_trigger causal_role inputs_digest "
            "decision_outcome run_id attempt workflow_id request_id snapshot_id matched reservation_id "
            "idempotency_key decided_at created_at fact_id protected_commit"
        ),
    ),
    "incident_events": (
        "description data",
        "tenant_id incident_id seq event_type actor_type actor_id created_at fact_id protected_commit",
    ),
    "limit_breaches": (
        "details",
        (
            "tenant_id breach_id limit_id limit_version run_id run_key attempt decision_id breach_type "
            "value_at_breach limit_value override_id window_key breached_at created_at fact_id "
            "protected_commit"
        ),
    ),
    "plane_lifecycle_events": (
        "reason",
        (
            "tenant_id plane_id seq event_id event_type from_state_value to_state_value action actor_type "
            "actor_id decision error_code required_action gate job_id approval_id plane_version "
            "config_digest details request_id trace_id occurred_at protected_commit fact_id"
        ),
    ),
    "prevention_records": (
        "prevented_event reason",
        (
            "tenant_id prevention_id run_id attempt rule_id rule_version rule_hash snapshot_id decision_id "
            "outcome moment signature confidence is_synthetic created_at fact_id protected_commit"
        ),
    ),
    "retrieval_evidence": (
        "query",
        (
            "tenant_id evidence_id run_id attempt plane_id action purpose step_index actor_id request_id "
            "trace_id span_id outcome reason_code revoked_in_flight connector_id plane_state_value "
            "plane_version config_digest sensitivity_level policy_snapshot_id policy_snapshot_hash "
            "matched_rules query_hash documents doc_count token_count bytes_returned truncated requested_at "
            "completed_at duration_ms created_at fact_id protected_commit"
        ),
    ),
}
HEADS = {
    "runs": (
        "goal error_message",
        (
            "tenant_id run_id run_no agent_id project_id parent_run_id actor_type actor_id origin_system_id "
            "labels source provider_type model is_synthetic synthetic_scenario_id max_attempts "
            "policy_snapshot_id authorization start_digest started_at deadline_at created_by_key request_id "
            "traceparent subject_ref status attempt termination_reason stopped_at_step violation_rule_id "
            "error_code completed_at complete_digest risk_level policy_violation policy_draft_count "
            "incident_count last_seen_at created_at updated_at version protected_commit"
        ),
    ),
    "incidents": (
        "title description error_message resolution_summary resolution_notes",
        (
            "tenant_id incident_id source_run_id attempt cause_type source_type category error_code "
            "trigger_ref impact_scope affected_agent_id recurrence_signature signature_version "
            "recurrence_of recurrence_count dedupe_key is_synthetic created_by severity lifecycle_state "
            "acked_at acked_by escalated_at resolved_at resolved_by resolution_method resolution_type "
            "protected_commit created_at updated_at version"
        ),
    ),
    "lessons_learned": (
        "title description dismissed_reason",
        (
            "tenant_id lesson_id lesson_type severity source_event_id source_event_type source_run_id "
            "proposed_action detected_pattern threshold_band is_synthetic status draft_proposal_id "
            "converted_at converted_by deferred_until dismissed_at dismissed_by protected_commit created_at "
            "updated_at version"
        ),
    ),
    "limit_overrides": (
        "reason review_notes",
        (
            "tenant_id override_id limit_id override_value starts_at expires_at requested_by status "
            "reviewed_at reviewed_by cancelled_at cancelled_by protected_commit created_at updated_at "
            "version"
        ),
    ),
    "policy_proposals": (
        "title rationale proposed review_notes",
        (
            "tenant_id proposal_id kind source source_ref source_run_id created_by status reviewed_at "
            "reviewed_by result_ref protected_commit created_at updated_at version"
        ),
    ),
}
# What never changed in these rows, and from now on changes by an erasure alone.
FIXED = {
    "runs": "tenant_id run_id run_no project_id parent_run_id goal labels source provider_type model "
    "is_synthetic synthetic_scenario_id max_attempts policy_snapshot_id authorization start_digest "
    "started_at deadline_at created_by_key request_id traceparent subject_ref created_at",
    "incidents": "tenant_id incident_id source_run_id attempt cause_type source_type category title "
    "description error_code error_message trigger_ref impact_scope affected_agent_id "
    "recurrence_signature signature_version recurrence_of recurrence_count dedupe_key is_synthetic "
    "created_by created_at",
    "lessons_learned": "tenant_id lesson_id lesson_type severity source_event_id source_event_type "
    "source_run_id title description proposed_action detected_pattern threshold_band is_synthetic "
    "created_at",
    "limit_overrides": "tenant_id override_id limit_id override_value starts_at expires_at reason "
    "requested_by created_at",
}
ENDED = (
    "status attempt termination_reason stopped_at_step violation_rule_id error_code error_message "
    "completed_at complete_digest protected_salt protected_commit erased_fact_id"
)


def _erasures() -> None:
    op.create_table(
        "erasures",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("erasure_id", sa.Text, nullable=False),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("scope_id", sa.Text, nullable=False),
        sa.Column("commitments", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("legal_basis", sa.Text),
        sa.Column("requested_by", sa.Text, nullable=False),
        sa.Column("created_at", TS(), nullable=False),
        sa.Column("fact_id", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "erasure_id", name="pk_erasures"),
        sa.UniqueConstraint("tenant_id", "fact_id", name="uq_erasures_fact_id"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "fact_id"],
            ["log_leaves.tenant_id", "log_leaves.fact_id"],
            name="fk_erasures_fact_id",
            ondelete="RESTRICT",
            deferrable=True,
            initially="DEFERRED",
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "run_id"],
            ["runs.tenant_id", "runs.run_id"],
            name="fk_erasures_run_id",
            ondelete="RESTRICT",
        ),
        sa.CheckConstraint("scope IN ('FACT', 'RUN', 'SUBJECT')", name="ck_erasures_scope"),
    )
    op.create_index("ix_erasures_time", "erasures", ["tenant_id", "created_at", "erasure_id"])
    op.create_index("ix_erasures_run", "erasures", ["tenant_id", "run_id", "created_at", "erasure_id"])
    row_level_security("erasures")
    append_only("erasures")


def _legal_holds() -> None:
    table = "legal_holds"
    op.create_table(
        table,
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("hold_id", sa.Text, nullable=False),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("scope_id", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("placed_by", sa.Text, nullable=False),
        sa.Column("placed_at", TS(), nullable=False),
        sa.Column("released_by", sa.Text),
        sa.Column("released_at", TS()),
        sa.Column("version", sa.Integer, nullable=False, server_default="1"),
        sa.PrimaryKeyConstraint("tenant_id", "hold_id", name="pk_legal_holds"),
        sa.CheckConstraint("scope IN ('RUN', 'SUBJECT', 'PLANE', 'TENANT')", name="ck_legal_holds_scope"),
        sa.CheckConstraint("(released_by IS NULL) = (released_at IS NULL)", name="ck_legal_holds_released"),
    )
    op.create_index("ix_legal_holds_time", table, ["tenant_id", "placed_at", "hold_id"])
    active = sa.text("released_at IS NULL")
    op.create_index(
        "ix_legal_holds_active",
        table,
        ["tenant_id", "hold_id"],
        sqlite_where=active,
        postgresql_where=active,
    )
    row_level_security(table)
    no_delete(table)
    fixed_columns(table, ("tenant_id", "hold_id", "scope", "scope_id", "reason", "placed_by", "placed_at"))
    refuse(
        f"{table}_final",
        table,
        "UPDATE",
        f"{table}: a released hold never changes",
        when="OLD.released_at IS NOT NULL",
    )


def _changed(columns: str) -> str:
    distinct = "IS DISTINCT FROM" if on_postgresql() else "IS NOT"
    return " OR ".join(f"NEW.{column} {distinct} OLD.{column}" for column in columns.split())


def _guards(*, door: bool) -> None:
    """Replace the guards of rows with protected members; with a door they let erasures through."""

    def erased(table: str) -> str:
        protected, kept = (RECORDS | HEADS)[table]
        return erasure_of(protected.split(), kept.split())

    for table in RECORDS:
        when = f"NOT ({erased(table)})" if door else None
        refuse_instead(f"{table}_no_update", table, "UPDATE", f"{table} is append-only", when=when)
    for table, columns in FIXED.items():
        when = _changed(columns)
        message = f"{table}: {', '.join(columns.split())} never change"
        if door:
            when = f"({when}) AND NOT ({erased(table)})"
        refuse_instead(f"{table}_fixed", table, "UPDATE", message, when=when)
    for name, table, message, when in (
        (
            "runs_terminal",
            "runs",
            "RUN_TERMINAL: an ended run does not change",
            f"OLD.status <> 'running' AND ({_changed(ENDED)})",
        ),
        (
            "policy_proposals_final",
            "policy_proposals",
            "policy_proposals: a reviewed proposal never changes",
            "OLD.status <> 'DRAFT'",
        ),
    ):
        refuse_instead(
            name, table, "UPDATE", message, when=f"{when} AND NOT ({erased(table)})" if door else when
        )


def upgrade() -> None:
    _erasures()
    _legal_holds()
    _guards(door=True)
    op.create_index("ix_policy_proposals_run", "policy_proposals", ["tenant_id", "source_run_id"])


def downgrade() -> None:
    op.drop_index("ix_policy_proposals_run", "policy_proposals")
    _guards(door=False)
    drop_tables("legal_holds", "erasures")
