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


def invalid_tile() -> HocError:
    """The path names no tile: level 0 to 7 or entries, a number in tlog-tiles form, a width of 1 to 255."""
    return HocError(ErrorKind.MALFORMED, "INVALID_TILE", "The path names no tile.")


def tile_not_found() -> HocError:
    """The log has not grown so far."""
    return HocError(ErrorKind.NOT_FOUND, "TILE_NOT_FOUND", "There is no such tile.")


def entry_pruned() -> HocError:
    """The statement was archived and deleted; its hash is in the tree for ever."""
    return HocError(ErrorKind.GONE, "ENTRY_PRUNED", "The entry was archived and deleted; its hash remains.")


def fact_not_found() -> HocError:
    """No such fact in this tenant."""
    return HocError(ErrorKind.NOT_FOUND, "FACT_NOT_FOUND", "There is no such fact.")


def checkpoint_not_found() -> HocError:
    """The log has no checkpoint of this size, or none at all yet."""
    return HocError(ErrorKind.NOT_FOUND, "CHECKPOINT_NOT_FOUND", "There is no such checkpoint.")


def no_signing_key() -> HocError:
    """This installation has no key that signs checkpoints."""
    return HocError(
        ErrorKind.UNAVAILABLE,
        "NO_SIGNING_KEY",
        "This server has no key to sign checkpoints with.",
        retry_after=30,
    )


def invalid_index(index: int, size: int) -> HocError:
    """The tree of this size has no such leaf."""
    return HocError(ErrorKind.MALFORMED, "INVALID_INDEX", f"A tree of {size} has no leaf {index}.")


def invalid_tree_size(signed_size: int) -> HocError:
    """A size of a proof is 1 to the signed size, and a range does not run backwards."""
    return HocError(
        ErrorKind.MALFORMED,
        "INVALID_TREE_SIZE",
        f"Sizes go from 1 to the signed size, which is {signed_size}; from is not above to.",
    )


def not_integrated() -> HocError:
    """The fact is recorded, and not yet in the tree of this size."""
    return HocError(ErrorKind.CONFLICT, "NOT_INTEGRATED", "The fact is not in the tree of this size.")


def log_backlog() -> HocError:
    """So many facts wait for the log that no more are taken."""
    return HocError(
        ErrorKind.UNAVAILABLE,
        "LOG_BACKLOG",
        "Too many facts wait for the log; nothing was written.",
        retry_after=5,
    )


def one_of_fact_and_index() -> HocError:
    """A proof of inclusion is of a fact or of an index."""
    return HocError(
        ErrorKind.MALFORMED,
        "INVALID_QUERY",
        "Give fact_id or index, one of them.",
        errors=[{"parameter": "fact_id", "code": "one_of", "detail": "give fact_id or index, one of them"}],
    )
