"""Database: run the migration chain, and refuse a schema that is not exactly its head."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory

from alembic import command
from app.db.catalogue import metadata
from app.db.engine import make_migration_engine

BACKEND = Path(__file__).resolve().parents[2]
MEND = "Run `hoc migrate`."
ELSEWHERE = "Name an empty one in HOC_DATABASE_URL and run `hoc migrate`."


class SchemaError(RuntimeError):
    """The database cannot serve this program; the message names the command that mends it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


def alembic_config(url: str) -> Config:
    """Return the Alembic configuration for a database."""
    config = Config(str(BACKEND / "alembic.ini"))
    config.attributes["url"] = url
    return config


def upgrade(url: str, revision: str = "head") -> None:
    """Migrate a database up to a revision; a second run does nothing."""
    command.upgrade(alembic_config(url), revision)


def downgrade(url: str, revision: str) -> None:
    """Migrate a database down to a revision."""
    command.downgrade(alembic_config(url), revision)


def head_revision() -> str:
    """Return the chain's one head."""
    return str(ScriptDirectory.from_config(Config(str(BACKEND / "alembic.ini"))).get_current_head())


def check_schema(url: str) -> None:
    """Raise SchemaError for a missing, stale, newer, foreign or stamped-but-empty schema."""
    if _is_absent_file(url):
        raise SchemaError("SCHEMA_MISSING", f"There is no database at this URL. {MEND}")
    engine = make_migration_engine(url)
    try:
        with engine.connect() as connection:
            _check(connection)
    except sa.exc.DatabaseError as error:
        if getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
            raise SchemaError(
                "SCHEMA_FOREIGN", f"The file at this URL is no database. {ELSEWHERE}"
            ) from error
        raise
    finally:
        engine.dispose()


def _is_absent_file(url: str) -> bool:
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return False
    file = Path(parsed.database or "")
    return not file.exists() or file.stat().st_size == 0


def _check(connection: sa.Connection) -> None:
    inspector = sa.inspect(connection)
    present = set(inspector.get_table_names())
    if "alembic_version" not in present:
        if present:
            raise SchemaError("SCHEMA_FOREIGN", f"The database holds tables of somebody else. {ELSEWHERE}")
        raise SchemaError("SCHEMA_MISSING", f"The database has no schema yet. {MEND}")
    stamped = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalars().all()
    head = head_revision()
    if list(stamped) != [head]:
        script = ScriptDirectory.from_config(Config(str(BACKEND / "alembic.ini")))
        known = {item.revision for item in script.walk_revisions()}
        if set(stamped) - known:
            if not present & set(metadata.tables):
                raise SchemaError("SCHEMA_FOREIGN", f"The database is another program's. {ELSEWHERE}")
            raise SchemaError(
                "SCHEMA_TOO_NEW",
                f"The database is at {', '.join(stamped)}, which this program does not know."
                " Install a newer release.",
            )
        at = ", ".join(stamped) or "nothing"
        raise SchemaError("SCHEMA_OUTDATED", f"The database is at {at}, this program needs {head}. {MEND}")
    missing = _missing(inspector, present)
    if missing:
        raise SchemaError(
            "SCHEMA_MISMATCH",
            f"The database is stamped {head} but lacks {', '.join(missing[:5])}. Restore it from a backup, or"
            " start from an empty database with `hoc migrate`.",
        )


def _missing(inspector: sa.Inspector, present: set[str]) -> list[str]:
    columns = inspector.get_multi_columns()
    found = {(name, column["name"]) for (_, name), items in columns.items() for column in items}
    lacking = []
    for table in metadata.sorted_tables:
        if table.name not in present:
            lacking.append(table.name)
            continue
        lacking.extend(f"{table.name}.{c.name}" for c in table.columns if (table.name, c.name) not in found)
    return lacking
