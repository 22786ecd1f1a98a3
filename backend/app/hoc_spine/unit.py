"""Spine: one open write unit that several dispatches join, each in a savepoint of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from pydantic import BaseModel

from app.hoc_spine.authority import judge_door, judge_standing
from app.hoc_spine.execution import Attempt, Executor
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import OperationResult
from app.hoc_spine.payload import parse_input
from app.hoc_spine.refusals import outage
from app.kernel.context import Precondition
from app.kernel.errors import HocError


class Unit:
    """What `Spine.unit` gives; `attempts` are the dispatches so far."""

    def __init__(self, executor: Executor, ctx: OperationContext) -> None:
        self.attempts: list[Attempt] = []
        self._executor = executor
        self._ctx = ctx

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
        attempt = Attempt(
            name, replace(self._ctx.request, precondition=precondition), self._ctx.now, began=True
        )
        try:
            self._run(attempt, payload)
        except HocError as error:
            attempt.error = error
        except Exception as error:  # noqa: BLE001 - as in Spine.dispatch
            attempt.error = outage(error)
            if attempt.error is None:
                attempt.fail(error)
        attempt.duration_ms = (time.perf_counter() - started) * 1000
        self.attempts.append(attempt)
        return attempt.result()

    def _run(self, attempt: Attempt, payload: BaseModel | Mapping[str, Any]) -> None:
        operation = attempt.operation = self._executor.registry.get(attempt.name)
        ctx = replace(self._ctx, operation=operation.name, request=attempt.request, prepared=None)
        attempt.admit(judge_door(operation, attempt.request))
        if operation.mode == "write":
            attempt.admit(judge_standing(operation, attempt.request, ctx.standing, now=ctx.now))
        model = parse_input(operation, payload)
        with ctx.savepoint():
            attempt.answer(self._executor.join(operation, ctx, model))
