"""Spine: turn what a door received into an operation's input model, or refuse it with every reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from app.hoc_spine.operation_registry import Operation
from app.kernel.errors import ErrorKind, HocError

MAX_ERRORS = 50


class LaxPayload(dict[str, Any]):
    """Members that came as text (path, query) or bytes: values are read, not only checked."""


class QueryPayload(LaxPayload):
    """Members of a query string; what does not fit is INVALID_QUERY."""


def parse_input(operation: Operation, payload: BaseModel | Mapping[str, Any]) -> BaseModel:
    """Return the input model; refuse INVALID_INPUT or INVALID_QUERY with `errors[]`."""
    if isinstance(payload, operation.input):
        return payload
    if isinstance(payload, BaseModel):
        payload = payload.model_dump(exclude_unset=True)
    try:
        if isinstance(payload, LaxPayload):
            return operation.input.model_validate(dict(payload))
        # JSON mode is what makes strictness right: text is no number, yet a date is written as text.
        return operation.input.model_validate_json(to_json(dict(payload)), strict=True)
    except ValidationError as error:
        raise refusal_of(error, query=isinstance(payload, QueryPayload)) from None
    except (PydanticSerializationError, RecursionError):
        raise HocError(ErrorKind.INVALID, "INVALID_INPUT", "The input holds what JSON cannot.") from None


def refusal_of(error: ValidationError, *, query: bool = False, under: tuple[str, ...] = ()) -> HocError:
    """Return the refusal of a value that does not fit; `under` is where in the input it stands."""
    errors = [
        {
            "field": "/"
            + "/".join(str(part).replace("~", "~0").replace("/", "~1") for part in (*under, *item["loc"])),
            "code": item["type"],
            "detail": item["msg"],
        }
        for item in error.errors(include_url=False, include_context=False, include_input=False)[:MAX_ERRORS]
    ]
    if query:
        return HocError(ErrorKind.MALFORMED, "INVALID_QUERY", "The query does not fit.", errors=errors)
    return HocError(ErrorKind.INVALID, "INVALID_INPUT", "The input does not fit.", errors=errors)
