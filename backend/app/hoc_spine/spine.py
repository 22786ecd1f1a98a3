"""Spine: dispatch, the only way anything happens."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import structlog
from pydantic import BaseModel

from app.hoc_spine.audit_store import AuditStore
from app.hoc_spine.authentication import Authenticator, AuthFailure, Credential
from app.hoc_spine.authority import Verdict, judge_door
from app.hoc_spine.consequences.pipeline import ConsequencePipeline
from app.hoc_spine.dispatch_audit import build_dispatch_record
from app.hoc_spine.execution import Attempt, Executor
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import Operation, OperationRegistry, OperationResult
from app.hoc_spine.payload import parse_input
from app.hoc_spine.ports import Services, SpinePorts
from app.hoc_spine.transactions import Role, Transactions
from app.hoc_spine.unit import Unit
from app.kernel.context import RequestContext
from app.kernel.errors import ErrorKind, HocError, safe_trace

RUN_CLOSED = "RUN_CLOSED"
_log = structlog.get_logger(__name__)


class Background(Protocol):
    """A service that runs beside the doors of a server process."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


class Spine:
    """Registry, transactions, authority, facts, records, consequences."""

    def __init__(
        self,
        *,
        registry: OperationRegistry,
        transactions: Transactions,
        ports: SpinePorts,
        services: Services,
        audit_store: AuditStore,
        pipeline: ConsequencePipeline,
    ) -> None:
        self.registry = registry
        self.transactions = transactions
        self.services = services
        self.audit_store = audit_store
        self.pipeline = pipeline
        self.background: list[Background] = []
        self.executor = Executor(registry, transactions, ports, services)
        self.authenticator = Authenticator(transactions, ports.find_credential, services.clock)

    def authenticate(self, api_key: str) -> Credential | AuthFailure:
        """Return the credential of an API key, or why it does not work (for the log alone)."""
        return self.authenticator.authenticate(api_key)

    def start(self) -> None:
        """Start the background services of a server process."""
        for service in self.background:
            service.start()

    def close(self) -> None:
        """Stop background services and give every connection back."""
        for service in reversed(self.background):
            service.stop()
        self.audit_store.close()
        self.transactions.engine.dispose()

    def dispatch(
        self, name: str, context: RequestContext, payload: BaseModel | Mapping[str, Any]
    ) -> OperationResult:
        """Run one operation as one unit of work; always a result, never a leaked exception."""
        started = time.perf_counter()
        attempt = Attempt(name, context, self.services.clock.now())
        try:
            self._run(attempt, payload)
        except HocError as error:
            attempt.error = error
        except Exception as error:  # noqa: BLE001 - a bug is a result too
            attempt.fail(error)
        attempt.duration_ms = (time.perf_counter() - started) * 1000
        self._record(attempt)
        return attempt.result()

    @contextmanager
    def unit(self, context: RequestContext) -> Iterator[Unit]:
        """Open one write unit that several dispatches join; an exception takes all of them back.

        Dispatch records, wake-ups and consequences follow its end.
        """
        attempts: list[Attempt] = []
        try:
            with self.transactions.write(context.tenant_id) as connection:
                ctx = self.executor.shared_context(context, connection, self.services.clock.now())
                unit = Unit(self.executor, ctx)
                attempts = unit.attempts
                yield unit
                self.executor.append(ctx)
                self.executor.flush(ctx)
        except BaseException:
            for attempt in attempts:
                # What a rolled back unit had answered was not kept: its record must not say so.
                attempt.error = attempt.error or HocError(
                    ErrorKind.CONFLICT, "ROLLED_BACK", "Its transaction was taken back."
                )
                self._record(attempt)
            raise
        _call_back(ctx)
        for attempt in attempts:
            attempt.committed = attempt.error is None
            self._record(attempt)

    def _run(self, attempt: Attempt, payload: BaseModel | Mapping[str, Any]) -> None:
        operation = attempt.operation = self.registry.get(attempt.name)
        attempt.admit(judge_door(operation, attempt.request))
        model = parse_input(operation, payload)
        if operation.prepare is not None:
            prepare = self.executor.prepare_context(attempt.request, attempt.now)
            attempt.prepared = operation.prepare(prepare, model)
        attempt.began = True
        if operation.mode == "read":
            attempt.answer(self._read(operation, model, attempt))
        else:
            outcome = self._settled(operation, model, attempt)
            attempt.committed = True
            attempt.answer(outcome)

    def _read(self, operation: Operation, model: BaseModel, attempt: Attempt) -> Any:
        with self.transactions.read(
            attempt.request.tenant_id, snapshot=operation.snapshot, role=_role(operation)
        ) as connection:
            ctx = self.executor.context(operation.name, attempt.request, connection, attempt.now)
            ctx.prepared = attempt.prepared
            outcome = operation.handler(ctx, model)
        if ctx.facts.queued or ctx.entries or ctx.events:
            raise RuntimeError(f"{operation.name} is a read, and what it recorded would be lost")
        if ctx._standing is not None and ctx._standing.degraded:
            attempt.verdict = Verdict(degraded=True)
        return outcome

    def _settled(self, operation: Operation, model: BaseModel, attempt: Attempt) -> Any:
        settlement = operation.settlement
        if settlement is None:
            return self._write(operation, model, attempt)
        try:
            return self._write(operation, model, attempt)
        except HocError as first:
            if first.code == RUN_CLOSED:
                # The run ended between the handler's look and its facts: the next look sees that.
                return self._write(operation, model, attempt)
            if first.kind is not ErrorKind.UNAVAILABLE:
                raise
            try:
                prepare = self.executor.prepare_context(attempt.request, attempt.now)
                if settlement.is_recorded(prepare, attempt.prepared):
                    return attempt.data
                return self._write(operation, model, attempt)
            except HocError as second:
                raise settlement.refusal() from second
        except Exception as bug:
            if settlement.give_up is None:
                raise
            settlement.give_up(attempt.prepared, bug)
            try:
                return self._write(operation, model, attempt)
            except Exception as again:
                raise settlement.refusal() from again

    def _write(self, operation: Operation, model: BaseModel, attempt: Attempt) -> Any:
        with self.transactions.write(attempt.request.tenant_id, role=_role(operation)) as connection:
            ctx = self.executor.context(operation.name, attempt.request, connection, attempt.now)
            ctx.prepared = attempt.prepared
            outcome = attempt.data = self.executor.write(operation, ctx, model, attempt)
        _call_back(ctx)
        return outcome

    def _record(self, attempt: Attempt) -> None:
        record = build_dispatch_record(
            attempt.name,
            attempt.operation.version if attempt.operation else 0,
            attempt.request,
            committed=attempt.committed or attempt.error is None,
            began=attempt.began,
            error=attempt.error,
            authority_refusal=attempt.verdict.refusal,
            authority_degraded=attempt.verdict.degraded,
            duration_ms=attempt.duration_ms,
            now=self.services.clock.now(),
        )
        try:
            self.audit_store.record_dispatch(record)
        except Exception as error:  # noqa: BLE001 - telemetry never breaks a dispatch
            _log.error("dispatch.record_failed", operation=attempt.name, trace=safe_trace(error))
        self.pipeline.run(record)


def _role(operation: Operation) -> Role:
    return "hoc_maintenance" if operation.door == "operator" else "hoc_app"


def _call_back(ctx: OperationContext) -> None:
    for callback in ctx.callbacks:
        try:
            callback()
        except Exception as error:  # noqa: BLE001 - the work is committed, whatever becomes of a wake-up
            _log.error("dispatch.after_commit_failed", operation=ctx.operation, trace=safe_trace(error))
