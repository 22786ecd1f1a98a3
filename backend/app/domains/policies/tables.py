"""Policies: rules, their versions, the snapshots that govern runs, and proposals of new policies."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, Index, Integer, Table, Text, UniqueConstraint, false, text

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
from app.domains.policies.models.vocabulary import (
    Effect,
    EnforcementMode,
    Moment,
    PreventionOutcome,
    ProposalKind,
    ProposalSource,
    ProposalStatus,
    RuleKind,
    RuleScope,
    RuleSource,
    RuleStatus,
)

policy_proposals: Table = tenant_table(
    "policy_proposals",
    Column("proposal_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("source_ref", Text),
    Column("source_run_id", Text),
    Column("created_by", Text, nullable=False),
    Column("title", Text),
    Column("rationale", Text),
    Column("proposed", CanonicalText),
    Column("status", Text, nullable=False),
    Column("reviewed_at", Timestamp),
    Column("reviewed_by", Text),
    Column("review_notes", Text),
    Column("result_ref", Text),
    *protected_columns(),
    Column("created_at", Timestamp, nullable=False),
    Column("updated_at", Timestamp, nullable=False),
    Column("version", Integer, nullable=False, server_default=text("1")),
    tenant_ref("source_run_id", "runs.run_id", name="fk_policy_proposals_source_run_id"),
    enum_check("kind", ProposalKind),
    enum_check("source", ProposalSource),
    enum_check("status", ProposalStatus),
    CheckConstraint(
        "(status = 'DRAFT') = (reviewed_at IS NULL) AND (status = 'DRAFT') = (reviewed_by IS NULL)",
        name="review",
    ),
    primary_key=("proposal_id",),
)
Index(
    "ix_policy_proposals_created",
    policy_proposals.c.tenant_id,
    policy_proposals.c.created_at,
    policy_proposals.c.proposal_id,
)
Index("ix_policy_proposals_run", policy_proposals.c.tenant_id, policy_proposals.c.source_run_id)
Index(
    "ix_policy_proposals_status",
    policy_proposals.c.tenant_id,
    policy_proposals.c.status,
    policy_proposals.c.created_at,
    policy_proposals.c.proposal_id,
)

policy_rules: Table = tenant_table(
    "policy_rules",
    Column("rule_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("source_proposal_id", Text),
    Column("created_by", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("current_version", Integer, nullable=False),
    Column("superseded_by", Text),
    Column("revoked", Flag, nullable=False, server_default=false()),
    Column("activated_at", Timestamp),
    Column("retired_at", Timestamp),
    Column("retired_by", Text),
    Column("retired_reason", Text),
    Column("created_at", Timestamp, nullable=False),
    Column("updated_at", Timestamp, nullable=False),
    Column("version", Integer, nullable=False, server_default=text("1")),
    tenant_ref(
        "source_proposal_id", "policy_proposals.proposal_id", name="fk_policy_rules_source_proposal_id"
    ),
    tenant_ref("superseded_by", "policy_rules.rule_id", name="fk_policy_rules_superseded_by"),
    enum_check("kind", RuleKind),
    enum_check("source", RuleSource),
    enum_check("status", RuleStatus),
    CheckConstraint(
        "(status = 'RETIRED') = (retired_at IS NOT NULL) AND (status = 'RETIRED') = (retired_by IS NOT NULL)",
        name="retired",
    ),
    CheckConstraint("status <> 'ACTIVE' OR activated_at IS NOT NULL", name="activated"),
    CheckConstraint("NOT revoked OR status = 'RETIRED'", name="revoked"),
    CheckConstraint("current_version >= 1", name="current_version"),
    primary_key=("rule_id",),
)
# A retired rule frees its name, never its id.
Index(
    "uq_policy_rules_name",
    policy_rules.c.tenant_id,
    policy_rules.c.name,
    unique=True,
    sqlite_where=text("status <> 'RETIRED'"),
    postgresql_where=text("status <> 'RETIRED'"),
)
Index("ix_policy_rules_created", policy_rules.c.tenant_id, policy_rules.c.created_at, policy_rules.c.rule_id)
Index(
    "ix_policy_rules_status",
    policy_rules.c.tenant_id,
    policy_rules.c.status,
    policy_rules.c.created_at,
    policy_rules.c.rule_id,
)
Index(
    "ix_policy_rules_kind",
    policy_rules.c.tenant_id,
    policy_rules.c.kind,
    policy_rules.c.created_at,
    policy_rules.c.rule_id,
)
Index(
    "ix_policy_rules_revoked",
    policy_rules.c.tenant_id,
    policy_rules.c.rule_id,
    sqlite_where=text("revoked"),
    postgresql_where=text("revoked"),
)

policy_rule_versions: Table = tenant_table(
    "policy_rule_versions",
    Column("rule_id", Text, nullable=False),
    Column("rule_version", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text),
    Column("effect", Text),
    Column("enforcement_mode", Text),
    Column("moments", CanonicalText, nullable=False),
    Column("scope", Text, nullable=False),
    Column("scope_id", Text),
    Column("condition", Text),
    Column("constraints", CanonicalText, nullable=False),
    Column("halts_run", Flag, nullable=False, server_default=false()),
    Column("depends_on", CanonicalText, nullable=False, server_default=text("'[]'")),
    Column("message", Text),
    Column("content_hash", Text, nullable=False),
    Column("changed_by", Text, nullable=False),
    Column("change_reason", Text),
    Column("created_at", Timestamp, nullable=False),
    tenant_ref("rule_id", "policy_rules.rule_id", name="fk_policy_rule_versions_rule_id"),
    enum_check("effect", Effect),
    enum_check("enforcement_mode", EnforcementMode),
    enum_check("scope", RuleScope),
    CheckConstraint("(effect IS NULL) <> (enforcement_mode IS NULL)", name="verdict"),
    CheckConstraint("(effect IS NULL) = (moments <> '[]')", name="moments"),
    CheckConstraint("(scope = 'TENANT') = (scope_id IS NULL)", name="scope_id"),
    CheckConstraint("NOT halts_run OR COALESCE(enforcement_mode, '') = 'BLOCK'", name="halts_run"),
    CheckConstraint("length(content_hash) = 64", name="content_hash"),
    CheckConstraint("rule_version >= 1", name="rule_version"),
    primary_key=("rule_id", "rule_version"),
)

policy_snapshots: Table = tenant_table(
    "policy_snapshots",
    Column("snapshot_id", Text, nullable=False),
    Column("content", CanonicalText, nullable=False),
    Column("content_hash", Text, nullable=False),
    Column("rule_count", Integer, nullable=False),
    Column("limit_count", Integer, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    fact_id_column(),
    *fact_id_constraints("policy_snapshots"),
    UniqueConstraint("tenant_id", "content_hash", name="uq_policy_snapshots_content_hash"),
    CheckConstraint("length(content_hash) = 64", name="content_hash"),
    CheckConstraint("snapshot_id = 'snap_' || substr(content_hash, 1, 32)", name="snapshot_id"),
    primary_key=("snapshot_id",),
)

prevention_records: Table = tenant_table(
    "prevention_records",
    Column("prevention_id", Text, nullable=False),
    Column("run_id", Text),
    Column("attempt", Integer),
    Column("rule_id", Text, nullable=False),
    Column("rule_version", Integer, nullable=False),
    Column("rule_hash", Text, nullable=False),
    Column("snapshot_id", Text),
    Column("decision_id", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("moment", Text, nullable=False),
    Column("signature", Text),
    Column("confidence", Integer, nullable=False, server_default=text("100")),
    Column("prevented_event", CanonicalText),
    Column("reason", Text),
    Column("is_synthetic", Flag, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    fact_id_column(),
    *protected_columns(),
    *fact_id_constraints("prevention_records"),
    tenant_ref("run_id", "runs.run_id", name="fk_prevention_records_run_id"),
    tenant_ref(
        ("rule_id", "rule_version"),
        "policy_rule_versions.rule_id,rule_version",
        name="fk_prevention_records_rule_id",
    ),
    tenant_ref("decision_id", "decision_records.decision_id", name="fk_prevention_records_decision_id"),
    enum_check("outcome", PreventionOutcome),
    enum_check("moment", Moment),
    CheckConstraint("confidence BETWEEN 0 AND 100", name="confidence"),
    CheckConstraint("length(rule_hash) = 64", name="rule_hash"),
    Index("ix_prevention_records_time", "tenant_id", "created_at", "prevention_id"),
    Index("ix_prevention_records_run", "tenant_id", "run_id", "created_at", "prevention_id"),
    Index("ix_prevention_records_decision", "tenant_id", "decision_id"),
    Index("ix_prevention_records_rule", "tenant_id", "rule_id", "created_at", "prevention_id"),
    primary_key=("prevention_id",),
)

govern(policy_rules, mode="AUDITED")
govern(
    policy_rule_versions,
    mode="AUDITED",
    json_columns=("moments", "constraints", "depends_on"),
    entity="POLICY_RULE",
    image="rule_version",
)
govern(policy_proposals, mode="AUDITED", protected=("title", "rationale", "proposed", "review_notes"))
govern(policy_snapshots, mode="APPEND", types=("policy.snapshot",), digests=("content",))
govern(prevention_records, mode="APPEND", types=("prevention",), protected=("prevented_event", "reason"))
