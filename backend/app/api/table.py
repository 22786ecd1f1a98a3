"""L2 HTTP: all routes of the product, domain by domain."""

from __future__ import annotations

import importlib
import pkgutil

import app.api.routes
from app.api.routing import OperationRoutes, Route


# TODO http: becomes explicit imports when every module is there.
def _collect() -> tuple[Route, ...]:
    found: list[Route] = []
    for module in pkgutil.iter_modules(app.api.routes.__path__):
        members = vars(importlib.import_module(f"{app.api.routes.__name__}.{module.name}"))
        for value in members.values():
            if isinstance(value, OperationRoutes):
                found.extend(value)
    return tuple(found)


ROUTES: tuple[Route, ...] = _collect()
