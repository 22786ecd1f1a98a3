"""L5 engine of bulk creation: looks everything up in sets, then decides item by item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.db.connection import DriverConnection
from app.domains.repository.drivers import artifacts as driver
from app.domains.repository.engines import writing
from app.domains.repository.engines.collections import Known, check_sealed
from app.domains.repository.engines.drafts import Draft, as_revision
from app.domains.repository.engines.operation_runs import check_producer
from app.domains.repository.engines.values import chunks
from app.domains.repository.engines.writing import Wanted
from app.domains.repository.errors import bulk_refused, duplicate_id, duplicate_name, immutable_field
from app.kernel.errors import HocError

SHOWN_ERRORS = 100
Row = Mapping[str, Any]
Place = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the items of a bulk call meet: collections, seals, producing runs, ids, names, bytes."""

    known: Known
    sealed: frozenset[str]
    producers: Mapping[str, str]
    used_ids: frozenset[str]
    holders: Mapping[Place, Row]
    blobs: Mapping[str, Row]


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be done for one item: a creation, or (with `row`) an update that may change nothing."""

    draft: Draft
    collection_id: str
    row: Row | None = None
    wanted: Wanted | None = None


def list_used_ids(
    connection: DriverConnection, *, tenant_id: str, artifact_ids: Sequence[str]
) -> frozenset[str]:
    """Return which of these ids were ever used."""
    return frozenset(
        identifier
        for part in chunks(artifact_ids)
        for identifier in driver.list_known_ids(connection, tenant_id=tenant_id, artifact_ids=part)
    )


def list_holders(
    connection: DriverConnection, *, tenant_id: str, places: Sequence[Place]
) -> dict[Place, Row]:
    """Return the live heads at these (collection, name key) places."""
    return {
        (row["collection_id"], row["name_key"]): row
        for part in chunks(places)
        for row in driver.list_live_by_name(connection, tenant_id=tenant_id, places=part)
    }


def decide_items(items: Sequence[tuple[str, Draft]], around: Surroundings, *, update: bool) -> list[Step]:
    """Return what to do for each (collection, draft); refuse all of them for any one that cannot be done.

    With `update`, an item whose name is live changes the artifact that bears it.
    """
    steps: list[Step] = []
    errors: list[HocError] = []
    shown: list[dict[str, Any]] = []
    seen: set[str | Place] = set()
    for index, (collection_id, draft) in enumerate(items):
        try:
            steps.append(_decide(collection_id, draft, around, seen, update=update))
        except HocError as error:
            errors.append(error)
            shown.append(error_item(index, error))
    if errors:
        raise bulk_refused(errors[0], shown[:SHOWN_ERRORS])
    return steps


def error_item(index: int, error: HocError) -> dict[str, Any]:
    """Return one entry of `errors[]`."""
    return {"index": index, "code": error.code, "detail": error.detail}


def _decide(
    collection_id: str, draft: Draft, around: Surroundings, seen: set[str | Place], *, update: bool
) -> Step:
    around.known.check_live(collection_id)
    check_sealed(around.sealed, collection_id)
    check_producer(draft.produced_by_run, around.producers)
    place = (collection_id, draft.name_key)
    holder = around.holders.get(place)
    replaces = update and holder is not None and draft.id in (None, holder["id"])
    if draft.id is not None:
        if draft.id in seen or (draft.id in around.used_ids and not replaces):
            raise duplicate_id(draft.id)
        seen.add(draft.id)
    if place in seen or (holder is not None and not replaces):
        raise duplicate_name(holder["id"] if holder is not None else None)
    seen.add(place)
    step = Step(draft, collection_id)
    if replaces and holder is not None:
        if draft.artifact_type != holder["artifact_type"]:
            raise immutable_field("artifact_type")
        step = Step(draft, collection_id, holder, writing.decide_update(holder, as_revision(draft)))
    resulting = step.wanted.content_digest if step.wanted else draft.content.digest
    writing.check_digest(draft.expected_digest, resulting)
    writing.check_blocked(draft.content.digest, around.blobs.get(draft.content.digest or ""))
    return step
