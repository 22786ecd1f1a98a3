"""Kernel: building blocks of operation inputs and outputs (frozen pydantic models)."""

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
)

from app.kernel.clock import format_time
from app.kernel.ids import ID_PATTERN
from app.kernel.pages import DEFAULT_LIMIT, MAX_LIMIT


def _clean(text: str) -> str:
    if "\x00" in text:
        raise ValueError("U+0000 is not allowed")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("lone surrogates are not allowed") from None
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


def _aware(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("a time needs an offset")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("a time lies between the years 1 and 9999") from None


def _read_time(value: Any) -> Any:
    # Strict validation takes no text from a Python validator, so the text is read here; a bare number
    # would be read as seconds since 1970.
    if isinstance(value, str):
        return datetime.fromisoformat(value)
    if not isinstance(value, datetime):
        raise ValueError("a time is ISO 8601 text with an offset")
    return value


Text = Annotated[str, AfterValidator(_clean)]
Identifier = Annotated[str, StringConstraints(pattern=ID_PATTERN)]
Name = Annotated[Text, StringConstraints(min_length=1, max_length=255), AfterValidator(_not_blank)]
Reason = Annotated[Text, StringConstraints(min_length=1, max_length=4096), AfterValidator(_not_blank)]
LongText = Annotated[Text, StringConstraints(max_length=4096)]
AwareTime = Annotated[datetime, BeforeValidator(_read_time), AfterValidator(_aware)]
OutputTime = Annotated[datetime, PlainSerializer(format_time, return_type=str, when_used="json")]


class Input(BaseModel):
    """Base of every operation input: frozen, closed; strict about types when it arrives as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


class ListInput(Input):
    """Base of every list input."""

    limit: int = Field(DEFAULT_LIMIT, ge=1, le=MAX_LIMIT)
    cursor: Annotated[str, StringConstraints(min_length=1, max_length=4096)] | None = None


class Output(BaseModel):
    """Base of every operation output; times are `OutputTime`, so they leave in the fixed text form."""

    model_config = ConfigDict(frozen=True, defer_build=True)
