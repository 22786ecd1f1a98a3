"""L5 engine that turns drafts into rows: decides what changes, and writes it table by table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from app.db.connection import DriverConnection
from app.domains.repository.drivers import artifacts as heads_driver
from app.domains.repository.drivers import blobs as blobs_driver
from app.domains.repository.drivers import projections
from app.domains.repository.drivers import revisions as revisions_driver
from app.domains.repository.engines import documents, values
from app.domains.repository.engines.changes import ChangeSet
from app.domains.repository.engines.documents import Document
from app.domains.repository.engines.drafts import Draft, Revision
from app.domains.repository.engines.revisions import revision_digest
from app.domains.repository.engines.search import IndexEntry
from app.domains.repository.engines.values import Content, chunks, groups
from app.domains.repository.errors import content_blocked, digest_mismatch
from app.domains.repository.models.vocabulary import Action, BlobState, EntityType
from app.kernel.hashing import digest_of

# Rows and characters of one statement; what has more of them takes several, and bounded memory.
_PROJECTION_ROWS = 50_000
_INDEXED = 8 * 1024 * 1024
Row = Mapping[str, Any]


@dataclass(slots=True)
class Batch:
    """The rows of one operation, collected before any of them is written."""

    contents: dict[str, Content] = field(default_factory=dict)
    new_heads: list[dict[str, Any]] = field(default_factory=list)
    changed_heads: list[dict[str, Any]] = field(default_factory=list)
    revisions: list[dict[str, Any]] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    documents: list[tuple[str, Document]] = field(default_factory=list)
    entries: list[tuple[str, IndexEntry]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The state that a revision would bring about, and the fields in which it differs from the head."""

    name: str
    name_key: str
    collection_id: str
    content_digest: str | None
    size: int | None
    media_type: str | None
    metadata: Document
    provenance: Document
    changed: tuple[str, ...]

    @property
    def reindex(self) -> bool:
        """Whether the text index is out of step."""
        return not {"name", "content", "media_type"}.isdisjoint(self.changed)


def check_digest(expected: str | None, actual: str | None) -> None:
    """Refuse DIGEST_MISMATCH when a digest was announced and is another."""
    if expected is not None and expected != actual:
        raise digest_mismatch(expected, actual)


def check_blocked(digest: str | None, blob: Row | None) -> None:
    """Refuse CONTENT_BLOCKED for bytes that were redacted for good."""
    if digest is not None and blob is not None and blob["blocked"]:
        raise content_blocked(digest)


def decide_update(row: Row, change: Revision) -> Wanted:
    """Return the state after a change, with the sorted names of what differs (by digest, or by name text)."""
    content = change.content
    digest, size = (row["content_digest"], row["size"]) if content is None else (content.digest, content.size)
    if content is None and row["redaction"]:
        # The next revision of a redacted head has no content: the same digest would be readable again.
        digest, size = None, None
    media_type = row["media_type"]
    if "media_type" in change.given:
        media_type = change.media_type
    elif content is not None and media_type is None:
        media_type = values.default_media_type(content)
    metadata = change.metadata or documents.stored_document(row["metadata_text"])
    if change.patch is not None:
        merged = documents.merge_patch(metadata.value, change.patch)
        metadata = documents.read_document(merged, field="metadata")
    provenance = change.provenance or documents.stored_document(row["provenance"])
    name = row["name"] if change.name is None else change.name
    collection_id = change.collection_id or row["collection_id"]
    # Bytes that are gone come back as a new fact, though the digest is the same.
    lost = (
        content is not None
        and digest is not None
        and (row["redaction"] or row["blob_state"] != BlobState.PRESENT)
    )
    differs = {
        "collection_id": collection_id != row["collection_id"],
        "content": digest != row["content_digest"] or bool(lost),
        "media_type": media_type != row["media_type"],
        "metadata": metadata.digest != row["metadata_digest"],
        "name": name != row["revision_name"],
        "provenance": provenance.digest != row["provenance_digest"],
    }
    if row["redaction"] and not any(differs[name] for name in _wished(change)):
        # What a redaction destroyed differs by itself; alone it is no change.
        differs = {}
    return Wanted(
        name=name,
        name_key=row["name_key"] if change.name_key is None else change.name_key,
        collection_id=collection_id,
        content_digest=digest,
        size=size,
        media_type=media_type,
        metadata=metadata,
        provenance=provenance,
        changed=tuple(name for name in sorted(differs) if differs[name]),
    )


