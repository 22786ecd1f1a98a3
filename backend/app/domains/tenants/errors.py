"""Tenants: refusals of tenants, keys and switches."""

from __future__ import annotations

from app.kernel.errors import ErrorKind, HocError


def tenant_not_found() -> HocError:
    """No such tenant."""
    return HocError(ErrorKind.NOT_FOUND, "TENANT_NOT_FOUND", "No such tenant.")


def tenant_exists(tenant_id: str) -> HocError:
    """The id or the slug is taken."""
    return HocError(ErrorKind.CONFLICT, "TENANT_EXISTS", f"The id or slug of tenant {tenant_id} is taken.")


def tenant_id_reserved(tenant_id: str) -> HocError:
    """The id is kept for the system."""
    return HocError(ErrorKind.INVALID, "TENANT_ID_RESERVED", f"The tenant id {tenant_id} is reserved.")


def tenant_closed() -> HocError:
    """A closed tenant stays closed."""
    return HocError(ErrorKind.CONFLICT, "TENANT_CLOSED", "The tenant is closed.")


def key_not_found() -> HocError:
    """No such key in this tenant."""
    return HocError(ErrorKind.NOT_FOUND, "KEY_NOT_FOUND", "No such key.")


def key_revoked() -> HocError:
    """A revoked key stays revoked."""
    return HocError(ErrorKind.CONFLICT, "KEY_REVOKED", "The key is revoked.")


def key_expired() -> HocError:
    """An expired key may only be revoked."""
    return HocError(ErrorKind.CONFLICT, "KEY_EXPIRED", "The key has expired; it can only be revoked.")


def key_quota_exceeded(limit: int) -> HocError:
    """The plan's live keys are used up."""
    return HocError(ErrorKind.CONFLICT, "KEY_QUOTA_EXCEEDED", f"The plan allows {limit} live keys.")


def scope_escalation(missing: list[str]) -> HocError:
    """A key cannot give what it lacks."""
    return HocError(
        ErrorKind.FORBIDDEN,
        "SCOPE_ESCALATION",
        "A key cannot give a scope that it lacks.",
        errors=[{"field": "/scopes", "code": "SCOPE_ESCALATION", "detail": scope} for scope in missing],
    )


def unknown_scope(scopes: list[str]) -> HocError:
    """A scope that names no area or verb."""
    return HocError(
        ErrorKind.INVALID,
        "INVALID_INPUT",
        "Some scopes do not exist.",
        errors=[{"field": "/scopes", "code": "unknown_scope", "detail": scope[:100]} for scope in scopes],
    )
