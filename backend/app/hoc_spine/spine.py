"""Spine: dispatch, the only way anything happens."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol

import structlog
from pydantic import BaseModel

from app.domains.tenants.models import Standing
from app.hoc_spine.audit_store import AuditStore
from app.hoc_spine.authentication import Authenticator, AuthFailure, Credential
from app.hoc_spine.authority import Verdict, invalid_credentials, judge_door, judge_standing
from app.hoc_spine.consequences.pipeline import ConsequencePipeline
from app.hoc_spine.dispatch_audit import build_dispatch_record
from app.hoc_spine.operation_context import FactRecorder, OperationContext, PrepareContext
from app.hoc_spine.operation_registry import Operation, OperationRegistry, OperationResult, Refusal
from app.hoc_spine.payload import parse_input
from app.hoc_spine.ports import Services, SpinePorts
from app.hoc_spine.stored_answers import from_stored, request_digest, to_stored
from app.hoc_spine.transactions import Role, SpineConnection, Transactions, outage
from app.kernel.context import Precondition, RequestContext
from app.kernel.errors import ErrorKind, HocError, safe_trace

RUN_CLOSED = "RUN_CLOSED"
_log = structlog.get_logger(__name__)


class Background(Protocol):
    """A service that runs beside the doors of a server process."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


@dataclass(slots=True)
class _Attempt:
    """What is known about a dispatch while it runs; `now` is one for all its parts."""

    now: datetime
    verdict: Verdict = field(default_factory=Verdict)
    began: bool = False
    data: Any = None
    error: HocError | None = None
    committed: bool = False
    replayed: bool = False


