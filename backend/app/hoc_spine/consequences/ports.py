"""Spine: what a consequence adapter is."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from app.hoc_spine.dispatch_audit import DispatchRecord


@runtime_checkable
class ConsequenceAdapter(Protocol):
    """Does something after a dispatch ended; isolated, and told what happened by the record."""

    name: str
    committed_only: bool

    def handle(self, record: DispatchRecord) -> None: ...
