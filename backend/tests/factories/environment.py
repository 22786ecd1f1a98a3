"""Test environment: the servers and templates of one run, started once and shared by its workers."""

from __future__ import annotations

import atexit
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from tests.factories.databases import Templates, drop_database, make_templates
from tests.factories.servers import PostgresServer, RedisServer, make_directory

DATABASE_VARIABLE = "HOC_TEST_DATABASE_URL"
REDIS_VARIABLE = "HOC_TEST_REDIS_URL"


@dataclass(frozen=True, slots=True)
class Addresses:
    """What a worker needs to know of the environment."""

    templates: Templates
    redis_url: str

    def as_values(self) -> dict[str, object]:
        """Return plain values that can cross to another process."""
        return {"templates": self.templates.as_values(), "redis_url": self.redis_url}

    @classmethod
    def of(cls, values: Mapping[str, object]) -> Addresses:
        """Return the addresses of `as_values()`."""
        templates = values["templates"]
        assert isinstance(templates, Mapping)
        return cls(Templates(**templates), str(values["redis_url"]))


class Environment:
    """Starts the servers at the first question for their addresses and stops what it started."""

    def __init__(self) -> None:
        self._directory: Path | None = None
        self._servers: list[PostgresServer | RedisServer] = []
        self._addresses: Addresses | None = None
        # A run that ends without its closing hook still stops its servers.
        atexit.register(self.stop)

    def addresses(self) -> Addresses:
        """Return where everything is, after starting it when this is the first call."""
        if self._addresses is None:
            try:
                self._addresses = self._start_all()
            except BaseException:
                self.stop()
                raise
        return self._addresses

    def stop(self) -> None:
        """Stop the servers and remove the directory; a second call does nothing."""
        atexit.unregister(self.stop)
        if self._addresses and self._addresses.templates.given:
            templates = self._addresses.templates
            drop_database(templates.postgres_url, templates.postgres_name)
        self._addresses = None
        while self._servers:
            self._servers.pop().stop()
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _start_all(self) -> Addresses:
        self._directory = make_directory()
        given = self._given_postgres()
        postgres_url = given or self._start(PostgresServer(self._directory))
        redis_url = os.environ.get(REDIS_VARIABLE) or self._start(RedisServer(self._directory))
        templates = make_templates(self._directory, postgres_url, given=given is not None)
        return Addresses(templates, redis_url)

    def _start(self, server: PostgresServer | RedisServer) -> str:
        # Listed before it starts, so that a failed start is cleared away as well.
        self._servers.append(server)
        server.start()
        return server.url

    @staticmethod
    def _given_postgres() -> str | None:
        given = os.environ.get(DATABASE_VARIABLE)
        if not given:
            return None
        return sa.make_url(given).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def redis_database_of(addresses: Addresses, worker: str) -> str:
    """Return the URL of the worker's own Redis database."""
    number = int("".join(filter(str.isdigit, worker)) or 0)
    url = sa.make_url(addresses.redis_url)
    first = int(url.database or 0)
    return url.set(database=str(first + number)).render_as_string(hide_password=False)
