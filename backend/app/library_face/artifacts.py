"""Library: artifacts, revisions, the change feed, collections; `KnowledgeRepository` has the signatures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from app.domains.repository.models.library import KEEP, Keep
from app.library_face.store import View, content_members, given, present


class ArtifactCalls(View):
    """Artifacts and their history."""

    def create_artifact(
        self, collection_id: str | None, name: str, artifact_type: str, **members: Any
    ) -> Any:
        """Create an artifact with its first revision; without a collection in `default`."""
        named = {"collection_id": collection_id, "name": name, "artifact_type": artifact_type}
        payload = self._with_reason(named | _with_content(members))
        return self._call("repository.artifacts.create", present(payload))

    def create_artifacts(self, items: Sequence[Mapping[str, Any]], **options: Any) -> Any:
        """Create many artifacts, all or nothing; items have the members of `create_artifact`."""
        payload = self._with_reason(options) | {"items": [_with_content(item) for item in items]}
        return self._call("repository.artifacts.create_bulk", payload)

    def get_artifact(self, artifact_id: str, *, as_of: int | datetime | None = None, **options: Any) -> Any:
        """Return an artifact now, at a revision, or as it was at a change number or an aware time."""
        moment = "as_of" if isinstance(as_of, datetime) else "as_of_seq"
        payload = {"artifact_id": artifact_id, moment: as_of, **options}
        return self._call("repository.artifacts.get", payload)

    def get_content(self, artifact_id: str, revision: int | None = None) -> Any:
        """Return the bytes of the head or of a revision, hashed again; None when it has none."""
        if revision is None:
            return self._call("repository.artifacts.content", {"artifact_id": artifact_id}).content
        payload = {"artifact_id": artifact_id, "revision": revision}
        return self._call("repository.revisions.content", payload).content

    def update_artifact(
        self, artifact_id: str, *, expected_version: int | None = None, **members: Any
    ) -> Any:
        """Change an artifact; what is KEEP stays, and what changes nothing writes nothing."""
        wish = _with_content(given(**members))
        # The operation patches what is called metadata; here that word replaces it.
        for ours, theirs in (("metadata", "replace_metadata"), ("metadata_patch", "metadata")):
            if ours in wish:
                wish[theirs] = wish.pop(ours)
        payload = self._with_reason({"artifact_id": artifact_id, **wish})
        return self._call("repository.artifacts.update", payload, expected_version=expected_version)

    def delete_artifact(
        self, artifact_id: str, *, expected_version: int | None = None, **options: Any
    ) -> Any:
        """Make a tombstone of an artifact; `mode="detach"` removes its live relationships too."""
        payload = self._with_reason({"artifact_id": artifact_id, **options})
        return self._call("repository.artifacts.delete", payload, expected_version=expected_version)

    def restore_artifact(
        self, artifact_id: str, *, expected_version: int | None = None, **options: Any
    ) -> Any:
        """Bring a deleted artifact back."""
        payload = self._with_reason({"artifact_id": artifact_id, **options})
        return self._call("repository.artifacts.restore", payload, expected_version=expected_version)

    def redact_artifact(
        self, artifact_id: str, *, expected_version: int | None = None, **options: Any
    ) -> Any:
        """Destroy content, metadata and names of revisions; digests and the chain stay."""
        payload = {"artifact_id": artifact_id, "revisions": "all", **options}
        return self._call("repository.artifacts.redact", payload, expected_version=expected_version)

    def list_artifacts(self, **conditions: Any) -> Any:
        """Return a page of artifacts by plain filters, oldest first."""
        return self._call("repository.artifacts.list", conditions)

    def query_artifacts(self, **conditions: Any) -> Any:
        """Return a page of artifacts that meet every condition: text, metadata, relations, times."""
        return self._call("repository.artifacts.query", conditions)

    def count_artifacts(self, **conditions: Any) -> int:
        """Return how many artifacts meet every condition."""
        return int(self._call("repository.artifacts.count", conditions).count)

    def list_revisions(self, artifact_id: str, **paging: Any) -> Any:
        """Return a page of an artifact's revisions, first to last."""
        return self._call("repository.revisions.list", {"artifact_id": artifact_id, **paging})

    def get_revision(self, artifact_id: str, revision: int) -> Any:
        """Return one revision."""
        payload = {"artifact_id": artifact_id, "revision": revision}
        return self._call("repository.revisions.get", payload)

    def diff_revisions(
        self, artifact_id: str, from_revision: int, to_revision: int, *, text: bool = False
    ) -> Any:
        """Return the difference of two revisions; `text` asks for a unified diff."""
        payload = {"artifact_id": artifact_id, "from": from_revision, "to": to_revision, "text": text}
        return self._call("repository.revisions.diff", payload)

    def producer_of(self, artifact_id: str, revision: int) -> Any:
        """Return the id of the run whose output a revision is; None without one."""
        return self.get_revision(artifact_id, revision).produced_by

    def list_changes(self, **conditions: Any) -> Any:
        """Return a stretch of the change feed after `since_seq`."""
        return self._call("repository.changes.list", conditions)

    def create_collection(self, name: str, **members: Any) -> Any:
        """Create a collection."""
        return self._call("repository.collections.create", present({"name": name, **members}))

    def get_collection(self, collection_id: str, *, include_deleted: bool = False) -> Any:
        """Return a collection."""
        payload = {"collection_id": collection_id, "include_deleted": include_deleted}
        return self._call("repository.collections.get", payload)

    def list_collections(self, **conditions: Any) -> Any:
        """Return a page of collections, oldest first."""
        return self._call("repository.collections.list", conditions)

    def update_collection(
        self,
        collection_id: str,
        *,
        expected_version: int | None = None,
        metadata_patch: Mapping[str, Any] | Keep = KEEP,
        name: str | Keep = KEEP,
        description: str | Keep | None = KEEP,
    ) -> Any:
        """Change a collection; what is KEEP stays."""
        payload = given(
            collection_id=collection_id, name=name, description=description, metadata=metadata_patch
        )
        return self._call("repository.collections.update", payload, expected_version=expected_version)

    def delete_collection(
        self, collection_id: str, *, expected_version: int | None = None, **options: Any
    ) -> Any:
        """Delete an empty collection."""
        payload = self._with_reason({"collection_id": collection_id, **options})
        return self._call("repository.collections.delete", payload, expected_version=expected_version)


def _with_content(members: Mapping[str, Any]) -> dict[str, Any]:
    """Return members with their content in the form in which it crosses as JSON."""
    rest = {name: value for name, value in members.items() if name != "content"}
    return rest | content_members(members["content"]) if "content" in members else rest
