"""L7 tables of the knowledge slice: planes, their bindings, events, jobs and the content they serve."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.sql.elements import conv

from app.db.governed import exempt, govern
from app.db.metadata import (
    enum_check,
    fact_id_column,
    fact_id_constraints,
    protected_columns,
    tenant_ref,
    tenant_table,
)
from app.db.types import BigInt, CanonicalText, Flag, Timestamp
from app.domains.knowledge.models.vocabulary import (
    CollectionMode,
    ConnectorType,
    EventActorType,
    GateDecision,
    JobStatus,
    JobType,
    KnowledgePlaneLifecycleState,
    LifecycleEventType,
    SensitivityLevel,
)

_STATES = "lifecycle_state_value IN ({})".format(
    ", ".join(str(state.value) for state in KnowledgePlaneLifecycleState)
)


_OPEN_JOB = sa.text("status IN ('QUEUED', 'RUNNING')")
_LIVE_BINDING = sa.text("unbound_at IS NULL")
_OWNED_NOW = sa.text("mode = 'OWNED' AND released_at IS NULL")
_PURGE_DONE = sa.text("to_state_value = 400 AND decision = 'ALLOWED'")
_LIVE_NAME = sa.text("lifecycle_state_value < 400")


def _plane_ref(table: str) -> sa.ForeignKeyConstraint:
    return tenant_ref("plane_id", "knowledge_plane_registry.plane_id", name=f"fk_{table}_plane_id")


knowledge_plane_registry: sa.Table = tenant_table(
    "knowledge_plane_registry",
    sa.Column("plane_id", sa.Text, nullable=False),
    sa.Column("plane_type", sa.Text, nullable=False),
    sa.Column("plane_name", sa.Text, nullable=False),
    sa.Column("lifecycle_state_value", sa.Integer, nullable=False, server_default=sa.text("100")),
    sa.Column("connector_type", sa.Text, nullable=False),
    sa.Column("connector_id", sa.Text, nullable=False),
    sa.Column("config", CanonicalText, nullable=False, server_default=sa.text("'{}'")),
    sa.Column("config_digest", sa.Text, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("created_at", Timestamp, nullable=False),
    sa.Column("updated_at", Timestamp, nullable=False),
    sa.Column("version", BigInt, nullable=False, server_default=sa.text("1")),
    sa.Column("event_seq", BigInt, nullable=False, server_default=sa.text("0")),
    sa.Column("state_entered_at", Timestamp, nullable=False),
    sa.Column("suspended_at", Timestamp),
    sa.Column("suspended_by", sa.Text),
    sa.Column("grace_until", Timestamp),
    sa.Column("retention_until", Timestamp),
    sa.Column("sensitivity_level", sa.Text),
    sa.Column("pii_detected", Flag),
    sa.Column("pii_count", sa.Integer),
    sa.Column("classification", CanonicalText),
    sa.Column("document_count", sa.Integer, nullable=False, server_default=sa.text("0")),
    sa.Column("passage_count", sa.Integer, nullable=False, server_default=sa.text("0")),
    sa.Column("token_total", BigInt, nullable=False, server_default=sa.text("0")),
    sa.Column("generation", sa.Integer, nullable=False, server_default=sa.text("0")),
    sa.Column("ingested_seq", BigInt),
    sa.Column("archive_key", sa.Text),
    sa.Column("archive_digest", sa.Text),
    sa.Column("archive_size_bytes", BigInt),
    sa.Column("archived_at", Timestamp),
    sa.Column("purge_certificate", sa.Text),
    fact_id_column(),
    *fact_id_constraints("knowledge_plane_registry"),
    enum_check("connector_type", ConnectorType),
    enum_check("sensitivity_level", SensitivityLevel),
    sa.CheckConstraint(_STATES, name=conv("ck_kp_registry_state_value")),
    # A PURGED or FAILED plane frees its name, never its id.
    sa.Index(
        "uq_kp_registry_tenant_type_name",
        "tenant_id",
        "plane_type",
        "plane_name",
        unique=True,
        sqlite_where=_LIVE_NAME,
        postgresql_where=_LIVE_NAME,
    ),
    sa.Index(
        "ix_kp_registry_state",
        "tenant_id",
        "lifecycle_state_value",
        "plane_id",
    ),
    # Maintenance asks for what moved of late, and for what refreshes by itself.
    sa.Index(
        "ix_kp_registry_moved",
        "updated_at",
        "tenant_id",
        sqlite_where=sa.text("generation > 1"),
        postgresql_where=sa.text("generation > 1"),
    ),
    sa.Index("ix_kp_registry_refreshable", "connector_type", "lifecycle_state_value", "tenant_id"),
    primary_key=("plane_id",),
)

plane_collections: sa.Table = tenant_table(
    "plane_collections",
    sa.Column("plane_id", sa.Text, nullable=False),
    sa.Column("collection_id", sa.Text, nullable=False),
    sa.Column("mode", sa.Text, nullable=False),
    sa.Column("bound_at", Timestamp, nullable=False),
    sa.Column("bound_by", sa.Text, nullable=False),
    sa.Column("released_at", Timestamp),
    _plane_ref("plane_collections"),
    tenant_ref("collection_id", "collections.id", name="fk_plane_collections_collection_id"),
    enum_check("mode", CollectionMode),
    sa.Index(
        "uq_plane_collections_owned",
        "tenant_id",
        "collection_id",
        unique=True,
        sqlite_where=_OWNED_NOW,
        postgresql_where=_OWNED_NOW,
    ),
    primary_key=("plane_id", "collection_id"),
)

plane_policy_bindings: sa.Table = tenant_table(
    "plane_policy_bindings",
    sa.Column("binding_id", sa.Text, nullable=False),
    sa.Column("plane_id", sa.Text, nullable=False),
    sa.Column("policy_id", sa.Text, nullable=False),
    sa.Column("bound_by", sa.Text, nullable=False),
    sa.Column("bound_at", Timestamp, nullable=False),
    sa.Column("unbound_by", sa.Text),
    sa.Column("unbound_at", Timestamp),
    sa.Column("version", BigInt, nullable=False, server_default=sa.text("1")),
    fact_id_column(),
    *fact_id_constraints("plane_policy_bindings"),
    _plane_ref("plane_policy_bindings"),
    tenant_ref("policy_id", "policy_rules.rule_id", name="fk_plane_policy_bindings_policy_id"),
    sa.Index(
        "uq_plane_policy_bindings_live",
        "tenant_id",
        "plane_id",
        "policy_id",
        unique=True,
        sqlite_where=_LIVE_BINDING,
        postgresql_where=_LIVE_BINDING,
    ),
    sa.Index(
        "ix_plane_policy_bindings_policy",
        "tenant_id",
        "policy_id",
        sqlite_where=_LIVE_BINDING,
        postgresql_where=_LIVE_BINDING,
    ),
    primary_key=("binding_id",),
)

plane_purge_approvals: sa.Table = tenant_table(
    "plane_purge_approvals",
    sa.Column("approval_id", sa.Text, nullable=False),
    sa.Column("plane_id", sa.Text, nullable=False),
    sa.Column("approved_by", sa.Text, nullable=False),
    sa.Column("approved_at", Timestamp, nullable=False),
    sa.Column("expires_at", Timestamp, nullable=False),
    sa.Column("event_id", sa.Text, nullable=False),
    _plane_ref("plane_purge_approvals"),
    sa.Index(
        "ix_plane_purge_approvals_plane",
        "tenant_id",
        "plane_id",
        "approved_at",
    ),
    primary_key=("approval_id",),
)

plane_lifecycle_events: sa.Table = tenant_table(
    "plane_lifecycle_events",
    sa.Column("plane_id", sa.Text, nullable=False),
    sa.Column("seq", BigInt, nullable=False),
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
    sa.Column("gate", CanonicalText),
    sa.Column("job_id", sa.Text),
    sa.Column("approval_id", sa.Text),
    sa.Column("plane_version", BigInt, nullable=False),
    sa.Column("config_digest", sa.Text, nullable=False),
    sa.Column("details", CanonicalText, nullable=False, server_default=sa.text("'{}'")),
    sa.Column("request_id", sa.Text),
    sa.Column("trace_id", sa.Text),
    sa.Column("occurred_at", Timestamp, nullable=False),
    sa.Column("reason", sa.Text),
    *protected_columns(),
    fact_id_column(),
    *fact_id_constraints("plane_lifecycle_events"),
    _plane_ref("plane_lifecycle_events"),
    sa.UniqueConstraint("tenant_id", "event_id", name="uq_plane_lifecycle_events_event"),
    enum_check("event_type", LifecycleEventType),
    enum_check("actor_type", EventActorType),
    enum_check("decision", GateDecision),
    # An approval is consumed by the purge event that names it, once.
    sa.Index(
        "uq_plane_lifecycle_events_purge",
        "tenant_id",
        "approval_id",
        unique=True,
        sqlite_where=_PURGE_DONE,
        postgresql_where=_PURGE_DONE,
    ),
    primary_key=("plane_id", "seq"),
)

knowledge_plane_jobs: sa.Table = tenant_table(
    "knowledge_plane_jobs",
    sa.Column("job_id", sa.Text, nullable=False),
    sa.Column("plane_id", sa.Text, nullable=False),
    sa.Column("job_type", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False, server_default=sa.text("0")),
    sa.Column("max_attempts", sa.Integer, nullable=False, server_default=sa.text("4")),
    sa.Column("expected_state", sa.Integer, nullable=False),
    sa.Column("target_state", sa.Integer),
    sa.Column("config", CanonicalText),
    sa.Column("next_attempt_at", Timestamp, nullable=False),
    sa.Column("lease_owner", sa.Text),
    sa.Column("lease_token", sa.Text),
    sa.Column("lease_until", Timestamp),
    sa.Column("progress", CanonicalText, nullable=False, server_default=sa.text("'{}'")),
    sa.Column("result", CanonicalText),
    sa.Column("error_code", sa.Text),
    sa.Column("error_message", sa.Text),
    sa.Column("retryable", Flag),
    sa.Column("requested_by", sa.Text, nullable=False),
    sa.Column("created_at", Timestamp, nullable=False),
    sa.Column("started_at", Timestamp),
    sa.Column("finished_at", Timestamp),
    _plane_ref("knowledge_plane_jobs"),
    enum_check("job_type", JobType),
    enum_check("status", JobStatus),
    # One open job per plane.
    sa.Index(
        "uq_knowledge_plane_jobs_open",
        "tenant_id",
        "plane_id",
        unique=True,
        sqlite_where=_OPEN_JOB,
        postgresql_where=_OPEN_JOB,
    ),
    # What a worker polls, across tenants, under the maintenance role.
    sa.Index(
        "ix_knowledge_plane_jobs_due",
        "next_attempt_at",
        sqlite_where=_OPEN_JOB,
        postgresql_where=_OPEN_JOB,
    ),
    sa.Index(
        "ix_knowledge_plane_jobs_plane",
        "tenant_id",
        "plane_id",
        "job_id",
    ),
    primary_key=("job_id",),
)

plane_documents: sa.Table = tenant_table(
    "plane_documents",
    sa.Column("plane_id", sa.Text, nullable=False),
    sa.Column("artifact_id", sa.Text, nullable=False),
    sa.Column("gen_from", sa.Integer, nullable=False),
    sa.Column("gen_to", sa.Integer),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("revision_digest", sa.Text, nullable=False),
    sa.Column("content_digest", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("media_type", sa.Text),
    sa.Column("size_bytes", BigInt, nullable=False),
    sa.Column("token_count", sa.Integer, nullable=False),
    sa.Column("passage_count", sa.Integer, nullable=False),
    sa.Column("sensitivity_level", sa.Text, nullable=False),
    sa.Column("pii_counts", CanonicalText, nullable=False),
    sa.Column("categories", CanonicalText, nullable=False),
    sa.Column("pinned_at", Timestamp, nullable=False),
    _plane_ref("plane_documents"),
    enum_check("sensitivity_level", SensitivityLevel),
    primary_key=("plane_id", "artifact_id", "gen_from"),
)

plane_passages: sa.Table = tenant_table(
    "plane_passages",
    sa.Column("plane_id", sa.Text, nullable=False),
    sa.Column("artifact_id", sa.Text, nullable=False),
    sa.Column("gen_from", sa.Integer, nullable=False),
    sa.Column("passage_no", sa.Integer, nullable=False),
    sa.Column("gen_to", sa.Integer),
    sa.Column("start_char", sa.Integer, nullable=False),
    sa.Column("end_char", sa.Integer, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("term_total", sa.Integer, nullable=False),
    sa.Column("terms", sa.Text, nullable=False),
    _plane_ref("plane_passages"),
    primary_key=("plane_id", "artifact_id", "gen_from", "passage_no"),
)

plane_terms: sa.Table = tenant_table(
    "plane_terms",
    sa.Column("plane_id", sa.Text, nullable=False),
    sa.Column("term", sa.Text, nullable=False),
    sa.Column("passage_frequency", sa.Integer, nullable=False, server_default=sa.text("0")),
    sa.Column("staged_change", sa.Integer, nullable=False, server_default=sa.text("0")),
    _plane_ref("plane_terms"),
    primary_key=("plane_id", "term"),
)

_RECOUNT = "DERIVED recounted by plane_statistics from the event that ended the last ingest"

govern(
    knowledge_plane_registry,
    mode="HEAD",
    types=("knowledge.plane",),
    json_columns=("classification",),
    unhashed={
        "event_seq": "DERIVED recounted by plane_events: the highest seq of the plane's events",
        "config": "BOUND by config_digest, sha256 of its canonical text",
        "document_count": _RECOUNT,
        "passage_count": _RECOUNT,
        "token_total": _RECOUNT,
        "generation": _RECOUNT,
        "ingested_seq": _RECOUNT,
    },
)
govern(plane_policy_bindings, mode="HEAD", types=("policy.binding",))
govern(
    plane_lifecycle_events,
    mode="APPEND",
    types=("knowledge.transition",),
    protected=("reason",),
    json_columns=("gate", "details"),
)
exempt(plane_collections, "the event that binds or releases a collection carries it")
exempt(plane_purge_approvals, "the event that grants an approval carries it")
exempt(
    knowledge_plane_jobs, "leases and working state; what a job did is in the plane's events, which are facts"
)
exempt(plane_documents, "derived; each ingest event carries pins_digest, the digest of the sorted pins")
exempt(plane_passages, "derived from the pinned revisions")
exempt(plane_terms, "derived from the passages")
