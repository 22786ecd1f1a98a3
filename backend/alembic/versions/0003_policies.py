"""Policy rules, their versions, the snapshots that govern runs, and proposals."""

from __future__ import annotations

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
    refuse,
    row_level_security,
)

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _proposals()
    _rules()
    _versions()
    _snapshots()


def downgrade() -> None:
    drop_tables("policy_snapshots", "policy_rule_versions", "policy_rules", "policy_proposals")


def _ref(table: str, column: str, target: str, key: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["tenant_id", column],
        [f"{target}.tenant_id", f"{target}.{key}"],
        name=op.f(f"fk_{table}_{column}"),
        ondelete="RESTRICT",
    )


def _check(table: str, name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(f"ck_{table}_{name}"))


def _words(table: str, column: str, *words: str) -> sa.CheckConstraint:
    return _check(table, column, f"{column} IN ({', '.join(repr(word) for word in words)})")


def _index(name: str, table: str, *columns: str, where: str | None = None, unique: bool = False) -> None:
    condition = sa.text(where) if where else None
    op.create_index(
        name,
        table,
        ["tenant_id", *columns],
        unique=unique,
        sqlite_where=condition,
        postgresql_where=condition,
    )


def _proposals() -> None:
    table = "policy_proposals"
    # Runs come later in the chain. SQLite takes a key to a table that is yet to come; on PostgreSQL the
    # migration of the runs adds it.
    run_key = () if on_postgresql() else (_ref(table, "source_run_id", "runs", "run_id"),)
    op.create_table(
        table,
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("proposal_id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("source_ref", sa.Text),
        sa.Column("source_run_id", sa.Text),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("title", sa.Text),
        sa.Column("rationale", sa.Text),
        sa.Column("proposed", sa.Text),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("reviewed_at", TS()),
        sa.Column("reviewed_by", sa.Text),
        sa.Column("review_notes", sa.Text),
        sa.Column("result_ref", sa.Text),
        sa.Column("protected_salt", sa.Text),
        sa.Column("protected_commit", sa.Text),
        sa.Column("erased_fact_id", sa.Text),
        sa.Column("created_at", TS(), nullable=False),
        sa.Column("updated_at", TS(), nullable=False),
        sa.Column("version", sa.Integer, nullable=False, server_default=sa.text("1")),
        sa.PrimaryKeyConstraint("tenant_id", "proposal_id", name=op.f(f"pk_{table}")),
        *run_key,
        _words(table, "kind", "RULE", "LIMIT"),
        _words(table, "source", "MANUAL", "LESSON", "INCIDENT"),
        _words(table, "status", "DRAFT", "APPROVED", "REJECTED"),
        _check(
            table,
            "review",
            "(status = 'DRAFT') = (reviewed_at IS NULL) AND (status = 'DRAFT') = (reviewed_by IS NULL)",
        ),
    )
    _index("ix_policy_proposals_status", table, "status", "created_at", "proposal_id")
    row_level_security(table)
    fixed_columns(
        table,
        (
            "tenant_id",
            "proposal_id",
            "kind",
            "source",
            "source_ref",
            "source_run_id",
            "created_by",
            "created_at",
        ),
    )
    refuse(
        f"{table}_final",
        table,
        "UPDATE",
        f"{table}: a reviewed proposal never changes",
        when="OLD.status <> 'DRAFT'",
    )
    no_delete(table)


def _rules() -> None:
    table = "policy_rules"
    op.create_table(
        table,
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("rule_id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("source_proposal_id", sa.Text),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("current_version", sa.Integer, nullable=False),
        sa.Column("superseded_by", sa.Text),
        sa.Column("revoked", FLAG, nullable=False, server_default=sa.false()),
        sa.Column("activated_at", TS()),
        sa.Column("retired_at", TS()),
        sa.Column("retired_by", sa.Text),
        sa.Column("retired_reason", sa.Text),
        sa.Column("created_at", TS(), nullable=False),
        sa.Column("updated_at", TS(), nullable=False),
        sa.Column("version", sa.Integer, nullable=False, server_default=sa.text("1")),
        sa.PrimaryKeyConstraint("tenant_id", "rule_id", name=op.f(f"pk_{table}")),
        _ref(table, "source_proposal_id", "policy_proposals", "proposal_id"),
        _ref(table, "superseded_by", "policy_rules", "rule_id"),
        _words(table, "kind", "ACCESS", "GUARD"),
        _words(table, "source", "MANUAL", "SYSTEM", "LEARNED"),
        _words(table, "status", "DRAFT", "ACTIVE", "RETIRED"),
        _check(
            table,
            "retired",
            "(status = 'RETIRED') = (retired_at IS NOT NULL)"
            " AND (status = 'RETIRED') = (retired_by IS NOT NULL)",
        ),
        _check(table, "activated", "status <> 'ACTIVE' OR activated_at IS NOT NULL"),
        _check(table, "revoked", "NOT revoked OR status = 'RETIRED'"),
        _check(table, "current_version", "current_version >= 1"),
    )
    _index("uq_policy_rules_name", table, "name", where="status <> 'RETIRED'", unique=True)
    _index("ix_policy_rules_created", table, "created_at", "rule_id")
    _index("ix_policy_rules_status", table, "status", "created_at", "rule_id")
    _index("ix_policy_rules_kind", table, "kind", "created_at", "rule_id")
    _index("ix_policy_rules_revoked", table, "rule_id", where="revoked")
    row_level_security(table)
    fixed_columns(
        table, ("tenant_id", "rule_id", "kind", "source", "source_proposal_id", "created_by", "created_at")
    )
    refuse(
        f"{table}_final",
        table,
        "UPDATE",
        f"{table}: a retired rule never changes",
        when="OLD.status = 'RETIRED'",
    )
    refuse(
        f"{table}_forward",
        table,
        "UPDATE",
        f"{table}: an ACTIVE rule is never a DRAFT again",
        when="OLD.status = 'ACTIVE' AND NEW.status = 'DRAFT'",
    )
    no_delete(table)


def _versions() -> None:
    table = "policy_rule_versions"
    op.create_table(
        table,
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("rule_id", sa.Text, nullable=False),
        sa.Column("rule_version", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("description", sa.Text),
        sa.Column("effect", sa.Text),
        sa.Column("enforcement_mode", sa.Text),
        sa.Column("moments", sa.Text, nullable=False),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("scope_id", sa.Text),
        sa.Column("condition", sa.Text),
        sa.Column("constraints", sa.Text, nullable=False),
        sa.Column("halts_run", FLAG, nullable=False, server_default=sa.false()),
        sa.Column("depends_on", sa.Text, nullable=False, server_default=sa.text("'[]'")),
        sa.Column("message", sa.Text),
        sa.Column("content_hash", sa.Text, nullable=False),
        sa.Column("changed_by", sa.Text, nullable=False),
        sa.Column("change_reason", sa.Text),
        sa.Column("created_at", TS(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "rule_id", "rule_version", name=op.f(f"pk_{table}")),
        _ref(table, "rule_id", "policy_rules", "rule_id"),
        _words(table, "effect", "ALLOW", "DENY"),
        _words(table, "enforcement_mode", "BLOCK", "WARN", "AUDIT", "DISABLED"),
        _words(table, "scope", "TENANT", "PROJECT", "AGENT"),
        _check(table, "verdict", "(effect IS NULL) <> (enforcement_mode IS NULL)"),
        _check(table, "moments", "(effect IS NULL) = (moments <> '[]')"),
        _check(table, "scope_id", "(scope = 'TENANT') = (scope_id IS NULL)"),
        _check(table, "halts_run", "NOT halts_run OR COALESCE(enforcement_mode, '') = 'BLOCK'"),
        _check(table, "content_hash", "length(content_hash) = 64"),
        _check(table, "rule_version", "rule_version >= 1"),
    )
    row_level_security(table)
    append_only(table)


def _snapshots() -> None:
    table = "policy_snapshots"
    op.create_table(
        table,
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("snapshot_id", sa.Text, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("content_hash", sa.Text, nullable=False),
        sa.Column("rule_count", sa.Integer, nullable=False),
        sa.Column("limit_count", sa.Integer, nullable=False),
        sa.Column("created_at", TS(), nullable=False),
        sa.Column("fact_id", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "snapshot_id", name=op.f(f"pk_{table}")),
        sa.UniqueConstraint("tenant_id", "content_hash", name=op.f(f"uq_{table}_content_hash")),
        sa.UniqueConstraint("tenant_id", "fact_id", name=op.f(f"uq_{table}_fact_id")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "fact_id"],
            ["log_leaves.tenant_id", "log_leaves.fact_id"],
            name=op.f(f"fk_{table}_fact_id"),
            ondelete="RESTRICT",
            deferrable=True,
            initially="DEFERRED",
        ),
        _check(table, "content_hash", "length(content_hash) = 64"),
        _check(table, "snapshot_id", "snapshot_id = 'snap_' || substr(content_hash, 1, 32)"),
    )
    row_level_security(table)
    append_only(table)