class Spine:
    """The executor: registry, transactions, authority, facts, records, consequences."""

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
        self._ports = ports
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
        attempt = _Attempt(self.services.clock.now())
        operation: Operation | None = None
        try:
            operation = self.registry.get(name)
            self._run(operation, context, payload, attempt)
        except HocError as error:
            attempt.error = error
        except Exception as error:  # noqa: BLE001 - a bug is a result too, with its trace in the log
            attempt.error = _bug(error, name, context)
        duration_ms = (time.perf_counter() - started) * 1000
        self._after(operation, name, context, attempt, duration_ms)
        return OperationResult(
            success=attempt.error is None,
            data=attempt.data if attempt.error is None else None,
            error=attempt.error,
            operation=name,
            duration_ms=duration_ms,
            committed=attempt.committed,
            replayed=attempt.replayed,
        )

    @contextmanager
    def unit(self, context: RequestContext) -> Iterator[Unit]:
        """Open one write unit that several dispatches join; an exception takes all of them back.

        Dispatch records, wake-ups and consequences follow its end.
        """
        unit = Unit(self, context)
        try:
            with self.transactions.write(context.tenant_id) as connection:
                unit._open(connection)
                yield unit
                unit._flush()
        except BaseException:
            unit._report(committed=False)
            raise
        unit._report(committed=True)

    def _run(
        self,
        operation: Operation,
        context: RequestContext,
        payload: BaseModel | Mapping[str, Any],
        attempt: _Attempt,
    ) -> None:
        attempt.verdict = judge_door(operation, context)
        if attempt.verdict.refusal is not None:
            raise attempt.verdict.refusal
        model = parse_input(operation, payload)
        role: Role = "hoc_maintenance" if operation.door == "operator" else "hoc_app"
        prepared = None
        if operation.prepare is not None:
            prepared = operation.prepare(self._prepare_context(context, attempt.now), model)
        if operation.mode == "read":
            outcome = self._read(operation, context, model, prepared, role, attempt)
        else:
            attempt.began = True
            outcome = self._settled(operation, context, model, prepared, role, attempt)
            attempt.committed = True
        if isinstance(outcome, Refusal):
            attempt.error = outcome.error
        else:
            attempt.data = outcome

    def _read(
        self,
        operation: Operation,
        context: RequestContext,
        model: BaseModel,
        prepared: Any,
        role: Role,
        attempt: _Attempt,
    ) -> Any:
        attempt.began = True
        with self.transactions.read(context.tenant_id, snapshot=operation.snapshot, role=role) as connection:
            ctx = self._context(operation.name, context, connection, attempt.now)
            ctx.prepared = prepared
            outcome = operation.handler(ctx, model)
        if ctx.facts.queued or ctx.entries or ctx.events:
            raise RuntimeError(f"{operation.name} is a read, and what it recorded would be lost")
        if ctx._standing is not None and ctx._standing.degraded:
            attempt.verdict = Verdict(degraded=True)
        return outcome

    def _settled(
        self,
        operation: Operation,
        context: RequestContext,
        model: BaseModel,
        prepared: Any,
        role: Role,
        attempt: _Attempt,
    ) -> Any:
        settlement = operation.settlement
        if settlement is None:
            return self._unit(operation, context, model, prepared, role, attempt)
        try:
            return self._unit(operation, context, model, prepared, role, attempt)
        except HocError as first:
            if first.code == RUN_CLOSED:
                # The run ended between the handler's look and its facts: the next look sees that.
                return self._unit(operation, context, model, prepared, role, attempt)
            if first.kind is not ErrorKind.UNAVAILABLE:
                raise
            try:
                if settlement.is_recorded(self._prepare_context(context, attempt.now), prepared):
                    return attempt.data
                return self._unit(operation, context, model, prepared, role, attempt)
            except HocError as second:
                raise settlement.refusal() from second
        except Exception as bug:
            if settlement.give_up is None:
                raise
            settlement.give_up(prepared, bug)
            try:
                return self._unit(operation, context, model, prepared, role, attempt)
            except Exception as again:
                raise settlement.refusal() from again

    def _unit(
        self,
        operation: Operation,
        context: RequestContext,
        model: BaseModel,
        prepared: Any,
        role: Role,
        attempt: _Attempt,
    ) -> Any:
        with self.transactions.write(context.tenant_id, role=role) as connection:
            ctx = self._context(operation.name, context, connection, attempt.now)
            ctx.prepared = prepared
            outcome = attempt.data = self._write(operation, ctx, model, attempt)
        _wake(ctx)
        return outcome

    def _write(self, operation: Operation, ctx: OperationContext, model: BaseModel, attempt: _Attempt) -> Any:
        request, connection = ctx.request, ctx.connection
        if operation.look is None:
            standing = self._ports.load_standing(connection, tenant_id=ctx.tenant_id, key_id=request.key_id)
        else:
            standing = operation.look(ctx, model)
        attempt.verdict = judge_standing(operation, request, standing, now=ctx.now)
        if attempt.verdict.refusal is not None:
            raise attempt.verdict.refusal
        ctx._standing = standing
        if request.run_id is not None:
            request = self._attribute(ctx)
        key = request.idempotency_key if operation.creates else None
        if key is not None:
            stored = self._ports.claim_key(
                connection,
                tenant_id=ctx.tenant_id,
                key=key,
                operation=operation.name,
                request_digest=request_digest(model, request),
                now=ctx.now,
            )
            if stored is not None:
                attempt.replayed = True
                return from_stored(operation, stored)
        outcome = operation.handler(ctx, model)
        self._ports.append_entries(connection, ctx.entries, tenant_id=ctx.tenant_id)
        self._ports.append_events(connection, ctx.events, tenant_id=ctx.tenant_id, now=ctx.now)
        if key is not None:
            response = to_stored(operation, outcome)
            self._ports.complete_key(connection, tenant_id=ctx.tenant_id, key=key, response=response)
        self._ports.flush_facts(connection, ctx.facts.joined(), tenant_id=ctx.tenant_id, now=ctx.now)
        return outcome

    def _attribute(self, ctx: OperationContext) -> RequestContext:
        """Refuse RUN_NOT_FOUND; in process, a workflow run of the repository will do as well."""
        request, run_id = ctx.request, str(ctx.request.run_id)
        if self._ports.run_exists(ctx.connection, tenant_id=ctx.tenant_id, run_id=run_id):
            return request
        if request.door != "worker" or not self._ports.operation_run_exists(
            ctx.connection, tenant_id=ctx.tenant_id, run_id=run_id
        ):
            raise HocError(ErrorKind.NOT_FOUND, "RUN_NOT_FOUND", "No such run.")
        ctx.request = replace(request, run_id=None, operation_run_id=run_id)
        ctx.facts = FactRecorder(self.services, ctx.request)
        return ctx.request

    def _context(
        self, operation: str, context: RequestContext, connection: SpineConnection, now: datetime
    ) -> OperationContext:
        def load() -> Standing:
            standing = self._ports.load_standing(
                connection, tenant_id=context.tenant_id, key_id=context.key_id
            )
            if standing is None:
                raise invalid_credentials()
            return standing

        return OperationContext(
            connection=connection,
            request=context,
            now=now,
            services=self.services,
            transactions=self.transactions,
            operation=operation,
            facts=FactRecorder(self.services, context),
            nested=self._nested,
            standing_loader=load,
        )

    def _prepare_context(self, context: RequestContext, now: datetime) -> PrepareContext:
        return PrepareContext(context, now, self.services, self.transactions)

    def _nested(self, ctx: OperationContext, name: str, payload: Any) -> Any:
        operation = self.registry.get(name)
        model = parse_input(operation, payload)
        # The version in If-Match is that of what the outer operation is about.
        request = replace(ctx.request, precondition=None)
        inner = replace(ctx, operation=operation.name, request=request, prepared=None)
        with ctx.savepoint():
            if operation.prepare is not None:
                inner.prepared = operation.prepare(_JoinedPrepare(inner), model)
            outcome = operation.handler(inner, model)
            if isinstance(outcome, Refusal):
                raise outcome.error
        return outcome

    def _after(
        self,
        operation: Operation | None,
        name: str,
        context: RequestContext,
        attempt: _Attempt,
        duration_ms: float,
    ) -> None:
        record = build_dispatch_record(
            name,
            operation.version if operation else 0,
            context,
            committed=attempt.committed or attempt.error is None,
            began=attempt.began,
            error=attempt.error,
            authority_refusal=attempt.verdict.refusal,
            authority_degraded=attempt.verdict.degraded,
            duration_ms=duration_ms,
            now=self.services.clock.now(),
        )
        try:
            self.audit_store.record_dispatch(record)
        except Exception as error:  # noqa: BLE001 - telemetry never breaks a dispatch
            _log.error("dispatch.record_failed", operation=name, trace=safe_trace(error))
        self.pipeline.run(record)


