"""The ASGI entry: `uvicorn app.main:create_app --factory`."""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
import structlog
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from app.api.application import build_application
from app.api.worker_pool import DispatchPool
from app.bootstrap import build_spine
from app.hoc_spine.spine import Spine
from app.kernel.errors import safe_trace
from app.settings import Settings


def create_app(spine: Spine | None = None) -> FastAPI:
    """Return the application over a spine of the caller's, or over one of its own made from the environment.

    Its own spine starts and stops with the server; a caller's spine is the caller's to start and close.
    """
    owned = spine is None
    if spine is None:
        settings = Settings()
        configure_logging(settings)
        spine = build_spine(settings)
    served = spine
    # One thread for each database connection: a request that has a thread never waits for a connection.
    pool = DispatchPool(served.services.settings.pool_size)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if owned:
            await run_in_threadpool(served.start)
        try:
            yield
        finally:
            # Started work finishes before the connections it needs go away.
            await run_in_threadpool(pool.close)
            if owned:
                await run_in_threadpool(served.close)

    return build_application(served, pool=pool, lifespan=lifespan)


def configure_logging(settings: Settings) -> None:
    """Write structured log lines to standard error: JSON, or coloured text for a person.

    Exceptions show where they came from and no values: those may be secrets, or somebody's data.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if settings.log_format == "json":
        structlog.configure(
            processors=[
                *shared,
                structlog.processors.ExceptionRenderer(lambda raised: safe_trace(raised[1])),
                structlog.processors.JSONRenderer(serializer=orjson.dumps, default=str),
            ],
            wrapper_class=_level(settings),
            logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
            cache_logger_on_first_use=True,
        )
        return
    console = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(),
        exception_formatter=lambda stream, raised: print(safe_trace(raised[1]), file=stream),
    )
    structlog.configure(
        processors=[*shared, console],
        wrapper_class=_level(settings),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _level(settings: Settings) -> type[structlog.typing.FilteringBoundLogger]:
    return structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.log_level])
