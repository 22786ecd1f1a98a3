"""Lessons: tables of lessons and of what keeps them from repeating themselves."""

from __future__ import annotations

import sqlalchemy as sa

from app.db.governed import exempt, govern
from app.db.metadata import enum_check, protected_columns, tenant_ref, tenant_table
from app.db.types import CanonicalText, Flag, Timestamp
from app.domains.lessons.models.vocabulary import LessonSeverity, LessonStatus, LessonType, SourceEventType

lessons_learned = tenant_table(
    "lessons_learned",
    sa.Column("lesson_id", sa.Text, nullable=False),
    sa.Column("lesson_type", sa.Text, nullable=False),
    sa.Column("severity", sa.Text),
    sa.Column("source_event_id", sa.Text, nullable=False),
    sa.Column("source_event_type", sa.Text, nullable=False),
    sa.Column("source_run_id", sa.Text),
    sa.Column("title", sa.Text),
    sa.Column("description", sa.Text),
    sa.Column("proposed_action", sa.Text),
    sa.Column("detected_pattern", CanonicalText, nullable=False),
    sa.Column("threshold_band", sa.Text),
    sa.Column("is_synthetic", Flag, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("draft_proposal_id", sa.Text),
    sa.Column("converted_at", Timestamp),
    sa.Column("converted_by", sa.Text),
    sa.Column("deferred_until", Timestamp),
    sa.Column("dismissed_at", Timestamp),
    sa.Column("dismissed_by", sa.Text),
    sa.Column("dismissed_reason", sa.Text),
    *protected_columns(),
    sa.Column("created_at", Timestamp, nullable=False),
    sa.Column("updated_at", Timestamp, nullable=False),
    sa.Column("version", sa.Integer, nullable=False, server_default=sa.text("1")),
    sa.UniqueConstraint("tenant_id", "source_event_id", "lesson_type", name="uq_lessons_learned_source"),
    tenant_ref("source_run_id", "runs.run_id", name="fk_lessons_learned_source_run_id"),
    tenant_ref(
        "draft_proposal_id", "policy_proposals.proposal_id", name="fk_lessons_learned_draft_proposal_id"
    ),
    enum_check("lesson_type", LessonType),
    enum_check("severity", LessonSeverity),
    enum_check("source_event_type", SourceEventType),
    enum_check("status", LessonStatus),
    sa.CheckConstraint(
        "(status = 'CONVERTED_TO_DRAFT') = (draft_proposal_id IS NOT NULL)"
        " AND (status = 'CONVERTED_TO_DRAFT') = (converted_at IS NOT NULL)"
        " AND (status = 'CONVERTED_TO_DRAFT') = (converted_by IS NOT NULL)",
        name="converted",
    ),
    sa.CheckConstraint("(status = 'DEFERRED') = (deferred_until IS NOT NULL)", name="deferred"),
    sa.CheckConstraint(
        "(status = 'DISMISSED') = (dismissed_at IS NOT NULL)"
        " AND (status = 'DISMISSED') = (dismissed_by IS NOT NULL)",
        name="dismissed",
    ),
    sa.Index("ix_lessons_learned_time", "tenant_id", "created_at", "lesson_id"),
    sa.Index("ix_lessons_learned_type", "tenant_id", "lesson_type", "created_at", "lesson_id"),
    sa.Index("ix_lessons_learned_status", "tenant_id", "status", "created_at", "lesson_id"),
    sa.Index("ix_lessons_learned_severity", "tenant_id", "severity", "created_at", "lesson_id"),
    sa.Index("ix_lessons_learned_run", "tenant_id", "source_run_id", "created_at", "lesson_id"),
    # Maintenance asks for the deferred ones that are due.
    sa.Index(
        "ix_lessons_learned_due",
        "deferred_until",
        "tenant_id",
        sqlite_where=sa.text("status = 'DEFERRED'"),
        postgresql_where=sa.text("status = 'DEFERRED'"),
    ),
    primary_key=("lesson_id",),
)
lesson_debounce = tenant_table(
    "lesson_debounce",
    sa.Column("debounce_key", sa.Text, nullable=False),
    sa.Column("last_at", Timestamp, nullable=False),
    sa.Column("created_at", Timestamp, nullable=False),
    primary_key=("debounce_key",),
)

govern(
    lessons_learned,
    "AUDITED",
    types=("lesson",),
    protected=("title", "description", "dismissed_reason"),
    json_columns=("detected_pattern",),
    entity="LESSON",
)
exempt(lesson_debounce, "state that says when a lesson of this kind was last learned")
