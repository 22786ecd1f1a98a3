"""Spine: what this process needs to serve, and whether it is there now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import structlog

from app.db.migrations import SchemaError, check_schema
from app.settings import Settings

REDIS_SECONDS = 1.0
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Component:
    """One thing that serving depends on; only `failed` takes the process out of service."""

    name: str
    status: Literal["ok", "degraded", "failed", "not_configured"]
    reason: str | None = None


def examine(settings: Settings, *probes: Callable[[], Component]) -> list[Component]:
    """Return the state of every component, looked at now; `probes` look at what needs a database."""
    found = _database(settings)
    if all(component.status == "ok" for component in found):
        found.extend(probe() for probe in probes)
    return [*found, _shared_store(settings)]


def _database(settings: Settings) -> list[Component]:
    try:
        check_schema(settings.database_url)
    except SchemaError as error:
        return [Component("database", "ok"), Component("schema", "failed", error.code)]
    except Exception as error:  # noqa: BLE001 - a probe reports every failure
        # The cause may name hosts and users; it belongs in the log, the answer says only that it failed.
        _log.warning("readiness.database_unreachable", error=type(error).__name__, detail=str(error))
        unknown = Component("schema", "failed", "The database could not be asked.")
        return [Component("database", "failed", "The database does not answer."), unknown]
    return [Component("database", "ok"), Component("schema", "ok")]


def _shared_store(settings: Settings) -> Component:
    if settings.redis_url is None:
        return Component(
            "redis", "not_configured", "Rate limits and dispatch records are kept in this process."
        )
    import redis  # Loaded by whoever has one.

    try:
        with redis.Redis.from_url(
            settings.redis_url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS
        ) as client:
            client.ping()
    except (redis.RedisError, OSError) as error:
        return Component("redis", "degraded", f"{type(error).__name__}: this process goes on without it.")
    return Component("redis", "ok")
