"""Knowledge planes: registry, collections, policy bindings, purge approvals, lifecycle events."""

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
    refuse,
    row_level_security,
)

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

STATES = (100, 110, 120, 130, 140, 150, 160, 200, 300, 310, 320, 400, 500)
EDGES = {
    100: (110, 500),
    110: (120, 100, 500),
    120: (130, 500),
    130: (140, 120, 500),
    140: (150, 500),
    150: (160, 500),
    160: (200, 150, 500),
    200: (300,),
    300: (310, 200, 500),
    310: (320, 500),
    320: (400, 500),
}
EVENT_TYPES = (
    "LIFECYCLE_TRANSITION",
    "LIFECYCLE_ROLLBACK",
    "LIFECYCLE_BLOCKED",
    "LIFECYCLE_PURGE_APPROVED",
    "LIFECYCLE_JOB_STARTED",
    "LIFECYCLE_JOB_COMPLETED",
    "LIFECYCLE_JOB_FAILED",
    "PLANE_CONFIG_UPDATED",
    "PLANE_POLICY_BOUND",
    "PLANE_POLICY_UNBOUND",
    "PLANE_SUSPENDED",
    "PLANE_RESUMED",
    "PLANE_REFRESHED",
    "PLANE_ARCHIVE_DELETED",
)


def upgrade() -> None:
    _registry()
    _collections()
    _bindings()
    _approvals()
    _events()


def downgrade() -> None:
    drop_tables(
        "plane_lifecycle_events",
        "plane_purge_approvals",
        "plane_policy_bindings",
        "plane_collections",
        "knowledge_plane_registry",
    )


def _words(column: str, *words: str) -> str:
    return f"{column} IN ({', '.join(repr(word) for word in words)})"


def _numbers(values: tuple[int, ...]) -> str:
    return ", ".join(str(value) for value in values)


def _fact(table: str) -> tuple[sa.schema.SchemaItem, ...]:
    return (
        sa.UniqueConstraint("tenant_id", "fact_id", name=op.f(f"uq_{table}_fact_id")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "fact_id"],
            ["log_leaves.tenant_id", "log_leaves.fact_id"],
            name=op.f(f"fk_{table}_fact_id"),
            ondelete="RESTRICT",
            deferrable=True,
            initially="DEFERRED",
        ),
    )


def _plane(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["tenant_id", "plane_id"],
        ["knowledge_plane_registry.tenant_id", "knowledge_plane_registry.plane_id"],
        name=op.f(f"fk_{table}_plane_id"),
        ondelete="RESTRICT",
    )


def _index(
    name: str, table: str, columns: list[str], where: str | None = None, *, unique: bool = False
) -> None:
    condition = sa.text(where) if where else None
    op.create_index(name, table, columns, unique=unique, sqlite_where=condition, postgresql_where=condition)


