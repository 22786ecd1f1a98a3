"""Policies: the refusals of the slice, each with its stable code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from app.kernel.errors import ErrorKind, HocError


class SnapshotInvalidError(HocError):
    """A stored snapshot whose text does not have its hash; everything it governs is blocked."""

    def __init__(self, snapshot_id: str) -> None:
        super().__init__(
            ErrorKind.CONFLICT,
            "SNAPSHOT_INVALID",
            "The stored policy snapshot does not have the hash that its id names.",
            extra={"snapshot_id": snapshot_id},
        )


class InvalidConditionError(HocError):
    """A condition that cannot be compiled; line and column of the first fault count from 1."""

    def __init__(self, message: str, *, line: int = 1, column: int = 1) -> None:
        super().__init__(
            ErrorKind.INVALID,
            "INVALID_CONDITION",
            f"The condition is not usable: line {line}, column {column}: {message}",
            errors=[
                {
                    "field": "/condition",
                    "code": "condition",
                    "detail": message,
                    "line": line,
                    "column": column,
                }
            ],
        )


def rule_not_found() -> HocError:
    """A rule that this tenant does not have."""
    return HocError(ErrorKind.NOT_FOUND, "RULE_NOT_FOUND", "No such rule.")


def snapshot_not_found() -> HocError:
    """A snapshot that this tenant does not have."""
    return HocError(ErrorKind.NOT_FOUND, "SNAPSHOT_NOT_FOUND", "No such policy snapshot.")


def rule_exists(field: str) -> HocError:
    """A rule id that is taken, or a name that a rule not yet retired bears."""
    return HocError(
        ErrorKind.CONFLICT,
        "RULE_EXISTS",
        f"Another rule already has this {field}.",
        errors=[{"field": f"/{field}", "code": "taken", "detail": f"Another rule has this {field}."}],
    )


def rule_retired() -> HocError:
    """A change of a rule that ended."""
    return HocError(ErrorKind.CONFLICT, "RULE_RETIRED", "The rule is retired; make a new one.")


def policy_conflict(conflicts: Sequence[Mapping[str, Any]]) -> HocError:
    """A rule that would be ACTIVE beside one that says the opposite of the very same case."""
    return HocError(
        ErrorKind.CONFLICT,
        "POLICY_CONFLICT",
        "The rule contradicts an ACTIVE rule on the same scope, moments and condition.",
        errors=conflicts,
    )


def rule_has_dependents(dependents: Iterable[Mapping[str, Any]]) -> HocError:
    """A retirement that would leave planes or rules without what they rely on."""
    return HocError(
        ErrorKind.CONFLICT,
        "RULE_HAS_DEPENDENTS",
        "Planes are bound to the rule or ACTIVE rules depend on it.",
        errors=list(dependents),
    )


def policy_integrity(rule_id: str, rule_version: int) -> HocError:
    """A stored rule version whose columns do not have its content hash."""
    return HocError(
        ErrorKind.CONFLICT,
        "POLICY_INTEGRITY",
        f"The stored version {rule_version} of rule {rule_id} does not have its content hash.",
        extra={"rule_id": rule_id, "rule_version": rule_version},
    )


def run_not_authorized(errors: Sequence[Mapping[str, Any]]) -> HocError:
    """A start that a START rule forbids; the run does not exist and its id stays free."""
    return HocError(
        ErrorKind.FORBIDDEN, "RUN_NOT_AUTHORIZED", "A rule forbids this run to start.", errors=errors
    )


def check_conflict(decision_id: str) -> HocError:
    """A check_id under which something else was asked before."""
    return HocError(
        ErrorKind.CONFLICT,
        "CHECK_CONFLICT",
        "This check_id was used for another action or estimate.",
        extra={"decision_id": decision_id},
    )


def dependency_cycle(path: Sequence[str]) -> HocError:
    """A depends_on list that leads back to the rule itself."""
    return HocError(
        ErrorKind.INVALID,
        "DEPENDENCY_CYCLE",
        "The rules depend on one another in a circle.",
        errors=[{"field": "/depends_on", "code": "cycle", "detail": " -> ".join(path)}],
    )


def reference_not_found(field: str, value: str) -> HocError:
    """A body that cites a rule which is not there."""
    return HocError(
        ErrorKind.INVALID,
        "REFERENCE_NOT_FOUND",
        f"{field} cites a rule that does not exist.",
        errors=[{"field": f"/{field}", "code": "not_found", "detail": f"no such rule: {value}"}],
        extra={"field": field},
    )


def invalid_input(field: str, message: str, *, code: str = "invalid") -> HocError:
    """A member that fits its type but not the rule it is part of."""
    return HocError(
        ErrorKind.INVALID,
        "INVALID_INPUT",
        f"{field}: {message}",
        errors=[{"field": f"/{field}", "code": code, "detail": message}],
    )


def proposal_not_found() -> HocError:
    """A proposal that this tenant does not have."""
    return HocError(ErrorKind.NOT_FOUND, "PROPOSAL_NOT_FOUND", "No such proposal.")


def proposal_exists() -> HocError:
    """A proposal id that is taken."""
    return HocError(
        ErrorKind.CONFLICT,
        "PROPOSAL_EXISTS",
        "Another proposal already has this id.",
        errors=[{"field": "/proposal_id", "code": "taken", "detail": "Another proposal has this id."}],
    )


def proposal_reviewed(status: str) -> HocError:
    """A change of a proposal that was decided on."""
    return HocError(
        ErrorKind.CONFLICT,
        "PROPOSAL_REVIEWED",
        f"The proposal is {status}; a review is final.",
        extra={"status": status},
    )


def human_required() -> HocError:
    """An approval by anything but a person."""
    return HocError(ErrorKind.FORBIDDEN, "HUMAN_REQUIRED", "Only a person approves a proposal.")


def self_approval() -> HocError:
    """An approval by the one who proposed it."""
    return HocError(ErrorKind.FORBIDDEN, "SELF_APPROVAL", "Nobody approves a proposal of their own.")
