"""Spine: run the consequences of a dispatch after it ended, each isolated from the others."""

from __future__ import annotations

import structlog
from prometheus_client import Counter

from app.hoc_spine.consequences.ports import ConsequenceAdapter
from app.hoc_spine.dispatch_audit import DispatchRecord
from app.kernel.errors import safe_trace

FAILED = Counter("hoc_consequence_failures", "Consequence adapters that raised", ["adapter"])
_log = structlog.get_logger(__name__)


class ConsequencePipeline:
    """A fixed list of adapters, filled by bootstrap and frozen."""

    def __init__(self) -> None:
        self._adapters: list[ConsequenceAdapter] = []
        self._frozen = False

    def register(self, adapter: ConsequenceAdapter) -> None:
        """Add an adapter; RuntimeError for a duplicate name or after freeze, TypeError for no adapter."""
        if self._frozen:
            raise RuntimeError("the consequence pipeline is frozen")
        if not isinstance(adapter, ConsequenceAdapter):
            raise TypeError(f"{type(adapter).__name__} is no consequence adapter")
        if adapter.name in self.adapter_names:
            raise RuntimeError(f"consequence adapter {adapter.name!r} is registered already")
        self._adapters.append(adapter)

    def freeze(self) -> None:
        """Refuse any further registration."""
        self._frozen = True

    @property
    def is_frozen(self) -> bool:
        return self._frozen

    @property
    def adapter_count(self) -> int:
        return len(self._adapters)

    @property
    def adapter_names(self) -> tuple[str, ...]:
        return tuple(adapter.name for adapter in self._adapters)

    def run(self, record: DispatchRecord) -> None:
        """Hand the record to each adapter; one that raises is logged and counted."""
        for adapter in self._adapters:
            if adapter.committed_only and record.outcome != "COMMITTED":
                continue
            try:
                adapter.handle(record)
            except Exception as error:  # noqa: BLE001 - one adapter never breaks another
                FAILED.labels(adapter.name).inc()
                _log.error(
                    "consequence.adapter_failed",
                    adapter=adapter.name,
                    operation=record.operation,
                    trace=safe_trace(error),
                )
