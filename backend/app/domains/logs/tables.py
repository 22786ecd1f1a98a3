"""Logs: leaves of the tenant log, fact counters, ledger, erasures, holds, retention, outbox, replays."""

from __future__ import annotations

import sqlalchemy as sa

from app.db.governed import GOVERNED, exempt, govern, log_fact
from app.db.metadata import (
    enum_check,
    fact_id_column,
    fact_id_constraints,
    protected_columns,
    tenant_ref,
    tenant_table,
)  # fmt: skip
from app.db.types import BigInt, Bytes, CanonicalText, Flag, Timestamp
from app.domains.logs.models.erasure import ErasureScope, HoldScope
from app.domains.logs.models.ledger import (
    ENTITY_TYPES,
    EVENT_TYPES,
    IdempotencyState,
)
from app.domains.logs.models.retention import DEFAULT_DAYS, FEWEST_DAYS
from app.domains.logs.models.tree import (
    LogState,
    VerificationKind,
    VerificationStatus,
)

log_leaves = tenant_table(
    "log_leaves",
    sa.Column("fact_id", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("v", sa.Integer, nullable=False),
    sa.Column("ref_table", sa.Text),
    sa.Column("ref_key", CanonicalText),
    sa.Column("ref_version", BigInt),
    sa.Column("run_id", sa.Text),
    sa.Column("attempt", sa.Integer),
    sa.Column("fact_no", sa.Integer),
    sa.Column("late", Flag, nullable=False),
    sa.Column("statement", sa.Text, nullable=False),
    sa.Column("leaf_hash", sa.Text, nullable=False),
    sa.Column("created_at", Timestamp, nullable=False),
    sa.UniqueConstraint("tenant_id", "run_id", "late", "fact_no", name="uq_log_leaves_fact_no"),
    sa.Index("ix_log_leaves_ref", "tenant_id", "ref_table", "ref_key", "ref_version"),
    primary_key=("fact_id",),
)
log_pending = tenant_table(
    "log_pending",
    sa.Column("fact_id", sa.Text, nullable=False),
    sa.Column("enqueued_at", Timestamp, nullable=False),
    primary_key=("fact_id",),
)
run_fact_counters = tenant_table(
    "run_fact_counters",
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("fact_count", BigInt, nullable=False, server_default="0"),
    sa.Column("late_count", BigInt, nullable=False, server_default="0"),
    sa.Column("closed", Flag, nullable=False, server_default=sa.false()),
    tenant_ref("run_id", "runs.run_id", name="fk_run_fact_counters_run_id"),
    sa.CheckConstraint("fact_count >= 0", name="fact_count"),
    sa.CheckConstraint("late_count >= 0", name="late_count"),
    primary_key=("run_id",),
)
audit_ledger = tenant_table(
    "audit_ledger",
    sa.Column("entry_id", sa.Text, nullable=False),
    sa.Column("event_type", sa.Text, nullable=False),
    sa.Column("entity_type", sa.Text, nullable=False),
    sa.Column("entity_id", sa.Text, nullable=False),
    sa.Column("actor_type", sa.Text, nullable=False),
    sa.Column("actor_id", sa.Text, nullable=False),
    sa.Column("actor_key_id", sa.Text),
    sa.Column("action_reason", sa.Text),
    sa.Column("before_state", CanonicalText),
    sa.Column("after_state", CanonicalText),
    sa.Column("run_id", sa.Text),
    sa.Column("operation", sa.Text, nullable=False),
    sa.Column("request_id", sa.Text, nullable=False),
    sa.Column("correlation_id", sa.Text),
    sa.Column("created_at", Timestamp, nullable=False),
    fact_id_column(),
    *protected_columns(),
    *fact_id_constraints("audit_ledger"),
    tenant_ref("run_id", "runs.run_id", name="fk_audit_ledger_run_id"),
    enum_check("event_type", EVENT_TYPES),
    enum_check("entity_type", ENTITY_TYPES),
    sa.CheckConstraint("actor_type IN ('HUMAN', 'SYSTEM', 'AGENT')", name="actor_type"),
    sa.Index("ix_audit_ledger_time", "tenant_id", "created_at", "entry_id"),
    sa.Index("ix_audit_ledger_run", "tenant_id", "run_id", "created_at", "entry_id"),
    sa.Index("ix_audit_ledger_entity", "tenant_id", "entity_type", "entity_id", "created_at", "entry_id"),
    sa.Index("ix_audit_ledger_event", "tenant_id", "event_type", "created_at", "entry_id"),
    sa.Index("ix_audit_ledger_actor", "tenant_id", "actor_id", "created_at", "entry_id"),
    sa.Index("ix_audit_ledger_actor_type", "tenant_id", "actor_type", "created_at", "entry_id"),
    primary_key=("entry_id",),
)
idempotency_keys = tenant_table(
    "idempotency_keys",
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("operation", sa.Text, nullable=False),
    sa.Column("request_digest", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("response", sa.Text),
    sa.Column("created_at", Timestamp, nullable=False),
    sa.Column("expires_at", Timestamp, nullable=False),
    enum_check("status", IdempotencyState),
    sa.Index("ix_idempotency_keys_expires_at", "expires_at"),
    primary_key=("key",),
)
outbox = tenant_table(
    "outbox",
    sa.Column("event_id", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("body", CanonicalText, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("next_at", Timestamp, nullable=False),
    sa.Column("delivered_at", Timestamp),
    sa.Column("last_error", sa.Text),
    sa.Column("created_at", Timestamp, nullable=False),
    sa.Index("ix_outbox_due", "next_at", sqlite_where=sa.text("delivered_at IS NULL"),
             postgresql_where=sa.text("delivered_at IS NULL")),
    primary_key=("event_id",),
)  # fmt: skip
log_heads = tenant_table(
    "log_heads",
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("origin", sa.Text, nullable=False, unique=True),
    sa.Column("size", BigInt, nullable=False),
    sa.Column("root", sa.Text, nullable=False),
    sa.Column("signed_size", BigInt, nullable=False),
    sa.Column("min_index", BigInt, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("halted_reason", sa.Text),
    sa.Column("updated_at", Timestamp, nullable=False),
    sa.CheckConstraint("epoch >= 1", name="epoch"),
    sa.CheckConstraint("size >= 0", name="size"),
    sa.CheckConstraint("signed_size >= 0 AND signed_size <= size", name="signed_size"),
    sa.CheckConstraint("min_index >= 0 AND min_index <= size", name="min_index"),
    enum_check("state", LogState),
    sa.Index(
        "ix_log_heads_unsigned",
        "tenant_id",
        "epoch",
        sqlite_where=sa.text("size > signed_size"),
        postgresql_where=sa.text("size > signed_size"),
    ),
    primary_key=("epoch",),
)
log_entries = tenant_table(
    "log_entries",
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("idx", BigInt, nullable=False),
    sa.Column("fact_id", sa.Text, nullable=False),
    sa.Column("integrated_at", Timestamp, nullable=False),
    sa.UniqueConstraint("tenant_id", "epoch", "fact_id", name="uq_log_entries_fact_id"),
    sa.CheckConstraint("idx >= 0", name="idx"),
    primary_key=("epoch", "idx"),
)
log_tiles = tenant_table(
    "log_tiles",
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("level", sa.Integer, nullable=False),
    sa.Column("tile_no", BigInt, nullable=False),
    sa.Column("width", sa.Integer, nullable=False),
    sa.Column("hashes", Bytes, nullable=False),
    tenant_ref("epoch", "log_heads.epoch", name="fk_log_tiles_epoch"),
    sa.CheckConstraint("level BETWEEN 0 AND 7", name="level"),
    sa.CheckConstraint("tile_no >= 0", name="tile_no"),
    sa.CheckConstraint("width BETWEEN 1 AND 256 AND length(hashes) = 32 * width", name="width"),
    primary_key=("epoch", "level", "tile_no"),
)
log_checkpoints = tenant_table(
    "log_checkpoints",
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("size", BigInt, nullable=False),
    sa.Column("root", sa.Text, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("key_ids", CanonicalText, nullable=False),
    sa.Column("signed_at", Timestamp, nullable=False),
    tenant_ref("epoch", "log_heads.epoch", name="fk_log_checkpoints_epoch"),
    sa.CheckConstraint("size >= 0", name="size"),
    primary_key=("epoch", "size"),
)
log_cosignatures = tenant_table(
    "log_cosignatures",
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("size", BigInt, nullable=False),
    sa.Column("key_name", sa.Text, nullable=False),
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("line", sa.Text, nullable=False),
    sa.Column("received_at", Timestamp, nullable=False),
    tenant_ref(("epoch", "size"), "log_checkpoints.epoch,size", name="fk_log_cosignatures_size"),
    primary_key=("epoch", "size", "key_name", "key_id"),
)
log_verifications = tenant_table(
    "log_verifications",
    sa.Column("verification_id", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("from_idx", BigInt),
    sa.Column("to_idx", BigInt),
    sa.Column("size", BigInt),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("counts", CanonicalText, nullable=False),
    sa.Column("failures", CanonicalText, nullable=False),
    sa.Column("started_at", Timestamp, nullable=False),
    sa.Column("finished_at", Timestamp, nullable=False),
    enum_check("kind", VerificationKind),
    enum_check("status", VerificationStatus),
    sa.Column("epoch", sa.Integer, nullable=False, server_default="1"),
    sa.Index("ix_log_verifications_time", "tenant_id", "finished_at", "verification_id"),
    sa.Index("ix_log_verifications_status", "tenant_id", "epoch", "status", "finished_at"),
    primary_key=("verification_id",),
)
erasures = tenant_table(
    "erasures",
    sa.Column("erasure_id", sa.Text, nullable=False),
    sa.Column("scope", sa.Text, nullable=False),
    sa.Column("scope_id", sa.Text, nullable=False),
    sa.Column("commitments", CanonicalText, nullable=False),
    sa.Column("run_id", sa.Text),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("legal_basis", sa.Text),
    sa.Column("requested_by", sa.Text, nullable=False),
    sa.Column("created_at", Timestamp, nullable=False),
    fact_id_column(),
    *fact_id_constraints("erasures"),
    enum_check("scope", ErasureScope),
    sa.Index("ix_erasures_time", "tenant_id", "created_at", "erasure_id"),
    sa.Index("ix_erasures_run", "tenant_id", "run_id", "created_at", "erasure_id"),
    primary_key=("erasure_id",),
)
_ACTIVE = sa.text("released_at IS NULL")
legal_holds = tenant_table(
    "legal_holds",
    sa.Column("hold_id", sa.Text, nullable=False),
    sa.Column("scope", sa.Text, nullable=False),
    sa.Column("scope_id", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("placed_by", sa.Text, nullable=False),
    sa.Column("placed_at", Timestamp, nullable=False),
    sa.Column("released_by", sa.Text),
    sa.Column("released_at", Timestamp),
    sa.Column("version", sa.Integer, nullable=False, server_default="1"),
    enum_check("scope", HoldScope),
    sa.CheckConstraint("(released_by IS NULL) = (released_at IS NULL)", name="released"),
    sa.Index("ix_legal_holds_time", "tenant_id", "placed_at", "hold_id"),
    sa.Index("ix_legal_holds_active", "tenant_id", "hold_id", sqlite_where=_ACTIVE, postgresql_where=_ACTIVE),
    primary_key=("hold_id",),
)
tenant_retention = tenant_table(
    "tenant_retention",
    sa.Column("retention_days", sa.Integer, nullable=False, server_default=str(DEFAULT_DAYS)),
    sa.Column("value_retention_days", sa.Integer, nullable=False, server_default=str(DEFAULT_DAYS)),
    sa.Column("created_at", Timestamp, nullable=False),
    sa.Column("updated_at", Timestamp, nullable=False),
    sa.Column("version", sa.Integer, nullable=False, server_default="1"),
    sa.CheckConstraint(f"retention_days >= {FEWEST_DAYS}", name="retention_days"),
    sa.CheckConstraint(f"value_retention_days >= {FEWEST_DAYS}", name="value_retention_days"),
    primary_key=(),
)
log_archives = tenant_table(
    "log_archives",
    sa.Column("archive_id", sa.Text, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("from_idx", BigInt, nullable=False),
    sa.Column("to_idx", BigInt, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("size", BigInt, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("counts", CanonicalText, nullable=False),
    sa.Column("created_at", Timestamp, nullable=False),
    fact_id_column(),
    *fact_id_constraints("log_archives"),
    sa.CheckConstraint("from_idx >= 0 AND from_idx < to_idx", name="range"),
    sa.CheckConstraint("length(sha256) = 64", name="sha256"),
    sa.CheckConstraint("size > 0", name="size"),
    sa.Index("ix_log_archives_time", "tenant_id", "created_at", "archive_id"),
    primary_key=("archive_id",),
)
_OPEN = sa.text("closed_at IS NULL")
log_purge_permits = tenant_table(
    "log_purge_permits",
    sa.Column("purge_id", sa.Text, nullable=False),
    sa.Column("archive_id", sa.Text, nullable=False),
    # The indices that go, so that whoever takes up a purge that was cut off deletes what was decided then.
    sa.Column("ranges", CanonicalText, nullable=False),
    sa.Column("opened_at", Timestamp, nullable=False),
    sa.Column("closed_at", Timestamp),
    sa.UniqueConstraint("tenant_id", "archive_id", name="uq_log_purge_permits_archive_id"),
    tenant_ref("archive_id", "log_archives.archive_id", name="fk_log_purge_permits_archive_id"),
    sa.Index(
        "uq_log_purge_permits_open", "tenant_id", unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN
    ),
    primary_key=("purge_id",),
)
purged_runs = tenant_table(
    "purged_runs",
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("archive_id", sa.Text, nullable=False),
    sa.Column("purged_at", Timestamp, nullable=False),
    tenant_ref("archive_id", "log_archives.archive_id", name="fk_purged_runs_archive_id"),
    sa.Index("ix_purged_runs_archive", "tenant_id", "archive_id", "run_id"),
    primary_key=("run_id",),
)
value_sweeps = tenant_table(
    "value_sweeps",
    # The newest fact whose values were looked at for their age; null: begin with the first.
    sa.Column("swept_to", sa.Text),
    primary_key=(),
)

govern(
    audit_ledger,
    "APPEND",
    types=("audit",),
    protected=("action_reason",),
    json_columns=("before_state", "after_state"),
)
govern(erasures, "APPEND", types=("erasure",), json_columns=("commitments",))
govern(legal_holds, "AUDITED")
govern(tenant_retention, "AUDITED", entity="RETENTION")
govern(log_archives, "APPEND", types=("log.archived",), json_columns=("counts",))
# Repeated in the log of the system, which has no such row.
log_fact("log.archived", GOVERNED["log_archives"].hashed)
exempt(log_leaves, "the log itself")
exempt(log_pending, "queue of the sequencer; ids only")
exempt(run_fact_counters, "numbers the facts; the closing count stands in run.completed")
exempt(idempotency_keys, "forgotten whole after a day; what it replays is recorded by its own facts")
exempt(outbox, "deliveries; each event repeats a recorded fact")
exempt(log_heads, "the log itself; its checkpoints sign size and root")
exempt(log_entries, "the order of the log; the tree proves it")
exempt(log_tiles, "the tree itself")
exempt(log_checkpoints, "signed, and kept outside the database too")
exempt(log_cosignatures, "signed by witnesses")
exempt(log_purge_permits, "opened with the entry EvidencePurged in the ledger; deletes what the archive has")
exempt(purged_runs, "the archive has what it names")
exempt(value_sweeps, "how far the erasure of over-age values came; from the first fact it finds the same")
exempt(log_verifications, "what a check found; the next one finds it again")
log_fact("log.key", ("old_vkey", "new_vkey", "compromised", "reason"))
log_fact("log.epoch", ("old_origin", "new_origin", "old_checkpoint", "reason"))
log_fact("log.anchor", ("origin", "size", "root"))
