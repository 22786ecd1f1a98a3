"""L5 engine of artifact heads: look-ups, and the set-based reads that planes are built from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.db.connection import DriverConnection
from app.domains.repository.drivers import artifacts as driver
from app.domains.repository.engines.values import chunks, is_id, is_textual
from app.domains.repository.errors import (
    content_corrupt,
    duplicate_name,
    gone,
    not_found,
    reference_not_found,
)
from app.domains.repository.models.vocabulary import DEFAULT_COLLECTION
from app.kernel.hashing import digest_of

MAX_REVISION = 2**31 - 1
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """A name in a collection: whether the collection has yet to be made, and who bears the name."""

    unborn: bool
    holder: str | None


@dataclass(frozen=True, slots=True)
class Head:
    """A live artifact with readable text content, pinned to its head revision."""

    artifact_id: str
    collection_id: str
    name: str
    updated_seq: int
    revision: int
    revision_digest: str
    content_digest: str
    media_type: str | None
    size: int


def get_artifact(
    connection: DriverConnection, *, tenant_id: str, artifact_id: str, revision: int | None = None
) -> Row:
    """Return an artifact, deleted or not, with its head or a revision; refuse its absence."""
    row = None
    if is_id(artifact_id) and (revision is None or 1 <= revision <= MAX_REVISION):
        row = driver.get_artifact(connection, tenant_id=tenant_id, artifact_id=artifact_id, revision=revision)
    if row is None:
        if revision is not None:
            get_artifact(connection, tenant_id=tenant_id, artifact_id=artifact_id)
            raise not_found("REVISION")
        raise not_found("ARTIFACT")
    return row


def get_for_content(
    connection: DriverConnection, *, tenant_id: str, artifact_id: str, digest: str | None
) -> Row:
    """Return an artifact with its head and, as `new_state` and `new_blocked`, what is known of a digest."""
    if digest is None:
        return get_artifact(connection, tenant_id=tenant_id, artifact_id=artifact_id)
    row = None
    if is_id(artifact_id):
        row = driver.get_artifact_for_content(
            connection, tenant_id=tenant_id, artifact_id=artifact_id, digest=digest
        )
    if row is None:
        raise not_found("ARTIFACT")
    return row


def tombstone(row: Row) -> dict[str, Any]:
    """Return what the refusal of a deleted artifact tells."""
    return {
        "id": row["id"],
        "version": row["version"],
        "deleted_at": row["deleted_at"],
        "deleted_by": row["deleted_by"],
        "last_revision": row["head_revision"],
        "revision_digest": row["revision_digest"],
    }


def check_live(row: Row) -> None:
    """Refuse GONE, with the tombstone."""
    if row["deleted_at"] is not None:
        raise gone(tombstone(row))


def get_place(connection: DriverConnection, *, tenant_id: str, collection_id: str, name_key: str) -> Place:
    """Return whether a collection is live and who bears a name in it; refuse REFERENCE_NOT_FOUND.

    The default collection counts as live before it is made.
    """
    live, holder = None, None
    if is_id(collection_id):
        live, holder = driver.get_place(
            connection, tenant_id=tenant_id, collection_id=collection_id, name_key=name_key
        )
    unborn = live is None and collection_id == DEFAULT_COLLECTION
    if not live and not unborn:
        raise reference_not_found("collection_id")
    return Place(unborn, holder)


def check_name_free(place: Place, artifact_id: str | None) -> None:
    """Refuse DUPLICATE_NAME when another live artifact bears the name."""
    if place.holder is not None and place.holder != artifact_id:
        raise duplicate_name(place.holder)


def list_heads(
    connection: DriverConnection,
    *,
    tenant_id: str,
    collection_ids: Sequence[str],
    after_artifact_id: str | None = None,
    changed_after_seq: int | None = None,
    limit: int = 100,
) -> list[Head]:
    """Return up to `limit` live textual artifacts after an id, in order of id; an empty list is the end.

    `changed_after_seq` leaves out what has not changed since that number of the change feed.
    """
    heads: list[Head] = []
    after = after_artifact_id
    while collection_ids and len(heads) < limit:
        rows = driver.list_textual_candidates(
            connection,
            tenant_id=tenant_id,
            collection_ids=collection_ids,
            after_artifact_id=after,
            changed_after_seq=changed_after_seq,
            limit=limit,
        )
        for row in rows:
            after = row["id"]
            if len(heads) < limit and is_textual(row["media_type"]):
                heads.append(
                    Head(
                        artifact_id=row["id"],
                        collection_id=row["collection_id"],
                        name=row["name"],
                        updated_seq=row["updated_seq"],
                        revision=row["head_revision"],
                        revision_digest=row["revision_digest"],
                        content_digest=row["content_digest"],
                        media_type=row["media_type"],
                        size=row["size"],
                    )
                )
        if len(rows) < limit:
            break
    return heads


def read_contents(
    connection: DriverConnection, *, tenant_id: str, refs: Sequence[tuple[str, int]]
) -> dict[tuple[str, int], bytes]:
    """Return the bytes of (artifact_id, revision) pairs, hashed again; raise CONTENT_CORRUPT on a mismatch.

    Pairs that are unknown, without content, redacted or collected are absent from the result.
    """
    contents: dict[tuple[str, int], bytes] = {}
    for part in chunks(refs):
        for row in driver.list_contents(connection, tenant_id=tenant_id, refs=part):
            data = bytes(row["data"])
            if digest_of(data) != row["content_digest"]:
                raise content_corrupt(row["content_digest"])
            contents[row["artifact_id"], row["revision"]] = data
    return contents


def list_liveness(
    connection: DriverConnection, *, tenant_id: str, artifact_ids: Sequence[str]
) -> frozenset[str]:
    """Return which of these artifacts are live and un-redacted."""
    live: set[str] = set()
    for part in chunks(artifact_ids):
        live.update(driver.list_live_ids(connection, tenant_id=tenant_id, artifact_ids=part))
    return frozenset(live)
