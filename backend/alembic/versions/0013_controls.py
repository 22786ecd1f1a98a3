"""Limits, their use as a ledger, breaches, overrides."""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op
from hoc_ddl import BIGINT, FLAG, TS, append_only, drop_tables, fixed_columns, no_delete, row_level_security

revision = "0013"
down_revision = "0012"
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


def _limits() -> None:
    op.create_table(
        "limits",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("limit_id", sa.Text, nullable=False),
        sa.Column("category", sa.Text, nullable=False),
        sa.Column("metric", sa.Text, nullable=False),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("scope_id", sa.Text),
        sa.Column("reset_period", sa.Text),
        sa.Column("window_seconds", sa.Integer),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("description", sa.Text),
        sa.Column("max_value", BIGINT, nullable=False),
        sa.Column("enforcement", sa.Text, nullable=False, server_default="BLOCK"),
        sa.Column("consequence", sa.Text, nullable=False, server_default="NONE"),
        sa.Column("halts_run", FLAG, nullable=False, server_default=sa.false()),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("limit_version", sa.Integer, nullable=False),
        sa.Column("content_hash", sa.Text, nullable=False),
        sa.Column("created_at", TS(), nullable=False),
        sa.Column("updated_at", TS(), nullable=False),
        sa.Column("version", sa.Integer, nullable=False, server_default=sa.text("1")),
        sa.PrimaryKeyConstraint("tenant_id", "limit_id", name="pk_limits"),
        sa.CheckConstraint(
            "(category = 'BUDGET') = (reset_period IS NOT NULL)", name="ck_limits_budget_period"
        ),
        sa.CheckConstraint("NOT halts_run OR enforcement = 'BLOCK'", name="ck_limits_halts_run"),
        sa.CheckConstraint(
            "reset_period IN ('DAILY', 'WEEKLY', 'MONTHLY', 'NONE')", name="ck_limits_reset_period"
        ),
        sa.CheckConstraint("limit_version >= 1", name="ck_limits_limit_version"),
        sa.CheckConstraint(
            "metric IN ('COST_USD', 'TOKENS_INPUT', 'TOKENS_OUTPUT', 'TOKENS_TOTAL', 'REQUESTS',"
            " 'STEPS', 'RUN_TIME_MS')",
            name="ck_limits_metric",
        ),
        sa.CheckConstraint("source IN ('MANUAL', 'SYSTEM', 'LEARNED')", name="ck_limits_source"),
        sa.CheckConstraint(
            "(category = 'RATE') = (window_seconds IS NOT NULL)"
            " AND (window_seconds IS NULL OR window_seconds BETWEEN 1 AND 86400)",
            name="ck_limits_rate_window",
        ),
        sa.CheckConstraint("max_value > 0", name="ck_limits_max_value"),
        sa.CheckConstraint("length(content_hash) = 64", name="ck_limits_content_hash"),
        sa.CheckConstraint("consequence IN ('NONE', 'INCIDENT')", name="ck_limits_consequence"),
        sa.CheckConstraint("(scope = 'TENANT') = (scope_id IS NULL)", name="ck_limits_scope_id"),
        sa.CheckConstraint("metric <> 'RUN_TIME_MS' OR category = 'THRESHOLD'", name="ck_limits_run_time"),
        sa.CheckConstraint("category IN ('BUDGET', 'RATE', 'THRESHOLD')", name="ck_limits_category"),
        sa.CheckConstraint("enforcement IN ('BLOCK', 'WARN', 'AUDIT')", name="ck_limits_enforcement"),
        sa.CheckConstraint("status IN ('ACTIVE', 'DISABLED')", name="ck_limits_status"),
        sa.CheckConstraint("scope IN ('TENANT', 'PROJECT', 'AGENT')", name="ck_limits_scope"),
    )
    op.create_index("ix_limits_category", "limits", ["tenant_id", "category", "created_at", "limit_id"])
    op.create_index("ix_limits_metric", "limits", ["tenant_id", "metric", "created_at", "limit_id"])
    op.create_index("ix_limits_scope", "limits", ["tenant_id", "scope", "created_at", "limit_id"])
    op.create_index("ix_limits_status", "limits", ["tenant_id", "status", "created_at", "limit_id"])
    op.create_index("ix_limits_time", "limits", ["tenant_id", "created_at", "limit_id"])
    op.create_index(
        "uq_limits_name",
        "limits",
        ["tenant_id", "name"],
        unique=True,
        sqlite_where=sa.text("status = 'ACTIVE'"),
        postgresql_where=sa.text("status = 'ACTIVE'"),
    )
    row_level_security("limits")
    no_delete("limits")
    fixed_columns(
        "limits",
        (
            "tenant_id",
            "limit_id",
            "category",
            "metric",
            "scope",
            "scope_id",
            "reset_period",
            "window_seconds",
            "source",
            "created_by",
            "created_at",
        ),
    )


