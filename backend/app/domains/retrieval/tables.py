"""Retrieval: tables of evidence and of the documents that it cites."""

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
)
from app.db.types import BigInt, CanonicalText, Flag, Timestamp
from app.domains.retrieval.models import ObservationStatus, Outcome, Reason

_REFUSED = sa.text("outcome <> 'ALLOWED'")
retrieval_evidence = tenant_table(
    "retrieval_evidence",
    sa.Column("evidence_id", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("attempt", sa.Integer),
    sa.Column("plane_id", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("purpose", sa.Text),
    sa.Column("step_index", sa.Integer),
    sa.Column("actor_id", sa.Text, nullable=False),
    sa.Column("request_id", sa.Text),
    sa.Column("trace_id", sa.Text),
    sa.Column("span_id", sa.Text),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("reason_code", sa.Text, nullable=False),
    sa.Column("revoked_in_flight", Flag, nullable=False),
    sa.Column("connector_id", sa.Text),
    sa.Column("plane_state_value", sa.Integer),
    sa.Column("plane_version", BigInt),
    sa.Column("config_digest", sa.Text),
    sa.Column("sensitivity_level", sa.Text),
    sa.Column("policy_snapshot_id", sa.Text),
    sa.Column("policy_snapshot_hash", sa.Text),
    sa.Column("matched_rules", CanonicalText, nullable=False),
    sa.Column("query_hash", sa.Text, nullable=False),
    sa.Column("query", CanonicalText),
    sa.Column("documents", CanonicalText, nullable=False),
    sa.Column("doc_count", sa.Integer, nullable=False),
    sa.Column("token_count", sa.Integer, nullable=False),
    sa.Column("bytes_returned", BigInt, nullable=False),
    sa.Column("truncated", Flag, nullable=False),
    sa.Column("requested_at", Timestamp, nullable=False),
    sa.Column("completed_at", Timestamp, nullable=False),
    sa.Column("duration_ms", sa.Integer, nullable=False),
    sa.Column("created_at", Timestamp, nullable=False),
    fact_id_column(),
    *protected_columns(),
    *fact_id_constraints("retrieval_evidence"),
    enum_check("outcome", Outcome),
    enum_check("reason_code", Reason),
    enum_check("action", ("query", "retrieve", "search", "list")),
    sa.CheckConstraint("(outcome = 'ALLOWED') = (reason_code = 'OK')", name="allowed_is_ok"),
    sa.CheckConstraint(
        "outcome <> 'ALLOWED' OR (plane_state_value = 200 AND attempt IS NOT NULL"
        " AND connector_id IS NOT NULL AND policy_snapshot_id IS NOT NULL)",
        name="allowed_is_complete",
    ),
    sa.CheckConstraint(
        "outcome = 'ALLOWED' OR"
        " (documents = '[]' AND doc_count = 0 AND token_count = 0 AND bytes_returned = 0)",
        name="refused_is_empty",
    ),
    sa.CheckConstraint("length(query_hash) = 64", name="query_hash"),
    sa.CheckConstraint("completed_at >= requested_at", name="times"),
    sa.Index("ix_retrieval_evidence_time", "tenant_id", "requested_at", "evidence_id"),
    sa.Index("ix_retrieval_evidence_run", "tenant_id", "run_id", "requested_at", "evidence_id"),
    sa.Index("ix_retrieval_evidence_plane", "tenant_id", "plane_id", "requested_at", "evidence_id"),
    sa.Index("ix_retrieval_evidence_query", "tenant_id", "query_hash", "requested_at", "evidence_id"),
    # Nearly every access is allowed, and whoever asks by outcome or reason looks for the others.
    *(
        sa.Index(
            f"ix_retrieval_evidence_{name}",
            "tenant_id",
            name,
            "requested_at",
            "evidence_id",
            sqlite_where=_REFUSED,
            postgresql_where=_REFUSED,
        )
        for name in ("outcome", "reason_code")
    ),
    primary_key=("evidence_id",),
)
retrieval_evidence_documents = tenant_table(
    "retrieval_evidence_documents",
    sa.Column("evidence_id", sa.Text, nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("doc_ref", sa.Text, nullable=False),
    sa.Column("revision", sa.Integer),
    sa.Column("digest", sa.Text, nullable=False),
    tenant_ref(
        "evidence_id", "retrieval_evidence.evidence_id", name="fk_retrieval_evidence_documents_evidence_id"
    ),
    sa.Index("ix_retrieval_evidence_documents_ref", "tenant_id", "doc_ref", "revision", "evidence_id"),
    sa.Index("ix_retrieval_evidence_documents_digest", "tenant_id", "digest", "evidence_id"),
    primary_key=("evidence_id", "position"),
)
retrieval_attempts = tenant_table(
    "retrieval_attempts",
    sa.Column("evidence_id", sa.Text, nullable=False),
    sa.Column("evidence", CanonicalText, nullable=False),
    sa.Column("deadline_at", Timestamp, nullable=False),
    # Maintenance asks for what is overdue.
    sa.Index("ix_retrieval_attempts_due", "deadline_at", "tenant_id"),
    primary_key=("evidence_id",),
)
retrieval_observations = tenant_table(
    "retrieval_observations",
    sa.Column("trace_id", sa.Text, nullable=False),
    sa.Column("span_id", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text),
    sa.Column("operation", sa.Text, nullable=False),
    sa.Column("data_source_id", sa.Text),
    sa.Column("document_ids", CanonicalText, nullable=False),
    sa.Column("started_at", Timestamp, nullable=False),
    sa.Column("ended_at", Timestamp, nullable=False),
    sa.Column("claimed_evidence_id", sa.Text),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("bypass_reason", sa.Text),
    sa.Column("evidence_id", sa.Text),
    sa.Column("signal_id", sa.Text),
    tenant_ref("evidence_id", "retrieval_evidence.evidence_id", name="fk_retrieval_observations_evidence_id"),
    tenant_ref("signal_id", "discovery_ledger.signal_id", name="fk_retrieval_observations_signal_id"),
    enum_check("status", ObservationStatus),
    sa.CheckConstraint("(status = 'BYPASS') = (bypass_reason IS NOT NULL)", name="bypass"),
    sa.CheckConstraint("(status = 'MATCHED') = (evidence_id IS NOT NULL)", name="matched"),
    # One evidence row speaks for at most one span.
    sa.Index(
        "uq_retrieval_observations_evidence",
        "tenant_id",
        "evidence_id",
        unique=True,
        sqlite_where=sa.text("status = 'MATCHED'"),
        postgresql_where=sa.text("status = 'MATCHED'"),
    ),
    sa.Index("ix_retrieval_observations_time", "tenant_id", "started_at", "trace_id", "span_id"),
    sa.Index("ix_retrieval_observations_run", "tenant_id", "run_id", "started_at", "trace_id", "span_id"),
    sa.Index("ix_retrieval_observations_status", "tenant_id", "status", "started_at", "trace_id", "span_id"),
    # Maintenance asks for what is ripe.
    sa.Index(
        "ix_retrieval_observations_due",
        "ended_at",
        "tenant_id",
        sqlite_where=sa.text("status = 'PENDING'"),
        postgresql_where=sa.text("status = 'PENDING'"),
    ),
    # Who deletes what a row refers to looks for it.
    sa.Index(
        "ix_retrieval_observations_evidence",
        "tenant_id",
        "evidence_id",
        sqlite_where=sa.text("evidence_id IS NOT NULL"),
        postgresql_where=sa.text("evidence_id IS NOT NULL"),
    ),
    primary_key=("trace_id", "span_id"),
)

govern(
    retrieval_evidence,
    "APPEND",
    types=("retrieval.evidence",),
    protected=("query",),
    json_columns=("matched_rules", "documents"),
)
exempt(retrieval_evidence_documents, "DERIVED from the evidence's documents, recounted by evidence_documents")
exempt(retrieval_attempts, "a journal: a row goes in the transaction that writes the evidence of its access")
exempt(retrieval_observations, "passive sightings of retrieval by others; a bypass is recorded as a signal")
