"""Logs: refusals of the ledger and the log."""

from __future__ import annotations

from app.kernel.errors import ErrorKind, HocError


def run_closed(run_id: str) -> HocError:
    """A fact that belongs to a running run met one whose facts are closed."""
    return HocError(ErrorKind.CONFLICT, "RUN_CLOSED", f"Run {run_id} has ended; its facts are closed.")


def statement_too_large(type_name: str, size: int) -> HocError:
    """A statement is at most 65 535 bytes, so that an entry fits a log tile."""
    return HocError(
        ErrorKind.TOO_LARGE,
        "STATEMENT_TOO_LARGE",
        f"The {type_name} record has {size} bytes; 65535 is the most.",
    )


def entry_not_found() -> HocError:
    """No such ledger entry in this tenant."""
    return HocError(ErrorKind.NOT_FOUND, "ENTRY_NOT_FOUND", "No such ledger entry.")


def idempotency_key_reused() -> HocError:
    """The key was used with another request."""
    return HocError(
        ErrorKind.INVALID, "IDEMPOTENCY_KEY_REUSED", "This Idempotency-Key was used with another request."
    )
