"""Spine: the operation that takes OpenTelemetry spans into the runs that they name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from app.domains.activity.engines import runs
from app.domains.activity.models.vocabulary import RunStatus
from app.domains.decisions.engines import decisions
from app.domains.decisions.models.vocabulary import DecisionOutcome
from app.domains.retrieval.engines import observations
from app.domains.traces.engines import spans
from app.domains.traces.models import MAX_BATCH, IngestedSpans, IngestSpans, SpanInput, StepInput
from app.hoc_spine.coordinators.step_batch import append_batch, hold_trace, make_batch
from app.hoc_spine.operation_context import OperationContext, PrepareContext
from app.hoc_spine.operation_registry import OperationsOf
from app.kernel.errors import ErrorKind, HocError

_POSITION: Final = re.compile(r"/steps/(\d+)")


class _Rejections:
    """Counts what nobody takes, by reason."""

    def __init__(self) -> None:
        self._reasons: Counter[str] = Counter()

    def add(self, reason: str, count: int = 1) -> None:
        if count:
            self._reasons[reason] += count

    @property
    def reasons(self) -> dict[str, int]:
        return dict(self._reasons)


Cited = Mapping[str, DecisionOutcome]


def prepare_spans(ctx: PrepareContext, command: IngestSpans) -> Cited:
    """Read the outcome of every decision that a span cites; decisions never change."""
    run_id = command.run
    named = sorted({cited for span in command.spans if (cited := spans.decision_of(span)) is not None})
    if run_id is None or not named:
        return {}
    with ctx.read_unit() as connection:
        return decisions.outcomes_of_run(
            connection, tenant_id=ctx.tenant_id, run_id=run_id, decision_ids=named
        )


def ingest_spans(ctx: OperationContext, command: IngestSpans) -> IngestedSpans:
    """Append spans to the chain of the running run that they name; count those that nobody takes."""
    rejected = _Rejections()
    seen = [
        row for span in command.spans if (row := spans.read_observation(span, run_id=command.run)) is not None
    ]
    if seen:
        observations.record_observations(ctx.connection, tenant_id=ctx.tenant_id, rows=seen)
    accepted = 0
    if command.run is None:
        rejected.add("without hoc.run_id", len(command.spans))
    elif _is_running(ctx, command.run):
        accepted = _append(ctx, command.run, command.spans, rejected)
    else:
        rejected.add("of no running run", len(command.spans))
    return IngestedSpans(accepted=accepted, rejected=rejected.reasons)


def _is_running(ctx: OperationContext, run_id: str) -> bool:
    state = runs.lock_known_state(ctx.connection, tenant_id=ctx.tenant_id, run_id=run_id)
    return state is RunStatus.RUNNING


def _append(ctx: OperationContext, run_id: str, given: Sequence[SpanInput], rejected: _Rejections) -> int:
    """Append a run's spans in order and return how many of the given it holds now."""
    known = spans.find_known(ctx.connection, given, tenant_id=ctx.tenant_id, run_id=run_id)
    # A span that an export holds twice is recorded once, and both are answered for.
    copies = Counter(spans.external_id(span) for span in given)
    accepted = sum(copies[name] for name in known)
    batch: list[StepInput] = []
    for span in spans.in_order(given):
        name = spans.external_id(span)
        if name in known:
            continue
        step = spans.read_step(span, step_index=len(batch))
        if step is None:
            rejected.add("not valid", copies[name])
        else:
            batch.append(step)
    for first in range(0, len(batch), MAX_BATCH):
        accepted += _append_batch(ctx, run_id, batch[first : first + MAX_BATCH], copies, rejected)
    return accepted


def _append_batch(
    ctx: OperationContext,
    run_id: str,
    batch: Sequence[StepInput],
    copies: Mapping[str, int],
    rejected: _Rejections,
) -> int:
    """Append a batch without the steps that are refused one by one; return how many spans went in."""
    cited: Cited = ctx.prepared
    left = list(batch)
    while left:
        held = hold_trace(ctx, run_id, None)
        if held.run["status"] != RunStatus.RUNNING:
            # A step of an earlier batch has halted the run.
            rejected.add("of no running run", _spans(left, copies))
            return 0
        count = held.trace["step_count"]
        placed = [step.model_copy(update={"step_index": count + place}) for place, step in enumerate(left)]
        try:
            with ctx.savepoint():
                made = make_batch(placed, cited, now=ctx.now)
                append_batch(ctx, run_id, made, attempt=None)
        except HocError as error:
            at = _refused_step(error, len(left))
            if at is None:
                raise
            rejected.add(f"refused with {error.code}", _spans([left.pop(at)], copies))
        else:
            return _spans(left, copies)
    return 0


def _spans(batch: Sequence[StepInput], copies: Mapping[str, int]) -> int:
    return sum(copies[str(step.external_id)] for step in batch)


def _refused_step(error: HocError, count: int) -> int | None:
    """Return the place of the step that a refusal of the whole batch is about; None when it names none."""
    if error.kind not in (ErrorKind.INVALID, ErrorKind.TOO_LARGE):
        return None
    for item in error.errors:
        found = _POSITION.match(str(item.get("field", item.get("pointer", ""))))
        if found and int(found[1]) < count:
            return int(found[1])
    return None


declare = OperationsOf("traces", "runs")
OPERATIONS = (
    declare.write(
        "traces.otlp.ingest",
        IngestSpans,
        IngestedSpans,
        ingest_spans,
        prepare=prepare_spans,
        gate="fact",
        no_audit="the chain is the record",
    ),
)
