"""Test databases: migrated once per dialect and run, then copied; one for each worker, more on request."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal
from uuid import uuid4

import psycopg
import sqlalchemy as sa
from psycopg import sql

Dialect = Literal["sqlite", "postgresql"]
DIALECTS: tuple[Dialect, ...] = ("sqlite", "postgresql")


@dataclass(frozen=True, slots=True)
class Templates:
    """Where the migrated templates are; it travels to the workers as plain values."""

    directory: str
    postgres_url: str
    run: str
    # A server that was given outlives the run; one of the run's own goes with all of its databases.
    given: bool

    @property
    def sqlite_file(self) -> Path:
        """Return the migrated SQLite file."""
        return Path(self.directory) / "template.db"

    @property
    def postgres_name(self) -> str:
        """Return the name of the migrated PostgreSQL database."""
        return f"hoc_{self.run}_template"

    def as_values(self) -> Mapping[str, object]:
        """Return what `Templates(**values)` needs in another process."""
        return asdict(self)


def make_templates(directory: Path, postgres_url: str, *, given: bool) -> Templates:
    """Migrate one empty database of each dialect to head and return where they are."""
    # Imported here, like all of the application in the harness: a unit test runs without the rest of it.
    from app.db.migrations import upgrade

    templates = Templates(str(directory), postgres_url, run=uuid4().hex[:8], given=given)
    upgrade(f"sqlite:///{templates.sqlite_file}")
    # The write-ahead log must be in the file before the file is copied.
    engine = sa.create_engine(f"sqlite:///{templates.sqlite_file}", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    engine.dispose()
    _execute(postgres_url, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(templates.postgres_name)))
    try:
        upgrade(_named(postgres_url, templates.postgres_name))
    except BaseException:
        drop_database(postgres_url, templates.postgres_name)
        raise
    return templates


class Databases:
    """Makes the databases of one worker from the templates and drops them at its end."""

    def __init__(self, templates: Templates, worker: str) -> None:
        self._templates = templates
        self._worker = worker
        self._shared: dict[Dialect, str] = {}
        self._postgres_names: list[str] = []

    def shared(self, dialect: Dialect) -> str:
        """Return the URL of the worker's own migrated database, the same one at each call."""
        if dialect not in self._shared:
            self._shared[dialect] = self.new(dialect)
        return self._shared[dialect]

    def new(self, dialect: Dialect, *, migrated: bool = True) -> str:
        """Return the URL of a further database: at head, or empty."""
        name = f"hoc_{self._templates.run}_{self._worker}_{uuid4().hex[:8]}"
        if dialect == "sqlite":
            path = Path(self._templates.directory) / f"{name}.db"
            if migrated:
                shutil.copyfile(self._templates.sqlite_file, path)
            return f"sqlite:///{path}"
        template = self._templates.postgres_name if migrated else "template0"
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY")
        _execute(
            self._templates.postgres_url, statement.format(sql.Identifier(name), sql.Identifier(template))
        )
        self._postgres_names.append(name)
        return _named(self._templates.postgres_url, name)

    def close(self) -> None:
        """Drop the databases on a server that stays; the SQLite files go with their directory."""
        for name in self._postgres_names if self._templates.given else ():
            drop_database(self._templates.postgres_url, name)
        self._postgres_names.clear()


def drop_database(postgres_url: str, name: str) -> None:
    """Drop a database with whatever is still connected to it."""
    _execute(postgres_url, sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _named(postgres_url: str, name: str) -> str:
    return sa.make_url(postgres_url).set(database=name).render_as_string(hide_password=False)


def _execute(postgres_url: str, statement: sql.Composed) -> None:
    url = sa.make_url(postgres_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)
