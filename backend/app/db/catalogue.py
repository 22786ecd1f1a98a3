"""Database: the whole catalogue; importing it fills the metadata and the register of governed tables."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from typing import Any

import app.domains as domains
from app.db.metadata import metadata

__all__ = ["is_described", "metadata"]

# GIN indexes of PostgreSQL, where SQLite would build a plain index of whole texts under the same name, and
# SQLite's own way from a match to its artifact.
_ENGINE_INDEXES = frozenset(
    ("ix_artifact_search_found", "ix_artifact_search_tokens", "ix_plane_passages_keys")
)

for _slice in pkgutil.iter_modules(domains.__path__, f"{domains.__name__}."):
    if importlib.util.find_spec(f"{_slice.name}.tables") is not None:
        importlib.import_module(f"{_slice.name}.tables")


def is_described(_item: Any, name: str | None, kind: str, reflected: bool, compare_to: Any) -> bool:
    """Tell Alembic whether the metadata speaks for an object; a search index of one engine it cannot."""
    if not reflected or compare_to is not None or name is None:
        return True
    return not ((kind == "table" and "_fts" in name) or (kind == "index" and name in _ENGINE_INDEXES))