def _registry() -> None:
    table = "knowledge_plane_registry"
    op.create_table(
        table,
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("plane_id", sa.Text, nullable=False),
        sa.Column("plane_type", sa.Text, nullable=False),
        sa.Column("plane_name", sa.Text, nullable=False),
        sa.Column("lifecycle_state_value", sa.Integer, nullable=False, server_default=sa.text("100")),
        sa.Column("connector_type", sa.Text, nullable=False),
        sa.Column("connector_id", sa.Text, nullable=False),
        sa.Column("config", sa.Text, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("config_digest", sa.Text, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("created_at", TS(), nullable=False),
        sa.Column("updated_at", TS(), nullable=False),
        sa.Column("version", BIGINT, nullable=False, server_default=sa.text("1")),
        sa.Column("event_seq", BIGINT, nullable=False, server_default=sa.text("0")),
        sa.Column("state_entered_at", TS(), nullable=False),
        sa.Column("suspended_at", TS()),
        sa.Column("suspended_by", sa.Text),
        sa.Column("grace_until", TS()),
        sa.Column("retention_until", TS()),
        sa.Column("sensitivity_level", sa.Text),
        sa.Column("pii_detected", FLAG),
        sa.Column("pii_count", sa.Integer),
        sa.Column("classification", sa.Text),
        sa.Column("document_count", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("passage_count", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("token_total", BIGINT, nullable=False, server_default=sa.text("0")),
        sa.Column("generation", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("ingested_seq", BIGINT),
        sa.Column("archive_key", sa.Text),
        sa.Column("archive_digest", sa.Text),
        sa.Column("archive_size_bytes", BIGINT),
        sa.Column("archived_at", TS()),
        sa.Column("purge_certificate", sa.Text),
        sa.Column("fact_id", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "plane_id", name=op.f(f"pk_{table}")),
        *_fact(table),
        sa.CheckConstraint(
            _words("connector_type", "repository", "sql", "http"), name=op.f(f"ck_{table}_connector_type")
        ),
        sa.CheckConstraint(
            _words("sensitivity_level", "public", "internal", "confidential", "restricted"),
            name=op.f(f"ck_{table}_sensitivity_level"),
        ),
        sa.CheckConstraint(
            f"lifecycle_state_value IN ({_numbers(STATES)})",
            name=op.f("ck_kp_registry_state_value"),
        ),
    )
    _index(
        "uq_kp_registry_tenant_type_name",
        table,
        ["tenant_id", "plane_type", "plane_name"],
        "lifecycle_state_value < 400",
        unique=True,
    )
    _index("ix_kp_registry_state", table, ["tenant_id", "lifecycle_state_value", "plane_id"])
    row_level_security(table)
    no_delete(table)
    fixed_columns(
        table,
        (
            "tenant_id",
            "plane_id",
            "plane_type",
            "plane_name",
            "connector_type",
            "connector_id",
            "created_by",
            "created_at",
        ),
    )
    # A statement that names the state must take a legal edge; staying in a state is none.
    legal = " OR ".join(
        f"(OLD.lifecycle_state_value = {source} AND NEW.lifecycle_state_value IN ({_numbers(targets)}))"
        for source, targets in EDGES.items()
    )
    refuse(
        f"{table}_legal_edges",
        table,
        "UPDATE OF lifecycle_state_value",
        f"{table}: illegal lifecycle transition",
        when=f"NOT ({legal})",
    )


def _collections() -> None:
    table = "plane_collections"
    op.create_table(
        table,
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("plane_id", sa.Text, nullable=False),
        sa.Column("collection_id", sa.Text, nullable=False),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("bound_at", TS(), nullable=False),
        sa.Column("bound_by", sa.Text, nullable=False),
        sa.Column("released_at", TS()),
        sa.PrimaryKeyConstraint("tenant_id", "plane_id", "collection_id", name=op.f(f"pk_{table}")),
        _plane(table),
        sa.ForeignKeyConstraint(
            ["tenant_id", "collection_id"],
            ["collections.tenant_id", "collections.id"],
            name=op.f(f"fk_{table}_collection_id"),
            ondelete="RESTRICT",
        ),
        sa.CheckConstraint(_words("mode", "OWNED", "SHARED"), name=op.f(f"ck_{table}_mode")),
    )
    _index(
        "uq_plane_collections_owned",
        table,
        ["tenant_id", "collection_id"],
        "mode = 'OWNED' AND released_at IS NULL",
        unique=True,
    )
    row_level_security(table)


def _bindings() -> None:
    table = "plane_policy_bindings"
    op.create_table(
        table,
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("binding_id", sa.Text, nullable=False),
        sa.Column("plane_id", sa.Text, nullable=False),
        sa.Column("policy_id", sa.Text, nullable=False),
        sa.Column("bound_by", sa.Text, nullable=False),
        sa.Column("bound_at", TS(), nullable=False),
        sa.Column("unbound_by", sa.Text),
        sa.Column("unbound_at", TS()),
        sa.Column("version", BIGINT, nullable=False, server_default=sa.text("1")),
        sa.Column("fact_id", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "binding_id", name=op.f(f"pk_{table}")),
        *_fact(table),
        _plane(table),
        sa.ForeignKeyConstraint(
            ["tenant_id", "policy_id"],
            ["policy_rules.tenant_id", "policy_rules.rule_id"],
            name=op.f(f"fk_{table}_policy_id"),
            ondelete="RESTRICT",
        ),
    )
    live = "unbound_at IS NULL"
    _index("uq_plane_policy_bindings_live", table, ["tenant_id", "plane_id", "policy_id"], live, unique=True)
    _index("ix_plane_policy_bindings_policy", table, ["tenant_id", "policy_id"], live)
    row_level_security(table)
    no_delete(table)
    fixed_columns(table, ("tenant_id", "binding_id", "plane_id", "policy_id", "bound_by", "bound_at"))
    refuse(
        f"{table}_unbound_once",
        table,
        "UPDATE",
        f"{table}: an unbound policy stays unbound",
        when="OLD.unbound_at IS NOT NULL",
    )


def _approvals() -> None:
    table = "plane_purge_approvals"
    op.create_table(
        table,
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("approval_id", sa.Text, nullable=False),
        sa.Column("plane_id", sa.Text, nullable=False),
        sa.Column("approved_by", sa.Text, nullable=False),
        sa.Column("approved_at", TS(), nullable=False),
        sa.Column("expires_at", TS(), nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "approval_id", name=op.f(f"pk_{table}")),
        _plane(table),
    )
    _index("ix_plane_purge_approvals_plane", table, ["tenant_id", "plane_id", "approved_at"])
    row_level_security(table)
    append_only(table)


def _events() -> None:
    table = "plane_lifecycle_events"
    op.create_table(
        table,
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("plane_id", sa.Text, nullable=False),
        sa.Column("seq", BIGINT, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("event_type", sa.Text, nullable=False),
        sa.Column("from_state_value", sa.Integer),
        sa.Column("to_state_value", sa.Integer),
        sa.Column("action", sa.Text),
        sa.Column("actor_type", sa.Text, nullable=False),
        sa.Column("actor_id", sa.Text, nullable=False),
        sa.Column("decision", sa.Text, nullable=False),
        sa.Column("error_code", sa.Text),
        sa.Column("required_action", sa.Text),
        sa.Column("gate", sa.Text),
        sa.Column("job_id", sa.Text),
        sa.Column("approval_id", sa.Text),
        sa.Column("plane_version", BIGINT, nullable=False),
        sa.Column("config_digest", sa.Text, nullable=False),
        sa.Column("details", sa.Text, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("request_id", sa.Text),
        sa.Column("trace_id", sa.Text),
        sa.Column("occurred_at", TS(), nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("protected_salt", sa.Text),
        sa.Column("protected_commit", sa.Text),
        sa.Column("erased_fact_id", sa.Text),
        sa.Column("fact_id", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "plane_id", "seq", name=op.f(f"pk_{table}")),
        *_fact(table),
        _plane(table),
        sa.UniqueConstraint("tenant_id", "event_id", name=op.f(f"uq_{table}_event")),
        sa.CheckConstraint(_words("event_type", *EVENT_TYPES), name=op.f(f"ck_{table}_event_type")),
        sa.CheckConstraint(
            _words("actor_type", "HUMAN", "SYSTEM", "AGENT"), name=op.f(f"ck_{table}_actor_type")
        ),
        sa.CheckConstraint(
            _words("decision", "ALLOWED", "BLOCKED", "PENDING"), name=op.f(f"ck_{table}_decision")
        ),
    )
    _index(
        "uq_plane_lifecycle_events_purge",
        table,
        ["tenant_id", "approval_id"],
        "to_state_value = 400 AND decision = 'ALLOWED'",
        unique=True,
    )
    row_level_security(table)
    append_only(table)