def _limit_counters() -> None:
    op.create_table(
        "limit_counters",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("limit_id", sa.Text, nullable=False),
        sa.Column("window_key", sa.Text, nullable=False),
        sa.Column("committed", BIGINT, nullable=False, server_default=sa.text("0")),
        sa.Column("reserved", BIGINT, nullable=False, server_default=sa.text("0")),
        sa.Column("created_at", TS(), nullable=False),
        sa.Column("updated_at", TS(), nullable=False),
        sa.Column("version", sa.Integer, nullable=False, server_default=sa.text("1")),
        sa.PrimaryKeyConstraint("tenant_id", "limit_id", "window_key", name="pk_limit_counters"),
        _reference("fk_limit_counters_limit_id", ("limit_id",), "limits", ("limit_id",)),
        sa.CheckConstraint("reserved >= 0", name="ck_limit_counters_reserved"),
        sa.CheckConstraint("committed >= 0", name="ck_limit_counters_committed"),
    )
    row_level_security("limit_counters")
    no_delete("limit_counters")
    fixed_columns("limit_counters", ("tenant_id", "limit_id", "window_key", "created_at"))


def _limit_entries() -> None:
    op.create_table(
        "limit_entries",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("entry_id", sa.Text, nullable=False),
        sa.Column("limit_id", sa.Text, nullable=False),
        sa.Column("limit_version", sa.Integer, nullable=False),
        sa.Column("window_key", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text),
        sa.Column("attempt", sa.Integer),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("amount", BIGINT, nullable=False),
        sa.Column("reservation_id", sa.Text),
        sa.Column("source_ref", sa.Text, nullable=False),
        sa.Column("created_at", TS(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "entry_id", name="pk_limit_entries"),
        sa.UniqueConstraint(
            "tenant_id", "limit_id", "kind", "source_ref", name="uq_limit_entries_source_ref"
        ),
        _reference("fk_limit_entries_limit_id", ("limit_id",), "limits", ("limit_id",)),
        _reference("fk_limit_entries_run_id", ("run_id",), "runs", ("run_id",)),
        sa.CheckConstraint("amount >= 0", name="ck_limit_entries_amount"),
        sa.CheckConstraint(
            "kind IN ('RESERVE', 'COMMIT', 'RELEASE', 'EXPIRE')", name="ck_limit_entries_kind"
        ),
    )
    op.create_index("ix_limit_entries_run", "limit_entries", ["tenant_id", "run_id", "entry_id"])
    op.create_index(
        "ix_limit_entries_window", "limit_entries", ["tenant_id", "limit_id", "window_key", "entry_id"]
    )
    row_level_security("limit_entries")
    append_only("limit_entries")


def _usage_reservations() -> None:
    op.create_table(
        "usage_reservations",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("reservation_id", sa.Text, nullable=False),
        sa.Column("decision_id", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("amounts", sa.Text, nullable=False),
        sa.Column("windows", sa.Text, nullable=False),
        sa.Column("expires_at", TS(), nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("closed_at", TS()),
        sa.Column("created_at", TS(), nullable=False),
        sa.Column("updated_at", TS(), nullable=False),
        sa.Column("version", sa.Integer, nullable=False, server_default=sa.text("1")),
        sa.PrimaryKeyConstraint("tenant_id", "reservation_id", name="pk_usage_reservations"),
        _reference(
            "fk_usage_reservations_decision_id", ("decision_id",), "decision_records", ("decision_id",)
        ),
        _reference("fk_usage_reservations_run_id", ("run_id",), "runs", ("run_id",)),
        sa.CheckConstraint(
            "status IN ('OPEN', 'COMMITTED', 'RELEASED', 'EXPIRED')", name="ck_usage_reservations_status"
        ),
        sa.CheckConstraint("(status = 'OPEN') = (closed_at IS NULL)", name="ck_usage_reservations_closed"),
    )
    op.create_index(
        "ix_usage_reservations_due",
        "usage_reservations",
        ["expires_at", "tenant_id"],
        sqlite_where=sa.text("status = 'OPEN'"),
        postgresql_where=sa.text("status = 'OPEN'"),
    )
    op.create_index(
        "ix_usage_reservations_run",
        "usage_reservations",
        ["tenant_id", "run_id", "attempt", "reservation_id"],
    )
    row_level_security("usage_reservations")
    no_delete("usage_reservations")
    fixed_columns(
        "usage_reservations",
        (
            "tenant_id",
            "reservation_id",
            "decision_id",
            "run_id",
            "attempt",
            "amounts",
            "windows",
            "expires_at",
            "created_at",
        ),
    )


def _usage_records() -> None:
    op.create_table(
        "usage_records",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("usage_id", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("usage", sa.Text, nullable=False),
        sa.Column("reservation_id", sa.Text),
        sa.Column("step_index", sa.Integer),
        sa.Column("created_at", TS(), nullable=False),
        sa.Column("fact_id", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "run_id", "usage_id", name="pk_usage_records"),
        sa.UniqueConstraint("tenant_id", "fact_id", name="uq_usage_records_fact_id"),
        _leaf("usage_records"),
        _reference("fk_usage_records_run_id", ("run_id",), "runs", ("run_id",)),
    )
    row_level_security("usage_records")
    append_only("usage_records")


def _limit_breaches() -> None:
    op.create_table(
        "limit_breaches",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("breach_id", sa.Text, nullable=False),
        sa.Column("limit_id", sa.Text, nullable=False),
        sa.Column("limit_version", sa.Integer, nullable=False),
        sa.Column("run_id", sa.Text),
        sa.Column("run_key", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer),
        sa.Column("decision_id", sa.Text),
        sa.Column("breach_type", sa.Text, nullable=False),
        sa.Column("value_at_breach", BIGINT, nullable=False),
        sa.Column("limit_value", BIGINT, nullable=False),
        sa.Column("override_id", sa.Text),
        sa.Column("window_key", sa.Text, nullable=False),
        sa.Column("details", sa.Text),
        sa.Column("breached_at", TS(), nullable=False),
        sa.Column("created_at", TS(), nullable=False),
        sa.Column("fact_id", sa.Text, nullable=False),
        sa.Column("protected_salt", sa.Text),
        sa.Column("protected_commit", sa.Text),
        sa.Column("erased_fact_id", sa.Text),
        sa.PrimaryKeyConstraint("tenant_id", "breach_id", name="pk_limit_breaches"),
        sa.UniqueConstraint("tenant_id", "fact_id", name="uq_limit_breaches_fact_id"),
        sa.UniqueConstraint(
            "tenant_id", "limit_id", "window_key", "run_key", name="uq_limit_breaches_first_crossing"
        ),
        _leaf("limit_breaches"),
        _reference("fk_limit_breaches_limit_id", ("limit_id",), "limits", ("limit_id",)),
        _reference("fk_limit_breaches_run_id", ("run_id",), "runs", ("run_id",)),
        sa.CheckConstraint(
            "breach_type IN ('BREACHED', 'EXHAUSTED', 'THROTTLED', 'VIOLATED')",
            name="ck_limit_breaches_breach_type",
        ),
        sa.CheckConstraint("run_key = COALESCE(run_id, '')", name="ck_limit_breaches_run_key"),
    )
    op.create_index(
        "ix_limit_breaches_limit", "limit_breaches", ["tenant_id", "limit_id", "breached_at", "breach_id"]
    )
    op.create_index(
        "ix_limit_breaches_run", "limit_breaches", ["tenant_id", "run_id", "breached_at", "breach_id"]
    )
    op.create_index("ix_limit_breaches_time", "limit_breaches", ["tenant_id", "breached_at", "breach_id"])
    row_level_security("limit_breaches")
    append_only("limit_breaches")


def _limit_overrides() -> None:
    op.create_table(
        "limit_overrides",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("override_id", sa.Text, nullable=False),
        sa.Column("limit_id", sa.Text, nullable=False),
        sa.Column("override_value", BIGINT, nullable=False),
        sa.Column("starts_at", TS(), nullable=False),
        sa.Column("expires_at", TS(), nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("requested_by", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("reviewed_at", TS()),
        sa.Column("reviewed_by", sa.Text),
        sa.Column("review_notes", sa.Text),
        sa.Column("cancelled_at", TS()),
        sa.Column("cancelled_by", sa.Text),
        sa.Column("protected_salt", sa.Text),
        sa.Column("protected_commit", sa.Text),
        sa.Column("erased_fact_id", sa.Text),
        sa.Column("created_at", TS(), nullable=False),
        sa.Column("updated_at", TS(), nullable=False),
        sa.Column("version", sa.Integer, nullable=False, server_default=sa.text("1")),
        sa.PrimaryKeyConstraint("tenant_id", "override_id", name="pk_limit_overrides"),
        _reference("fk_limit_overrides_limit_id", ("limit_id",), "limits", ("limit_id",)),
        sa.CheckConstraint(
            "status IN ('PENDING', 'APPROVED', 'REJECTED', 'CANCELLED', 'EXPIRED')",
            name="ck_limit_overrides_status",
        ),
        sa.CheckConstraint("expires_at > starts_at", name="ck_limit_overrides_window"),
        sa.CheckConstraint("override_value > 0", name="ck_limit_overrides_override_value"),
    )
    op.create_index(
        "ix_limit_overrides_due",
        "limit_overrides",
        ["expires_at", "tenant_id"],
        sqlite_where=sa.text("status IN ('PENDING', 'APPROVED')"),
        postgresql_where=sa.text("status IN ('PENDING', 'APPROVED')"),
    )
    op.create_index(
        "ix_limit_overrides_limit", "limit_overrides", ["tenant_id", "limit_id", "created_at", "override_id"]
    )
    op.create_index(
        "ix_limit_overrides_status", "limit_overrides", ["tenant_id", "status", "created_at", "override_id"]
    )
    op.create_index("ix_limit_overrides_time", "limit_overrides", ["tenant_id", "created_at", "override_id"])
    op.create_index(
        "uq_limit_overrides_live",
        "limit_overrides",
        ["tenant_id", "limit_id"],
        unique=True,
        sqlite_where=sa.text("status IN ('PENDING', 'APPROVED')"),
        postgresql_where=sa.text("status IN ('PENDING', 'APPROVED')"),
    )
    row_level_security("limit_overrides")
    no_delete("limit_overrides")
    fixed_columns(
        "limit_overrides",
        (
            "tenant_id",
            "override_id",
            "limit_id",
            "override_value",
            "starts_at",
            "expires_at",
            "reason",
            "requested_by",
            "created_at",
        ),
    )


def upgrade() -> None:
    _limits()
    _limit_counters()
    _limit_entries()
    _usage_reservations()
    _usage_records()
    _limit_breaches()
    _limit_overrides()


def downgrade() -> None:
    drop_tables(
        "limit_overrides",
        "limit_breaches",
        "usage_records",
        "usage_reservations",
        "limit_entries",
        "limit_counters",
        "limits",
    )
