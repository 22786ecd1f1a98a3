"""L2: the settings and the database of a command, and what is wrong with them."""

import sqlalchemy as sa
import typer
from pydantic import ValidationError

from app.cli.output import fail
from app.db.migrations import SchemaError, check_schema, upgrade
from app.settings import Settings


def read_settings() -> Settings:
    """Return the settings of the environment; end with exit code 2 when they make no sense."""
    try:
        settings = Settings()
    except ValidationError as error:
        for item in error.errors():
            typer.echo(f"HOC_{str(item['loc'][0]).upper()}: {item['msg']}", err=True)
        raise typer.Exit(2) from None
    if _backend(settings) not in ("sqlite", "postgresql"):
        # The URL may hold a password, so it is not repeated.
        typer.echo("HOC_DATABASE_URL: must be sqlite:///FILE or postgresql+psycopg://...", err=True)
        raise typer.Exit(2)
    return settings


def _backend(settings: Settings) -> str | None:
    try:
        return settings.backend
    except sa.exc.ArgumentError:
        return None


def upgrade_database(settings: Settings) -> None:
    """Migrate to the newest schema; refuse a database whose tables are not of this program's making."""
    trouble = trouble_of(settings)
    if trouble is not None and trouble[0] not in ("SCHEMA_MISSING", "SCHEMA_OUTDATED"):
        fail(trouble[1])
    try:
        upgrade(settings.database_url)
    except sa.exc.SQLAlchemyError as error:
        fail(_database_trouble(error)[1])
    except OSError as error:
        fail(f"DATABASE_FAILED: {error.strerror}")


def require_schema(settings: Settings) -> None:
    """Refuse a database that is not at the newest schema."""
    trouble = trouble_of(settings)
    if trouble is not None:
        fail(trouble[1])


def trouble_of(settings: Settings) -> tuple[str, str] | None:
    """Return code and message of what keeps the database from serving; None when nothing does."""
    try:
        check_schema(settings.database_url)
    except SchemaError as error:
        return error.code, str(error)
    except sa.exc.SQLAlchemyError as error:
        return _database_trouble(error)
    return None


def _database_trouble(error: sa.exc.SQLAlchemyError) -> tuple[str, str]:
    if isinstance(error, sa.exc.OperationalError):
        name = type(error.orig).__name__
        return "UNREACHABLE", f"UNREACHABLE: the database does not answer ({name})"
    # The first line is the server's own; the statement and its values come after it.
    return "DATABASE_FAILED", f"DATABASE_FAILED: {str(error).splitlines()[0]}"
