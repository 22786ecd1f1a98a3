"""Decisions: the refusals of decision records, each with its stable code."""

from __future__ import annotations

from collections.abc import Sequence

from app.kernel.errors import ErrorKind, HocError


def decision_not_found() -> HocError:
    """A decision that this tenant does not have."""
    return HocError(ErrorKind.NOT_FOUND, "DECISION_NOT_FOUND", "No such decision.")


def decision_conflict(idempotency_key: str, decision_id: str) -> HocError:
    """A decision whose key names another one, made from other inputs."""
    return HocError(
        ErrorKind.CONFLICT,
        "DECISION_CONFLICT",
        f"The decision {idempotency_key} was recorded with other inputs.",
        extra={"decision_id": decision_id},
    )


class DecisionRacedError(HocError):
    """A decision that another transaction recorded between a look at its key and the write."""

    def __init__(self) -> None:
        super().__init__(
            ErrorKind.UNAVAILABLE,
            "BUSY",
            "The same decision is being recorded by another request.",
            retry_after=1,
        )


def reason_required() -> HocError:
    """A decision without a reason: not deciding has one, too."""
    return _invalid("decision_reason", "a decision has a reason, one for nothing, too")


def member_required(name: str) -> HocError:
    """A decision of a type that needs this member."""
    return _invalid(name, "a decision of this type needs it")


def _invalid(name: str, detail: str) -> HocError:
    return HocError(
        ErrorKind.INVALID,
        "INVALID_INPUT",
        f"{name}: {detail}.",
        errors=[{"field": f"/{name}", "code": "missing", "detail": detail}],
    )


def care_signal_forbidden(names: Sequence[str]) -> HocError:
    """An optimisation that looked at what it may not."""
    return HocError(
        ErrorKind.INVALID,
        "CARE_SIGNAL_FORBIDDEN",
        f"Routing may not be optimised by {', '.join(names)}.",
        errors=[
            {"field": f"/facts/signals/{name}", "code": "forbidden", "detail": "not a permitted signal"}
            for name in names
        ],
    )


def source_forbidden(source: str) -> HocError:
    """A decision that a program's key ascribes to a person."""
    return _invalid("decision_source", f"only the key of a person says {source}")
