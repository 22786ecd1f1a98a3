"""Database: the whole catalogue; importing it fills the metadata and the register of governed tables."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil

import app.domains as domains
from app.db.metadata import metadata

__all__ = ["metadata"]

for _slice in pkgutil.iter_modules(domains.__path__, f"{domains.__name__}."):
    if importlib.util.find_spec(f"{_slice.name}.tables") is not None:
        importlib.import_module(f"{_slice.name}.tables")
