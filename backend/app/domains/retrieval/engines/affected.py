"""Retrieval L5: the blast radius of a document: which runs were given it, and what they were given of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeVar

from app.db.connection import DriverConnection
from app.domains.retrieval.drivers import affected as driver
from app.domains.retrieval.errors import invalid_query
from app.domains.retrieval.models import AffectedRuns

SHOWN_IDS: Final = 20
CHUNK: Final = 500
MAX_RUNS: Final = 10_000
Place = tuple[str, int]
T = TypeVar("T")


@dataclass(slots=True)
class Affected:
    """One run that was given a document, directly or through what another run made of it."""

    run_id: str
    access_count: int
    first_at: datetime
    last_at: datetime
    depth: int
    revisions: list[int] = field(default_factory=list)
    evidence_ids: list[str] = field(default_factory=list)


def check_question(asked: AffectedRuns) -> None:
    """Refuse INVALID_QUERY unless exactly one of artifact_id, doc_ref and digest names the document."""
    if sum(name is not None for name in (asked.artifact_id, asked.doc_ref, asked.digest)) != 1:
        raise invalid_query("Name the document by exactly one of artifact_id, doc_ref, digest.")
    if asked.revision is not None and asked.artifact_id is None:
        raise invalid_query("revision belongs to artifact_id.")
    if asked.depth > 1 and asked.cursor is not None:
        raise invalid_query("An answer of more than one level has no pages.")


def list_direct(
    connection: DriverConnection,
    asked: AffectedRuns,
    *,
    tenant_id: str,
    after: tuple[datetime, str] | None,
    limit: int,
) -> list[Affected]:
    """Return the runs that were given the document itself, by first access and id."""
    rows = driver.list_runs(
        connection,
        tenant_id=tenant_id,
        doc_ref=asked.artifact_id or asked.doc_ref,
        revision=asked.revision,
        digest=asked.digest,
        of_repository=asked.artifact_id is not None,
        after=after,
        limit=limit,
    )
    return [Affected(**row, depth=1) for row in rows]


def list_indirect(
    connection: DriverConnection, places: Sequence[Place], *, tenant_id: str, depth: int
) -> list[Affected]:
    """Return the runs that were given one of these revisions, by first access and id."""
    found: dict[str, Affected] = {}
    for part in chunks(places):
        for row in driver.list_runs_of_places(connection, tenant_id=tenant_id, places=part):
            run = Affected(**row, depth=depth)
            known = found.setdefault(run.run_id, run)
            if known is not run:
                known.access_count += run.access_count
                known.first_at = min(known.first_at, run.first_at)
                known.last_at = max(known.last_at, run.last_at)
    return sorted(found.values(), key=lambda run: (run.first_at, run.run_id))


def add_accesses(
    connection: DriverConnection,
    runs: Sequence[Affected],
    asked: AffectedRuns,
    *,
    tenant_id: str,
    places: Sequence[Place] = (),
) -> None:
    """Add to each run the revisions that it was given, and its first evidence ids."""
    by_id = {run.run_id: run for run in runs}
    for ids in chunks(list(by_id)):
        for part in chunks(places) if places else [()]:
            rows = driver.list_accesses(
                connection,
                tenant_id=tenant_id,
                run_ids=ids,
                doc_ref=asked.artifact_id or asked.doc_ref,
                revision=asked.revision if not places else None,
                digest=asked.digest,
                places=part,
                most=SHOWN_IDS,
            )
            for row in rows:
                run = by_id[row["run_id"]]
                if row["revision"] is not None and row["revision"] not in run.revisions:
                    run.revisions.append(row["revision"])
                if row["number"] <= SHOWN_IDS and row["evidence_id"] not in run.evidence_ids:
                    run.evidence_ids.append(row["evidence_id"])
    for run in runs:
        run.revisions.sort()
        run.evidence_ids = sorted(run.evidence_ids)[:SHOWN_IDS]


def chunks(items: Iterable[T]) -> Iterator[list[T]]:
    """Yield the items 500 at a time."""
    waiting = list(items)
    for start in range(0, len(waiting), CHUNK):
        yield waiting[start : start + CHUNK]
