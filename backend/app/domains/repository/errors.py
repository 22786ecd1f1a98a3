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


def no_version_here() -> HocError:
    """INVALID_PRECONDITION: If-Match names a version of something that has none."""
    detail = "What this request is about has no version yet: If-Match does not go with it."
    return _error(ErrorKind.MALFORMED, "INVALID_PRECONDITION", detail)


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


def invalid_transition(current: str, wanted: str, allowed: Sequence[str]) -> HocError:
    """INVALID_TRANSITION: the state table has no such way; `allowed` are those that it has."""
    return HocError(
        ErrorKind.CONFLICT,
        "INVALID_TRANSITION",
        f"{current} does not lead to {wanted}.",
        extra={"from": current, "to": wanted, "allowed": list(allowed)},
    )


def lease_held(lease_until: str | None) -> HocError:
    """LEASE_HELD: another worker has the run; `lease_until` is when its lease ends."""
    return _error(ErrorKind.CONFLICT, "LEASE_HELD", "Another worker holds the run.", lease_until=lease_until)


def run_finished() -> HocError:
    """RUN_FINISHED: a run that has ended takes no step and no lease."""
    return _error(ErrorKind.CONFLICT, "RUN_FINISHED", "The run has ended.")


def run_not_finished() -> HocError:
    """RUN_NOT_FINISHED: only the manifest of a run that has ended is sealed."""
    return _error(ErrorKind.CONFLICT, "RUN_NOT_FINISHED", "The run has not ended.")


def already_sealed(manifest_digest: str) -> HocError:
    """SEALED: the run has a manifest, and it says something else."""
    return _error(
        ErrorKind.CONFLICT, "SEALED", "The manifest was sealed before.", manifest_digest=manifest_digest
    )


def already_produced(artifact_id: str, revision: int, run_id: str) -> HocError:
    """ALREADY_PRODUCED: a revision is the output of one run, in one role."""
    return _error(
        ErrorKind.CONFLICT,
        "ALREADY_PRODUCED",
        "The revision is an output already.",
        artifact_id=artifact_id,
        revision=revision,
        run_id=run_id,
    )


def invalid_step(detail: str, step_ids: Sequence[str]) -> HocError:
    """INVALID_STEP: steps that contradict one another, with their ids."""
    return _error(ErrorKind.INVALID, "INVALID_STEP", detail, steps=list(step_ids))


def item_not_found(field: str, position: int) -> HocError:
    """REFERENCE_NOT_FOUND: what an item points at is unknown or foreign, with the item's position."""
    return _error(
        ErrorKind.INVALID,
        "REFERENCE_NOT_FOUND",
        f"{field} of item {position} points at nothing that is there.",
        field=field,
        position=position,
    )


def version_mismatch(current: int) -> HocError:
    """VERSION_MISMATCH: the object has changed since the version that was expected."""
    return _error(
        ErrorKind.PRECONDITION_FAILED,
        "VERSION_MISMATCH",
        "The object has changed since the expected version.",
        current_version=current,
    )


def self_relationship() -> HocError:
    """SELF_RELATIONSHIP: an artifact has no relationship with itself."""
    return _error(
        ErrorKind.INVALID, "SELF_RELATIONSHIP", "A relationship has two different ends.", field="target_id"
    )


def endpoint_not_found(endpoint: str) -> HocError:
    """ENDPOINT_NOT_FOUND: source, target or both are unknown, deleted or foreign; these look the same."""
    return _error(
        ErrorKind.INVALID,
        "ENDPOINT_NOT_FOUND",
        "An end of the relationship is no live artifact.",
        endpoint=endpoint,
    )


def duplicate_relationship(holder: str) -> HocError:
    """DUPLICATE_RELATIONSHIP: a live one of this type leads from the source to the target."""
    return _error(
        ErrorKind.CONFLICT, "DUPLICATE_RELATIONSHIP", "There is such a relationship.", existing_id=holder
    )


def relationship_cycle(path: Sequence[str]) -> HocError:
    """RELATIONSHIP_CYCLE: the target leads back to the source; `path` begins and ends at the source."""
    return _error(
        ErrorKind.CONFLICT, "RELATIONSHIP_CYCLE", "Relationships of this type form no cycle.", path=list(path)
    )


def blob_shared(citations: Sequence[Mapping[str, Any]], total: int) -> HocError:
    """BLOB_SHARED: revisions outside the request have the same bytes; up to 20 are shown."""
    return _error(
        ErrorKind.CONFLICT,
        "BLOB_SHARED",
        "Other revisions have the same content; say whether it goes there too.",
        citations=[dict(citation) for citation in citations],
        total=total,
    )


def snapshot_invalid(reason: str, line: int | None, detail: str) -> HocError:
    """SNAPSHOT_INVALID: the snapshot is damaged or contradicts itself; `reason` and `line` say where."""
    return _error(ErrorKind.INVALID, "SNAPSHOT_INVALID", detail, reason=str(reason), line=line)


def snapshot_conflict(report: Mapping[str, Any]) -> HocError:
    """SNAPSHOT_CONFLICT: under the policy the snapshot does not fit what is there; nothing was written."""
    return HocError(
        ErrorKind.CONFLICT,
        "SNAPSHOT_CONFLICT",
        "The snapshot does not fit what the repository holds.",
        extra=report,
    )
