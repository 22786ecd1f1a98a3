"""L5 rules of a publication: what a run creates, changes and links, checked before a row is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from app.domains.repository.engines import bulk, drafts, writing
from app.domains.repository.engines.artifacts import check_live
from app.domains.repository.engines.bulk import Place, Surroundings
from app.domains.repository.engines.collections import check_sealed
from app.domains.repository.engines.drafts import Draft, Revision
from app.domains.repository.engines.manifests import Statement, read_manifest
from app.domains.repository.engines.operation_runs import check_failure
from app.domains.repository.engines.outputs import Link, link_to
from app.domains.repository.engines.references import Pinned, Ref
from app.domains.repository.engines.writing import Wanted
from app.domains.repository.errors import (
    bulk_refused,
    duplicate_name,
    invalid_input,
    item_not_found,
    not_found,
    too_large,
    version_mismatch,
)
from app.domains.repository.models.inputs import UpdateArtifact
from app.domains.repository.models.runs import OutputRef, PublishedArtifact, PublishedUpdate, PublishRun
from app.domains.repository.models.vocabulary import DEFAULT_COLLECTION
from app.kernel.errors import HocError

Row = Mapping[str, Any]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Change:
    """A wanted change of an artifact that is there."""

    artifact_id: str
    expected_version: int | None
    role: str
    wish: Revision


@dataclass(frozen=True, slots=True)
class ChangeStep:
    """A change with the head that it meets and the state that it brings about."""

    change: Change
    row: Row
    wanted: Wanted

    @property
    def moves(self) -> bool:
        """Whether the artifact takes another name or collection."""
        return not {"name", "collection_id"}.isdisjoint(self.wanted.changed)

    @property
    def place(self) -> Place:
        """Where the artifact is to be found afterwards."""
        return self.wanted.collection_id, self.wanted.name_key

    @property
    def rereads(self) -> bool:
        """Whether the index needs bytes that are stored already."""
        return self.wanted.reindex and self.change.wish.content is None


@dataclass(frozen=True, slots=True)
class Publication:
    """A publication, checked for shape; `roles` are those of the creates, in order."""

    creates: Sequence[tuple[str, Draft]]
    roles: Sequence[str]
    changes: Sequence[Change]
    outputs: Sequence[OutputRef]
    manifest: Statement | None

    @property
    def brings_outputs(self) -> bool:
        """Whether the run must be one that brings about outputs."""
        return bool(self.creates or self.changes or self.outputs)


def read_publication(
    request: PublishRun, *, content_limit: int, item_limit: int, byte_limit: int
) -> Publication:
    """Return the publication; refuse every shape error, an empty one, and TOO_LARGE."""
    check_failure(request.status, request.error_code, request.error_message)
    count = len(request.artifacts) + len(request.updates) + len(request.outputs)
    if count == 0 and request.status is None and request.manifest is None:
        raise invalid_input("There is nothing to publish.")
    if count > item_limit:
        raise too_large(item_limit, count, "The number of items")
    changed = [item.artifact_id for item in request.updates]
    if len(set(changed)) < len(changed):
        raise invalid_input("An artifact is changed more than once.", "updates")
    linked = [(item.artifact_id, item.revision) for item in request.outputs]
    if len(set(linked)) < len(linked):
        raise invalid_input("A revision is linked more than once.", "outputs")
    creates = each(
        "artifacts", request.artifacts, lambda item: _read_create(item, request.run_id, content_limit)
    )
    changes = each("updates", request.updates, lambda item: _read_change(item, request.run_id, content_limit))
    contents = [draft.content for _, draft in creates] + [change.wish.content for change in changes]
    size = sum((content.size or 0) for content in contents if content is not None)
    if size > byte_limit:
        raise too_large(byte_limit, size, "The content of all items")
    return Publication(
        creates=creates,
        roles=[item.role for item in request.artifacts],
        changes=changes,
        outputs=request.outputs,
        manifest=None if request.manifest is None else read_manifest(request.manifest),
    )


def each(member: str, items: Sequence[T], act: Callable[[T], R]) -> list[R]:
    """Return what `act` makes of each item; refuse all for any, with member and index of up to 100."""
    made: list[R] = []
    errors: list[tuple[int, HocError]] = []
    for index, item in enumerate(items):
        try:
            made.append(act(item))
        except HocError as error:
            errors.append((index, error))
    if errors:
        shown = [
            {"member": member, **bulk.error_item(index, error)}
            for index, error in errors[: bulk.SHOWN_ERRORS]
        ]
        raise bulk_refused(errors[0][1], shown)
    return made


def _read_create(item: PublishedArtifact, run_id: str, limit: int) -> tuple[str, Draft]:
    if item.produced_by_run not in (None, run_id):
        raise invalid_input("What a run publishes is produced by that run.", "produced_by_run")
    draft = drafts.read_item(item, content_limit=limit)
    return draft.collection_id or DEFAULT_COLLECTION, replace(draft, produced_by_run=run_id)


def _read_change(item: PublishedUpdate, run_id: str, limit: int) -> Change:
    given = item.model_dump(exclude_unset=True, exclude={"expected_version", "role"})
    wish = drafts.read_update(UpdateArtifact(**given), content_limit=limit)
    return Change(item.artifact_id, item.expected_version, item.role, replace(wish, produced_by_run=run_id))


def plan_changes(changes: Sequence[Change], heads: Mapping[str, Row]) -> list[ChangeStep]:
    """Return what each change makes of its head; refuse ARTIFACT_NOT_FOUND, GONE and VERSION_MISMATCH."""
    return each("updates", changes, lambda change: _plan(change, heads))


def _plan(change: Change, heads: Mapping[str, Row]) -> ChangeStep:
    row = heads.get(change.artifact_id)
    if row is None:
        raise not_found("ARTIFACT")
    check_live(row)
    if change.expected_version not in (None, row["version"]):
        raise version_mismatch(row["version"])
    return ChangeStep(change, row, writing.decide_update(row, change.wish))


def check_changes(steps: Sequence[ChangeStep], around: Surroundings, taken: set[Place]) -> None:
    """Refuse changes that cannot be written: seals, places, digests and blocked bytes.

    A place counts as free only when it is free before: `taken` are those of what is created beside them.
    """
    each("updates", steps, lambda step: _check(step, around, taken))


def _check(step: ChangeStep, around: Surroundings, taken: set[Place]) -> None:
    wish, wanted = step.change.wish, step.wanted
    for collection_id in (step.row["collection_id"], wanted.collection_id):
        check_sealed(around.sealed, collection_id)
    if step.moves:
        around.known.check_live(wanted.collection_id)
        holder = around.holders.get(step.place)
        if step.place in taken or (holder is not None and holder["id"] != step.row["id"]):
            raise duplicate_name(None if holder is None else holder["id"])
        taken.add(step.place)
    writing.check_digest(wish.expected_digest, wanted.content_digest)
    if wanted.changed and wish.content is not None:
        writing.check_blocked(wish.content.digest, around.blobs.get(wish.content.digest or ""))


def read_links(run_id: str, refs: Sequence[OutputRef], pinned: Mapping[Ref, Pinned]) -> list[Link]:
    """Return the links to revisions that are there; refuse REFERENCE_NOT_FOUND with the position."""
    links = []
    for position, ref in enumerate(refs):
        found = pinned.get((ref.artifact_id, ref.revision))
        if found is None:
            raise item_not_found("outputs", position)
        links.append(link_to(run_id, found, ref.role))
    return links
