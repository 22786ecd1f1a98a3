"""Errors of the repository slice: one constructor for each refusal code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.kernel.errors import ErrorKind, HocError


def _error(kind: ErrorKind, code: str, detail: str, **extra: Any) -> HocError:
    return HocError(kind, code, detail, extra=extra)


def not_found(noun: str) -> HocError:
    """`<NOUN>_NOT_FOUND`: unknown, or another tenant's; the two look the same."""
    return _error(
        ErrorKind.NOT_FOUND, f"{noun}_NOT_FOUND", f"There is no such {noun.lower().replace('_', ' ')}."
    )


def gone(tombstone: Mapping[str, Any]) -> HocError:
    """GONE: the object was deleted; its tombstone is part of the answer."""
    return _error(ErrorKind.GONE, "GONE", "It was deleted.", tombstone=dict(tombstone))


def already_deleted(tombstone: Mapping[str, Any]) -> HocError:
    """ALREADY_DELETED: a second delete changes nothing."""
    return _error(ErrorKind.GONE, "ALREADY_DELETED", "It was deleted before.", tombstone=dict(tombstone))


def content_gone(state: str) -> HocError:
    """CONTENT_REDACTED or CONTENT_COLLECTED: the bytes are no longer kept."""
    return _error(ErrorKind.GONE, f"CONTENT_{state}", "The content is no longer kept.")


def content_corrupt(digest: str) -> HocError:
    """CONTENT_CORRUPT: the stored bytes are not those of the digest."""
    return _error(
        ErrorKind.INTERNAL, "CONTENT_CORRUPT", "Stored bytes do not match their digest.", digest=digest
    )


def invalid_input(detail: str, field: str | None = None) -> HocError:
    """INVALID_INPUT: a value outside its rule."""
    errors = [{"field": field, "detail": detail}] if field else []
    return HocError(ErrorKind.INVALID, "INVALID_INPUT", detail, errors=errors)


def invalid_query(detail: str) -> HocError:
    """INVALID_QUERY: query parameters that contradict one another."""
    return _error(ErrorKind.MALFORMED, "INVALID_QUERY", detail)


def invalid_id(detail: str) -> HocError:
    """INVALID_ID: an id outside the common pattern."""
    return _error(ErrorKind.INVALID, "INVALID_ID", detail)


def invalid_name(detail: str) -> HocError:
    """INVALID_NAME: a name outside the name rule."""
    return _error(ErrorKind.INVALID, "INVALID_NAME", detail)


def invalid_metadata(detail: str, pointer: str, field: str) -> HocError:
    """INVALID_METADATA: a JSON object outside its limits, with the pointer of the first fault."""
    return HocError(
        ErrorKind.INVALID,
        "INVALID_METADATA",
        f"{field}: {detail}",
        errors=[{"field": field, "pointer": pointer, "detail": detail}],
        extra={"field": field, "pointer": pointer},
    )


def immutable_field(field: str) -> HocError:
    """IMMUTABLE_FIELD: a member that never changes."""
    return _error(ErrorKind.INVALID, "IMMUTABLE_FIELD", f"{field} never changes.", field=field)


def digest_mismatch(expected: str, actual: str | None) -> HocError:
    """DIGEST_MISMATCH: the content is not what the caller announced."""
    return _error(
        ErrorKind.INVALID,
        "DIGEST_MISMATCH",
        "The content does not have the expected digest.",
        expected_digest=expected,
        actual_digest=actual,
    )


def reference_not_found(field: str) -> HocError:
    """REFERENCE_NOT_FOUND: what a member points at is unknown, deleted or foreign."""
    return _error(ErrorKind.INVALID, "REFERENCE_NOT_FOUND", f"{field} points at nothing live.", field=field)


def duplicate_id(identifier: str) -> HocError:
    """DUPLICATE_ID: an id is used once, deleted or not."""
    return _error(ErrorKind.CONFLICT, "DUPLICATE_ID", f"The id {identifier} was used before.", id=identifier)


def duplicate_name(holder: str | None) -> HocError:
    """DUPLICATE_NAME: a live object of this place bears the name."""
    return _error(ErrorKind.CONFLICT, "DUPLICATE_NAME", "The name is taken.", existing_id=holder)


def artifact_has_relationships(ids: Sequence[str], total: int) -> HocError:
    """ARTIFACT_HAS_RELATIONSHIPS: live edges forbid a restricting delete."""
    return _error(
        ErrorKind.CONFLICT,
        "ARTIFACT_HAS_RELATIONSHIPS",
        "Live relationships end at the artifact.",
        relationships=list(ids),
        total=total,
    )


def collection_not_empty(count: int) -> HocError:
    """COLLECTION_NOT_EMPTY: live artifacts are in the collection."""
    return _error(
        ErrorKind.CONFLICT, "COLLECTION_NOT_EMPTY", "The collection holds live artifacts.", count=count
    )


def collection_bound() -> HocError:
    """COLLECTION_BOUND: a knowledge plane owns the collection."""
    return _error(ErrorKind.CONFLICT, "COLLECTION_BOUND", "A knowledge plane owns the collection.")


def collection_sealed() -> HocError:
    """COLLECTION_SEALED: the owning plane is being taken out of use."""
    return _error(
        ErrorKind.CONFLICT, "COLLECTION_SEALED", "The plane that owns the collection is being offboarded."
    )


def not_deleted() -> HocError:
    """NOT_DELETED: only a deleted artifact is restored."""
    return _error(ErrorKind.CONFLICT, "NOT_DELETED", "The artifact is live.")


def restore_impossible() -> HocError:
    """RESTORE_IMPOSSIBLE: the bytes of the head were collected."""
    return _error(ErrorKind.CONFLICT, "RESTORE_IMPOSSIBLE", "The content of the head is no longer kept.")


def content_blocked(digest: str) -> HocError:
    """CONTENT_BLOCKED: these bytes were redacted for good."""
    return _error(
        ErrorKind.CONFLICT, "CONTENT_BLOCKED", "These bytes may not be stored again.", digest=digest
    )


def run_not_running() -> HocError:
    """RUN_NOT_RUNNING: an output needs a run that is still open."""
    return _error(ErrorKind.CONFLICT, "RUN_NOT_RUNNING", "The run is not running.")


def too_large(limit: int, actual: int, what: str) -> HocError:
    """TOO_LARGE: more bytes or items than the limit."""
    return _error(ErrorKind.TOO_LARGE, "TOO_LARGE", f"{what} is over the limit.", limit=limit, actual=actual)


def invalid_filter(detail: str, index: int | None = None) -> HocError:
    """INVALID_FILTER: a condition that has no meaning, with its index."""
    extra = {} if index is None else {"index": index}
    return _error(ErrorKind.INVALID, "INVALID_FILTER", detail, **extra)


def empty_query() -> HocError:
    """EMPTY_QUERY: no token is left of the text."""
    return _error(ErrorKind.INVALID, "EMPTY_QUERY", "The text holds no word to search for.")


def bulk_refused(first: HocError, errors: Sequence[Mapping[str, Any]]) -> HocError:
    """Kind and code of the first bad item, with `index, code, detail` of up to 100."""
    return HocError(first.kind, first.code, first.detail, errors=errors, extra=first.extra)
