"""Library: relationships, workflow runs, input bundles and context packages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.domains.repository.models.library import KEEP, Keep
from app.library_face.store import View, given, present


class RelationshipCalls(View):
    """Directed, typed relationships between artifacts, and the graph that they make."""

    def create_relationship(
        self,
        source_id: str,
        target_id: str,
        type: str,  # noqa: A002 - the word of the format
        **members: Any,
    ) -> Any:
        """Create a relationship, at wish pinned to revisions; the types of origin form no cycle."""
        ends = {"source_id": source_id, "target_id": target_id, "type": type}
        return self._call("repository.relationships.create", ends | self._with_reason(members))

    def get_relationship(self, relationship_id: str, *, include_deleted: bool = False) -> Any:
        """Return a relationship."""
        payload = {"relationship_id": relationship_id, "include_deleted": include_deleted}
        return self._call("repository.relationships.get", payload)

    def list_relationships(self, **conditions: Any) -> Any:
        """Return a page of relationships by plain filters, oldest first."""
        return self._call("repository.relationships.list", conditions)

    def query_relationships(self, **conditions: Any) -> Any:
        """Return a page of relationships that meet every condition."""
        return self._call("repository.relationships.query", conditions)

    def count_relationships(self, **conditions: Any) -> int:
        """Return how many relationships meet every condition."""
        return int(self._call("repository.relationships.count", conditions).count)

    def update_relationship(
        self,
        relationship_id: str,
        *,
        expected_version: int | None = None,
        metadata_patch: Mapping[str, Any] | Keep = KEEP,
        **members: Any,
    ) -> Any:
        """Change metadata or provenance; ends and type never change."""
        payload = given(
            relationship_id=relationship_id, **self._with_reason(members), metadata=metadata_patch
        )
        return self._call("repository.relationships.update", payload, expected_version=expected_version)

    def delete_relationship(
        self, relationship_id: str, *, expected_version: int | None = None, reason: str | None = None
    ) -> Any:
        """Make a tombstone of a relationship."""
        payload = {"relationship_id": relationship_id, "reason": self._reason(reason)}
        return self._call("repository.relationships.delete", payload, expected_version=expected_version)

    def lineage(self, artifact_id: str, **options: Any) -> Any:
        """Return what an artifact comes from and what comes from it."""
        return self._call("repository.artifacts.lineage", {"artifact_id": artifact_id, **options})

    def neighbors(self, artifact_id: str, **options: Any) -> Any:
        """Return a page of an artifact's live relationships with the artifacts at their other ends."""
        return self._call("repository.artifacts.neighbors", {"artifact_id": artifact_id, **options})

    def consumers_of(self, artifact_id: str, revision: int, **paging: Any) -> Any:
        """Return a page of the bundles, runs and packages that used a revision."""
        payload = {"artifact_id": artifact_id, "revision": revision, **paging}
        return self._call("repository.revisions.consumers", payload)


class RunCalls(View):
    """Workflow runs with steps, outputs, manifests and input bundles."""

    def create_run(self, operation: str, **members: Any) -> Any:
        """Create a workflow run, pending."""
        return self._call("repository.runs.create", {"operation": operation, **members})

    def get_run(self, run_id: str) -> Any:
        """Return a workflow run with its outputs."""
        return self._call("repository.runs.get", {"run_id": run_id})

    def list_runs(self, **conditions: Any) -> Any:
        """Return a page of workflow runs, oldest first."""
        return self._call("repository.runs.list", conditions)

    def list_resumable(self, **paging: Any) -> Any:
        """Return a page of running and waiting runs that no worker holds."""
        return self._call("repository.runs.resumable", paging)

    def transition_run(self, run_id: str, status: str, **members: Any) -> Any:
        """Take a run to another status; the same status again changes nothing."""
        payload = {"run_id": run_id, "status": status} | self._with_reason(members)
        return self._call("repository.runs.transition", payload)

    def claim_run(self, run_id: str, *, worker: str, lease_seconds: int) -> Any:
        """Hold a run for some seconds, or hold it longer."""
        payload = {"run_id": run_id, "worker": worker, "lease_seconds": lease_seconds}
        return self._call("repository.runs.claim", payload)

    def release_run(self, run_id: str, *, worker: str) -> Any:
        """Let a run go."""
        return self._call("repository.runs.release", {"run_id": run_id, "worker": worker})

    def publish_run(self, run_id: str, **members: Any) -> Any:
        """Write everything that a run brings about, in one transaction."""
        return self._call("repository.runs.publish", {"run_id": run_id} | self._with_reason(members))

    def put_step(self, run_id: str, step_id: str, **members: Any) -> Any:
        """Make or change a step; what is not given stays."""
        return self._call("repository.steps.put", {"run_id": run_id, "step_id": step_id, **members})

    def list_steps(self, run_id: str, **paging: Any) -> Any:
        """Return a page of a run's steps, by position."""
        return self._call("repository.steps.list", {"run_id": run_id, **paging})

    def add_run_output(self, run_id: str, artifact_id: str, revision: int, role: str) -> Any:
        """Link a revision to the run that brought it about."""
        payload = {"run_id": run_id, "artifact_id": artifact_id, "revision": revision, "role": role}
        return self._call("repository.outputs.add", payload)

    def seal_manifest(self, run_id: str, **members: Any) -> Any:
        """Seal the manifest of a run that has ended."""
        return self._call("repository.manifests.seal", present({"run_id": run_id, **members}))

    def get_manifest(self, run_id: str) -> Any:
        """Return the sealed manifest of a run."""
        return self._call("repository.manifests.get", {"run_id": run_id})

    def create_bundle(self, items: Sequence[Mapping[str, Any]]) -> Any:
        """Return the bundle of these inputs, made now or there before."""
        return self._call("repository.bundles.create", {"items": list(items)})

    def get_bundle(self, bundle_id: str) -> Any:
        """Return a bundle by id or digest."""
        return self._call("repository.bundles.get", {"bundle_id": bundle_id})


class PackageCalls(View):
    """Immutable context packages."""

    def create_context_package(
        self, name: str, items: Sequence[Mapping[str, Any]] = (), **members: Any
    ) -> Any:
        """Create a package; the order of its items is part of its digest."""
        payload = {"name": name, "items": list(items), **members}
        return self._call("repository.context_packages.create", payload)

    def get_context_package(self, package_id: str, *, resolve: bool = False) -> Any:
        """Return a package; `resolve` tells what has become of each item."""
        payload = {"package_id": package_id, "resolve": resolve}
        return self._call("repository.context_packages.get", payload)

    def list_context_packages(self, **conditions: Any) -> Any:
        """Return a page of packages, oldest first."""
        return self._call("repository.context_packages.list", conditions)

    def context_for_artifact(self, artifact_id: str, **members: Any) -> Any:
        """Create a package of an artifact, its live relationships and its producing run."""
        return self._call("repository.context_packages.for_artifact", {"artifact_id": artifact_id, **members})
