"""Retention: how long evidence is kept, what was archived, and the one door to deleting rows."""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op
from hoc_ddl import (
    BIGINT,
    TS,
    append_only,
    delete_by_nobody,
    delete_by_permit,
    drop_tables,
    fixed_columns,
    no_delete,
    on_postgresql,
    refuse,
    row_level_security,
    run_ddl,
)

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

# What a purge deletes from.
PURGED = (
    "aos_trace_steps",
    "aos_traces",
    "audit_ledger",
    "decision_links",
    "decision_records",
    "incident_events",
    "incident_links",
    "incidents",
    "lessons_learned",
    "limit_breaches",
    "limit_entries",
    "log_entries",
    "log_leaves",
    "policy_evaluations",
    "policy_snapshots",
    "prevention_records",
    "retrieval_evidence",
    "retrieval_evidence_documents",
    "retrieval_observations",
    "run_fact_counters",
    "runs",
    "usage_records",
    "usage_reservations",
)
# Whoever deletes a row looks for the rows that refer to it: nothing is to be read whole for that.
REFERRING = {
    "ix_aos_trace_steps_decision": ("aos_trace_steps", "decision_id"),
    "ix_discovery_ledger_incident": ("discovery_ledger", "incident_id"),
    "ix_discovery_ledger_run": ("discovery_ledger", "last_run_id"),
    "ix_incidents_recurrence": ("incidents", "recurrence_of"),
    "ix_retrieval_observations_evidence": ("retrieval_observations", "evidence_id"),
    "ix_usage_reservations_decision": ("usage_reservations", "decision_id"),
}
SHORTEST, LONGEST = 183, 2557


def _reference(table: str, column: str, referred: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["tenant_id", column],
        [f"{referred}.tenant_id", f"{referred}.{column}"],
        name=f"fk_{table}_{column}",
        ondelete="RESTRICT",
    )


def _leaf(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["tenant_id", "fact_id"],
        ["log_leaves.tenant_id", "log_leaves.fact_id"],
        name=f"fk_{table}_fact_id",
        ondelete="RESTRICT",
        deferrable=True,
        initially="DEFERRED",
    )


def _tenant_retention() -> None:
    table = "tenant_retention"
    op.create_table(
        table,
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("retention_days", sa.Integer, nullable=False, server_default=str(LONGEST)),
        sa.Column("value_retention_days", sa.Integer, nullable=False, server_default=str(LONGEST)),
        sa.Column("created_at", TS(), nullable=False),
        sa.Column("updated_at", TS(), nullable=False),
        sa.Column("version", sa.Integer, nullable=False, server_default="1"),
        sa.PrimaryKeyConstraint("tenant_id", name=f"pk_{table}"),
        sa.CheckConstraint(f"retention_days >= {SHORTEST}", name=f"ck_{table}_retention_days"),
        sa.CheckConstraint(f"value_retention_days >= {SHORTEST}", name=f"ck_{table}_value_retention_days"),
    )
    row_level_security(table)
    no_delete(table)
    fixed_columns(table, ("tenant_id", "created_at"))


