"""Spine: the ports through which bootstrap hands engines and services to the spine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

from app.db.connection import DriverConnection
from app.domains.logs.models.ledger import (
    Fact,
)
from app.domains.tenants.models import Standing
from app.kernel.clock import Clock
from app.kernel.ids import IdFactory
from app.settings import Settings


class StandingPort(Protocol):
    """Reads tenant, switches and key in one statement."""

    def __call__(
        self, connection: DriverConnection, *, tenant_id: str, key_id: str | None = None
    ) -> Standing | None: ...


class FactsPort(Protocol):
    """Numbers and writes the facts of a transaction."""

    def __call__(
        self, connection: DriverConnection, facts: Sequence[Fact], *, tenant_id: str, now: datetime
    ) -> None: ...


class LedgerPort(Protocol):
    """Appends the audit entries of a transaction."""

    def __call__(
        self, connection: DriverConnection, rows: Sequence[Mapping[str, Any]], *, tenant_id: str
    ) -> None: ...


class OutboxPort(Protocol):
    """Queues the events of a transaction."""

    def __call__(
        self,
        connection: DriverConnection,
        events: Sequence[tuple[str, str, Mapping[str, Any]]],
        *,
        tenant_id: str,
        now: datetime,
    ) -> None: ...


class ClaimPort(Protocol):
    """Claims an Idempotency-Key, or returns the stored response."""

    def __call__(
        self,
        connection: DriverConnection,
        *,
        tenant_id: str,
        key: str,
        operation: str,
        request_digest: str,
        now: datetime,
    ) -> str | None: ...


class CompletePort(Protocol):
    """Stores the response under a claimed key; without one the key is free again."""

    def __call__(
        self, connection: DriverConnection, *, tenant_id: str, key: str, response: str | None
    ) -> None: ...


class RunExistsPort(Protocol):
    """Tells whether the run that X-Run-ID names exists in the tenant."""

    def __call__(self, connection: DriverConnection, *, tenant_id: str, run_id: str) -> bool: ...


class CredentialPort(Protocol):
    """Resolves an API key's hash to its row and standing, across tenants."""

    def __call__(self, connection: DriverConnection, *, key_hash: str) -> Mapping[str, Any] | None: ...


@dataclass(frozen=True, slots=True)
class SpinePorts:
    """Everything the spine itself calls in the slices."""

    load_standing: StandingPort
    flush_facts: FactsPort
    append_entries: LedgerPort
    append_events: OutboxPort
    claim_key: ClaimPort
    complete_key: CompletePort
    run_exists: RunExistsPort
    operation_run_exists: RunExistsPort
    find_credential: CredentialPort


@dataclass(frozen=True, slots=True)
class Services:
    """What handlers may use beside the database; built by bootstrap, the same for every door."""

    settings: Settings
    clock: Clock
    ids: IdFactory
    digest_key: Callable[..., bytes]
    connectors: Mapping[str, Any] = field(default_factory=dict)
    caches: Mapping[str, Any] = field(default_factory=dict)


class LessonResultPort(Protocol):
    """What became of an attempt to learn: `result` and the lesson that stands."""

    @property
    def result(self) -> str: ...

    @property
    def lesson_id(self) -> str | None: ...


@runtime_checkable
class LessonsEnginePort(Protocol):
    """Learns; every call answers or raises."""

    def emit_near_threshold_lesson(
        self,
        *,
        tenant_id: str,
        metric: str,
        utilization: float,
        threshold_value: float,
        current_value: float,
        source_event_id: str,
        **more: Any,
    ) -> LessonResultPort: ...

    def emit_critical_success_lesson(
        self,
        *,
        tenant_id: str,
        success_type: str,
        metrics: Mapping[str, Any],
        source_event_id: str,
        **more: Any,
    ) -> LessonResultPort: ...


@runtime_checkable
class PolicyEvaluationPort(Protocol):
    """Knows the one evaluation of each attempt that has ended."""

    def create_policy_evaluation(
        self,
        *,
        run_id: str,
        tenant_id: str,
        run_status: str,
        policies_checked: int = 0,
        is_synthetic: bool = False,
        synthetic_scenario_id: str | None = None,
        unit: Any = None,
    ) -> str: ...
