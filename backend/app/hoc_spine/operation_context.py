"""Spine: what a handler is given: the open unit, and queues of facts, audit entries and events."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from app.db.governed import FACT_TABLES, LOG_FACTS, body_of, key_of
from app.domains.logs.models.ledger import (
    AUDIT_EVENTS,
    LIVE_ONLY,
    Fact,
)
from app.domains.tenants.models import Standing
from app.hoc_spine.ports import Services
from app.hoc_spine.transactions import SpineConnection, Transactions
from app.kernel.canonical_json import dumps
from app.kernel.context import Actor, RequestContext
from app.kernel.errors import ErrorKind, HocError
from app.kernel.hashing import protected_commit
from app.kernel.redaction import redact_text

Join = Callable[[Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any]]


class FactRecorder:
    """Collects the facts of one transaction; the spine writes them last."""

    def __init__(self, services: Services, request: RequestContext) -> None:
        self._services = services
        self._request = request
        self.queued: list[Fact] = []
        self._joins: dict[str, Join] = {}

    def add(
        self,
        type_name: str,
        row: Mapping[str, Any],
        *,
        run_id: str | None = None,
        attempt: int | None = None,
        version: int | None = None,
        body: Mapping[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
        key: list[Any] | None = None,
        live_only: bool | None = None,
        starts_run: bool = False,
        closes_run: bool = False,
        join: Join | None = None,
    ) -> str:
        """Queue one fact and return its id, which a governed row carries as `fact_id`.

        The body is the row's hashed columns, or `body` where the type lists its own members; `extra`
        joins it. Without `run_id` the fact belongs to the run of X-Run-ID, if any. `live_only` facts
        are refused with RUN_CLOSED once the run has ended. A type with `join` is one fact for each
        transaction: the newest, with the bodies joined in the order in which they were added.
        """
        if join is not None:
            self._joins[type_name] = join
        entry = FACT_TABLES[type_name]
        fact = Fact(
            fact_id=self._services.ids.new("fct"),
            type=type_name,
            table=entry.table.name,
            key=key_of(entry, row) if key is None else key,
            body=body_of(entry, row) if body is None else body,
            run_id=run_id or self._request.run_id,
            attempt=attempt,
            version=row["version"] if entry.mode == "HEAD" else version,
            extra=dict(extra or {}),
            live_only=type_name in LIVE_ONLY if live_only is None else live_only,
            starts_run=starts_run,
            closes_run=closes_run,
        )
        self.queued.append(fact)
        return fact.fact_id

    def add_log(self, type_name: str, body: Mapping[str, Any]) -> str:
        """Queue a fact that has no row (mode LOG) and return its id; it belongs to no run."""
        if body.keys() != set(LOG_FACTS[type_name]):
            raise ValueError(f"{type_name} has the members {LOG_FACTS[type_name]}")
        fact = Fact(self._services.ids.new("fct"), type_name, table=None, key=None, body=body)
        self.queued.append(fact)
        return fact.fact_id

    def joined(self) -> list[Fact]:
        """Return the queue as it is written: facts of a joining type are one, in the place of the last."""
        written: list[Fact] = []
        bodies: dict[str, Mapping[str, Any]] = {}
        last = {fact.type: fact for fact in self.queued if fact.type in self._joins}
        for fact in self.queued:
            join = self._joins.get(fact.type)
            if join is None:
                written.append(fact)
                continue
            earlier = bodies.get(fact.type)
            bodies[fact.type] = fact.body if earlier is None else join(earlier, fact.body)
            if fact is last[fact.type]:
                written.append(replace(fact, body=bodies[fact.type]))
        return written


@dataclass(slots=True)
class PrepareContext:
    """Given to `prepare`, before the write unit: it may open short units of its own."""

    request: RequestContext
    now: datetime
    services: Services
    transactions: Transactions

    @property
    def tenant_id(self) -> str:
        return self.request.tenant_id

    @property
    def actor(self) -> Actor:
        return self.request.actor

    def new_id(self, prefix: str) -> str:
        """Return a new identifier."""
        return self.services.ids.new(prefix)

    def read_unit(self, *, snapshot: bool = False) -> AbstractContextManager[SpineConnection]:
        """Open a read-only unit of its own, closed at the end of the block."""
        return self.transactions.read(self.tenant_id, snapshot=snapshot)

    def write_unit(self) -> AbstractContextManager[SpineConnection]:
        """Open a short write unit of its own: what must be kept before the world outside hears of it."""
        return self.transactions.write(self.tenant_id)


@dataclass(slots=True)
class OperationContext:
    """Given to a handler inside its unit of work."""

    connection: SpineConnection
    request: RequestContext
    now: datetime
    services: Services
    transactions: Transactions
    operation: str
    facts: FactRecorder
    nested: Callable[[OperationContext, str, Any], Any]
    standing_loader: Callable[[], Standing]
    prepared: Any = None
    entries: list[dict[str, Any]] = field(default_factory=list)
    events: list[tuple[str, str, Mapping[str, Any]]] = field(default_factory=list)
    callbacks: list[Callable[[], None]] = field(default_factory=list)
    _standing: Standing | None = None

    @property
    def tenant_id(self) -> str:
        return self.request.tenant_id

    @property
    def actor(self) -> Actor:
        return self.request.actor

    @property
    def standing(self) -> Standing:
        """Tenant status and switches, as of this unit's first statement (a read loads them on demand)."""
        if self._standing is None:
            self._standing = self.standing_loader()
        return self._standing

    def new_id(self, prefix: str) -> str:
        """Return a new identifier `<prefix>_<uuid7 hex>`."""
        return self.services.ids.new(prefix)

    def digest_key(self) -> bytes:
        """Return the tenant's digest key for keyed digests, 32 bytes."""
        return self.services.digest_key(self.connection, tenant_id=self.tenant_id)

    def protect(self, members: Mapping[str, Any]) -> dict[str, Any]:
        """Return the protected members with a new salt and their one commitment.

        Values are text or RawJson-free JSON values; when all are null there is neither salt nor commitment.
        """
        if all(value is None for value in members.values()):
            return {**members, "protected_salt": None, "protected_commit": None, "erased_fact_id": None}
        salt = secrets.token_hex(32)
        return {
            **members,
            "protected_salt": salt,
            "protected_commit": protected_commit(salt, members),
            "erased_fact_id": None,
        }

    def audit(
        self,
        event_type: str,
        entity_type: str,
        entity_id: str,
        *,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
        reason: str | None = None,
        run_id: str | None = None,
    ) -> None:
        """Queue one ledger entry of this transaction; tenant, actor, request come from the context.

        The reason is redacted (rdx-1) before it is committed to.
        """
        if event_type not in AUDIT_EVENTS[entity_type]:
            raise ValueError(f"{entity_type} has no event {event_type}")
        of_run = run_id or self.request.run_id
        state = None if after is None else {**after, **({"run_id": of_run} if of_run else {})}
        row = {
            "entry_id": self.new_id("aud"),
            "event_type": event_type,
            "entity_type": entity_type,
            "entity_id": entity_id,
            "actor_type": self.actor.type,
            "actor_id": self.actor.id,
            "actor_key_id": self.request.key_id,
            "before_state": None if before is None else dumps(before),
            "after_state": None if state is None else dumps(state),
            "run_id": of_run,
            "operation": self.operation,
            "request_id": self.request.request_id,
            "correlation_id": self.request.trace_id,
            "created_at": self.now,
            **self.protect({"action_reason": None if reason is None else redact_text(reason)[0]}),
        }
        row["fact_id"] = self.facts.add("audit", row, run_id=of_run)
        self.entries.append(row)

    def outbox(self, event_type: str, body: Mapping[str, Any]) -> None:
        """Queue one event for delivery after the commit, written in this transaction."""
        self.events.append((self.new_id("evt"), event_type, body))

    def require_version(self, current: int, *, required: bool = False) -> None:
        """Meet If-Match: refuse VERSION_MISMATCH, or PRECONDITION_REQUIRED where one is demanded."""
        precondition = self.request.precondition
        if precondition is None:
            if required:
                raise HocError(
                    ErrorKind.PRECONDITION_REQUIRED, "PRECONDITION_REQUIRED", "This change needs If-Match."
                )
            return
        if not precondition.accepts(current):
            raise HocError(
                ErrorKind.PRECONDITION_FAILED,
                "VERSION_MISMATCH",
                "The object has changed since the version named in If-Match.",
                extra={"current_version": current},
            )

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call back after the commit, best effort: wake a worker, drop a cache."""
        self.callbacks.append(callback)

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Take back the block's statements, facts, entries and events when it raises."""
        marks = (len(self.facts.queued), len(self.entries), len(self.events), len(self.callbacks))
        try:
            with self.transactions.savepoint(self.connection):
                yield
        except BaseException:
            queues: tuple[list[Any], ...] = (self.facts.queued, self.entries, self.events, self.callbacks)
            for queue, mark in zip(queues, marks, strict=True):
                del queue[mark:]
            raise

    def dispatch(self, name: str, payload: Any) -> Any:
        """Run another operation inside this unit; its refusal raises and takes its own work back."""
        return self.nested(self, name, payload)
