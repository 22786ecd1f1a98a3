"""Policies: the process cache of verified snapshots and compiled conditions; bounded, for all threads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from app.domains.policies.engines.conditions import CompiledCondition, load_condition
from app.domains.policies.engines.snapshots import CompiledSnapshot

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class ScopeKey:
    """What decides which snapshot a starting run gets: every rule change raises policy_version."""

    tenant_id: str
    policy_version: int
    project_id: str | None
    agent_id: str


class SnapshotCache:
    """Snapshots by scope and by id, programs by content hash; the least recently used go first.

    A snapshot is put under its scope only after the commit that stored it (`remember`), so that the
    cache never names a snapshot that a rollback took away.
    """

    def __init__(self, *, snapshots: int = 1024, programs: int = 8192, runs: int = 16_384) -> None:
        self._by_scope: _Recent[ScopeKey, CompiledSnapshot] = _Recent(snapshots)
        self._by_id: _Recent[tuple[str, str], CompiledSnapshot] = _Recent(snapshots)
        self._by_run: _Recent[tuple[str, str], str] = _Recent(runs)
        self._programs: _Recent[str, CompiledCondition] = _Recent(programs)

    def for_scope(self, key: ScopeKey) -> CompiledSnapshot | None:
        """Return the snapshot that is known to be stored for this scope and policy version."""
        return self._by_scope.get(key)

    def remember(self, key: ScopeKey, snapshot: CompiledSnapshot) -> None:
        """Keep a snapshot whose storing is committed."""
        self._by_scope.put(key, snapshot)
        self.keep(key.tenant_id, snapshot)

    def verified(self, tenant_id: str, snapshot_id: str) -> CompiledSnapshot | None:
        """Return a snapshot of the tenant that this process has verified."""
        return self._by_id.get((tenant_id, snapshot_id))

    def keep(self, tenant_id: str, snapshot: CompiledSnapshot) -> None:
        """Keep a verified snapshot of the tenant."""
        self._by_id.put((tenant_id, snapshot.snapshot_id), snapshot)

    def of_run(self, tenant_id: str, run_id: str) -> CompiledSnapshot | None:
        """Return the snapshot that governs a run, where this process knows both."""
        snapshot_id = self._by_run.get((tenant_id, run_id))
        return None if snapshot_id is None else self.verified(tenant_id, snapshot_id)

    def remember_run(self, tenant_id: str, run_id: str, snapshot_id: str) -> None:
        """Keep which snapshot governs a run; it is fixed when the run starts."""
        self._by_run.put((tenant_id, run_id), snapshot_id)

    def program(self, content_hash: str, condition: str | None) -> CompiledCondition:
        """Return the compiled condition of a rule version, compiled once."""
        known = self._programs.get(content_hash)
        if known is None:
            known = load_condition(condition)
            self._programs.put(content_hash, known)
        return known


class _Recent(Generic[K, V]):
    """A bounded map that drops what was least recently used."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        with self._lock:
            value = self._items.get(key)
            if value is not None:
                self._items.move_to_end(key)
            return value

    def put(self, key: K, value: V) -> None:
        with self._lock:
            self._items[key] = value
            self._items.move_to_end(key)
            while len(self._items) > self._size:
                self._items.popitem(last=False)
