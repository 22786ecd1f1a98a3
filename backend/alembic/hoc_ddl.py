"""Alembic: the shared DDL of migrations. A function here never changes once a landed migration calls it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import sqlalchemy as sa

from alembic import op

APP_ROLE = "hoc_app"
MAINTENANCE_ROLE = "hoc_maintenance"
FLAG = sa.Boolean
BIGINT = sa.BigInteger
BYTES = sa.LargeBinary


def TS() -> sa.types.TypeEngine[object]:  # noqa: N802 - reads as a type in column lists
    """Return the column type of a time on this dialect."""
    return sa.DateTime(timezone=True) if on_postgresql() else sa.Text()


def on_postgresql() -> bool:
    """Tell whether this migration runs on PostgreSQL."""
    return op.get_context().dialect.name == "postgresql"


def run_ddl(*, sqlite: str | Sequence[str] = (), postgresql: str | Sequence[str] = ()) -> None:
    """Execute the statements of the dialect at hand."""
    chosen = postgresql if on_postgresql() else sqlite
    for statement in (chosen,) if isinstance(chosen, str) else chosen:
        # A colon inside a trigger body is text, no bind parameter.
        op.execute(sa.text(statement.replace(":", "\\:")))


def create_roles() -> None:
    """Create the two database roles of PostgreSQL and let this login take them on; nothing on SQLite."""
    for role in (APP_ROLE, MAINTENANCE_ROLE):
        run_ddl(
            postgresql=(
                # Roles belong to the cluster: another database's migration may make them at this moment.
                f"""DO $$ BEGIN
                    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = '{role}') THEN
                        CREATE ROLE {role} NOLOGIN;
                    END IF;
                EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$""",
                # Since PostgreSQL 16 who makes a role is its member and still may not take it on (SET).
                f"""DO $$ BEGIN
                    IF NOT pg_has_role(current_user, '{role}', CASE
                        WHEN current_setting('server_version_num')::int < 160000 THEN 'MEMBER' ELSE 'SET' END)
                    THEN
                        EXECUTE format('GRANT {role} TO %I', current_user);
                    END IF;
                EXCEPTION WHEN insufficient_privilege THEN
                    RAISE EXCEPTION 'an administrator must run: GRANT {APP_ROLE}, {MAINTENANCE_ROLE} TO %',
                        quote_ident(current_user) USING ERRCODE = 'insufficient_privilege';
                END $$""",
                f"GRANT USAGE ON SCHEMA public TO {role}",
            )
        )


@contextmanager
def as_maintenance() -> Iterator[None]:
    """Write rows past row security (PostgreSQL), which is forced on the owner of the tables too."""
    run_ddl(postgresql=f"SET LOCAL ROLE {MAINTENANCE_ROLE}")
    yield
    run_ddl(postgresql="RESET ROLE")


def grant(
    table: str, *, app: str = "SELECT, INSERT, UPDATE", maintenance: str = "SELECT, INSERT, UPDATE, DELETE"
) -> None:
    """Give the application and maintenance roles their rights on a table (PostgreSQL)."""
    run_ddl(
        postgresql=(
            f"GRANT {app} ON {table} TO {APP_ROLE}",
            f"GRANT {maintenance} ON {table} TO {MAINTENANCE_ROLE}",
        )
    )


def row_level_security(table: str, *, delete: bool = False) -> None:
    """Force row security by tenant on PostgreSQL and grant the application its rights.

    `delete=True` lets the application delete rows (derived data, queues).
    """
    grant(table, app="SELECT, INSERT, UPDATE, DELETE" if delete else "SELECT, INSERT, UPDATE")
    run_ddl(
        postgresql=(
            f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
            f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
            f"""CREATE POLICY tenant_rows ON {table} TO {APP_ROLE}
                USING (tenant_id = current_setting('hoc.tenant_id'))
                WITH CHECK (tenant_id = current_setting('hoc.tenant_id'))""",
            f"CREATE POLICY all_rows ON {table} TO {MAINTENANCE_ROLE} USING (true) WITH CHECK (true)",
        )
    )


def refuse(name: str, table: str, event: str, message: str, *, when: str | None = None) -> None:
    """Create a row trigger that refuses `event` (`UPDATE`, `DELETE`, `INSERT`, `UPDATE OF a, b`).

    `when` is a condition over OLD and NEW in SQL that both dialects read.
    """
    condition = f"WHEN ({when})" if when else ""
    run_ddl(
        sqlite=f"""CREATE TRIGGER {name} BEFORE {event} ON {table} FOR EACH ROW {condition}
            BEGIN SELECT RAISE(ABORT, '{message}'); END""",
        postgresql=(
            f"""CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN RAISE EXCEPTION '{message}' USING ERRCODE = 'integrity_constraint_violation'; END $$""",
            f"""CREATE TRIGGER {name} BEFORE {event} ON {table} FOR EACH ROW {condition}
                EXECUTE FUNCTION {name}()""",
        ),
    )


def no_delete(table: str) -> None:
    """Refuse DELETE, and TRUNCATE on PostgreSQL."""
    refuse(f"{table}_no_delete", table, "DELETE", f"{table} rows are never deleted")
    run_ddl(
        postgresql=(
            f"""CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT
                EXECUTE FUNCTION {table}_no_delete()""",
        )
    )


def append_only(table: str) -> None:
    """Refuse UPDATE, DELETE and TRUNCATE."""
    refuse(f"{table}_no_update", table, "UPDATE", f"{table} is append-only")
    no_delete(table)


def fixed_columns(table: str, columns: Sequence[str]) -> None:
    """Refuse an UPDATE that changes one of these columns."""
    distinct = "IS DISTINCT FROM" if on_postgresql() else "IS NOT"
    changed = " OR ".join(f"NEW.{column} {distinct} OLD.{column}" for column in columns)
    refuse(f"{table}_fixed", table, "UPDATE", f"{table}: {', '.join(columns)} never change", when=changed)


def erasure_of(protected: Sequence[str], kept: Sequence[str]) -> str:
    """Return the condition that an UPDATE is an erasure: values and salt go, once, and nothing else changes.

    `kept` are all other columns of the table but erased_fact_id: who adds one makes the guard anew. No part
    of the condition is ever null.
    """
    same = "IS NOT DISTINCT FROM" if on_postgresql() else "IS"
    parts = [f"NEW.{column} {same} OLD.{column}" for column in kept]
    parts += [f"NEW.{column} IS NULL" for column in (*protected, "protected_salt")]
    return " AND ".join([*parts, "OLD.erased_fact_id IS NULL", "NEW.erased_fact_id IS NOT NULL"])


def refuse_instead(name: str, table: str, event: str, message: str, *, when: str | None = None) -> None:
    """Put another refusal in the place of one that `refuse` made."""
    run_ddl(
        sqlite=f"DROP TRIGGER {name}",
        postgresql=(f"DROP TRIGGER {name} ON {table}", f"DROP FUNCTION {name}()"),
    )
    refuse(name, table, event, message, when=when)


def drop_tables(*tables: str) -> None:
    """Drop tables with the trigger functions made for them (names begin with the table's)."""
    for table in tables:
        op.drop_table(table)
        run_ddl(
            postgresql=f"""DO $$ DECLARE f record; BEGIN
                FOR f IN SELECT p.oid::regprocedure AS signature FROM pg_proc p
                    JOIN pg_namespace n ON n.oid = p.pronamespace
                    WHERE n.nspname = current_schema() AND p.prorettype = 'trigger'::regtype
                    AND p.proname LIKE '{table}\\_%'
                    AND NOT EXISTS (SELECT 1 FROM pg_trigger t WHERE t.tgfoid = p.oid)
                LOOP EXECUTE 'DROP FUNCTION ' || f.signature; END LOOP; END $$"""
        )


def delete_by_permit(table: str) -> None:
    """Let DELETE through under an open purge permit of the tenant; TRUNCATE stays refused."""
    name, message = f"{table}_no_delete", f"{table} rows are never deleted"
    permit = "SELECT 1 FROM log_purge_permits WHERE tenant_id = OLD.tenant_id AND closed_at IS NULL"
    run_ddl(
        sqlite=(
            f"DROP TRIGGER {name}",
            f"""CREATE TRIGGER {name} BEFORE DELETE ON {table} FOR EACH ROW WHEN NOT EXISTS ({permit})
                BEGIN SELECT RAISE(ABORT, '{message}'); END""",
        ),
        # Both triggers of the table, that of rows and that of TRUNCATE, call this one function.
        postgresql=f"""CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF TG_OP = 'DELETE' THEN IF EXISTS ({permit}) THEN RETURN OLD; END IF; END IF;
                RAISE EXCEPTION '{message}' USING ERRCODE = 'integrity_constraint_violation'; END $$""",
    )


def delete_by_nobody(table: str) -> None:
    """Refuse every DELETE again, as `no_delete` did."""
    name, message = f"{table}_no_delete", f"{table} rows are never deleted"
    if not on_postgresql():
        refuse_instead(name, table, "DELETE", message)
    run_ddl(
        postgresql=f"""CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN RAISE EXCEPTION '{message}' USING ERRCODE = 'integrity_constraint_violation'; END $$""",
    )
