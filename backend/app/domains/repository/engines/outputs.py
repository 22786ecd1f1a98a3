"""L5 engine of run outputs: at most one producer for each revision, and the records of the links."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.db.connection import DriverConnection
from app.domains.repository.drivers import outputs as driver
from app.domains.repository.engines.changes import ChangeSet
from app.domains.repository.engines.references import Pinned, target_state
from app.domains.repository.engines.values import chunks
from app.domains.repository.errors import already_produced
from app.domains.repository.models.runs import SHOWN_OUTPUTS, RunOutputView, TargetState
from app.domains.repository.models.vocabulary import Action, EntityType

Row = Mapping[str, Any]
# The role of what is written with `produced_by_run`, which names none.
DEFAULT_ROLE = "output"


@dataclass(frozen=True, slots=True)
class Link:
    """A revision that a run is to be the producer of."""

    run_id: str
    artifact_id: str
    revision: int
    revision_digest: str
    role: str = DEFAULT_ROLE
    target_state: TargetState = "live"


def link_to(run_id: str, pinned: Pinned, role: str) -> Link:
    """Return the link from a run to a revision that is there."""
    return Link(
        run_id, pinned.artifact_id, pinned.revision, pinned.revision_digest, role, pinned.target_state
    )


def link_to_head(run_id: str, head: Row, role: str = DEFAULT_ROLE) -> Link:
    """Return the link from a run to the head that it just wrote."""
    return Link(run_id, head["id"], head["head_revision"], head["revision_digest"], role)


def find_link(connection: DriverConnection, link: Link, *, tenant_id: str) -> Row | None:
    """Return the link to the revision of this one, whichever run it is of, None when there is none."""
    found = driver.list_links(connection, tenant_id=tenant_id, refs=[(link.artifact_id, link.revision)])
    return found[0] if found else None


def find_producer(
    connection: DriverConnection, *, tenant_id: str, artifact_id: str, revision: int
) -> str | None:
    """Return the run that brought a revision about, None when no run did."""
    found = driver.list_links(connection, tenant_id=tenant_id, refs=[(artifact_id, revision)])
    return found[0]["run_id"] if found else None


def is_same(link: Link, known: Row) -> bool:
    """Tell whether a link is there already: the same run, in the same role."""
    return bool((known["run_id"], known["role"]) == (link.run_id, link.role))


def check_unproduced(link: Link, known: Row | None) -> bool:
    """Tell whether a link is new (False: it is there already); refuse ALREADY_PRODUCED."""
    if known is None:
        return True
    if not is_same(link, known):
        raise already_produced(link.artifact_id, link.revision, known["run_id"])
    return False


def split_known(
    connection: DriverConnection, *, tenant_id: str, links: Sequence[Link]
) -> tuple[list[Link], dict[tuple[str, int], Row]]:
    """Return the links that are new, and those that are there already; refuse ALREADY_PRODUCED."""
    known: dict[tuple[str, int], Row] = {}
    for part in chunks([(link.artifact_id, link.revision) for link in links]):
        for row in driver.list_links(connection, tenant_id=tenant_id, refs=part):
            known[row["artifact_id"], row["revision"]] = row
    fresh = [link for link in links if check_unproduced(link, known.get((link.artifact_id, link.revision)))]
    return fresh, known


def output_row(link: Link, at: datetime) -> dict[str, Any]:
    """Return the row of a new link, without its fact."""
    return {
        "run_id": link.run_id,
        "artifact_id": link.artifact_id,
        "revision": link.revision,
        "role": link.role,
        "created_at": at,
    }


def record_links(
    change_set: ChangeSet, links: Iterable[Link], *, version: int, new_id: Callable[[str], str]
) -> int:
    """Append one record for each link of one run, from its version on; return its version after them."""
    for link in links:
        change_set.add(
            new_id("chg"),
            EntityType.RUN,
            link.run_id,
            Action.OUTPUT_LINKED,
            old={"version": version},
            new={"version": version + 1},
            changed_fields=["outputs"],
            detail={
                "artifact_id": link.artifact_id,
                "revision": link.revision,
                "revision_digest": link.revision_digest,
                "role": link.role,
            },
        )
        version += 1
    return version


def insert_outputs(connection: DriverConnection, *, tenant_id: str, rows: Sequence[Row]) -> None:
    """Append links."""
    if rows:
        driver.insert_outputs(connection, tenant_id=tenant_id, rows=rows)


def list_outputs(
    connection: DriverConnection, *, tenant_id: str, run_id: str, limit: int | None = None
) -> Sequence[Row]:
    """Return the outputs of a run, with what has become of them, in one order."""
    return driver.list_outputs(connection, tenant_id=tenant_id, run_id=run_id, limit=limit)


def list_shown(
    connection: DriverConnection, *, tenant_id: str, run_id: str
) -> tuple[list[RunOutputView], int]:
    """Return the first 1000 outputs of a run, and how many there are."""
    rows = list_outputs(connection, tenant_id=tenant_id, run_id=run_id, limit=SHOWN_OUTPUTS)
    total = len(rows)
    if total == SHOWN_OUTPUTS:
        total = driver.count_outputs(connection, tenant_id=tenant_id, run_id=run_id)
    return [output_view(row) for row in rows], total


def list_newest(
    connection: DriverConnection, *, tenant_id: str, run_id: str, limit: int
) -> tuple[Sequence[Row], int]:
    """Return the newest outputs of a run, newest first, and how many there are."""
    rows = driver.list_outputs(connection, tenant_id=tenant_id, run_id=run_id, limit=limit, newest=True)
    total = len(rows)
    if total == limit:
        total = driver.count_outputs(connection, tenant_id=tenant_id, run_id=run_id)
    return rows, total


def evidence_item(row: Row, direction: str) -> dict[str, Any]:
    """Return an output or an input as the evidence of a run lists it."""
    names = ("artifact_id", "revision", "revision_digest", "role")
    return {"direction": direction, **{name: row[name] for name in names}, "target_state": target_state(row)}


def output_view(row: Row) -> RunOutputView:
    """Return a link with what has become of its target."""
    members = {name: row[name] for name in RunOutputView.model_fields if name != "target_state"}
    return RunOutputView(**members, target_state=target_state(row))


def link_view(link: Link, at: datetime) -> RunOutputView:
    """Return a link that was just written."""
    return RunOutputView(
        artifact_id=link.artifact_id,
        revision=link.revision,
        revision_digest=link.revision_digest,
        role=link.role,
        created_at=at,
        target_state=link.target_state,
    )
