"""Traces L5: OpenTelemetry spans read as steps of a run, and as retrievals seen from outside."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pydantic import ValidationError

from app.db.connection import DriverConnection
from app.domains.traces.drivers import steps as driver
from app.domains.traces.models import SpanInput, StepInput
from app.kernel.ids import ID_PATTERN
from app.kernel.redaction import redact_text

_DECISION: Final = "hoc.decision_id"
_EVIDENCE: Final = "hoc.evidence_id"
_OPERATION: Final = "gen_ai.operation.name"
_SOURCE: Final = "gen_ai.data_source.id"
_DOCUMENTS: Final = "gen_ai.retrieval.documents"
_USAGE: Final[Mapping[str, str]] = {
    "gen_ai.usage.input_tokens": "TOKENS_INPUT",
    "gen_ai.usage.output_tokens": "TOKENS_OUTPUT",
}
_ID: Final = re.compile(ID_PATTERN)
_TRACE_ID: Final = re.compile(r"(?!0{32})[0-9a-f]{32}")
_SPAN_ID: Final = re.compile(r"(?!0{16})[0-9a-f]{16}")
_WORD_LENGTH: Final = 255
# Ids in one look-up: a statement has room for some ten thousand parameters.
_LOOKUP: Final = 5000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_NS: Final = int((datetime(9999, 12, 31, tzinfo=UTC) - _EPOCH).total_seconds()) * 1_000_000_000
_MAX_DURATION_NS: Final = 9_000_000_000 * 1_000_000


def external_id(span: SpanInput) -> str:
    """Return the name under which a run knows a span, so that a repeated export adds nothing."""
    return f"otlp:{span.trace_id}:{span.span_id}"


def in_order(spans: Iterable[SpanInput]) -> list[SpanInput]:
    """Return spans by start and id, each once."""
    kept: dict[str, SpanInput] = {}
    for span in sorted(spans, key=lambda span: (span.start_ns, span.span_id, span.trace_id)):
        kept.setdefault(external_id(span), span)
    return list(kept.values())


def read_step(span: SpanInput, *, step_index: int) -> StepInput | None:
    """Return the step that a span tells of, or None when it is no valid span or does not fit a step."""
    if not _is_valid(span):
        return None
    attributes = span.attributes
    outcome: dict[str, Any] = {
        "trace_id": span.trace_id,
        "span_id": span.span_id,
        "parent_span_id": span.parent_span_id,
        "kind": span.kind,
    }
    if span.status_message:
        outcome["status_message"] = span.status_message
    if span.events:
        outcome["events"] = span.events
    try:
        return StepInput.model_validate(
            {
                "step_index": step_index,
                "skill_id": span.scope_name[:_WORD_LENGTH] or "otel",
                "skill_name": span.name[:_WORD_LENGTH] or "span",
                "status": "failure" if span.failed else "success",
                "level": "ERROR" if span.failed else "INFO",
                "params": attributes,
                "outcome_data": outcome,
                "duration_ms": f"{(span.end_ns - span.start_ns) // 1000}e-3",
                "side_effect": _has_side_effect(attributes),
                "decision_id": attributes.get(_DECISION),
                "usage": _usage(attributes),
                "external_id": external_id(span),
                "occurred_at": _time(span.start_ns),
            }
        )
    except ValidationError:
        return None


def read_observation(span: SpanInput, *, run_id: str | None) -> dict[str, Any] | None:
    """Return what a retrieval span tells of a retrieval; None for any other span."""
    told = read_retrieval(span.attributes)
    if told is None or not _is_valid(span):
        return None
    return {
        **told,
        "trace_id": span.trace_id,
        "span_id": span.span_id,
        "run_id": run_id,
        "started_at": _time(span.start_ns),
        "ended_at": _time(span.end_ns),
    }


def read_retrieval(attributes: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what the attributes of a span or a step tell of a retrieval; None where they tell of none."""
    operation, source = attributes.get(_OPERATION), attributes.get(_SOURCE)
    if operation != "retrieval" and not (operation == "execute_tool" and source):
        return None
    claimed = attributes.get(_EVIDENCE)
    return {
        "operation": operation,
        "data_source_id": None if source is None else _word(source),
        "document_ids": _document_ids(attributes.get(_DOCUMENTS)),
        "claimed_evidence_id": None if claimed is None else _word(claimed),
    }


def decision_of(span: SpanInput) -> str | None:
    """Return the decision that a span cites, None when it cites none or nothing that could be one."""
    cited = span.attributes.get(_DECISION)
    return cited if isinstance(cited, str) and _ID.fullmatch(cited) else None


def find_known(
    connection: DriverConnection, spans: Sequence[SpanInput], *, tenant_id: str, run_id: str
) -> set[str]:
    """Return the external ids of those of the spans that the run holds already, in any attempt."""
    wanted = [external_id(span) for span in spans]
    known: set[str] = set()
    for first in range(0, len(wanted), _LOOKUP):
        part = wanted[first : first + _LOOKUP]
        known.update(
            driver.list_run_external(connection, tenant_id=tenant_id, run_id=run_id, external_ids=part)
        )
    return known


def _is_valid(span: SpanInput) -> bool:
    return (
        _TRACE_ID.fullmatch(span.trace_id) is not None
        and _SPAN_ID.fullmatch(span.span_id) is not None
        and 0 < span.start_ns <= span.end_ns <= _LAST_NS
        and span.end_ns - span.start_ns <= _MAX_DURATION_NS
    )


def _time(nanoseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=nanoseconds // 1000)


def _has_side_effect(attributes: Mapping[str, Any]) -> bool:
    return attributes.get(_OPERATION) in ("execute_tool", "retrieval")


def _usage(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {metric: attributes[name] for name, metric in _USAGE.items() if name in attributes}


def _document_ids(value: Any) -> list[str]:
    """Return the ids that the semantic conventions list as `[{"id": ..., ...}]` or as plain texts."""
    items = value if isinstance(value, list) else []
    found = [item.get("id") if isinstance(item, dict) else item for item in items]
    return [_word(item) for item in found if item is not None]


def _word(value: Any) -> str:
    # PostgreSQL's text has no place for U+0000.
    return redact_text(str(value).replace("\x00", "\ufffd"))[0][:_WORD_LENGTH]
