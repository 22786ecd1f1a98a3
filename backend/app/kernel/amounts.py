"""Kernel: what is used, and how much: six decimals at most on the wire, exact millionths inside."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import BeforeValidator

MICRO: Final = 1_000_000
MAX_AMOUNT: Final = 9_000_000_000


class Metric(StrEnum):
    """What is used, and counted by limits."""

    COST_USD = "COST_USD"
    TOKENS_INPUT = "TOKENS_INPUT"
    TOKENS_OUTPUT = "TOKENS_OUTPUT"
    TOKENS_TOTAL = "TOKENS_TOTAL"
    REQUESTS = "REQUESTS"
    STEPS = "STEPS"
    RUN_TIME_MS = "RUN_TIME_MS"


def scaled(value: Any, *, digits: int, what: str) -> int:
    """Return a JSON number or decimal text times 10^digits as an exact integer; raise ValueError else."""
    if type(value) is int and 0 <= value <= MAX_AMOUNT:
        return int(value * 10**digits)
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise ValueError(f"{what} is a number or decimal text")
    try:
        number = Decimal(repr(value) if isinstance(value, float) else value)
    except InvalidOperation as error:
        raise ValueError(f"{what} is a number or decimal text") from error
    if not number.is_finite() or not 0 <= number <= MAX_AMOUNT:
        raise ValueError(f"{what} is between 0 and {MAX_AMOUNT}")
    units = number.scaleb(digits)
    if units != units.to_integral_value():
        raise ValueError(f"{what} has at most {digits} decimals")
    return int(units)


Amount = Annotated[int, BeforeValidator(lambda value: scaled(value, digits=6, what="an amount"))]
"""An input amount in millionths."""


def as_number(micro: int) -> float:
    """Return millionths as the number that is printed: 105500000 as 105.5, 100000000 as 100.0."""
    return micro / MICRO
