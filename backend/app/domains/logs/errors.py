"""Logs: refusals of the ledger and the log."""

from __future__ import annotations

from collections.abc import Sequence

from app.kernel.errors import ErrorKind, HocError

SHOWN_HOLDS = 20


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


def key_unreadable(why: str) -> HocError:
    """The file holds no key to rotate to."""
    return HocError(ErrorKind.INVALID, "KEY_UNREADABLE", f"The file cannot be taken as a key: {why}.")


def key_known() -> HocError:
    """A rotation goes to a key that has not signed here before."""
    return HocError(ErrorKind.CONFLICT, "KEY_KNOWN", "This key signs here already, or did.")


def key_not_covered(tenants: Sequence[str]) -> HocError:
    """The old key has not signed over the record of the rotation in every log; the key file is as it was."""
    return HocError(
        ErrorKind.CONFLICT,
        "KEY_NOT_COVERED",
        f"No checkpoint covers the rotation yet in {len(tenants)} logs, as {tenants[0]}; repeat the command.",
    )


def bad_cosignature() -> HocError:
    """A line is no cosignature of a known witness over this checkpoint."""
    return HocError(
        ErrorKind.INVALID,
        "BAD_COSIGNATURE",
        "Each line must be the valid cosignature of a witness that this server knows.",
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


def run_open(run_id: str) -> HocError:
    """A bundle of a run that has not ended is made only when it is asked for."""
    return HocError(
        ErrorKind.CONFLICT, "RUN_OPEN", f"Run {run_id} has not ended; allow_open gives it as it is."
    )


def integrity_failed(code: str) -> HocError:
    """The run's records are damaged: nothing is signed over them."""
    return HocError(
        ErrorKind.CONFLICT,
        "INTEGRITY_FAILED",
        f"The proof of this run fails with {code}; no bundle is made of it.",
        extra={"failure_code": code},
    )


def checkpoint_pending() -> HocError:
    """No checkpoint covers all facts of the run yet."""
    return HocError(
        ErrorKind.UNAVAILABLE,
        "CHECKPOINT_PENDING",
        "The newest checkpoint does not cover the run yet.",
        retry_after=1,
    )


def log_halted(reason: str | None) -> HocError:
    """The log is halted before it covers the run; only its operator can resume it."""
    return HocError(
        ErrorKind.UNAVAILABLE,
        "LOG_HALTED",
        "The tenant's log is halted and grows no more.",
        extra={"halted_reason": reason},
        retry_after=60,
    )


def bundle_too_large() -> HocError:
    """A bundle holds at most 100 000 facts and steps, and 512 MiB."""
    return HocError(
        ErrorKind.TOO_LARGE,
        "BUNDLE_TOO_LARGE",
        "The run has more than 100000 facts and steps, or its bundle more than 512 MiB.",
    )


def verify_running() -> HocError:
    """One verification of a whole log at a time is enough."""
    return HocError(
        ErrorKind.CONFLICT, "VERIFY_RUNNING", "The log is being verified already; its result will appear."
    )


def invalid_log_state(state: str) -> HocError:
    """Only a halted log is resumed."""
    return HocError(ErrorKind.CONFLICT, "INVALID_LOG_STATE", f"The log is {state}, not halted.")


def log_not_sound(verification_id: str) -> HocError:
    """A halted log grows again only when everything about it was found as recorded."""
    return HocError(
        ErrorKind.CONFLICT,
        "LOG_NOT_SOUND",
        f"Verification {verification_id} has not found the whole log as recorded; it stays halted.",
    )


def event_not_found() -> HocError:
    """An outbox event that this tenant does not have."""
    return HocError(ErrorKind.NOT_FOUND, "EVENT_NOT_FOUND", "There is no such event.")


def scope_not_found() -> HocError:
    """An erasure or a hold names a fact, run, subject or plane that this tenant does not have."""
    return HocError(
        ErrorKind.INVALID,
        "REFERENCE_NOT_FOUND",
        "scope_id names nothing of this tenant.",
        errors=[{"field": "/scope_id", "code": "reference", "detail": "names nothing of this tenant"}],
        extra={"field": "scope_id"},
    )


def legal_hold(hold_ids: Sequence[str]) -> HocError:
    """What is to be destroyed is held."""
    return HocError(
        ErrorKind.CONFLICT,
        "LEGAL_HOLD",
        "A legal hold covers what would be destroyed.",
        extra={"hold_ids": list(hold_ids[:SHOWN_HOLDS]), "count": len(hold_ids)},
    )


def nothing_to_erase() -> HocError:
    """No row of the scope holds a protected value."""
    return HocError(ErrorKind.CONFLICT, "NOTHING_TO_ERASE", "There is no protected value left to erase.")


def hold_not_found() -> HocError:
    """No such hold in this tenant."""
    return HocError(ErrorKind.NOT_FOUND, "HOLD_NOT_FOUND", "There is no such legal hold.")


def hold_released() -> HocError:
    """A released hold stays released; a new one is placed instead."""
    return HocError(ErrorKind.CONFLICT, "HOLD_RELEASED", "The legal hold was released before.")


def retention_below_floor(days: int) -> HocError:
    """Evidence is kept for half a year at least."""
    return HocError(
        ErrorKind.INVALID,
        "RETENTION_BELOW_FLOOR",
        f"Evidence and its values are kept for {days} days at least.",
    )


def nothing_to_archive() -> HocError:
    """No record is over age, or whatever is stays."""
    return HocError(ErrorKind.CONFLICT, "NOTHING_TO_ARCHIVE", "Nothing of the log is to be archived now.")


def archive_not_written(why: str) -> HocError:
    """The folder does not take the archive; nothing was recorded."""
    return HocError(ErrorKind.UNAVAILABLE, "STORAGE_FAILED", f"The archive cannot be written: {why}.")


def archive_unverified(codes: Sequence[str]) -> HocError:
    """What was read back from the disk is not what was to be archived; nothing was recorded."""
    return HocError(
        ErrorKind.CONFLICT,
        "ARCHIVE_UNVERIFIED",
        f"The archive does not verify as it was read back: {', '.join(codes)}.",
        extra={"failure_codes": list(codes)},
    )


def archive_required(why: str) -> HocError:
    """What is deleted lies in an archive first, and in that one exactly."""
    return HocError(ErrorKind.CONFLICT, "ARCHIVE_REQUIRED", f"A purge needs an archive: {why}.")


def no_open_purge() -> HocError:
    """The purge was never begun, or is done."""
    return HocError(ErrorKind.NOT_FOUND, "PURGE_NOT_FOUND", "There is no such purge that is not done.")


def run_purged(run_id: str, *, archive_id: str, sha256: str) -> HocError:
    """The run was archived and deleted; a file holds what there was of it."""
    return HocError(
        ErrorKind.GONE,
        "RUN_PURGED",
        f"Run {run_id} was archived and deleted.",
        extra={"archive_id": archive_id, "sha256": sha256},
    )
