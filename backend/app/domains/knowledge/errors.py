"""L5 refusals of the knowledge slice, one constructor per code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.kernel.errors import ErrorKind, HocError


def plane_not_found() -> HocError:
    """Return the refusal of an unknown or foreign plane."""
    return HocError(ErrorKind.NOT_FOUND, "PLANE_NOT_FOUND", "There is no such knowledge plane.")


def duplicate_plane() -> HocError:
    """Return the refusal of a type and name that a live plane of the tenant holds."""
    return HocError(ErrorKind.CONFLICT, "DUPLICATE_PLANE", "A live plane of this type already has this name.")


def unknown_connector_type(connector_type: str) -> HocError:
    """Return the refusal of a connector type outside the vocabulary."""
    return HocError(
        ErrorKind.INVALID,
        "UNKNOWN_CONNECTOR_TYPE",
        "The connector type is repository, sql or http.",
        errors=[{"field": "/connector_type", "code": "unknown", "detail": f"unknown: {connector_type[:64]}"}],
    )


def invalid_config(code: str, errors: Sequence[Mapping[str, Any]]) -> HocError:
    """Return a refusal of a configuration; each error names the offending member by its JSON pointer."""
    details = {
        "INVALID_CONFIG": "The configuration does not fit its connector type.",
        "RESERVED_CONFIG_KEY": "The configuration holds a key that only the lifecycle sets.",
        "SECRET_IN_CONFIG": "The configuration holds a secret; use credential_ref.",
        "INVALID_CREDENTIAL_REF": "A credential reference is env://NAME or encrypted://v1...",
    }
    return HocError(ErrorKind.INVALID, code, details[code], errors=errors)


def config_too_large(actual: int, limit: int) -> HocError:
    """Return the refusal of a configuration over its size limit."""
    return HocError(
        ErrorKind.TOO_LARGE,
        "TOO_LARGE",
        "The configuration is too large.",
        extra={"limit": limit, "actual": actual},
    )


def reference_not_found(pointer: str) -> HocError:
    """Return the refusal of a body that names what is not there; foreign, unknown and deleted look alike."""
    return HocError(
        ErrorKind.INVALID,
        "REFERENCE_NOT_FOUND",
        "The body names something that does not exist.",
        errors=[{"field": pointer, "code": "reference", "detail": "does not exist"}],
        extra={"field": pointer},
    )


def missing_transition_intent() -> HocError:
    """Return the refusal of a transition that names neither action nor target."""
    return HocError(ErrorKind.INVALID, "MISSING_TRANSITION_INTENT", "Name the action or the to_state.")


def ambiguous_transition_intent() -> HocError:
    """Return the refusal of a transition that names both action and target."""
    return HocError(
        ErrorKind.INVALID, "AMBIGUOUS_TRANSITION_INTENT", "Name the action or the to_state, not both."
    )


def unknown_action() -> HocError:
    """Return the refusal of an action outside the vocabulary."""
    return HocError(ErrorKind.INVALID, "UNKNOWN_ACTION", "There is no such lifecycle action.")


def invalid_target_state() -> HocError:
    """Return the refusal of a name that is no lifecycle state."""
    return HocError(ErrorKind.INVALID, "INVALID_TARGET_STATE", "There is no such lifecycle state.")


def reason_required() -> HocError:
    """Return the refusal of fail, purge or force without a reason."""
    return HocError(ErrorKind.INVALID, "REASON_REQUIRED", "Failing, purging and forcing need a reason.")


def conflict(code: str, detail: str, **extra: Any) -> HocError:
    """Return a state conflict with its stable code."""
    return HocError(ErrorKind.CONFLICT, code, detail, extra=extra)


def transition_conflict() -> HocError:
    """Return the refusal of a write that another one overtook."""
    return conflict("TRANSITION_CONFLICT", "The plane changed at the same moment.")


def forbidden(code: str, detail: str) -> HocError:
    """Return a refusal of authority with its stable code."""
    return HocError(ErrorKind.FORBIDDEN, code, detail)


def rule_not_found() -> HocError:
    """Return the refusal of an unknown or foreign policy rule."""
    return HocError(ErrorKind.NOT_FOUND, "RULE_NOT_FOUND", "There is no such policy rule.")


def policy_not_bindable() -> HocError:
    """Return the refusal of a rule that does not govern access."""
    return HocError(ErrorKind.INVALID, "POLICY_NOT_BINDABLE", "Only rules of kind ACCESS bind to a plane.")
