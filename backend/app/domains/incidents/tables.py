"""Incidents: tables of incidents, what happened to them, and what they point at."""

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
from app.db.types import CanonicalText, Flag, Timestamp
from app.domains.incidents.models.vocabulary import (
    CauseType,
    EventActorType,
    ImpactScope,
    IncidentCategory,
    IncidentEventType,
    LifecycleState,
    LinkKind,
    ResolutionMethod,
    Severity,
    SourceType,
)

incidents = tenant_table(
    "incidents",
    sa.Column("incident_id", sa.Text, nullable=False),
    sa.Column("source_run_id", sa.Text),
    sa.Column("attempt", sa.Integer),
    sa.Column("cause_type", sa.Text, nullable=False),
    sa.Column("source_type", sa.Text, nullable=False),
    sa.Column("category", sa.Text, nullable=False),
    sa.Column("title", sa.Text),
    sa.Column("description", sa.Text),
    sa.Column("error_code", sa.Text),
    sa.Column("error_message", sa.Text),
    sa.Column("trigger_ref", sa.Text),
    sa.Column("impact_scope", sa.Text, nullable=False),
    sa.Column("affected_agent_id", sa.Text),
    sa.Column("recurrence_signature", sa.Text, nullable=False),
    sa.Column("signature_version", sa.Text, nullable=False, server_default="sig-1"),
    sa.Column("recurrence_of", sa.Text),
    sa.Column("recurrence_count", sa.Integer, nullable=False, server_default=sa.text("0")),
    sa.Column("dedupe_key", sa.Text),
    sa.Column("is_synthetic", Flag, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("severity", sa.Text, nullable=False),
    sa.Column("lifecycle_state", sa.Text, nullable=False, server_default="ACTIVE"),
    sa.Column("acked_at", Timestamp),
    sa.Column("acked_by", sa.Text),
    sa.Column("escalated_at", Timestamp),
    sa.Column("resolved_at", Timestamp),
    sa.Column("resolved_by", sa.Text),
    sa.Column("resolution_method", sa.Text),
    sa.Column("resolution_type", sa.Text),
    sa.Column("resolution_summary", sa.Text),
    sa.Column("resolution_notes", sa.Text),
    *protected_columns(),
    sa.Column("created_at", Timestamp, nullable=False),
    sa.Column("updated_at", Timestamp, nullable=False),
    sa.Column("version", sa.Integer, nullable=False, server_default=sa.text("1")),
    tenant_ref("source_run_id", "runs.run_id", name="fk_incidents_source_run_id"),
    tenant_ref("recurrence_of", "incidents.incident_id", name="fk_incidents_recurrence_of"),
    sa.UniqueConstraint("tenant_id", "dedupe_key", name="uq_incidents_dedupe_key"),
    enum_check("cause_type", CauseType),
    enum_check("source_type", SourceType),
    enum_check("category", IncidentCategory),
    enum_check("impact_scope", ImpactScope),
    enum_check("severity", Severity),
    enum_check("lifecycle_state", LifecycleState),
    enum_check("resolution_method", ResolutionMethod),
    sa.CheckConstraint(
        "(lifecycle_state = 'RESOLVED') = (resolved_at IS NOT NULL)"
        " AND (lifecycle_state = 'RESOLVED') = (resolved_by IS NOT NULL)"
        " AND (lifecycle_state = 'RESOLVED') = (resolution_method IS NOT NULL)",
        name="resolved",
    ),
    sa.CheckConstraint("(acked_at IS NULL) = (acked_by IS NULL)", name="acked"),
    sa.CheckConstraint("length(recurrence_signature) = 32", name="recurrence_signature"),
    sa.CheckConstraint("recurrence_count >= 0", name="recurrence_count"),
    sa.Index("ix_incidents_time", "tenant_id", "created_at", "incident_id"),
    sa.Index("ix_incidents_run", "tenant_id", "source_run_id", "created_at", "incident_id"),
    sa.Index("ix_incidents_state", "tenant_id", "lifecycle_state", "created_at", "incident_id"),
    sa.Index("ix_incidents_severity", "tenant_id", "severity", "created_at", "incident_id"),
    sa.Index("ix_incidents_category", "tenant_id", "category", "created_at", "incident_id"),
    sa.Index("ix_incidents_signature", "tenant_id", "recurrence_signature", "created_at", "incident_id"),
    # Who deletes what a row refers to looks for it.
    sa.Index(
        "ix_incidents_recurrence",
        "tenant_id",
        "recurrence_of",
        sqlite_where=sa.text("recurrence_of IS NOT NULL"),
        postgresql_where=sa.text("recurrence_of IS NOT NULL"),
    ),
    primary_key=("incident_id",),
)
incident_events = tenant_table(
    "incident_events",
    sa.Column("incident_id", sa.Text, nullable=False),
    sa.Column("seq", sa.Integer, nullable=False),
    sa.Column("event_type", sa.Text, nullable=False),
    sa.Column("description", sa.Text),
    sa.Column("data", CanonicalText),
    sa.Column("actor_type", sa.Text, nullable=False),
    sa.Column("actor_id", sa.Text),
    sa.Column("created_at", Timestamp, nullable=False),
    fact_id_column(),
    *protected_columns(),
    *fact_id_constraints("incident_events"),
    tenant_ref("incident_id", "incidents.incident_id", name="fk_incident_events_incident_id"),
    enum_check("event_type", IncidentEventType),
    enum_check("actor_type", EventActorType),
    sa.CheckConstraint("seq >= 1", name="seq"),
    primary_key=("incident_id", "seq"),
)
incident_links = tenant_table(
    "incident_links",
    sa.Column("incident_id", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("ref", sa.Text, nullable=False),
    sa.Column("created_at", Timestamp, nullable=False),
    fact_id_column(),
    *fact_id_constraints("incident_links"),
    tenant_ref("incident_id", "incidents.incident_id", name="fk_incident_links_incident_id"),
    enum_check("kind", LinkKind),
    sa.Index("ix_incident_links_ref", "tenant_id", "kind", "ref"),
    primary_key=("incident_id", "kind", "ref"),
)

govern(
    incidents,
    "AUDITED",
    types=("incident",),
    protected=("title", "description", "error_message", "resolution_summary", "resolution_notes"),
)
govern(incident_events, "APPEND", types=("incident.event",), protected=("description", "data"))
govern(incident_links, "APPEND", types=("incident.link",))
