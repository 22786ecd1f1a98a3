"""The third door: the knowledge repository as a Python library, over the same operations."""

from __future__ import annotations

import sqlite3
import tempfile
import threading
from contextlib import closing
from functools import cache
from os import PathLike, fspath
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import sqlalchemy as sa

from app.bootstrap import build_spine
from app.db.migrations import SchemaError, check_schema, head_revision, upgrade
from app.domains.repository.models.library import (
    KEEP,
    Capabilities,
    ConflictError,
    DuplicateError,
    GoneError,
    KnowledgeRepository,
    LimitError,
    NotFoundError,
    OpenError,
    ReferenceMissingError,
    RepositoryContext,
    RepositoryError,
    RetryableError,
    SnapshotError,
    ValidationError,
    VersionMismatchError,
)
from app.hoc_spine.spine import Spine
from app.kernel.clock import Clock
from app.kernel.context import Actor, RequestContext
from app.kernel.ids import IdFactory
from app.library_face.repository import (
    InMemoryKnowledgeRepository,
    PostgresKnowledgeRepository,
    SpineRepository,
    SQLiteKnowledgeRepository,
)
from app.library_face.store import Store
from app.settings import Settings

__all__ = [
    "KEEP",
    "Capabilities",
    "ConflictError",
    "DuplicateError",
    "GoneError",
    "InMemoryKnowledgeRepository",
    "KnowledgeRepository",
    "LimitError",
    "NotFoundError",
    "OpenError",
    "PostgresKnowledgeRepository",
    "ReferenceMissingError",
    "RepositoryContext",
    "RepositoryError",
    "RetryableError",
    "SQLiteKnowledgeRepository",
    "SnapshotError",
    "ValidationError",
    "VersionMismatchError",
    "open_repository",
]

R = TypeVar("R", bound=SpineRepository)
_IMAGE_LOCK = threading.Lock()
_REFUSED_OPENINGS = {"SCHEMA_FOREIGN": "NOT_A_REPOSITORY", "SCHEMA_MISSING": "NOT_A_REPOSITORY"}


def open_repository(
    url: str | PathLike[str],
    *,
    context: RepositoryContext | None = None,
    create: bool | None = None,
    clock: Clock | None = None,
    ids: IdFactory | None = None,
) -> KnowledgeRepository:
    """Open `memory://`, `sqlite:///FILE`, a path, or `postgresql://...`; ValueError for anything else.

    `create` (default: not for PostgreSQL) migrates an empty database and makes a missing tenant. Refusals:
    NOT_A_REPOSITORY, SCHEMA_OUTDATED, SCHEMA_TOO_NEW; nothing that is there is ever migrated.
    """
    text = fspath(url)
    if text == "memory://":
        return _open_memory(context, clock, ids)
    scheme, separator, _ = text.partition("://")
    if not separator:
        return _open_sqlite(Path(text), context, create is not False, clock, ids)
    if scheme == "sqlite" and text.startswith("sqlite:///") and len(text) > len("sqlite:///"):
        return _open_sqlite(Path(text.removeprefix("sqlite:///")), context, create is not False, clock, ids)
    if scheme in ("postgresql", "postgresql+psycopg"):
        return _open_postgresql(text, context, create is True, clock, ids)
    raise ValueError("a repository is memory://, sqlite:///FILE, a path or postgresql://...")


def _open_memory(
    context: RepositoryContext | None, clock: Clock | None, ids: IdFactory | None
) -> InMemoryKnowledgeRepository:
    name = f"file:/hoc-{uuid4().hex}?vfs=memdb"
    # The database lives as long as one connection to it does.
    anchor = sqlite3.connect(name, uri=True, check_same_thread=False)
    _fill(anchor)
    spine = _spine(f"sqlite:///{name}&uri=true", clock, ids)
    store = _store(spine, create=True, anchor=anchor)
    return _admitted(InMemoryKnowledgeRepository(store, context), context)


def _open_sqlite(
    path: Path, context: RepositoryContext | None, create: bool, clock: Clock | None, ids: IdFactory | None
) -> SQLiteKnowledgeRepository:
    if _is_empty_file(path):
        if not create:
            raise OpenError("NOT_A_REPOSITORY", "There is no database at this path.")
        _create_file(path)
    url = f"sqlite:///{path}"
    _require_schema(url)
    store = _store(_spine(url, clock, ids), create=create)
    return _admitted(SQLiteKnowledgeRepository(store, context), context)


