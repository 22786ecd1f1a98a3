"""L5 rules that turn rows into the views that operations answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.domains.repository.engines.revisions import content_state
from app.domains.repository.models.views import ArtifactView, ChangeView, CollectionView, RevisionView
from app.domains.repository.models.vocabulary import Action
from app.kernel.canonical_json import loads

Row = Mapping[str, Any]


def _parsed(text: str | None) -> Any:
    return None if text is None else loads(text)


def artifact_view(row: Row, *, of_revision: bool = False) -> ArtifactView:
    """Return an artifact with its head, or with the other revision that was read."""
    name, collection_id = row["name"], row["collection_id"]
    if of_revision:
        name, collection_id = row["revision_name"], row["revision_collection_id"]
    return ArtifactView(
        id=row["id"],
        collection_id=collection_id,
        name=name,
        artifact_type=row["artifact_type"],
        version=row["version"],
        head_revision=row["head_revision"],
        revision=row["revision"],
        media_type=row["media_type"],
        size=row["size"],
        content_digest=row["content_digest"],
        content_state=content_state(row),
        metadata=_parsed(row["metadata_text"]),
        metadata_digest=row["metadata_digest"],
        provenance=_parsed(row["provenance"]),
        produced_by_run=row["produced_by_run"],
        revision_digest=row["revision_digest"],
        created_at=row["created_at"],
        created_by=row["created_by"],
        updated_at=row["updated_at"],
        updated_by=row["updated_by"],
        deleted_at=row["deleted_at"],
        deleted_by=row["deleted_by"],
        redacted=row["redaction"],
    )


def past_view(row: Row, change: Row) -> ArtifactView:
    """Return an artifact as a change record left it; `row` shows the revision of that time."""
    # A record that leaves a tombstone names no revision on its new side.
    deleted = change["new_revision"] is None
    since, by = change["occurred_at"], change["actor_id"]
    if change["action"] != Action.DELETED and row["deleted_at"] is not None:
        since, by = row["deleted_at"], row["deleted_by"]
    then = {
        **row,
        "version": change["new_version"],
        "head_revision": row["revision"],
        "updated_at": change["occurred_at"],
        "updated_by": change["actor_id"],
        "deleted_at": since if deleted else None,
        "deleted_by": by if deleted else None,
    }
    return artifact_view(then, of_revision=True)


def change_view(row: Row) -> ChangeView:
    """Return a change record with its two JSON columns read."""
    members = {name: row[name] for name in ChangeView.model_fields}
    return ChangeView(
        **{**members, "changed_fields": loads(row["changed_fields"]), "detail": loads(row["detail"])}
    )


def collection_view(row: Row, planes: Sequence[str]) -> CollectionView:
    """Return a collection with the planes that are bound to it."""
    members = {name: row[name] for name in CollectionView.model_fields if name not in ("metadata", "planes")}
    return CollectionView(**members, metadata=_parsed(row["metadata_text"]), planes=list(planes))


def revision_view(row: Row) -> RevisionView:
    """Return one revision; redacted members are null."""
    parsed = {
        "metadata": _parsed(row["metadata_text"]),
        "provenance": _parsed(row["provenance"]),
        "content_state": content_state(row),
    }
    return RevisionView(
        **{name: row[name] for name in RevisionView.model_fields if name not in parsed}, **parsed
    )
