"""Spine: the answers that an Idempotency-Key replays, as text and back."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from app.hoc_spine.operation_registry import Operation, Refusal
from app.kernel.canonical_json import dumps, loads
from app.kernel.context import RequestContext
from app.kernel.errors import ErrorKind, HocError
from app.kernel.hashing import text_hash
from app.kernel.result_json import render


def request_digest(model: BaseModel, request: RequestContext) -> str:
    """Return the digest that tells whether a key is used for the same request again."""
    # A key is of one request: the same input for another run is another one.
    return text_hash(dumps([request.run_id, model.model_dump_json()]))


def to_stored(operation: Operation, outcome: Any) -> str | None:
    """Return the text under which a success or a recorded refusal is kept for replay.

    None for a refusal that says when to try again: that is no answer to keep.
    """
    if isinstance(outcome, Refusal):
        error = outcome.error
        if error.retry_after is not None:
            return None
        stored = {
            "kind": error.kind.value,
            "code": error.code,
            "detail": error.detail,
            "errors": list(error.errors),
            "extra": error.extra,
            "retry_after": error.retry_after,
        }
        return dumps({"refusal": stored})
    shown = operation.replay(outcome) if operation.replay else outcome
    return '{"data":' + render(shown).decode() + "}"


def from_stored(operation: Operation, stored: str) -> Any:
    """Return the output or the refusal that a kept text stands for."""
    answer = loads(stored)
    if "refusal" in answer:
        refusal = answer["refusal"]
        return Refusal(
            HocError(
                ErrorKind(refusal["kind"]),
                refusal["code"],
                refusal["detail"],
                errors=refusal["errors"],
                extra=refusal["extra"],
                retry_after=refusal["retry_after"],
            )
        )
    return operation.output_adapter.validate_json(dumps(answer["data"]))
