"""Logs: leaves of the tenant log, fact counters, the audit ledger, the outbox, idempotency keys."""

from __future__ import annotations

import sqlalchemy as sa

from app.db.governed import exempt, govern
from app.db.metadata import (
    enum_check,
    fact_id_column,
    fact_id_constraints,
    protected_columns,
    tenant_ref,
    tenant_table,
)  # fmt: skip
from app.db.types import BigInt, CanonicalText, Flag, Timestamp
from app.domains.logs.models import ENTITY_TYPES, EVENT_TYPES, IdempotencyState

log_leaves = tenant_table(
    "log_leaves",
    sa.Column("fact_id", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("v", sa.Integer, nullable=False),
    sa.Column("ref_table", sa.Text),
    sa.Column("ref_key", CanonicalText),
    sa.Column("ref_version", BigInt),
    sa.Column("run_id", sa.Text),
    sa.Column("attempt", sa.Integer),
    sa.Column("fact_no", sa.Integer),
    sa.Column("late", Flag, nullable=False),
    sa.Column("statement", sa.Text, nullable=False),
    sa.Column("leaf_hash", sa.Text, nullable=False),
    sa.Column("created_at", Timestamp, nullable=False),
    sa.UniqueConstraint("tenant_id", "run_id", "late", "fact_no", name="uq_log_leaves_fact_no"),
    sa.Index("ix_log_leaves_ref", "tenant_id", "ref_table", "ref_key", "ref_version"),
    primary_key=("fact_id",),
)
log_pending = tenant_table(
    "log_pending",
    sa.Column("fact_id", sa.Text, nullable=False),
    sa.Column("enqueued_at", Timestamp, nullable=False),
    primary_key=("fact_id",),
)
run_fact_counters = tenant_table(
    "run_fact_counters",
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("fact_count", BigInt, nullable=False, server_default="0"),
    sa.Column("late_count", BigInt, nullable=False, server_default="0"),
    sa.Column("closed", Flag, nullable=False, server_default=sa.false()),
    tenant_ref("run_id", "runs.run_id", name="fk_run_fact_counters_run_id"),
    sa.CheckConstraint("fact_count >= 0", name="fact_count"),
    sa.CheckConstraint("late_count >= 0", name="late_count"),
    primary_key=("run_id",),
)
audit_ledger = tenant_table(
    "audit_ledger",
    sa.Column("entry_id", sa.Text, nullable=False),
    sa.Column("event_type", sa.Text, nullable=False),
    sa.Column("entity_type", sa.Text, nullable=False),
    sa.Column("entity_id", sa.Text, nullable=False),
    sa.Column("actor_type", sa.Text, nullable=False),
    sa.Column("actor_id", sa.Text, nullable=False),
    sa.Column("actor_key_id", sa.Text),
    sa.Column("action_reason", sa.Text),
    sa.Column("before_state", CanonicalText),
    sa.Column("after_state", CanonicalText),
    sa.Column("run_id", sa.Text),
    sa.Column("operation", sa.Text, nullable=False),
    sa.Column("request_id", sa.Text, nullable=False),
    sa.Column("correlation_id", sa.Text),
    sa.Column("created_at", Timestamp, nullable=False),
    fact_id_column(),
    *protected_columns(),
    *fact_id_constraints("audit_ledger"),
    tenant_ref("run_id", "runs.run_id", name="fk_audit_ledger_run_id"),
    enum_check("event_type", EVENT_TYPES),
    enum_check("entity_type", ENTITY_TYPES),
    sa.CheckConstraint("actor_type IN ('HUMAN', 'SYSTEM', 'AGENT')", name="actor_type"),
    sa.Index("ix_audit_ledger_time", "tenant_id", "created_at", "entry_id"),
    sa.Index("ix_audit_ledger_run", "tenant_id", "run_id", "created_at", "entry_id"),
    sa.Index("ix_audit_ledger_entity", "tenant_id", "entity_type", "entity_id", "created_at", "entry_id"),
    sa.Index("ix_audit_ledger_event", "tenant_id", "event_type", "created_at", "entry_id"),
    primary_key=("entry_id",),
)
idempotency_keys = tenant_table(
    "idempotency_keys",
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("operation", sa.Text, nullable=False),
    sa.Column("request_digest", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("response", sa.Text),
    sa.Column("created_at", Timestamp, nullable=False),
    sa.Column("expires_at", Timestamp, nullable=False),
    enum_check("status", IdempotencyState),
    sa.Index("ix_idempotency_keys_expires_at", "expires_at"),
    primary_key=("key",),
)
outbox = tenant_table(
    "outbox",
    sa.Column("event_id", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("body", CanonicalText, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("next_at", Timestamp, nullable=False),
    sa.Column("delivered_at", Timestamp),
    sa.Column("last_error", sa.Text),
    sa.Column("created_at", Timestamp, nullable=False),
    sa.Index("ix_outbox_due", "next_at", sqlite_where=sa.text("delivered_at IS NULL"),
             postgresql_where=sa.text("delivered_at IS NULL")),
    primary_key=("event_id",),
)  # fmt: skip

govern(
    audit_ledger,
    "APPEND",
    types=("audit",),
    protected=("action_reason",),
    json_columns=("before_state", "after_state"),
)
exempt(log_leaves, "the log itself")
exempt(log_pending, "queue of the sequencer; ids only")
exempt(run_fact_counters, "numbers the facts; the closing count stands in run.completed")
exempt(idempotency_keys, "forgotten whole after a day; what it replays is recorded by its own facts")
exempt(outbox, "deliveries; each event repeats a recorded fact")
