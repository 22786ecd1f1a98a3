"""Decisions: tables of decision records and of the runs that they came before."""

from __future__ import annotations

import sqlalchemy as sa

from app.db.governed import govern
from app.db.metadata import (
    enum_check,
    fact_id_column,
    fact_id_constraints,
    protected_columns,
    tenant_ref,
    tenant_table,
)
from app.db.types import CanonicalText, Timestamp
from app.domains.decisions.models.vocabulary import (
    CausalRole,
    DecisionOutcome,
    DecisionSource,
    DecisionTrigger,
    DecisionType,
)

decision_records = tenant_table(
    "decision_records",
    sa.Column("decision_id", sa.Text, nullable=False),
    sa.Column("decision_type", sa.Text, nullable=False),
    sa.Column("decision_source", sa.Text, nullable=False),
    sa.Column("decision_trigger", sa.Text, nullable=False),
    sa.Column("causal_role", sa.Text, nullable=False),
    sa.Column("decision_inputs", CanonicalText),
    sa.Column("inputs_digest", sa.Text, nullable=False),
    sa.Column("decision_outcome", sa.Text, nullable=False),
    sa.Column("decision_reason", sa.Text),
    sa.Column("run_id", sa.Text),
    sa.Column("attempt", sa.Integer),
    sa.Column("workflow_id", sa.Text),
    sa.Column("request_id", sa.Text),
    sa.Column("snapshot_id", sa.Text),
    sa.Column("matched", CanonicalText, nullable=False, server_default=sa.text("'[]'")),
    sa.Column("reservation_id", sa.Text),
    sa.Column("idempotency_key", sa.Text),
    sa.Column("details", CanonicalText),
    sa.Column("decided_at", Timestamp, nullable=False),
    sa.Column("created_at", Timestamp, nullable=False),
    fact_id_column(),
    *protected_columns(),
    *fact_id_constraints("decision_records"),
    sa.UniqueConstraint("tenant_id", "idempotency_key", name="uq_decision_records_idempotency_key"),
    tenant_ref("run_id", "runs.run_id", name="fk_decision_records_run_id"),
    enum_check("decision_type", DecisionType),
    enum_check("decision_source", DecisionSource),
    enum_check("decision_trigger", DecisionTrigger),
    enum_check("causal_role", CausalRole),
    enum_check("decision_outcome", DecisionOutcome),
    sa.CheckConstraint("causal_role <> 'IN_RUN' OR run_id IS NOT NULL", name="in_run"),
    sa.Index("ix_decision_records_time", "tenant_id", "decided_at", "decision_id"),
    sa.Index("ix_decision_records_run", "tenant_id", "run_id", "decided_at", "decision_id"),
    sa.Index("ix_decision_records_type", "tenant_id", "decision_type", "decided_at", "decision_id"),
    sa.Index("ix_decision_records_outcome", "tenant_id", "decision_outcome", "decided_at", "decision_id"),
    sa.Index("ix_decision_records_role", "tenant_id", "causal_role", "decided_at", "decision_id"),
    sa.Index("ix_decision_records_request", "tenant_id", "request_id", "decided_at", "decision_id"),
    primary_key=("decision_id",),
)
decision_links = tenant_table(
    "decision_links",
    sa.Column("decision_id", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("created_at", Timestamp, nullable=False),
    fact_id_column(),
    *fact_id_constraints("decision_links"),
    tenant_ref("decision_id", "decision_records.decision_id", name="fk_decision_links_decision_id"),
    tenant_ref("run_id", "runs.run_id", name="fk_decision_links_run_id"),
    sa.Index("ix_decision_links_run", "tenant_id", "run_id", "decision_id"),
    primary_key=("decision_id", "run_id"),
)

govern(
    decision_records,
    "APPEND",
    types=("decision",),
    protected=("decision_inputs", "decision_reason", "details"),
    json_columns=("matched",),
    unhashed={
        "inputs_digest": "DERIVED keyed digest of the inputs, recounted by decision_digests; tells a replay",
    },
)
govern(decision_links, "APPEND", types=("decision.link",))
