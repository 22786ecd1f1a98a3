"""L5 rules that turn an input into a draft: checked, canonical, hashed and tokenised, without a database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from app.domains.repository.engines import documents, values
from app.domains.repository.engines.documents import Document
from app.domains.repository.engines.search import IndexEntry, index_entry
from app.domains.repository.engines.values import Content
from app.domains.repository.errors import immutable_field, invalid_input
from app.domains.repository.models.inputs import ArtifactItem, UpdateArtifact


@dataclass(frozen=True, slots=True)
class Draft:
    """A new artifact. `given` names the members that the caller set, for items that update what is there."""

    id: str | None
    collection_id: str | None
    name: str
    name_key: str
    artifact_type: str
    content: Content
    media_type: str | None
    metadata: Document
    provenance: Document
    produced_by_run: str | None
    expected_digest: str | None
    entry: IndexEntry
    given: frozenset[str]

    @property
    def has_content(self) -> bool:
        """Whether the caller gave content, be it null."""
        return not self.given.isdisjoint(("content", "content_base64"))


@dataclass(frozen=True, slots=True)
class Revision:
    """Wanted changes of an artifact; null means that a member stays, but for `media_type` in `given`."""

    name: str | None = None
    name_key: str | None = None
    collection_id: str | None = None
    content: Content | None = None
    media_type: str | None = None
    metadata: Document | None = None
    patch: dict[str, Any] | None = None
    provenance: Document | None = None
    produced_by_run: str | None = None
    expected_digest: str | None = None
    given: frozenset[str] = frozenset()


def read_item(item: ArtifactItem, *, content_limit: int) -> Draft:
    """Return the draft of a new artifact; refuse every error of shape."""
    if item.id is not None:
        values.check_id(item.id)
    name_key = values.check_name(item.name)
    content = values.read_content(text=item.content, base64_text=item.content_base64, limit=content_limit)
    if item.media_type is None:
        media_type = values.default_media_type(content)
    else:
        media_type = values.check_media_type(item.media_type)
    return Draft(
        id=item.id,
        collection_id=item.collection_id,
        name=item.name,
        name_key=name_key,
        artifact_type=item.artifact_type,
        content=content,
        media_type=media_type,
        metadata=documents.read_document(item.metadata, field="metadata"),
        provenance=documents.read_document(
            item.provenance, field="provenance", limit=documents.MAX_PROVENANCE_BYTES
        ),
        produced_by_run=item.produced_by_run,
        expected_digest=item.expected_digest,
        entry=index_entry(item.name, content.data, media_type),
        given=frozenset(item.model_fields_set),
    )


def as_revision(draft: Draft) -> Revision:
    """Return what an item changes of the artifact that bears its name already: the members it gives."""
    given = draft.given
    return Revision(
        name=draft.name,
        name_key=draft.name_key,
        content=draft.content if draft.has_content else None,
        media_type=draft.media_type if "media_type" in given else None,
        metadata=draft.metadata if "metadata" in given else None,
        provenance=draft.provenance if "provenance" in given else None,
        produced_by_run=draft.produced_by_run,
        expected_digest=draft.expected_digest,
        given=given,
    )


def read_update(change: UpdateArtifact, *, content_limit: int) -> Revision:
    """Return the wanted changes; refuse IMMUTABLE_FIELD and every shape error."""
    given = frozenset(change.model_fields_set)
    for field in ("id", "artifact_type", "created_at", "created_by"):
        if field in given:
            raise immutable_field(field)
    for field in ("name", "collection_id"):
        if field in given and getattr(change, field) is None:
            raise invalid_input(f"{field} is never null.", field)
    if {"metadata", "replace_metadata"} <= given:
        raise invalid_input("Patch the metadata or replace it, not both.", "metadata")
    return Revision(
        name=change.name,
        name_key=None if change.name is None else values.check_name(change.name),
        collection_id=change.collection_id,
        content=_content_of(change, given, content_limit),
        media_type=None if change.media_type is None else values.check_media_type(change.media_type),
        metadata=(
            documents.read_document(change.replace_metadata, field="metadata")
            if "replace_metadata" in given
            else None
        ),
        patch=documents.check_patch(change.metadata, field="metadata") if "metadata" in given else None,
        provenance=(
            documents.read_document(
                change.provenance, field="provenance", limit=documents.MAX_PROVENANCE_BYTES
            )
            if "provenance" in given
            else None
        ),
        produced_by_run=change.produced_by_run,
        expected_digest=change.expected_digest,
        given=given,
    )


def _content_of(change: UpdateArtifact, given: frozenset[str], limit: int) -> Content | None:
    if not given & {"content", "content_base64"}:
        return None
    raw = change.content if isinstance(change.content, bytes) else None
    text = change.content if isinstance(change.content, str) else None
    return values.read_content(text=text, base64_text=change.content_base64, data=raw, limit=limit)
