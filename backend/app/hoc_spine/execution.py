"""Spine: an operation inside an open unit: standing, attribution, replay, handler, and what it queued."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import structlog
from pydantic import BaseModel

from app.domains.tenants.models import Standing
from app.hoc_spine.authority import Verdict, invalid_credentials, judge_standing
from app.hoc_spine.operation_context import FactRecorder, OperationContext, PrepareContext
from app.hoc_spine.operation_registry import Operation, OperationRegistry, OperationResult, Refusal
from app.hoc_spine.payload import parse_input
from app.hoc_spine.ports import Services, SpinePorts
from app.hoc_spine.stored_answers import from_stored, request_digest, to_stored
from app.hoc_spine.transactions import SpineConnection, Transactions
from app.kernel.context import RequestContext
from app.kernel.errors import ErrorKind, HocError, safe_trace

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Attempt:
    """One dispatch while it runs; `now` is one for all its parts, `duration_ms` known at its end."""

    name: str
    request: RequestContext
    now: datetime
    operation: Operation | None = None
    prepared: Any = None
    verdict: Verdict = field(default_factory=Verdict)
    began: bool = False
    data: Any = None
    error: HocError | None = None
    committed: bool = False
    replayed: bool = False
    duration_ms: float = 0.0

    def admit(self, verdict: Verdict) -> None:
        """Keep a verdict; raise its refusal."""
        self.verdict = verdict
        if verdict.refusal is not None:
            raise verdict.refusal

    def answer(self, outcome: Any) -> None:
        """Take what a handler gave back."""
        if isinstance(outcome, Refusal):
            self.error = outcome.error
        else:
            self.data = outcome

    def fail(self, error: Exception) -> None:
        """Take an error that nobody foresaw: a result too, with its trace in the log."""
        _log.error(
            "dispatch.handler_exception",
            operation=self.name,
            request_id=self.request.request_id,
            trace=safe_trace(error),
        )
        code = f"HANDLER_EXCEPTION:{type(error).__name__}"
        self.error = HocError(ErrorKind.INTERNAL, code, "The operation failed.")

    def result(self) -> OperationResult:
        """Return what the caller is given."""
        return OperationResult(
            success=self.error is None,
            data=self.data if self.error is None else None,
            error=self.error,
            operation=self.name,
            duration_ms=self.duration_ms,
            committed=self.committed,
            replayed=self.replayed,
        )


class Executor:
    """Runs handlers on connections that others open and commit."""

    def __init__(
        self,
        registry: OperationRegistry,
        transactions: Transactions,
        ports: SpinePorts,
        services: Services,
    ) -> None:
        self.registry = registry
        self.ports = ports
        self.services = services
        self._transactions = transactions

    def context(
        self, operation: str, request: RequestContext, connection: SpineConnection, now: datetime
    ) -> OperationContext:
        """Return what a handler is given on a connection."""

        def load() -> Standing:
            standing = self.ports.load_standing(
                connection, tenant_id=request.tenant_id, key_id=request.key_id
            )
            if standing is None:
                raise invalid_credentials()
            return standing

        return OperationContext(
            connection=connection,
            request=request,
            now=now,
            services=self.services,
            transactions=self._transactions,
            operation=operation,
            facts=FactRecorder(self.services, request),
            nested=self._nested,
            standing_loader=load,
        )

    def shared_context(
        self, request: RequestContext, connection: SpineConnection, now: datetime
    ) -> OperationContext:
        """Return the context that the dispatches of a unit copy: one look at the standing for all."""
        ctx = self.context("unit", request, connection, now)
        ctx._standing = ctx.standing_loader()
        if request.run_id is not None:
            self._attribute(ctx)
        return ctx

    def prepare_context(self, request: RequestContext, now: datetime) -> PrepareContext:
        """Return what a prepare step is given before there is a unit."""
        return PrepareContext(request, now, self.services, self._transactions)

    def write(self, operation: Operation, ctx: OperationContext, model: BaseModel, attempt: Attempt) -> Any:
        """Judge the caller, run the handler, write what it queued; a replay answers as it was stored."""
        connection, tenant_id = ctx.connection, ctx.tenant_id
        if operation.look is None:
            standing = self.ports.load_standing(connection, tenant_id=tenant_id, key_id=ctx.request.key_id)
        else:
            standing = operation.look(ctx, model)
        attempt.admit(judge_standing(operation, ctx.request, standing, now=ctx.now))
        ctx._standing = standing
        if ctx.request.run_id is not None:
            self._attribute(ctx)
        key = ctx.request.idempotency_key if operation.creates else None
        if key is not None:
            stored = self.ports.claim_key(
                connection,
                tenant_id=tenant_id,
                key=key,
                operation=operation.name,
                request_digest=request_digest(model, ctx.request),
                now=ctx.now,
            )
            if stored is not None:
                attempt.replayed = True
                return from_stored(operation, stored)
        outcome = operation.handler(ctx, model)
        self.append(ctx)
        if key is not None:
            response = to_stored(operation, outcome)
            self.ports.complete_key(connection, tenant_id=tenant_id, key=key, response=response)
        self.flush(ctx)
        return outcome

    def append(self, ctx: OperationContext) -> None:
        """Write the ledger entries and events that handlers queued."""
        self.ports.append_entries(ctx.connection, ctx.entries, tenant_id=ctx.tenant_id)
        self.ports.append_events(ctx.connection, ctx.events, tenant_id=ctx.tenant_id, now=ctx.now)

    def flush(self, ctx: OperationContext) -> None:
        """Write the facts that handlers queued: a unit's last statements."""
        self.ports.flush_facts(ctx.connection, ctx.facts.joined(), tenant_id=ctx.tenant_id, now=ctx.now)

    def join(self, operation: Operation, ctx: OperationContext, model: BaseModel) -> Any:
        """Prepare and run an operation inside a unit that others share; the savepoint is the caller's."""
        if operation.prepare is not None and operation.mode == "write":
            ctx.prepared = operation.prepare(_JoinedPrepare(ctx), model)
        return operation.handler(ctx, model)

    def _attribute(self, ctx: OperationContext) -> None:
        """Refuse RUN_NOT_FOUND; in process, a workflow run of the repository will do as well."""
        request, run_id = ctx.request, str(ctx.request.run_id)
        if self.ports.run_exists(ctx.connection, tenant_id=ctx.tenant_id, run_id=run_id):
            return
        if request.door != "worker" or not self.ports.operation_run_exists(
            ctx.connection, tenant_id=ctx.tenant_id, run_id=run_id
        ):
            raise HocError(ErrorKind.NOT_FOUND, "RUN_NOT_FOUND", "No such run.")
        ctx.request = replace(request, run_id=None, operation_run_id=run_id)
        ctx.facts = FactRecorder(self.services, ctx.request)

    def _nested(self, ctx: OperationContext, name: str, payload: Any) -> Any:
        operation = self.registry.get(name)
        model = parse_input(operation, payload)
        # The version in If-Match is that of what the outer operation is about.
        request = replace(ctx.request, precondition=None)
        inner = replace(ctx, operation=operation.name, request=request, prepared=None)
        with ctx.savepoint():
            outcome = self.join(operation, inner, model)
            if isinstance(outcome, Refusal):
                raise outcome.error
        return outcome


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
