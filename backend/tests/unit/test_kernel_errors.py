"""Kernel: refusals keep what they say, and a logged trace tells nothing of the data."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from app.kernel.errors import ErrorKind, HocError, safe_trace


class Secret(BaseModel):
    token: int


def test_a_refusal_keeps_copies_of_what_it_is_given() -> None:
    item, extra = {"field": "/a"}, {"gate": "G1"}
    error = HocError(ErrorKind.CONFLICT, "CODE", "Detail.", errors=[item], extra=extra, retry_after=3)
    item["field"], extra["gate"] = "/b", "G2"
    assert (error.errors, error.extra, error.retry_after) == (({"field": "/a"},), {"gate": "G1"}, 3)
    assert str(error) == "CODE: Detail."


def _raise_from(cause: Exception) -> None:
    raise LookupError("what followed") from cause


def test_a_trace_names_lines_and_types_of_the_whole_chain() -> None:
    try:
        try:
            raise KeyError("cause")
        except KeyError as cause:
            _raise_from(cause)
    except LookupError as error:
        trace = safe_trace(error)
    assert trace.index("KeyError: 'cause'") < trace.index("LookupError: what followed")
    assert "in _raise_from" in trace
    assert __file__ in trace


def test_a_trace_shows_no_input_and_no_row() -> None:
    given = {"token": "hunter" + "2"}
    with pytest.raises(ValidationError) as caught:
        Secret.model_validate(given)
    assert "hunter2" not in safe_trace(caught.value)
    row = RuntimeError('violates check constraint "c"\nDETAIL: Failing row contains (t-1, hunter2).')
    assert safe_trace(row) == 'RuntimeError: violates check constraint "c"'


def test_secrets_in_the_first_line_are_redacted() -> None:
    assert "hoc_abc" not in safe_trace(ValueError("bad key hoc_abcdefghijklmnopqrstuvwxyz"))


def test_an_error_that_is_its_own_cause_ends() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert safe_trace(one).count("ValueError") == 2