def _log_archives() -> None:
    table = "log_archives"
    op.create_table(
        table,
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("archive_id", sa.Text, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("from_idx", BIGINT, nullable=False),
        sa.Column("to_idx", BIGINT, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("size", BIGINT, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("counts", sa.Text, nullable=False),
        sa.Column("created_at", TS(), nullable=False),
        sa.Column("fact_id", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "archive_id", name=f"pk_{table}"),
        sa.UniqueConstraint("tenant_id", "fact_id", name=f"uq_{table}_fact_id"),
        _leaf(table),
        sa.CheckConstraint("from_idx >= 0 AND from_idx < to_idx", name=f"ck_{table}_range"),
        sa.CheckConstraint("length(sha256) = 64", name=f"ck_{table}_sha256"),
        sa.CheckConstraint("size > 0", name=f"ck_{table}_size"),
    )
    op.create_index(f"ix_{table}_time", table, ["tenant_id", "created_at", "archive_id"])
    row_level_security(table)
    append_only(table)


def _log_purge_permits() -> None:
    table = "log_purge_permits"
    op.create_table(
        table,
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("purge_id", sa.Text, nullable=False),
        sa.Column("archive_id", sa.Text, nullable=False),
        sa.Column("ranges", sa.Text, nullable=False),
        sa.Column("opened_at", TS(), nullable=False),
        sa.Column("closed_at", TS()),
        sa.PrimaryKeyConstraint("tenant_id", "purge_id", name=f"pk_{table}"),
        sa.UniqueConstraint("tenant_id", "archive_id", name=f"uq_{table}_archive_id"),
        _reference(table, "archive_id", "log_archives"),
    )
    opened = sa.text("closed_at IS NULL")
    op.create_index(
        f"uq_{table}_open", table, ["tenant_id"], unique=True, sqlite_where=opened, postgresql_where=opened
    )
    row_level_security(table)
    no_delete(table)
    fixed_columns(table, ("tenant_id", "purge_id", "archive_id", "ranges", "opened_at"))
    refuse(
        f"{table}_final",
        table,
        "UPDATE",
        f"{table}: a closed permit is never opened again",
        when="OLD.closed_at IS NOT NULL",
    )


def _purged_runs() -> None:
    table = "purged_runs"
    op.create_table(
        table,
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("archive_id", sa.Text, nullable=False),
        sa.Column("purged_at", TS(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "run_id", name=f"pk_{table}"),
        _reference(table, "archive_id", "log_archives"),
    )
    op.create_index(f"ix_{table}_archive", table, ["tenant_id", "archive_id", "run_id"])
    row_level_security(table)
    append_only(table)
    known = "SELECT 1 FROM purged_runs WHERE tenant_id = NEW.tenant_id AND run_id = NEW.run_id"
    # The id of a purged run is taken for ever, like that of a run that is there: the row is left out.
    run_ddl(
        sqlite=f"""CREATE TRIGGER runs_not_purged BEFORE INSERT ON runs FOR EACH ROW WHEN EXISTS ({known})
            BEGIN SELECT RAISE(IGNORE); END""",
        postgresql=(
            f"""CREATE FUNCTION runs_not_purged() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF EXISTS ({known}) THEN RETURN NULL; END IF; RETURN NEW; END $$""",
            """CREATE TRIGGER runs_not_purged BEFORE INSERT ON runs FOR EACH ROW
                EXECUTE FUNCTION runs_not_purged()""",
        ),
    )


def _value_sweeps() -> None:
    table = "value_sweeps"
    op.create_table(
        table,
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("swept_to", sa.Text),
        sa.PrimaryKeyConstraint("tenant_id", name=f"pk_{table}"),
    )
    row_level_security(table)


def _erasures(*, of_runs: bool) -> None:
    """Make the key of erasures to runs, or take it away: an erasure outlives its run."""
    table, key = "erasures", "fk_erasures_run_id"
    if on_postgresql():
        if of_runs:
            op.create_foreign_key(
                key, table, "runs", ["tenant_id", "run_id"], ["tenant_id", "run_id"], ondelete="RESTRICT"
            )
        else:
            op.drop_constraint(key, table, type_="foreignkey")
        return
    # SQLite cannot change a key: the table is made anew, with all that belongs to it.
    for name in (f"{table}_no_update", f"{table}_no_delete"):
        run_ddl(sqlite=f"DROP TRIGGER {name}")
    for name in (f"ix_{table}_time", f"ix_{table}_run"):
        op.drop_index(name, table)
    op.rename_table(table, f"{table}_before")
    op.create_table(
        table,
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("erasure_id", sa.Text, nullable=False),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("scope_id", sa.Text, nullable=False),
        sa.Column("commitments", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("legal_basis", sa.Text),
        sa.Column("requested_by", sa.Text, nullable=False),
        sa.Column("created_at", TS(), nullable=False),
        sa.Column("fact_id", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "erasure_id", name=f"pk_{table}"),
        sa.UniqueConstraint("tenant_id", "fact_id", name=f"uq_{table}_fact_id"),
        _leaf(table),
        *((_reference(table, "run_id", "runs"),) if of_runs else ()),
        sa.CheckConstraint("scope IN ('FACT', 'RUN', 'SUBJECT')", name=f"ck_{table}_scope"),
    )
    run_ddl(sqlite=(f"INSERT INTO {table} SELECT * FROM {table}_before", f"DROP TABLE {table}_before"))
    op.create_index(f"ix_{table}_time", table, ["tenant_id", "created_at", "erasure_id"])
    op.create_index(f"ix_{table}_run", table, ["tenant_id", "run_id", "created_at", "erasure_id"])
    append_only(table)


def upgrade() -> None:
    _tenant_retention()
    _log_archives()
    _log_purge_permits()
    _purged_runs()
    _value_sweeps()
    _erasures(of_runs=False)
    for name, (table, column) in REFERRING.items():
        there = sa.text(f"{column} IS NOT NULL")
        op.create_index(name, table, ["tenant_id", column], sqlite_where=there, postgresql_where=there)
    for table in PURGED:
        delete_by_permit(table)


def downgrade() -> None:
    for table in PURGED:
        delete_by_nobody(table)
    for name, (table, _column) in REFERRING.items():
        op.drop_index(name, table)
    _erasures(of_runs=True)
    run_ddl(
        sqlite="DROP TRIGGER runs_not_purged",
        postgresql=("DROP TRIGGER runs_not_purged ON runs", "DROP FUNCTION runs_not_purged()"),
    )
    drop_tables("value_sweeps", "purged_runs", "log_purge_permits", "log_archives", "tenant_retention")
