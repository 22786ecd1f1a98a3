"""Library: an open store, a view on it under one context, and how a method becomes a dispatch."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any, NoReturn, Self

from app.domains.repository.models.library import (
    KEEP,
    Capabilities,
    ConflictError,
    DuplicateError,
    GoneError,
    Keep,
    LimitError,
    NotFoundError,
    OpenError,
    ReferenceMissingError,
    RepositoryContext,
    RepositoryError,
    RetryableError,
    SnapshotError,
    ValidationError,
    VersionMismatchError,
)
from app.hoc_spine.payload import LaxPayload
from app.hoc_spine.spine import Spine
from app.hoc_spine.unit import Unit
from app.kernel.canonical_json import CanonicalJsonError, dumps
from app.kernel.context import Actor, Precondition, RequestContext
from app.kernel.errors import ErrorKind, HocError

_KINDS: Mapping[ErrorKind, type[RepositoryError]] = {
    ErrorKind.MALFORMED: ValidationError,
    ErrorKind.INVALID: ValidationError,
    ErrorKind.NOT_FOUND: NotFoundError,
    ErrorKind.GONE: GoneError,
    ErrorKind.CONFLICT: ConflictError,
    ErrorKind.FORBIDDEN: ConflictError,
    ErrorKind.PRECONDITION_FAILED: VersionMismatchError,
    ErrorKind.PRECONDITION_REQUIRED: VersionMismatchError,
    ErrorKind.TOO_LARGE: LimitError,
    ErrorKind.UNAVAILABLE: RetryableError,
}
_CODES: Mapping[str, type[RepositoryError]] = {
    "DUPLICATE_ID": DuplicateError,
    "DUPLICATE_NAME": DuplicateError,
    "DUPLICATE_RELATIONSHIP": DuplicateError,
    "ENDPOINT_NOT_FOUND": ReferenceMissingError,
    "REFERENCE_NOT_FOUND": ReferenceMissingError,
    "SNAPSHOT_INVALID": SnapshotError,
    "SNAPSHOT_CONFLICT": SnapshotError,
}


class Store:
    """One open database, shared by every view that is bound to it."""

    def __init__(
        self, spine: Spine, *, revision: str, admit: Callable[[str], None], close: Callable[[], None]
    ) -> None:
        self.spine = spine
        self.revision = revision
        self.admit = admit
        self.closed = False
        # A transaction belongs to the thread that opened it.
        self.local = threading.local()
        self._close = close

    def close(self) -> None:
        """Give the database back; a second call does nothing."""
        if not self.closed:
            self.closed = True
            self._close()


class View:
    """A view on a store under one context; threads may share it."""

    capabilities: Capabilities

    def __init__(self, store: Store, context: RepositoryContext | None) -> None:
        self._store = store
        self._context = context

    def bind(self, context: RepositoryContext) -> Self:
        """Return a view on the same store under another context."""
        self._require_open()
        self._store.admit(_checked(context).tenant_id)
        return type(self)(self._store, context)

    def close(self) -> None:
        """Close the store for every view of it."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def schema_revision(self) -> str:
        """Return the revision of the schema, the head of the migration chain."""
        self._require_open()
        return self._store.revision

    @contextmanager
    def transaction(self) -> Iterator[Self]:
        """Run the block's calls in one database transaction with one change set; nested, a savepoint.

        An exception that leaves the block leaves no trace. Only this thread's calls on this context join.
        """
        context = self._request()
        open_unit = self._unit()
        if open_unit is not None:
            with open_unit.inner():
                yield self
            return
        local = self._store.local
        try:
            with self._store.spine.unit(context) as unit:
                local.unit, local.context = unit, self._context
                try:
                    yield self
                finally:
                    local.unit = None
        except HocError as error:
            _refuse(error)

    def _unit(self) -> Unit | None:
        local = self._store.local
        unit: Unit | None = getattr(local, "unit", None)
        return unit if unit is not None and local.context == self._context else None

    def _require_open(self) -> None:
        if self._store.closed:
            raise OpenError("REPOSITORY_CLOSED", "The repository was closed.")

    def _request(self) -> RequestContext:
        self._require_open()
        context = _checked(self._context)
        request_id = context.request_id or self._store.spine.services.ids.new("req")
        return RequestContext(
            tenant_id=context.tenant_id,
            actor=Actor("SYSTEM", context.actor_id),
            request_id=request_id,
            run_id=context.run_id,
            traceparent=None if context.trace_id is None else f"00-{context.trace_id}-{'0' * 15}1-01",
            door="worker",
        )

    def _call(
        self, name: str, payload: Mapping[str, Any], *, expected_version: int | Keep | None = KEEP
    ) -> Any:
        unit = self._unit()
        context = self._request()
        precondition = None
        if expected_version is not KEEP and expected_version is not None:
            if type(expected_version) is not int or expected_version < 1:
                raise ValidationError("INVALID_INPUT", "expected_version is an integer of at least 1.")
            precondition = Precondition(frozenset((expected_version,)))
        members = _payload(payload)
        if unit is not None:
            result = unit.dispatch(name, members, precondition=precondition)
        else:
            result = self._store.spine.dispatch(name, replace(context, precondition=precondition), members)
        if result.error is not None:
            _refuse(result.error)
        return result.data

    def _reason(self, reason: str | None) -> str | None:
        return reason if reason is not None or self._context is None else self._context.reason

    def _with_reason(self, members: Mapping[str, Any]) -> dict[str, Any]:
        return {**members, "reason": self._reason(members.get("reason"))}


def _checked(context: RepositoryContext | None) -> RepositoryContext:
    if context is None or not context.tenant_id or not context.actor_id:
        raise ValidationError("CONTEXT_REQUIRED", "A call needs a context with tenant and actor.")
    return context


def given(**members: Any) -> dict[str, Any]:
    """Return the members that are not KEEP."""
    return {name: value for name, value in members.items() if value is not KEEP}


def present(members: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members of something new that are not None: those are as if they were not given."""
    return {name: value for name, value in members.items() if value is not None}


def content_members(content: str | bytes | None) -> dict[str, Any]:
    """Return content in the form in which it crosses as JSON."""
    if isinstance(content, bytes | bytearray | memoryview):
        return {"content_base64": base64.b64encode(content).decode("ascii")}
    return {"content": content}


def _payload(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the input as JSON values; what is none goes in as it is, for the operation to name the fault."""
    members = {name: _plain(value) for name, value in payload.items()}
    try:
        dumps(members)
    except CanonicalJsonError:
        return LaxPayload(members)
    return members


def _plain(value: Any) -> Any:
    # A time crosses as text, wherever a member takes one; elsewhere it is refused like any other text.
    if isinstance(value, datetime):
        return value.isoformat()
    return value


def _refuse(error: HocError) -> NoReturn:
    if error.code == "INVALID_CREDENTIALS":
        raise NotFoundError("TENANT_NOT_FOUND", "There is no such tenant.") from None
    kind = _CODES.get(error.code) or _KINDS.get(error.kind, RepositoryError)
    raise kind(error.code, error.detail, errors=error.errors, extra=error.extra) from None
