"""Runs, their fact counters, traces, chained steps, policy evaluations."""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op
from hoc_ddl import (
    BIGINT,
    FLAG,
    TS,
    append_only,
    drop_tables,
    fixed_columns,
    no_delete,
    on_postgresql,
    refuse,
    row_level_security,
    run_ddl,
)

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_STATUSES = "'running', 'succeeded', 'failed', 'halted', 'cancelled'"


def _protected() -> tuple[sa.Column[str], ...]:
    return (
        sa.Column("protected_salt", sa.Text),
        sa.Column("protected_commit", sa.Text),
        sa.Column("erased_fact_id", sa.Text),
    )


def _reference(table: str, column: str, target: str, *, name: str | None = None) -> sa.ForeignKeyConstraint:
    referred, _, key = target.partition(".")
    return sa.ForeignKeyConstraint(
        ["tenant_id", column],
        [f"{referred}.tenant_id", f"{referred}.{key}"],
        name=name or f"fk_{table}_{column}",
        ondelete="RESTRICT",
    )


def _runs() -> None:
    op.create_table(
        "runs",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("run_no", BIGINT, nullable=False),
        sa.Column("agent_id", sa.Text, nullable=False),
        sa.Column("project_id", sa.Text),
        sa.Column("parent_run_id", sa.Text),
        sa.Column("actor_type", sa.Text, nullable=False),
        sa.Column("actor_id", sa.Text),
        sa.Column("origin_system_id", sa.Text, nullable=False),
        sa.Column("goal", sa.Text),
        sa.Column("labels", sa.Text, nullable=False, server_default="{}"),
        sa.Column("source", sa.Text, nullable=False, server_default="API"),
        sa.Column("provider_type", sa.Text),
        sa.Column("model", sa.Text),
        sa.Column("is_synthetic", FLAG, nullable=False, server_default=sa.false()),
        sa.Column("synthetic_scenario_id", sa.Text),
        sa.Column("max_attempts", sa.Integer, nullable=False, server_default="3"),
        sa.Column("policy_snapshot_id", sa.Text, nullable=False),
        sa.Column("authorization", sa.Text, nullable=False),
        sa.Column("start_digest", sa.Text, nullable=False),
        sa.Column("started_at", TS(), nullable=False),
        sa.Column("deadline_at", TS(), nullable=False),
        sa.Column("created_by_key", sa.Text, nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("traceparent", sa.Text),
        sa.Column("subject_ref", sa.Text),
        sa.Column("status", sa.Text, nullable=False, server_default="running"),
        sa.Column("attempt", sa.Integer, nullable=False, server_default="1"),
        sa.Column("termination_reason", sa.Text),
        sa.Column("stopped_at_step", sa.Integer),
        sa.Column("violation_rule_id", sa.Text),
        sa.Column("error_code", sa.Text),
        sa.Column("error_message", sa.Text),
        sa.Column("completed_at", TS()),
        sa.Column("complete_digest", sa.Text),
        sa.Column("risk_level", sa.Text, nullable=False, server_default="NORMAL"),
        sa.Column("policy_violation", FLAG, nullable=False, server_default=sa.false()),
        sa.Column("policy_draft_count", sa.Integer, nullable=False, server_default="0"),
        sa.Column("incident_count", sa.Integer, nullable=False, server_default="0"),
        sa.Column("last_seen_at", TS(), nullable=False),
        sa.Column("created_at", TS(), nullable=False),
        sa.Column("updated_at", TS(), nullable=False),
        sa.Column("version", sa.Integer, nullable=False, server_default="1"),
        *_protected(),
        sa.PrimaryKeyConstraint("tenant_id", "run_id", name="pk_runs"),
        sa.UniqueConstraint("tenant_id", "run_no", name="uq_runs_run_no"),
        _reference("runs", "parent_run_id", "runs.run_id"),
        _reference("runs", "policy_snapshot_id", "policy_snapshots.snapshot_id"),
        sa.CheckConstraint("actor_type IN ('HUMAN', 'SYSTEM', 'SERVICE')", name="ck_runs_actor_type"),
        sa.CheckConstraint("source IN ('API', 'SDK', 'OTLP', 'WORKER', 'SYNTHETIC')", name="ck_runs_source"),
        sa.CheckConstraint(f"status IN ({_STATUSES})", name="ck_runs_status"),
        sa.CheckConstraint(
            "termination_reason IN ('completed', 'system_failure', 'timeout', 'policy_block',"
            " 'budget_exceeded', 'rate_limited', 'user_abort')",
            name="ck_runs_termination_reason",
        ),
        sa.CheckConstraint(
            "risk_level IN ('NORMAL', 'NEAR_THRESHOLD', 'AT_RISK', 'VIOLATED')", name="ck_runs_risk_level"
        ),
        sa.CheckConstraint("trim(agent_id) <> '' AND agent_id <> 'legacy-unknown'", name="ck_runs_r1_r2"),
        sa.CheckConstraint(
            "trim(origin_system_id) <> '' AND origin_system_id <> 'legacy-migration'", name="ck_runs_r3"
        ),
        sa.CheckConstraint("(actor_type = 'HUMAN') = (actor_id IS NOT NULL)", name="ck_runs_r5"),
        sa.CheckConstraint("is_synthetic = (synthetic_scenario_id IS NOT NULL)", name="ck_runs_synthetic"),
        sa.CheckConstraint(
            "max_attempts BETWEEN 1 AND 20 AND attempt BETWEEN 1 AND max_attempts", name="ck_runs_attempts"
        ),
        sa.CheckConstraint(
            "(status = 'running') = (completed_at IS NULL)"
            " AND (status = 'running') = (termination_reason IS NULL)",
            name="ck_runs_ended",
        ),
    )
    for suffix, columns in (
        ("started", ("started_at", "run_id")),
        ("status", ("status", "started_at", "run_id")),
        ("agent", ("agent_id", "started_at", "run_id")),
        ("project", ("project_id", "started_at", "run_id")),
        ("risk", ("risk_level", "started_at", "run_id")),
        ("actor", ("actor_type", "started_at", "run_id")),
        ("parent", ("parent_run_id", "started_at", "run_id")),
        ("subject", ("subject_ref",)),
    ):
        op.create_index(f"ix_runs_{suffix}", "runs", ["tenant_id", *columns])
    running = sa.text("status = 'running'")
    op.create_index(
        "ix_runs_due", "runs", ["deadline_at", "tenant_id"], sqlite_where=running, postgresql_where=running
    )
    row_level_security("runs")
    no_delete("runs")


def _run_triggers() -> None:
    distinct = "IS DISTINCT FROM" if on_postgresql() else "IS NOT"
    attribution = ("agent_id", "actor_type", "actor_id", "origin_system_id")
    refuse(
        "runs_attribution",
        "runs",
        "UPDATE",
        "RUN_VALIDATION_FAILURE: R6 agent_id, R7 actor_type and actor_id, R8 origin_system_id never change",
        when=" OR ".join(f"NEW.{name} {distinct} OLD.{name}" for name in attribution),
    )
    fixed_columns(
        "runs",
        (
            "tenant_id",
            "run_id",
            "run_no",
            "project_id",
            "parent_run_id",
            "goal",
            "labels",
            "source",
            "provider_type",
            "model",
            "is_synthetic",
            "synthetic_scenario_id",
            "max_attempts",
            "policy_snapshot_id",
            "authorization",
            "start_digest",
            "started_at",
            "deadline_at",
            "created_by_key",
            "request_id",
            "traceparent",
            "subject_ref",
            "created_at",
        ),
    )
    refuse(
        "runs_attempt_forward", "runs", "UPDATE", "runs: attempt only rises", when="NEW.attempt < OLD.attempt"
    )
    ended = (
        "status",
        "attempt",
        "termination_reason",
        "stopped_at_step",
        "violation_rule_id",
        "error_code",
        "error_message",
        "completed_at",
        "complete_digest",
        "protected_salt",
        "protected_commit",
        "erased_fact_id",
    )
    changed = " OR ".join(f"NEW.{name} {distinct} OLD.{name}" for name in ended)
    refuse(
        "runs_terminal",
        "runs",
        "UPDATE",
        "RUN_TERMINAL: an ended run does not change",
        when=f"OLD.status <> 'running' AND ({changed})",
    )
    ranks = "'NORMAL' THEN 0 WHEN 'NEAR_THRESHOLD' THEN 1 WHEN 'AT_RISK' THEN 2 ELSE 3 END"
    refuse(
        "runs_projections",
        "runs",
        "UPDATE",
        "RUN_TERMINAL: projections of an ended run only rise",
        when=(
            "OLD.status <> 'running' AND ("
            f"CASE NEW.risk_level WHEN {ranks} < CASE OLD.risk_level WHEN {ranks}"
            " OR NEW.policy_draft_count < OLD.policy_draft_count OR NEW.incident_count < OLD.incident_count"
            " OR (OLD.policy_violation AND NOT NEW.policy_violation) OR NEW.last_seen_at < OLD.last_seen_at)"
        ),
    )


def _fact_counters() -> None:
    op.create_table(
        "run_fact_counters",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("fact_count", BIGINT, nullable=False, server_default="0"),
        sa.Column("late_count", BIGINT, nullable=False, server_default="0"),
        sa.Column("closed", FLAG, nullable=False, server_default=sa.false()),
        sa.PrimaryKeyConstraint("tenant_id", "run_id", name="pk_run_fact_counters"),
        _reference("run_fact_counters", "run_id", "runs.run_id"),
        sa.CheckConstraint("fact_count >= 0", name="ck_run_fact_counters_fact_count"),
        sa.CheckConstraint("late_count >= 0", name="ck_run_fact_counters_late_count"),
    )
    row_level_security("run_fact_counters")
    no_delete("run_fact_counters")
    # Room on each page for the new versions of a counter that every governed write of a run updates.
    run_ddl(postgresql="ALTER TABLE run_fact_counters SET (fillfactor = 50)")


def _traces() -> None:
    op.create_table(
        "aos_traces",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("trace_id", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("schema_version", sa.Integer, nullable=False),
        sa.Column("seed", BIGINT),
        sa.Column("plan_hash", sa.Text),
        sa.Column("genesis_hash", sa.Text, nullable=False),
        sa.Column("started_at", TS(), nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text),
        sa.Column("head_hash", sa.Text, nullable=False),
        sa.Column("root_hash", sa.Text),
        sa.Column("step_count", sa.Integer, nullable=False, server_default="0"),
        sa.Column("input_tokens", BIGINT),
        sa.Column("output_tokens", BIGINT),
        sa.Column("cost_micro", BIGINT, nullable=False, server_default="0"),
        sa.Column("completed_at", TS()),
        sa.Column("sealed_at", TS()),
        sa.Column("created_at", TS(), nullable=False),
        sa.Column("updated_at", TS(), nullable=False),
        sa.Column("version", sa.Integer, nullable=False, server_default="1"),
        sa.PrimaryKeyConstraint("tenant_id", "trace_id", name="pk_aos_traces"),
        sa.UniqueConstraint("tenant_id", "run_id", "attempt", name="uq_aos_traces_attempt"),
        _reference("aos_traces", "run_id", "runs.run_id"),
        sa.CheckConstraint("status IN ('OPEN', 'SEALED')", name="ck_aos_traces_status"),
        sa.CheckConstraint("outcome IN ('success', 'failure', 'aborted')", name="ck_aos_traces_outcome"),
        sa.CheckConstraint("step_count >= 0", name="ck_aos_traces_step_count"),
        sa.CheckConstraint(
            "(status = 'SEALED') = (root_hash IS NOT NULL) AND (status = 'SEALED') = (outcome IS NOT NULL)"
            " AND (status = 'SEALED') = (sealed_at IS NOT NULL)"
            " AND (status = 'SEALED') = (completed_at IS NOT NULL)",
            name="ck_aos_traces_sealed",
        ),
    )
    row_level_security("aos_traces")
    no_delete("aos_traces")
    fixed_columns(
        "aos_traces",
        (
            "tenant_id",
            "trace_id",
            "run_id",
            "attempt",
            "schema_version",
            "seed",
            "plan_hash",
            "genesis_hash",
            "started_at",
            "created_at",
        ),
    )
    refuse(
        "aos_traces_begin_open",
        "aos_traces",
        "INSERT",
        "aos_traces: a trace begins OPEN, empty, at its genesis",
        when="NEW.status <> 'OPEN' OR NEW.step_count <> 0 OR NEW.head_hash <> NEW.genesis_hash",
    )
    refuse(
        "aos_traces_sealed",
        "aos_traces",
        "UPDATE",
        "TRACE_SEALED: a sealed trace does not change",
        when="OLD.status = 'SEALED'",
    )
    refuse(
        "aos_traces_forward",
        "aos_traces",
        "UPDATE",
        "aos_traces: step_count and totals only rise",
        when=(
            "NEW.step_count < OLD.step_count OR NEW.cost_micro < OLD.cost_micro"
            " OR (OLD.input_tokens IS NOT NULL"
            " AND (NEW.input_tokens IS NULL OR NEW.input_tokens < OLD.input_tokens))"
            " OR (OLD.output_tokens IS NOT NULL"
            " AND (NEW.output_tokens IS NULL OR NEW.output_tokens < OLD.output_tokens))"
        ),
    )
    refuse(
        "aos_traces_seal",
        "aos_traces",
        "UPDATE",
        "aos_traces: the seal takes the head as it is; root_hash equals head_hash",
        when=(
            "NEW.status = 'SEALED' AND (NEW.root_hash <> NEW.head_hash OR NEW.head_hash <> OLD.head_hash"
            " OR NEW.step_count <> OLD.step_count)"
        ),
    )


def _steps() -> None:
    op.create_table(
        "aos_trace_steps",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("trace_id", sa.Text, nullable=False),
        sa.Column("step_index", sa.Integer, nullable=False),
        sa.Column("skill_id", sa.Text, nullable=False),
        sa.Column("skill_name", sa.Text, nullable=False),
        sa.Column("params", sa.Text),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("outcome_category", sa.Text, nullable=False, server_default="UNSPECIFIED"),
        sa.Column("outcome_code", sa.Text),
        sa.Column("outcome_data", sa.Text),
        sa.Column("cost_micro", BIGINT, nullable=False, server_default="0"),
        sa.Column("duration_us", BIGINT, nullable=False, server_default="0"),
        sa.Column("retry_count", sa.Integer, nullable=False, server_default="0"),
        sa.Column("input_hash", sa.Text),
        sa.Column("output_hash", sa.Text),
        sa.Column("rng_state_before", sa.Text),
        sa.Column("replay_behavior", sa.Text, nullable=False, server_default="execute"),
        sa.Column("level", sa.Text, nullable=False, server_default="INFO"),
        sa.Column("side_effect", FLAG, nullable=False, server_default=sa.false()),
        sa.Column("decision_id", sa.Text),
        sa.Column("reservation_id", sa.Text),
        sa.Column("usage", sa.Text, nullable=False, server_default="{}"),
        sa.Column("external_id", sa.Text),
        sa.Column("redactions", sa.Integer, nullable=False),
        sa.Column("redaction_version", sa.Text, nullable=False, server_default="rdx-1"),
        sa.Column("occurred_at", TS(), nullable=False),
        sa.Column("recorded_at", TS(), nullable=False),
        sa.Column("content_hash", sa.Text, nullable=False),
        sa.Column("prev_hash", sa.Text, nullable=False),
        sa.Column("step_hash", sa.Text, nullable=False),
        *_protected(),
        sa.PrimaryKeyConstraint("tenant_id", "trace_id", "step_index", name="pk_aos_trace_steps"),
        sa.UniqueConstraint("tenant_id", "trace_id", "prev_hash", name="uq_aos_trace_steps_prev_hash"),
        sa.UniqueConstraint("tenant_id", "trace_id", "external_id", name="uq_aos_trace_steps_external_id"),
        _reference("aos_trace_steps", "trace_id", "aos_traces.trace_id"),
        sa.CheckConstraint(
            "status IN ('success', 'failure', 'retry', 'skipped')", name="ck_aos_trace_steps_status"
        ),
        sa.CheckConstraint(
            "replay_behavior IN ('execute', 'skip', 'check')", name="ck_aos_trace_steps_replay_behavior"
        ),
        sa.CheckConstraint("level IN ('INFO', 'WARN', 'ERROR')", name="ck_aos_trace_steps_level"),
    )
    row_level_security("aos_trace_steps")
    append_only("aos_trace_steps")


def _step_guard() -> None:
    """Let a step in only at the end of an open trace, linked to the step before it."""
    run_ddl(
        sqlite=(
            """CREATE TRIGGER aos_trace_steps_open BEFORE INSERT ON aos_trace_steps FOR EACH ROW
                WHEN coalesce((SELECT status FROM aos_traces
                    WHERE tenant_id = NEW.tenant_id AND trace_id = NEW.trace_id), 'OPEN') <> 'OPEN'
                BEGIN SELECT RAISE(ABORT, 'TRACE_SEALED'); END""",
            """CREATE TRIGGER aos_trace_steps_chain BEFORE INSERT ON aos_trace_steps FOR EACH ROW
                WHEN NEW.step_index IS NOT (SELECT coalesce(max(s.step_index) + 1, 0) FROM aos_trace_steps s
                        WHERE s.tenant_id = NEW.tenant_id AND s.trace_id = NEW.trace_id)
                    OR NEW.step_index < (SELECT t.step_count FROM aos_traces t
                        WHERE t.tenant_id = NEW.tenant_id AND t.trace_id = NEW.trace_id)
                    OR NEW.prev_hash IS NOT (CASE NEW.step_index
                        WHEN 0 THEN (SELECT t.genesis_hash FROM aos_traces t
                            WHERE t.tenant_id = NEW.tenant_id AND t.trace_id = NEW.trace_id)
                        ELSE (SELECT s.step_hash FROM aos_trace_steps s
                            WHERE s.tenant_id = NEW.tenant_id AND s.trace_id = NEW.trace_id
                            AND s.step_index = NEW.step_index - 1) END)
                BEGIN SELECT RAISE(ABORT, 'CHAIN_BROKEN'); END""",
        ),
        postgresql=(
            """CREATE FUNCTION aos_trace_steps_chain() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF EXISTS (SELECT 1 FROM added a JOIN aos_traces t
                        ON t.tenant_id = a.tenant_id AND t.trace_id = a.trace_id
                        WHERE t.status <> 'OPEN') THEN
                    RAISE EXCEPTION 'TRACE_SEALED' USING ERRCODE = 'integrity_constraint_violation';
                END IF;
                IF EXISTS (
                    SELECT 1 FROM (
                        SELECT a.tenant_id, a.trace_id, a.step_index, a.prev_hash, t.genesis_hash,
                            t.step_count + row_number() OVER batch - 1 AS expected_index,
                            lag(a.step_hash) OVER batch AS link_before
                        FROM added a JOIN aos_traces t
                            ON t.tenant_id = a.tenant_id AND t.trace_id = a.trace_id
                        WINDOW batch AS (PARTITION BY a.tenant_id, a.trace_id ORDER BY a.step_index)
                    ) n
                    WHERE n.step_index <> n.expected_index OR n.prev_hash IS DISTINCT FROM coalesce(
                        n.link_before,
                        CASE n.step_index WHEN 0 THEN n.genesis_hash ELSE (
                            SELECT s.step_hash FROM aos_trace_steps s WHERE s.tenant_id = n.tenant_id
                            AND s.trace_id = n.trace_id AND s.step_index = n.step_index - 1) END)
                ) THEN
                    RAISE EXCEPTION 'CHAIN_BROKEN' USING ERRCODE = 'integrity_constraint_violation';
                END IF;
                RETURN NULL; END $$""",
            """CREATE TRIGGER aos_trace_steps_chain AFTER INSERT ON aos_trace_steps
                REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION aos_trace_steps_chain()""",
        ),
    )


def _evaluations() -> None:
    op.create_table(
        "policy_evaluations",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("evaluation_id", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("run_status", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("policies_checked", sa.Integer, nullable=False),
        sa.Column("confidence", sa.Integer, nullable=False),
        sa.Column("outcome_kind", sa.Text, nullable=False),
        sa.Column("outcome_ref", sa.Text),
        sa.Column("counts", sa.Text, nullable=False),
        sa.Column("snapshot_id", sa.Text, nullable=False),
        sa.Column("created_at", TS(), nullable=False),
        sa.Column("fact_id", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "evaluation_id", name="pk_policy_evaluations"),
        sa.UniqueConstraint("tenant_id", "fact_id", name="uq_policy_evaluations_fact_id"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "fact_id"],
            ["log_leaves.tenant_id", "log_leaves.fact_id"],
            name="fk_policy_evaluations_fact_id",
            ondelete="RESTRICT",
            deferrable=True,
            initially="DEFERRED",
        ),
        sa.UniqueConstraint("tenant_id", "run_id", "attempt", name="uq_policy_evaluations_attempt"),
        _reference("policy_evaluations", "run_id", "runs.run_id"),
        sa.CheckConstraint(f"run_status IN ({_STATUSES})", name="ck_policy_evaluations_run_status"),
        sa.CheckConstraint(
            "outcome IN ('NO_VIOLATION', 'VIOLATION_INCIDENT', 'ADVISORY', 'NOT_APPLICABLE')",
            name="ck_policy_evaluations_outcome",
        ),
        sa.CheckConstraint(
            "outcome_kind IN ('NONE', 'INCIDENT', 'PREVENTION')", name="ck_policy_evaluations_outcome_kind"
        ),
        sa.CheckConstraint("confidence BETWEEN 0 AND 100", name="ck_policy_evaluations_confidence"),
    )
    op.create_index(
        "ix_policy_evaluations_time", "policy_evaluations", ["tenant_id", "created_at", "evaluation_id"]
    )
    row_level_security("policy_evaluations")
    append_only("policy_evaluations")


def upgrade() -> None:
    _runs()
    _run_triggers()
    _fact_counters()
    _traces()
    _steps()
    _step_guard()
    _evaluations()
    _proposals_key()


def _proposals_key() -> None:
    # SQLite's table has named its key to the runs from the beginning.
    if on_postgresql():
        op.create_foreign_key(
            "fk_policy_proposals_source_run_id",
            "policy_proposals",
            "runs",
            ["tenant_id", "source_run_id"],
            ["tenant_id", "run_id"],
            ondelete="RESTRICT",
        )


def downgrade() -> None:
    if on_postgresql():
        op.drop_constraint("fk_policy_proposals_source_run_id", "policy_proposals", type_="foreignkey")
    drop_tables("policy_evaluations", "aos_trace_steps", "aos_traces", "run_fact_counters", "runs")