def _open_postgresql(
    url: str, context: RepositoryContext | None, create: bool, clock: Clock | None, ids: IdFactory | None
) -> PostgresKnowledgeRepository:
    url = sa.make_url(url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    try:
        if create and not _table_names(url):
            upgrade(url)
    except sa.exc.SQLAlchemyError as error:
        raise _unreachable(error) from error
    _require_schema(url)
    store = _store(_spine(url, clock, ids), create=create)
    return _admitted(PostgresKnowledgeRepository(store, context), context)


def _is_empty_file(path: Path) -> bool:
    """Tell whether a database may be made here; refuse a directory, no database, or a foreign one."""
    if path.is_dir():
        raise OpenError("NOT_A_REPOSITORY", "The path is a directory.")
    if not path.exists() or path.stat().st_size == 0:
        return True
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    except sqlite3.Error as error:
        raise _unreadable(error) from error
    names = {row[0] for row in rows}
    if names and not {"alembic_version", "tenants"} <= names:
        raise OpenError("NOT_A_REPOSITORY", "The database holds tables that are not of this program.")
    return not names


def _unreadable(error: sqlite3.Error) -> RepositoryError:
    # The low byte of an extended code is the primary one.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return OpenError("NOT_A_REPOSITORY", "The file at this path is no database.")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return RetryableError("BUSY", "The database is locked.")
    # The log of a database lies beside it: what may not be written there is not even read.
    return RetryableError("STORAGE_FAILED", "The database at this path cannot be opened.")


def _create_file(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path)) as connection:
            _fill(connection)
    except (OSError, sqlite3.Error) as error:
        raise RetryableError("STORAGE_FAILED", "The database cannot be made here.") from error


def _fill(connection: sqlite3.Connection) -> None:
    with closing(sqlite3.connect(":memory:")) as source:
        source.deserialize(_image())
        source.backup(connection)


def _image() -> bytes:
    """Return an empty database at head, made once for each process by the migrations."""
    with _IMAGE_LOCK:
        return _make_image()


@cache
def _make_image() -> bytes:
    with tempfile.TemporaryDirectory(prefix="hoc-image-") as directory:
        path = Path(directory) / "image.db"
        upgrade(f"sqlite:///{path}")
        with closing(sqlite3.connect(path)) as connection:
            # A copy in memory cannot have a write-ahead log.
            connection.execute("PRAGMA journal_mode=DELETE")
            return connection.serialize()


def _table_names(url: str) -> list[str]:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    try:
        return list(sa.inspect(engine).get_table_names())
    finally:
        engine.dispose()


def _require_schema(url: str) -> None:
    try:
        check_schema(url)
    except SchemaError as error:
        code = _REFUSED_OPENINGS.get(error.code, error.code)
        raise OpenError(code, str(error).partition(": ")[2], extra={"head": head_revision()}) from error
    except sa.exc.SQLAlchemyError as error:
        raise _unreachable(error) from error


def _unreachable(error: sa.exc.SQLAlchemyError) -> RetryableError:
    # The words of the driver may hold the URL, and the URL a password.
    return RetryableError("BUSY", f"The database does not answer ({type(error).__name__}).")


def _spine(url: str, clock: Clock | None, ids: IdFactory | None) -> Spine:
    settings = Settings(database_url=url, redis_url=None)
    return build_spine(settings, clock=clock, ids=ids, verify_schema=False)


def _store(spine: Spine, *, create: bool, anchor: sqlite3.Connection | None = None) -> Store:
    known: set[str] = set()

    def admit(tenant_id: str) -> None:
        if create and tenant_id not in known:
            _make_tenant(spine, tenant_id)
            known.add(tenant_id)

    def close() -> None:
        spine.close()
        if anchor is not None:
            anchor.close()

    return Store(spine, revision=head_revision(), admit=admit, close=close)


def _make_tenant(spine: Spine, tenant_id: str) -> None:
    context = RequestContext(
        tenant_id="_system",
        actor=Actor("SYSTEM", "library"),
        request_id=spine.services.ids.new("req"),
        door="operator",
    )
    wanted = {"tenant_id": tenant_id, "name": tenant_id, "plan": "ENTERPRISE"}
    result = spine.dispatch("ops.tenants.create", context, wanted)
    if result.error is not None and result.error.code != "TENANT_EXISTS":
        raise OpenError(result.error.code, result.error.detail, errors=result.error.errors)


def _admitted(repository: R, context: RepositoryContext | None) -> R:
    if context is None:
        return repository
    try:
        bound = repository.bind(context)
    except BaseException:
        repository.close()
        raise
    return bound