class Unit:
    """One open write unit: each dispatch joins it in a savepoint of its own (made by `Spine.unit`)."""

    def __init__(self, spine: Spine, context: RequestContext) -> None:
        self._spine = spine
        self._context = context
        self._now = spine.services.clock.now()
        self._ended: list[tuple[Operation | None, str, _Attempt, float]] = []
        self._ctx: OperationContext

    def _open(self, connection: SpineConnection) -> None:
        ctx = self._ctx = self._spine._context("unit", self._context, connection, self._now)
        # One look for all dispatches: what they are judged by does not change inside a transaction.
        ctx._standing = ctx.standing_loader()
        if self._context.run_id is not None:
            self._context = self._spine._attribute(ctx)

    def inner(self) -> AbstractContextManager[None]:
        """Take back what the block did when it raises."""
        ctx = self._ctx
        return ctx.savepoint()

    def dispatch(
        self,
        name: str,
        payload: BaseModel | Mapping[str, Any],
        *,
        precondition: Precondition | None = None,
    ) -> OperationResult:
        """Run one operation inside the unit; a refusal is a result and takes back its own work alone."""
        started = time.perf_counter()
        attempt = _Attempt(self._now, began=True)
        operation: Operation | None = None
        try:
            operation = self._spine.registry.get(name)
            self._run(operation, payload, precondition, attempt)
        except HocError as error:
            attempt.error = error
        except Exception as error:  # noqa: BLE001 - as in Spine.dispatch
            attempt.error = outage(error) or _bug(error, name, self._context)
        duration_ms = (time.perf_counter() - started) * 1000
        self._ended.append((operation, name, attempt, duration_ms))
        return OperationResult(
            success=attempt.error is None,
            data=attempt.data,
            error=attempt.error,
            operation=name,
            duration_ms=duration_ms,
            committed=False,
        )

    def _run(
        self,
        operation: Operation,
        payload: BaseModel | Mapping[str, Any],
        precondition: Precondition | None,
        attempt: _Attempt,
    ) -> None:
        request = replace(self._context, precondition=precondition)
        ctx = replace(self._ctx, operation=operation.name, request=request, prepared=None)
        attempt.verdict = judge_door(operation, request)
        if attempt.verdict.allowed and operation.mode == "write":
            attempt.verdict = judge_standing(operation, request, ctx.standing, now=ctx.now)
        if attempt.verdict.refusal is not None:
            raise attempt.verdict.refusal
        model = parse_input(operation, payload)
        with ctx.savepoint():
            if operation.prepare is not None and operation.mode == "write":
                ctx.prepared = operation.prepare(_JoinedPrepare(ctx), model)
            outcome = operation.handler(ctx, model)
        if isinstance(outcome, Refusal):
            attempt.error = outcome.error
        else:
            attempt.data = outcome

    def _flush(self) -> None:
        ctx, ports = self._ctx, self._spine._ports
        ports.append_entries(ctx.connection, ctx.entries, tenant_id=ctx.tenant_id)
        ports.append_events(ctx.connection, ctx.events, tenant_id=ctx.tenant_id, now=ctx.now)
        ports.flush_facts(ctx.connection, ctx.facts.joined(), tenant_id=ctx.tenant_id, now=ctx.now)

    def _report(self, *, committed: bool) -> None:
        if committed:
            _wake(self._ctx)
        for operation, name, attempt, duration_ms in self._ended:
            attempt.committed = committed and attempt.error is None
            # What a rolled back unit had answered was not kept: its record must not say so.
            if not committed and attempt.error is None:
                attempt.error = HocError(ErrorKind.CONFLICT, "ROLLED_BACK", "Its transaction was taken back.")
            self._spine._after(operation, name, self._context, attempt, duration_ms)


