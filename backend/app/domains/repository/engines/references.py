"""L5 engine that pins what runs, bundles and packages point at: revisions, or the heads of this moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.db.connection import DriverConnection
from app.domains.repository.drivers import references as driver
from app.domains.repository.engines.artifacts import MAX_REVISION
from app.domains.repository.engines.values import chunks, is_id
from app.domains.repository.models.runs import TargetState

Row = Mapping[str, Any]
# An artifact and a revision of it; no revision is the head of this moment.
Ref = tuple[str, int | None]


@dataclass(frozen=True, slots=True)
class Pinned:
    """A revision that is there, with what has become of it."""

    artifact_id: str
    revision: int
    revision_digest: str
    target_state: TargetState


def target_state(row: Row) -> TargetState:
    """Return what has become of the target of a link (of `redaction` and `deleted_at`)."""
    if row["redaction"] is not None:
        return "redacted"
    return "live" if row["deleted_at"] is None else "deleted"


def pin(connection: DriverConnection, *, tenant_id: str, refs: Sequence[Ref]) -> dict[Ref, Pinned]:
    """Return the revision behind each reference; unknown and foreign ones are absent.

    A revision of a deleted artifact is there; a deleted artifact has no head to pin.
    """
    found: dict[Ref, Pinned] = {}
    named = [ref for ref in dict.fromkeys(refs) if is_id(ref[0])]
    exact = [(name, number) for name, number in named if number is not None and 1 <= number <= MAX_REVISION]
    for part in chunks(exact):
        for row in driver.list_revisions(connection, tenant_id=tenant_id, refs=part):
            found[row["artifact_id"], row["revision"]] = _pinned(row)
    heads = [name for name, number in named if number is None]
    for names in chunks(heads):
        for row in driver.list_head_revisions(connection, tenant_id=tenant_id, artifact_ids=names):
            found[row["artifact_id"], None] = _pinned(row)
    return found


def list_heads(
    connection: DriverConnection, *, tenant_id: str, artifact_ids: Sequence[str]
) -> dict[str, Row]:
    """Return those of these artifacts that exist, deleted or not, with their heads."""
    return {
        row["id"]: row
        for part in chunks([name for name in dict.fromkeys(artifact_ids) if is_id(name)])
        for row in driver.list_heads(connection, tenant_id=tenant_id, artifact_ids=part)
    }


def list_relationship_ids(
    connection: DriverConnection, *, tenant_id: str, relationship_ids: Sequence[str]
) -> frozenset[str]:
    """Return which of these relationships exist, removed ones too."""
    return frozenset(
        name
        for part in chunks([name for name in dict.fromkeys(relationship_ids) if is_id(name)])
        for name in driver.list_relationship_ids(connection, tenant_id=tenant_id, relationship_ids=part)
    )


def _pinned(row: Row) -> Pinned:
    return Pinned(row["artifact_id"], row["revision"], row["revision_digest"], target_state(row))
