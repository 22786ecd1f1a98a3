"""Database: run the migration chain, and refuse a schema that is not exactly its head."""

from __future__ import annotations

import sqlite3
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from app.db.catalogue import metadata
from app.db.engine import make_migration_engine

if TYPE_CHECKING:
    from alembic.config import Config

BACKEND = Path(__file__).resolve().parents[2]
VERSIONS = BACKEND / "alembic" / "versions"
MEND = "Run `hoc migrate`."
ELSEWHERE = "Name an empty one in HOC_DATABASE_URL and run `hoc migrate`."


class SchemaError(RuntimeError):
    """The database cannot serve this program; the message names the command that mends it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


def alembic_config(url: str) -> Config:
    """Return the Alembic configuration for a database."""
    # Alembic is loaded by whoever migrates: every start looks at the schema, few change it.
    from alembic.config import Config

    config = Config(str(BACKEND / "alembic.ini"))
    config.attributes["url"] = url
    return config


def upgrade(url: str, revision: str = "head") -> None:
    """Migrate a database up to a revision; a second run does nothing."""
    from alembic import command

    command.upgrade(alembic_config(url), revision)


def downgrade(url: str, revision: str) -> None:
    """Migrate a database down to a revision."""
    from alembic import command

    command.downgrade(alembic_config(url), revision)


def head_revision() -> str:
    """Return the chain's one head."""
    return _chain()[-1]


@cache
def _chain() -> tuple[str, ...]:
    # The chain is linear, and a file is named by its revision (`file_template` in alembic.ini).
    return tuple(sorted(file.name.partition("_")[0] for file in VERSIONS.glob("[0-9]*.py")))


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
        if set(stamped) - set(_chain()):
            if not present & set(metadata.tables):
                raise SchemaError("SCHEMA_FOREIGN", f"The database is another program's. {ELSEWHERE}")
            raise SchemaError(
                "SCHEMA_TOO_NEW",
                f"The database is at {', '.join(stamped)}, which this program does not know."
                " Install a newer release.",
            )
        at = ", ".join(stamped) or "nothing"
        raise SchemaError("SCHEMA_OUTDATED", f"The database is at {at}, this program needs {head}. {MEND}")
    missing = _missing(connection)
    if missing:
        raise SchemaError(
            "SCHEMA_MISMATCH",
            f"The database is stamped {head} but lacks {', '.join(missing[:5])}. Restore it from a backup, or"
            " start from an empty database with `hoc migrate`.",
        )


# Names alone, in one statement: reflecting types and defaults of a hundred tables takes a good while.
_COLUMNS = {
    "sqlite": """SELECT t.name, c.name FROM sqlite_master t, pragma_table_info(t.name) c
        WHERE t.type = 'table'""",
    "postgresql": """SELECT relname, attname FROM pg_class c JOIN pg_attribute ON attrelid = c.oid
        WHERE relkind IN ('r', 'p') AND attnum > 0 AND NOT attisdropped AND pg_table_is_visible(c.oid)""",
}


def _missing(connection: sa.Connection) -> list[str]:
    found: dict[str, set[str]] = {}
    for table, column in connection.execute(sa.text(_COLUMNS[connection.dialect.name])):
        found.setdefault(table, set()).add(column)
    lacking = []
    for name, table in metadata.tables.items():
        if name not in found:
            lacking.append(name)
            continue
        lacking.extend(f"{name}.{column.name}" for column in table.columns if column.name not in found[name])
    return lacking
