"""Test operations: a real spine over the same database that knows operations of a test's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import Field

from app.hoc_spine.audit_store import AuditStore
from app.hoc_spine.consequences.pipeline import ConsequencePipeline
from app.hoc_spine.consequences.ports import ConsequenceAdapter
from app.hoc_spine.operation_registry import Operation, OperationRegistry
from app.hoc_spine.spine import Spine
from app.kernel.inputs import Input, Output


class Probe(Input):
    """What a probe is told."""

    value: int = Field(0, ge=0, le=1000)
    label: str | None = None


class Echo(Output):
    """What a probe answers."""

    value: int = 0
    label: str | None = None


def probe(handler: Callable[..., Any], name: str = "probe.do", **members: Any) -> Operation:
    """Return an operation around a handler: a write that a key with `runs:write` may call."""
    plain: dict[str, Any] = {
        "owner": "tenants",
        "mode": "write",
        "scope": "runs:write",
        "input": Probe,
        "output": Echo,
        "no_audit": "a probe of a test",
    }
    return Operation(name=name, handler=handler, **(plain | members))


def probe_spine(spine: Spine, *operations: Operation, adapters: tuple[ConsequenceAdapter, ...] = ()) -> Spine:
    """Return a spine with the product's operations and these, over the engine and services of `spine`.

    It shares the engine: the other one closes it.
    """
    registry = OperationRegistry()
    for operation in (*spine.registry, *operations):
        registry.register(operation)
    registry.freeze()
    pipeline = ConsequencePipeline()
    for adapter in adapters:
        pipeline.register(adapter)
    pipeline.freeze()
    return Spine(
        registry=registry,
        transactions=spine.transactions,
        ports=spine.executor.ports,
        services=spine.services,
        audit_store=AuditStore(),
        pipeline=pipeline,
    )
