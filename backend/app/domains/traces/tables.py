"""Traces: tables of traces and of their chained, append-only steps."""

from __future__ import annotations

import sqlalchemy as sa

from app.db.governed import govern
from app.db.metadata import enum_check, protected_columns, tenant_ref, tenant_table
from app.db.types import BigInt, CanonicalText, Flag, Timestamp
from app.domains.traces.models import ReplayBehavior, StepLevel, StepStatus, TraceOutcome, TraceStatus

aos_traces = tenant_table(
    "aos_traces",
    sa.Column("trace_id", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("schema_version", sa.Integer, nullable=False),
    sa.Column("seed", BigInt),
    sa.Column("plan_hash", sa.Text),
    sa.Column("genesis_hash", sa.Text, nullable=False),
    sa.Column("started_at", Timestamp, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("outcome", sa.Text),
    sa.Column("head_hash", sa.Text, nullable=False),
    sa.Column("root_hash", sa.Text),
    sa.Column("step_count", sa.Integer, nullable=False, server_default="0"),
    sa.Column("input_tokens", BigInt),
    sa.Column("output_tokens", BigInt),
    sa.Column("cost_micro", BigInt, nullable=False, server_default="0"),
    sa.Column("completed_at", Timestamp),
    sa.Column("sealed_at", Timestamp),
    sa.Column("created_at", Timestamp, nullable=False),
    sa.Column("updated_at", Timestamp, nullable=False),
    sa.Column("version", sa.Integer, nullable=False, server_default="1"),
    sa.UniqueConstraint("tenant_id", "run_id", "attempt", name="uq_aos_traces_attempt"),
    tenant_ref("run_id", "runs.run_id", name="fk_aos_traces_run_id"),
    enum_check("status", TraceStatus),
    enum_check("outcome", TraceOutcome),
    sa.CheckConstraint("step_count >= 0", name="step_count"),
    sa.CheckConstraint(
        "(status = 'SEALED') = (root_hash IS NOT NULL) AND (status = 'SEALED') = (outcome IS NOT NULL)"
        " AND (status = 'SEALED') = (sealed_at IS NOT NULL)"
        " AND (status = 'SEALED') = (completed_at IS NOT NULL)",
        name="sealed",
    ),
    primary_key=("trace_id",),
)
aos_trace_steps = tenant_table(
    "aos_trace_steps",
    sa.Column("trace_id", sa.Text, nullable=False),
    sa.Column("step_index", sa.Integer, nullable=False),
    sa.Column("skill_id", sa.Text, nullable=False),
    sa.Column("skill_name", sa.Text, nullable=False),
    sa.Column("params", CanonicalText),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("outcome_category", sa.Text, nullable=False, server_default="UNSPECIFIED"),
    sa.Column("outcome_code", sa.Text),
    sa.Column("outcome_data", CanonicalText),
    sa.Column("cost_micro", BigInt, nullable=False, server_default="0"),
    sa.Column("duration_us", BigInt, nullable=False, server_default="0"),
    sa.Column("retry_count", sa.Integer, nullable=False, server_default="0"),
    sa.Column("input_hash", sa.Text),
    sa.Column("output_hash", sa.Text),
    sa.Column("rng_state_before", sa.Text),
    sa.Column("replay_behavior", sa.Text, nullable=False, server_default="execute"),
    sa.Column("level", sa.Text, nullable=False, server_default="INFO"),
    sa.Column("side_effect", Flag, nullable=False, server_default=sa.false()),
    sa.Column("decision_id", sa.Text),
    sa.Column("reservation_id", sa.Text),
    sa.Column("usage", CanonicalText, nullable=False, server_default="{}"),
    sa.Column("external_id", sa.Text),
    sa.Column("redactions", sa.Integer, nullable=False),
    sa.Column("redaction_version", sa.Text, nullable=False, server_default="rdx-1"),
    sa.Column("occurred_at", Timestamp, nullable=False),
    sa.Column("recorded_at", Timestamp, nullable=False),
    sa.Column("content_hash", sa.Text, nullable=False),
    sa.Column("prev_hash", sa.Text, nullable=False),
    sa.Column("step_hash", sa.Text, nullable=False),
    *protected_columns(),
    tenant_ref("trace_id", "aos_traces.trace_id", name="fk_aos_trace_steps_trace_id"),
    tenant_ref("decision_id", "decision_records.decision_id", name="fk_aos_trace_steps_decision_id"),
    # Two successors of one step cannot exist.
    sa.UniqueConstraint("tenant_id", "trace_id", "prev_hash", name="uq_aos_trace_steps_prev_hash"),
    sa.UniqueConstraint("tenant_id", "trace_id", "external_id", name="uq_aos_trace_steps_external_id"),
    enum_check("status", StepStatus),
    enum_check("replay_behavior", ReplayBehavior),
    enum_check("level", StepLevel),
    # Who deletes what a row refers to looks for it.
    sa.Index(
        "ix_aos_trace_steps_decision",
        "tenant_id",
        "decision_id",
        sqlite_where=sa.text("decision_id IS NOT NULL"),
        postgresql_where=sa.text("decision_id IS NOT NULL"),
    ),
    primary_key=("trace_id", "step_index"),
)

govern(
    aos_traces,
    "EVENTED",
    types=("trace.extended", "trace.sealed"),
    bodies={
        "trace.extended": ("trace_id", "attempt", "from_index", "to_index", "head_hash"),
        "trace.sealed": (
            "trace_id",
            "attempt",
            "status",
            "outcome",
            "root_hash",
            "step_count",
            "input_tokens",
            "output_tokens",
            "cost_micro",
            "completed_at",
            "sealed_at",
        ),
    },
    unhashed={
        "run_id": "BOUND by genesis_hash, whose statement names the run",
        "schema_version": "BOUND by genesis_hash",
        "seed": "BOUND by genesis_hash",
        "plan_hash": "BOUND by genesis_hash",
        "genesis_hash": "BOUND by run.started and run.attempt, which carry it",
        "started_at": "BOUND by genesis_hash",
    },
)
govern(
    aos_trace_steps,
    "CHAINED",
    protected=("params", "outcome_data"),
    json_columns=("usage",),
    unhashed={
        "trace_id": "BOUND by the genesis statement, where the chain begins",
        "content_hash": "DERIVED keyed digest of the content, recounted by step_digests; tells a replay",
        "prev_hash": "CHAIN the link before",
        "step_hash": "CHAIN the link itself",
    },
)
