"""Tenants, their state and keys, the switches of the system."""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op
from hoc_ddl import (
    BIGINT,
    BYTES,
    FLAG,
    TS,
    as_maintenance,
    create_roles,
    drop_tables,
    fixed_columns,
    grant,
    no_delete,
    row_level_security,
    run_ddl,
)  # fmt: skip

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _tenants() -> None:
    op.create_table(
        "tenants",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("slug", sa.Text, nullable=False),
        sa.Column("plan", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("status_reason", sa.Text),
        sa.Column("allow_self_approval", FLAG, nullable=False, server_default=sa.false()),
        sa.Column("created_at", TS(), nullable=False),
        sa.Column("updated_at", TS(), nullable=False),
        sa.Column("version", sa.Integer, nullable=False, server_default="1"),
        sa.Column("protected_salt", sa.Text),
        sa.Column("protected_commit", sa.Text),
        sa.Column("erased_fact_id", sa.Text),
        sa.PrimaryKeyConstraint("tenant_id", name="pk_tenants"),
        sa.UniqueConstraint("slug", name="uq_tenants_slug"),
        sa.CheckConstraint("plan IN ('FREE', 'PRO', 'ENTERPRISE')", name="ck_tenants_plan"),
        sa.CheckConstraint("status IN ('ACTIVE', 'SUSPENDED', 'CLOSED')", name="ck_tenants_status"),
        sa.CheckConstraint("tenant_id <> 'default'", name="ck_tenants_reserved"),
    )
    grant("tenants")
    fixed_columns("tenants", ("tenant_id", "created_at"))
    no_delete("tenants")
    op.create_table(
        "tenant_state",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("next_run_no", BIGINT, nullable=False, server_default="1"),
        sa.Column("running_runs", sa.Integer, nullable=False, server_default="0"),
        sa.Column("runs_day", sa.Text, nullable=False),
        sa.Column("runs_today", sa.Integer, nullable=False, server_default="0"),
        sa.Column("policy_version", BIGINT, nullable=False, server_default="0"),
        sa.Column("live_epoch", BIGINT, nullable=False, server_default="0"),
        sa.Column("frozen", FLAG, nullable=False, server_default=sa.false()),
        sa.Column("frozen_at", TS()),
        sa.Column("frozen_by", sa.Text),
        sa.Column("frozen_reason", sa.Text),
        sa.Column("created_at", TS(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", name="pk_tenant_state"),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.tenant_id"], name="fk_tenant_state_tenant_id", ondelete="RESTRICT"
        ),
        sa.CheckConstraint("running_runs >= 0", name="ck_tenant_state_running_runs"),
    )
    row_level_security("tenant_state")
    op.create_table(
        "tenant_secrets",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("digest_key", BYTES, nullable=False),
        sa.Column("created_at", TS(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", name="pk_tenant_secrets"),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.tenant_id"], name="fk_tenant_secrets_tenant_id", ondelete="RESTRICT"
        ),
    )
    row_level_security("tenant_secrets")


def _api_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("key_hash", sa.Text, nullable=False),
        sa.Column("prefix", sa.Text, nullable=False),
        sa.Column("role", sa.Text),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("actor_type", sa.Text, nullable=False),
        sa.Column("actor_id", sa.Text, nullable=False),
        sa.Column("rate_limit_rpm", sa.Integer),
        sa.Column("expires_at", TS()),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("frozen_at", TS()),
        sa.Column("frozen_by", sa.Text),
        sa.Column("frozen_reason", sa.Text),
        sa.Column("revoked_at", TS()),
        sa.Column("revoked_by", sa.Text),
        sa.Column("revoked_reason", sa.Text),
        sa.Column("last_used_at", TS()),
        sa.Column("created_at", TS(), nullable=False),
        sa.Column("updated_at", TS(), nullable=False),
        sa.Column("version", sa.Integer, nullable=False, server_default="1"),
        sa.Column("protected_salt", sa.Text),
        sa.Column("protected_commit", sa.Text),
        sa.Column("erased_fact_id", sa.Text),
        sa.PrimaryKeyConstraint("tenant_id", "key_id", name="pk_api_keys"),
        sa.UniqueConstraint("key_hash", name="uq_api_keys_key_hash"),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.tenant_id"], name="fk_api_keys_tenant_id", ondelete="RESTRICT"
        ),
        sa.CheckConstraint("tenant_id <> '_system'", name="ck_api_keys_not_system"),
        sa.CheckConstraint("actor_type IN ('HUMAN', 'SYSTEM', 'AGENT')", name="ck_api_keys_actor_type"),
        sa.CheckConstraint("status IN ('ACTIVE', 'FROZEN', 'REVOKED')", name="ck_api_keys_status"),
    )
    row_level_security("api_keys")
    fixed_columns(
        "api_keys",
        (
            "tenant_id", "key_id", "name", "key_hash", "prefix", "role", "scopes", "actor_type", "actor_id",
            "rate_limit_rpm", "expires_at", "created_by", "created_at",
        ),
    )  # fmt: skip
    no_delete("api_keys")


def _system() -> None:
    op.create_table(
        "system_state",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("kill_engaged", FLAG, nullable=False, server_default=sa.false()),
        sa.Column("kill_at", TS()),
        sa.Column("kill_by", sa.Text),
        sa.Column("kill_reason", sa.Text),
        sa.Column("degraded", FLAG, nullable=False, server_default=sa.false()),
        sa.Column("degraded_at", TS()),
        sa.Column("degraded_by", sa.Text),
        sa.Column("degraded_reason", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_system_state"),
        sa.CheckConstraint("id = 1", name="ck_system_state_one_row"),
    )
    grant("system_state", app="SELECT")
    op.create_table(
        "worker_leases",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("token", BIGINT, nullable=False),
        sa.Column("expires_at", TS(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_worker_leases"),
    )
    grant("worker_leases", app="SELECT")
    epoch = "'1970-01-01T00:00:00.000000Z'"
    tenant = "tenant_id, name, slug, plan, status, created_at, updated_at"
    ledger = f"'_system', 'Ledger of the operator', '_system', 'FREE', 'CLOSED', {epoch}, {epoch}"
    state = f"'_system', '1970-01-01', {epoch}"
    seed = (
        "INSERT INTO system_state (id) VALUES (1)",
        f"INSERT INTO tenants ({tenant}) VALUES ({ledger})",
        f"INSERT INTO tenant_state (tenant_id, runs_day, created_at) VALUES ({state})",
    )
    with as_maintenance():
        run_ddl(sqlite=seed, postgresql=seed)


def upgrade() -> None:
    create_roles()
    _tenants()
    _api_keys()
    _system()


def downgrade() -> None:
    drop_tables("worker_leases", "system_state", "api_keys", "tenant_secrets", "tenant_state", "tenants")
