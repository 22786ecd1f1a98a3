"""Tenants: tables of tenants, their state, keys and secrets, and of the whole system's switches."""

from __future__ import annotations

import sqlalchemy as sa

from app.db.governed import exempt, govern
from app.db.metadata import enum_check, metadata, protected_columns, tenant_table
from app.db.types import BigInt, Bytes, CanonicalText, Flag, Timestamp
from app.domains.tenants.models import ActorType, KeyStatus, Plan, TenantStatus

tenants = sa.Table(
    "tenants",
    metadata,
    sa.Column("tenant_id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("slug", sa.Text, nullable=False, unique=True),
    sa.Column("plan", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("status_reason", sa.Text),
    sa.Column("allow_self_approval", Flag, nullable=False, server_default=sa.false()),
    sa.Column("created_at", Timestamp, nullable=False),
    sa.Column("updated_at", Timestamp, nullable=False),
    sa.Column("version", sa.Integer, nullable=False, server_default="1"),
    *protected_columns(),
    enum_check("plan", Plan),
    enum_check("status", TenantStatus),
    sa.CheckConstraint("tenant_id <> 'default'", name="reserved"),
)
tenant_state = tenant_table(
    "tenant_state",
    sa.Column("next_run_no", BigInt, nullable=False, server_default="1"),
    sa.Column("running_runs", sa.Integer, nullable=False, server_default="0"),
    sa.Column("runs_day", sa.Text, nullable=False),
    sa.Column("runs_today", sa.Integer, nullable=False, server_default="0"),
    sa.Column("policy_version", BigInt, nullable=False, server_default="0"),
    sa.Column("live_epoch", BigInt, nullable=False, server_default="0"),
    sa.Column("frozen", Flag, nullable=False, server_default=sa.false()),
    sa.Column("frozen_at", Timestamp),
    sa.Column("frozen_by", sa.Text),
    sa.Column("frozen_reason", sa.Text),
    sa.Column("created_at", Timestamp, nullable=False),
    sa.ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], ondelete="RESTRICT"),
    sa.CheckConstraint("running_runs >= 0", name="running_runs"),
    primary_key=(),
)
api_keys = tenant_table(
    "api_keys",
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("key_hash", sa.Text, nullable=False, unique=True),
    sa.Column("prefix", sa.Text, nullable=False),
    sa.Column("role", sa.Text),
    sa.Column("scopes", CanonicalText, nullable=False),
    sa.Column("actor_type", sa.Text, nullable=False),
    sa.Column("actor_id", sa.Text, nullable=False),
    sa.Column("rate_limit_rpm", sa.Integer),
    sa.Column("expires_at", Timestamp),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("frozen_at", Timestamp),
    sa.Column("frozen_by", sa.Text),
    sa.Column("frozen_reason", sa.Text),
    sa.Column("revoked_at", Timestamp),
    sa.Column("revoked_by", sa.Text),
    sa.Column("revoked_reason", sa.Text),
    sa.Column("last_used_at", Timestamp),
    sa.Column("created_at", Timestamp, nullable=False),
    sa.Column("updated_at", Timestamp, nullable=False),
    sa.Column("version", sa.Integer, nullable=False, server_default="1"),
    *protected_columns(),
    sa.ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], ondelete="RESTRICT"),
    sa.CheckConstraint("tenant_id <> '_system'", name="not_system"),
    enum_check("actor_type", ActorType),
    enum_check("status", KeyStatus),
    primary_key=("key_id",),
)
tenant_secrets = tenant_table(
    "tenant_secrets",
    sa.Column("digest_key", Bytes, nullable=False),
    sa.Column("created_at", Timestamp, nullable=False),
    sa.ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], ondelete="RESTRICT"),
    primary_key=(),
)
system_state = sa.Table(
    "system_state",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kill_engaged", Flag, nullable=False, server_default=sa.false()),
    sa.Column("kill_at", Timestamp),
    sa.Column("kill_by", sa.Text),
    sa.Column("kill_reason", sa.Text),
    sa.Column("degraded", Flag, nullable=False, server_default=sa.false()),
    sa.Column("degraded_at", Timestamp),
    sa.Column("degraded_by", sa.Text),
    sa.Column("degraded_reason", sa.Text),
    sa.CheckConstraint("id = 1", name="one_row"),
)
worker_leases = sa.Table(
    "worker_leases",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("token", BigInt, nullable=False),
    sa.Column("expires_at", Timestamp, nullable=False),
)

govern(tenants, "AUDITED", protected=("status_reason",), operated=True)
govern(
    api_keys,
    "AUDITED",
    protected=("frozen_reason", "revoked_reason"),
    digests=("key_hash",),
    json_columns=("scopes",),
    unhashed={"last_used_at": "TELEMETRY when the key was last used, best effort"},
    operated=True,
)
exempt(tenant_state, "counters and switches of the moment; each switch has its audit entry")
exempt(tenant_secrets, "the digest key is a secret and is never exported")
