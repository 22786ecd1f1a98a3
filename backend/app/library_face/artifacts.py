"""Library: artifacts, their revisions, the change feed and collections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from app.domains.repository.models.library import KEEP, Keep
from app.domains.repository.models.views import (
    ArtifactDeleted,
    ArtifactRestored,
    ArtifactUpdated,
    ArtifactView,
    BulkResult,
    ChangePage,
    CollectionDeleted,
    CollectionView,
    RevisionDiff,
    RevisionView,
)
from app.kernel.pages import Page
from app.library_face.store import View, content_members, given


class ArtifactCalls(View):
    """Artifacts and their history."""

    def create_artifact(
        self,
        collection_id: str | None,
        name: str,
        artifact_type: str,
        *,
        id: str | None = None,  # noqa: A002 - the word of the format
        content: str | bytes | None = None,
        media_type: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        provenance: Mapping[str, Any] | None = None,
        produced_by_run: str | None = None,
        expected_digest: str | None = None,
        reason: str | None = None,
    ) -> ArtifactView:
        """Create an artifact with its first revision; without a collection in `default`."""
        view: ArtifactView = self._call(
            "repository.artifacts.create",
            {
                "id": id,
                "collection_id": collection_id,
                "name": name,
                "artifact_type": artifact_type,
                **content_members(content),
                "media_type": media_type,
                "metadata": {} if metadata is None else metadata,
                "provenance": {} if provenance is None else provenance,
                "produced_by_run": produced_by_run,
                "expected_digest": expected_digest,
                "reason": self._reason(reason),
            },
        )
        return view

    def create_artifacts(
        self,
        items: Sequence[Mapping[str, Any]],
        *,
        collection_id: str | None = None,
        on_existing: Literal["refuse", "update"] = "refuse",
        reason: str | None = None,
    ) -> BulkResult:
        """Create many artifacts, all or nothing; items have the members of `create_artifact`."""
        payload = {
            "items": [
                {name: value for name, value in item.items() if name != "content"}
                | (content_members(item["content"]) if "content" in item else {})
                for item in items
            ],
            "collection_id": collection_id,
            "on_existing": on_existing,
            "reason": self._reason(reason),
        }
        result: BulkResult = self._call("repository.artifacts.create_bulk", payload)
        return result

    def get_artifact(
        self,
        artifact_id: str,
        *,
        revision: int | None = None,
        as_of: int | datetime | None = None,
        include_deleted: bool = False,
    ) -> ArtifactView:
        """Return an artifact now, at a revision, or as it was at a change number or an aware time."""
        moment = "as_of" if isinstance(as_of, datetime) else "as_of_seq"
        view: ArtifactView = self._call(
            "repository.artifacts.get",
            {
                "artifact_id": artifact_id,
                "revision": revision,
                moment: as_of,
                "include_deleted": include_deleted,
            },
        )
        return view

    def get_content(self, artifact_id: str, revision: int | None = None) -> bytes | None:
        """Return the bytes of the head or of a revision, hashed again; None when it has none."""
        if revision is None:
            answer = self._call("repository.artifacts.content", {"artifact_id": artifact_id})
        else:
            answer = self._call(
                "repository.revisions.content", {"artifact_id": artifact_id, "revision": revision}
            )
        content: bytes | None = answer.content
        return content

    def update_artifact(
        self,
        artifact_id: str,
        *,
        expected_version: int | None = None,
        content: str | bytes | Keep | None = KEEP,
        metadata: Mapping[str, Any] | Keep = KEEP,
        metadata_patch: Mapping[str, Any] | Keep = KEEP,
        name: str | Keep = KEEP,
        collection_id: str | Keep = KEEP,
        media_type: str | Keep | None = KEEP,
        provenance: Mapping[str, Any] | Keep = KEEP,
        produced_by_run: str | None = None,
        expected_digest: str | None = None,
        reason: str | None = None,
    ) -> ArtifactUpdated:
        """Change an artifact; what is KEEP stays, and what changes nothing writes nothing."""
        payload = given(
            artifact_id=artifact_id,
            replace_metadata=metadata,
            metadata=metadata_patch,
            name=name,
            collection_id=collection_id,
            media_type=media_type,
            provenance=provenance,
            produced_by_run=produced_by_run,
            expected_digest=expected_digest,
            reason=self._reason(reason),
        )
        if not isinstance(content, Keep):
            payload |= content_members(content)
        answer: ArtifactUpdated = self._call(
            "repository.artifacts.update", payload, expected_version=expected_version
        )
        return answer

    def delete_artifact(
        self,
        artifact_id: str,
        *,
        expected_version: int | None = None,
        mode: Literal["restrict", "detach"] = "restrict",
        reason: str | None = None,
    ) -> ArtifactDeleted:
        """Make a tombstone of an artifact; `detach` removes its live relationships too."""
        answer: ArtifactDeleted = self._call(
            "repository.artifacts.delete",
            {"artifact_id": artifact_id, "mode": mode, "reason": self._reason(reason)},
            expected_version=expected_version,
        )
        return answer

    def restore_artifact(
        self,
        artifact_id: str,
        *,
        expected_version: int | None = None,
        new_name: str | None = None,
        with_relationships: bool = False,
        reason: str | None = None,
    ) -> ArtifactRestored:
        """Bring a deleted artifact back."""
        payload = {
            "artifact_id": artifact_id,
            "new_name": new_name,
            "with_relationships": with_relationships,
            "reason": self._reason(reason),
        }
        answer: ArtifactRestored = self._call(
            "repository.artifacts.restore", payload, expected_version=expected_version
        )
        return answer

    def redact_artifact(
        self,
        artifact_id: str,
        *,
        reason: str,
        legal_basis: str,
        revisions: Sequence[int] | Literal["all"] = "all",
        shared: Literal["refuse", "redact", "keep"] = "refuse",
        block_reupload: bool = False,
        expected_version: int | None = None,
    ) -> Any:
        """Destroy content, metadata and names of revisions; digests and the chain stay."""
        payload = {
            "artifact_id": artifact_id,
            "revisions": revisions if isinstance(revisions, str) else list(revisions),
            "reason": reason,
            "legal_basis": legal_basis,
            "shared": shared,
            "block_reupload": block_reupload,
        }
        return self._call("repository.artifacts.redact", payload, expected_version=expected_version)

    def list_artifacts(self, **conditions: Any) -> Page[ArtifactView]:
        """Return a page of artifacts by plain filters, oldest first."""
        page: Page[ArtifactView] = self._call("repository.artifacts.list", conditions)
        return page

    def query_artifacts(self, **conditions: Any) -> Page[ArtifactView]:
        """Return a page of artifacts that meet every condition: text, metadata, relations, times."""
        page: Page[ArtifactView] = self._call("repository.artifacts.query", conditions)
        return page

    def count_artifacts(self, **conditions: Any) -> int:
        """Return how many artifacts meet every condition."""
        return int(self._call("repository.artifacts.count", conditions).count)

    def list_revisions(self, artifact_id: str, **paging: Any) -> Page[RevisionView]:
        """Return a page of an artifact's revisions, first to last."""
        page: Page[RevisionView] = self._call(
            "repository.revisions.list", {"artifact_id": artifact_id, **paging}
        )
        return page

    def get_revision(self, artifact_id: str, revision: int) -> RevisionView:
        """Return one revision."""
        view: RevisionView = self._call(
            "repository.revisions.get", {"artifact_id": artifact_id, "revision": revision}
        )
        return view

    def diff_revisions(
        self, artifact_id: str, from_revision: int, to_revision: int, *, text: bool = False
    ) -> RevisionDiff:
        """Return the difference of two revisions; `text` asks for a unified diff."""
        payload = {"artifact_id": artifact_id, "from": from_revision, "to": to_revision, "text": text}
        answer: RevisionDiff = self._call("repository.revisions.diff", payload)
        return answer

    def producer_of(self, artifact_id: str, revision: int) -> str | None:
        """Return the id of the run whose output a revision is; None without one."""
        return self.get_revision(artifact_id, revision).produced_by

    def list_changes(self, **conditions: Any) -> ChangePage:
        """Return a stretch of the change feed after `since_seq`."""
        page: ChangePage = self._call("repository.changes.list", conditions)
        return page

    def create_collection(
        self,
        name: str,
        *,
        id: str | None = None,  # noqa: A002
        description: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> CollectionView:
        """Create a collection."""
        payload = {
            "id": id,
            "name": name,
            "description": description,
            "metadata": {} if metadata is None else metadata,
        }
        view: CollectionView = self._call("repository.collections.create", payload)
        return view

    def get_collection(self, collection_id: str, *, include_deleted: bool = False) -> CollectionView:
        """Return a collection."""
        payload = {"collection_id": collection_id, "include_deleted": include_deleted}
        view: CollectionView = self._call("repository.collections.get", payload)
        return view

    def list_collections(self, **conditions: Any) -> Page[CollectionView]:
        """Return a page of collections, oldest first."""
        page: Page[CollectionView] = self._call("repository.collections.list", conditions)
        return page

    def update_collection(
        self,
        collection_id: str,
        *,
        expected_version: int | None = None,
        name: str | Keep = KEEP,
        description: str | Keep | None = KEEP,
        metadata_patch: Mapping[str, Any] | Keep = KEEP,
    ) -> CollectionView:
        """Change a collection; what is KEEP stays."""
        payload = given(
            collection_id=collection_id, name=name, description=description, metadata=metadata_patch
        )
        view: CollectionView = self._call(
            "repository.collections.update", payload, expected_version=expected_version
        )
        return view

    def delete_collection(
        self, collection_id: str, *, expected_version: int | None = None, reason: str | None = None
    ) -> CollectionDeleted:
        """Delete an empty collection."""
        answer: CollectionDeleted = self._call(
            "repository.collections.delete",
            {"collection_id": collection_id, "reason": self._reason(reason)},
            expected_version=expected_version,
        )
        return answer