def _wished(change: Revision) -> list[str]:
    """Return the fields that a change names."""
    named = {
        "collection_id": change.collection_id,
        "content": change.content,
        "metadata": change.patch if change.metadata is None else change.metadata,
        "name": change.name,
        "provenance": change.provenance,
    }
    wished = [name for name, value in named.items() if value is not None]
    return [*wished, "media_type"] if "media_type" in change.given else wished


def plan_create(
    batch: Batch, change_set: ChangeSet, draft: Draft, *, artifact_id: str, collection_id: str, change_id: str
) -> dict[str, Any]:
    """Add the rows of a new artifact to a batch and its record to the change set; return the head."""
    at, actor = change_set.at, change_set.origin.actor_id
    revision = _revision_row(
        artifact_id=artifact_id,
        number=1,
        parent=None,
        artifact_type=draft.artifact_type,
        produced_by_run=draft.produced_by_run,
        change_set=change_set,
        state=Wanted(
            draft.name,
            draft.name_key,
            collection_id,
            draft.content.digest,
            draft.content.size,
            draft.media_type,
            draft.metadata,
            draft.provenance,
            (),
        ),
    )
    seq = change_set.next_seq
    head = {
        "id": artifact_id,
        "collection_id": collection_id,
        "name": draft.name,
        "name_key": draft.name_key,
        "artifact_type": draft.artifact_type,
        "head_revision": 1,
        "version": 1,
        "created_seq": seq,
        "updated_seq": seq,
        "created_at": at,
        "created_by": actor,
        "updated_at": at,
        "updated_by": actor,
        "deleted_at": None,
        "deleted_by": None,
        "delete_change_set_id": None,
    }
    batch.new_heads.append(head)
    _add_revision(batch, change_set, revision)
    if draft.content.digest is not None:
        batch.contents[draft.content.digest] = draft.content
    batch.documents.append((artifact_id, draft.metadata))
    batch.entries.append((artifact_id, draft.entry))
    change_set.add(change_id, EntityType.ARTIFACT, artifact_id, Action.CREATED, new=side(1, revision))
    return head_view(head, revision)