class _JoinedPrepare(PrepareContext):
    """A prepare step inside a unit reads what the unit has written."""

    __slots__ = ("_connection",)

    def __init__(self, ctx: OperationContext) -> None:
        super().__init__(ctx.request, ctx.now, ctx.services, ctx.transactions)
        self._connection = ctx.connection

    def read_unit(self, *, snapshot: bool = False) -> AbstractContextManager[SpineConnection]:  # noqa: ARG002
        """Return the unit's own connection."""
        return nullcontext(self._connection)

    def write_unit(self) -> AbstractContextManager[SpineConnection]:
        """Return the unit's own connection."""
        return nullcontext(self._connection)


def _bug(error: Exception, operation: str, context: RequestContext) -> HocError:
    _log.error(
        "dispatch.handler_exception",
        operation=operation,
        request_id=context.request_id,
        trace=safe_trace(error),
    )
    return HocError(ErrorKind.INTERNAL, f"HANDLER_EXCEPTION:{type(error).__name__}", "The operation failed.")


def _wake(ctx: OperationContext) -> None:
    for callback in ctx.callbacks:
        try:
            callback()
        except Exception as error:  # noqa: BLE001 - the work is committed, whatever becomes of a wake-up
            _log.error("dispatch.after_commit_failed", operation=ctx.operation, trace=safe_trace(error))
