"""Spine: operations, their registry, and the result of a dispatch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypedDict, Unpack

from pydantic import BaseModel, TypeAdapter

from app.kernel.context import Door
from app.kernel.errors import ErrorKind, HocError
from app.kernel.inputs import Input

# Handlers differ in their own model types, which the registry checks at run time.
Handler = Callable[[Any, Any], Any]
_SCOPE = re.compile(r"[a-z]+:(read|write|admin)")


@dataclass(frozen=True, slots=True)
class Settlement:
    """How an operation whose record must exist before it answers settles a failed or unknown commit.

    is_recorded(prepare context, prepared) looks whether the record is there; otherwise the write unit
    runs once more, and if that fails too, the answer is `refusal()`. After a bug the unit runs once more
    where give_up(prepared, error) makes a failure of what is to be recorded.
    """

    is_recorded: Callable[[Any, Any], bool]
    refusal: Callable[[], HocError]
    give_up: Callable[[Any, Exception], None] | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """One verb of the product.

    mode: a read runs read-only, a write in one transaction. scope: what a tenant key needs.
    door: who may call it. prepare: runs before the unit. look: a write's first statement,
    which reads the caller's standing together with what the handler holds. authority: `recorded`
    lets the handler itself record a refusal by tenant state or kill switch. gate: `guarded` stops
    under the kill switch and in degraded mode. snapshot: a read that sees one moment. creates: honours
    Idempotency-Key. replay: what a replay shows (hides a secret shown once). settlement: what a failed
    or unknown commit leads to. no_audit: the written reason why a write has no ledger entry.
    """

    name: str
    owner: str
    mode: Literal["read", "write"]
    scope: str | None
    input: type[Input]
    output: Any
    handler: Handler
    version: int = 1
    door: Door = "tenant"
    prepare: Handler | None = None
    look: Handler | None = None
    authority: Literal["enforced", "recorded"] = "enforced"
    gate: Literal["repair", "fact", "guarded"] = "repair"
    snapshot: bool = False
    creates: bool = False
    replay: Callable[[Any], Any] | None = None
    settlement: Settlement | None = None
    no_audit: str | None = None

    @property
    def output_adapter(self) -> TypeAdapter[Any]:
        """Reads a stored answer back into the output."""
        return _adapter(self.output)


@cache
def _adapter(output: Any) -> TypeAdapter[Any]:
    return TypeAdapter(output)


class Options(TypedDict, total=False):
    """What an operation may declare beside its name, models and handler; see Operation."""

    version: int
    prepare: Handler | None
    look: Handler | None
    authority: Literal["enforced", "recorded"]
    gate: Literal["repair", "fact", "guarded"]
    snapshot: bool
    creates: bool
    replay: Callable[[Any], Any] | None
    settlement: Settlement | None
    no_audit: str | None


class OperationsOf:
    """Declares what a slice offers to tenants; all scopes are of one area, `<area>:<verb>`."""

    def __init__(self, owner: str, area: str | None = None) -> None:
        self._owner = owner
        self._area = area or owner

    def read(
        self,
        name: str,
        given: type[Input],
        output: Any,
        handler: Handler,
        *,
        verb: str = "read",
        **options: Unpack[Options],
    ) -> Operation:
        """Declare an operation that changes nothing."""
        scope = f"{self._area}:{verb}"
        return Operation(name, self._owner, "read", scope, given, output, handler, **options)

    def write(
        self,
        name: str,
        given: type[Input],
        output: Any,
        handler: Handler,
        *,
        verb: str = "write",
        **options: Unpack[Options],
    ) -> Operation:
        """Declare an operation that writes in one transaction."""
        scope = f"{self._area}:{verb}"
        return Operation(name, self._owner, "write", scope, given, output, handler, **options)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Returned by a handler: commit what it wrote, and refuse."""

    error: HocError


@dataclass(frozen=True, slots=True)
class OperationResult:
    """What a dispatch gives back, always; `error` is safe to show."""

    success: bool
    data: BaseModel | None
    error: HocError | None
    operation: str
    duration_ms: float
    committed: bool
    replayed: bool = False

    @property
    def error_code(self) -> str | None:
        return self.error.code if self.error else None

    def unwrap(self) -> Any:
        """Return the data, or raise the refusal."""
        if self.error is not None:
            raise self.error
        return self.data


class OperationRegistry:
    """All operations of a process, filled by bootstrap and frozen."""

    def __init__(self) -> None:
        self._operations: dict[str, Operation] = {}
        self._frozen = False

    def register(self, operation: Operation) -> None:
        """Add an operation; RuntimeError: a duplicate, or after freeze; TypeError: a bad handler or scope."""
        if self._frozen:
            raise RuntimeError("the operation registry is frozen")
        if operation.name in self._operations:
            raise RuntimeError(f"operation {operation.name} is registered already")
        if not callable(operation.handler):
            raise TypeError(f"the handler of {operation.name} is not callable")
        if (operation.door == "tenant") != bool(_SCOPE.fullmatch(operation.scope or "")):
            raise TypeError(f"{operation.name}: a tenant's operation has a scope `area:verb`, others none")
        self._operations[operation.name] = operation

    def freeze(self) -> None:
        """Refuse any further registration."""
        self._frozen = True

    @property
    def is_frozen(self) -> bool:
        return self._frozen

    def get(self, name: str) -> Operation:
        """Return the operation; refuse UNKNOWN_OPERATION."""
        operation = self._operations.get(name)
        if operation is None:
            raise HocError(ErrorKind.NOT_FOUND, "UNKNOWN_OPERATION", f"There is no operation {name}.")
        return operation

    def __iter__(self) -> Iterator[Operation]:
        return iter(sorted(self._operations.values(), key=lambda operation: operation.name))

    def __len__(self) -> int:
        return len(self._operations)