def plan_update(
    batch: Batch,
    change_set: ChangeSet,
    row: Row,
    wanted: Wanted,
    *,
    change_id: str,
    content: Content | None,
    entry: IndexEntry | None,
    produced_by_run: str | None,
    action: Action = Action.UPDATED,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Add the rows of an effective change to a batch and its record to the change set; return the new head.

    `entry` is the new index entry, null where it stays; `extra` are further members of the head that change.
    """
    revision = _revision_row(
        artifact_id=row["id"],
        number=row["head_revision"] + 1,
        parent=row["revision_digest"],
        artifact_type=row["artifact_type"],
        produced_by_run=produced_by_run,
        change_set=change_set,
        state=wanted,
    )
    changes = {
        "collection_id": wanted.collection_id,
        "name": wanted.name,
        "name_key": wanted.name_key,
        "head_revision": revision["revision"],
        **touched(change_set),
        **(extra or {}),
    }
    batch.changed_heads.append({"id": row["id"], "version": row["version"], **changes})
    _add_revision(batch, change_set, revision)
    if content is not None and content.digest is not None:
        batch.contents[content.digest] = content
    if "metadata" in wanted.changed or action is Action.RESTORED:
        batch.stale.append(row["id"])
        batch.documents.append((row["id"], wanted.metadata))
    if entry is not None:
        batch.entries.append((row["id"], entry))
    change_set.add(
        change_id,
        EntityType.ARTIFACT,
        row["id"],
        action,
        old=side(row["version"], row),
        new=side(row["version"] + 1, revision),
        changed_fields=wanted.changed,
    )
    return head_view({**row, **changes, "version": row["version"] + 1}, revision)


def touched(change_set: ChangeSet) -> dict[str, Any]:
    """Return the members that every change of a head sets."""
    return {
        "updated_seq": change_set.next_seq,
        "updated_at": change_set.at,
        "updated_by": change_set.origin.actor_id,
    }


def side(version: int, revision: Row) -> dict[str, Any]:
    """Return one side of an artifact's change record."""
    return {
        "version": version,
        "revision": revision["revision"],
        "digest": revision["content_digest"],
        "revision_digest": revision["revision_digest"],
    }


def _revision_row(
    *,
    artifact_id: str,
    number: int,
    parent: str | None,
    artifact_type: str,
    produced_by_run: str | None,
    change_set: ChangeSet,
    state: Wanted,
) -> dict[str, Any]:
    row = {
        "artifact_id": artifact_id,
        "revision": number,
        "parent_digest": parent,
        "content_digest": state.content_digest,
        "size": state.size,
        "media_type": state.media_type,
        "name": state.name,
        "name_digest": digest_of(state.name.encode()),
        "collection_id": state.collection_id,
        "artifact_type": artifact_type,
        "metadata": state.metadata.text,
        "metadata_digest": state.metadata.digest,
        "provenance": state.provenance.text,
        "provenance_digest": state.provenance.digest,
        "produced_by_run": produced_by_run,
        "created_at": change_set.at,
        "created_by": change_set.origin.actor_id,
        "redaction": None,
        "redacted_at": None,
    }
    row["revision_digest"] = revision_digest(row)
    return row


def _add_revision(batch: Batch, change_set: ChangeSet, revision: dict[str, Any]) -> None:
    batch.revisions.append(revision)
    change_set.revisions += 1


def head_view(head: Row, revision: Row) -> dict[str, Any]:
    """Return a head in the form in which the driver reads it."""
    return {
        **head,
        **{name: revision[name] for name in _REVISION_MEMBERS},
        "revision_name": revision["name"],
        "revision_collection_id": revision["collection_id"],
        "metadata_text": revision["metadata"],
        "redaction": None,
        "blob_state": None if revision["content_digest"] is None else BlobState.PRESENT,
    }


_REVISION_MEMBERS = (
    "revision", "content_digest", "size", "media_type", "metadata_digest", "provenance", "provenance_digest",
    "produced_by_run", "revision_digest",
)  # fmt: skip


def write_batch(
    connection: DriverConnection,
    batch: Batch,
    change_set: ChangeSet,
    *,
    tenant_id: str,
    present: frozenset[str],
    live: bool = True,
) -> None:
    """Write a batch; `present` are digests whose bytes are stored, `live` the state of changed heads."""
    blobs = [
        {
            "digest": content.digest,
            "size": content.size,
            "data": content.data,
            "state": str(BlobState.PRESENT),
            "blocked": False,
            "created_at": change_set.at,
            "state_at": None,
        }
        for digest, content in batch.contents.items()
        if digest not in present
    ]
    if blobs:
        blobs_driver.insert_blobs(connection, tenant_id=tenant_id, rows=blobs)
    if batch.new_heads:
        heads_driver.insert_artifacts(connection, tenant_id=tenant_id, rows=batch.new_heads)
    if batch.changed_heads:
        changed = heads_driver.set_heads(connection, tenant_id=tenant_id, rows=batch.changed_heads, live=live)
        if changed != len(batch.changed_heads):
            raise RuntimeError("an artifact changed under the tenant's write lock")
    if batch.revisions:
        revisions_driver.insert_revisions(connection, tenant_id=tenant_id, rows=batch.revisions)
    _write_projections(connection, batch, tenant_id=tenant_id)


def _write_projections(connection: DriverConnection, batch: Batch, *, tenant_id: str) -> None:
    for part in chunks(batch.stale):
        projections.delete_metadata(connection, tenant_id=tenant_id, artifact_ids=part)
    rows = _projection_rows(batch.documents)
    while part_rows := list(islice(rows, _PROJECTION_ROWS)):
        projections.insert_metadata(connection, tenant_id=tenant_id, rows=part_rows)
    for entries in groups(batch.entries, lambda item: len(item[1].tokens), _INDEXED):
        projections.insert_search(
            connection,
            tenant_id=tenant_id,
            rows=[
                {
                    "artifact_id": artifact_id,
                    "tokens": entry.tokens,
                    "token_count": entry.token_count,
                    "truncated": entry.truncated,
                }
                for artifact_id, entry in entries
            ],
        )


def _projection_rows(items: Sequence[tuple[str, Document]]) -> Iterator[dict[str, Any]]:
    for artifact_id, document in items:
        for row in documents.project(document.value):
            yield {"artifact_id": artifact_id, **row}


def list_blobs(connection: DriverConnection, *, tenant_id: str, digests: Sequence[str]) -> dict[str, Row]:
    """Return what is known of these digests."""
    return {
        row["digest"]: row
        for part in chunks(list(dict.fromkeys(digests)))
        for row in blobs_driver.list_blobs(connection, tenant_id=tenant_id, digests=part)
    }


def present(known: Mapping[str, Row]) -> frozenset[str]:
    """Return the digests whose bytes are here."""
    return frozenset(digest for digest, row in known.items() if row["state"] == BlobState.PRESENT)
