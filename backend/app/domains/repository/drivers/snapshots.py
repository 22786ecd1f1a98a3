"""L6 SQL of snapshots: whole kinds of rows in the order of their keys, and rows as they are written back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection
from app.db.dialect import bytewise, insert
from app.db.pairs import among_pairs
from app.domains.repository.tables import (
    artifact_revisions,
    artifacts,
    blobs,
    collections,
    context_items,
    context_packages,
    input_bundle_items,
    input_bundles,
    operation_runs,
    relationships,
    repository_changes,
    repository_state,
    run_manifests,
    run_outputs,
    workflow_steps,
)

PAGE = 1000
# What no record carries: it is derived, an import finds it anew, or it is of this database alone.
_LEFT_OUT = {
    "tenant_id", "fact_id", "created_seq", "updated_seq", "lease_owner", "lease_until", "data", "state_at",
}  # fmt: skip
TABLES: Mapping[str, sa.Table] = {
    "collection": collections,
    "blob": blobs,
    "artifact": artifacts,
    "revision": artifact_revisions,
    "relationship": relationships,
    "input_bundle": input_bundles,
    "bundle_item": input_bundle_items,
    "operation_run": operation_runs,
    "workflow_step": workflow_steps,
    "run_output": run_outputs,
    "run_manifest": run_manifests,
    "context_package": context_packages,
    "context_item": context_items,
    "change": repository_changes,
}
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """The part of a repository that a partial snapshot holds; runs and bundles are named."""

    collection_ids: Sequence[str]
    run_ids: Sequence[str] = ()
    bundle_ids: Sequence[str] = ()


def list_rows(
    connection: DriverConnection, *, tenant_id: str, kind: str, part: Part | None = None
) -> Iterator[Row]:
    """Yield the rows of a kind in the order of their keys, fetched a thousand at a time."""
    table = TABLES[kind]
    columns = [column for column in table.columns if column.name not in _LEFT_OUT]
    statement = (
        sa.select(*columns)  # gate: SCOPE-001 - the table goes by its kind; its own tenant_id is compared
        .where(table.c.tenant_id == tenant_id)
        .order_by(*_key_order(connection, table))
        .execution_options(stream_results=True, yield_per=PAGE)
    )
    if part is not None:
        statement = statement.where(_inside(kind, part, tenant_id))
    yield from connection.execute(statement).mappings()


def count_rows(connection: DriverConnection, *, tenant_id: str, kind: str, part: Part | None = None) -> int:
    """Return how many rows of a kind there are."""
    table = TABLES[kind]
    statement = (
        sa.select(sa.func.count())  # gate: SCOPE-001 - the table goes by its kind
        .select_from(table)
        .where(table.c.tenant_id == tenant_id)
    )
    if part is not None:
        statement = statement.where(_inside(kind, part, tenant_id))
    return int(connection.execute(statement).scalar_one())


def _key_order(connection: DriverConnection, table: sa.Table) -> list[sa.ColumnElement[Any]]:
    return [
        bytewise(connection, column) if isinstance(column.type, sa.Text) else column
        for column in table.primary_key
        if column.name != "tenant_id"
    ]


def _inside(kind: str, part: Part, tenant_id: str) -> sa.ColumnElement[bool]:
    """Return the condition that a row of a kind lies in the part."""
    named = {
        "operation_run": (operation_runs.c.run_id, part.run_ids),
        "workflow_step": (workflow_steps.c.run_id, part.run_ids),
        "run_output": (run_outputs.c.run_id, part.run_ids),
        "run_manifest": (run_manifests.c.run_id, part.run_ids),
        "input_bundle": (input_bundles.c.id, part.bundle_ids),
        "bundle_item": (input_bundle_items.c.bundle_id, part.bundle_ids),
        "collection": (collections.c.id, part.collection_ids),
    }
    if kind in named:
        column, names = named[kind]
        return column.in_(names)
    inside = _artifact_ids(part, tenant_id)
    match kind:
        case "artifact":
            return artifacts.c.collection_id.in_(part.collection_ids)
        case "revision":
            return artifact_revisions.c.artifact_id.in_(inside)
        case "blob":
            cited = sa.select(artifact_revisions.c.content_digest).where(
                artifact_revisions.c.tenant_id == tenant_id, artifact_revisions.c.artifact_id.in_(inside)
            )
            return blobs.c.digest.in_(cited)
        case "relationship":
            return sa.and_(relationships.c.source_id.in_(inside), relationships.c.target_id.in_(inside))
        case _:
            return sa.false()


def _artifact_ids(part: Part, tenant_id: str) -> sa.Select[tuple[str]]:
    return sa.select(artifacts.c.id).where(
        artifacts.c.tenant_id == tenant_id, artifacts.c.collection_id.in_(part.collection_ids)
    )


def list_whole_runs(connection: DriverConnection, *, tenant_id: str, part: Part) -> Sequence[Row]:
    """Return the runs with an output inside the part and neither output nor input outside of it."""
    inside = _artifact_ids(part, tenant_id)
    runs, outputs, items = operation_runs.c, run_outputs.c, input_bundle_items.c
    produces = sa.exists().where(
        outputs.tenant_id == tenant_id, outputs.run_id == runs.run_id, outputs.artifact_id.in_(inside)
    )
    produces_outside = sa.exists().where(
        outputs.tenant_id == tenant_id, outputs.run_id == runs.run_id, outputs.artifact_id.not_in(inside)
    )
    reads_outside = sa.exists().where(
        items.tenant_id == tenant_id, items.bundle_id == runs.bundle_id, items.artifact_id.not_in(inside)
    )
    statement = sa.select(runs.run_id, runs.parent_run_id, runs.bundle_id).where(
        runs.tenant_id == tenant_id, produces, ~produces_outside, ~reads_outside
    )
    return connection.execute(statement).mappings().all()


def list_bytes(connection: DriverConnection, *, tenant_id: str, digests: Sequence[str]) -> Sequence[Row]:
    """Return digest and bytes of these blobs in order of digest."""
    statement = (
        sa.select(blobs.c.digest, blobs.c.data)
        .where(blobs.c.tenant_id == tenant_id, blobs.c.digest.in_(digests))
        .order_by(bytewise(connection, blobs.c.digest))
    )
    return connection.execute(statement).mappings().all()


def get_head(connection: DriverConnection, *, tenant_id: str) -> Row | None:
    """Return number and hash of the last change record."""
    state = repository_state.c
    statement = sa.select(state.last_seq, state.last_hash).where(state.tenant_id == tenant_id)
    return connection.execute(statement).mappings().one_or_none()


def insert_rows(
    connection: DriverConnection, *, tenant_id: str, kind: str, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Insert rows of a kind as they are."""
    table = TABLES[kind]
    connection.execute(insert(connection, table), [{"tenant_id": tenant_id, **row} for row in rows])


def list_by_keys(
    connection: DriverConnection, *, tenant_id: str, kind: str, keys: Sequence[Sequence[Any]]
) -> Sequence[Row]:
    """Return the rows of these keys, with every column but the bytes of blobs."""
    table = TABLES[kind]
    columns = [column for column in table.columns if column.name != "data"]
    names = [column for column in table.primary_key if column.name != "tenant_id"]
    selected = sa.select(*columns)  # gate: SCOPE-001 - the table goes by its kind; see below
    statement = selected.where(
        table.c.tenant_id == tenant_id, sa.tuple_(*names).in_([tuple(key) for key in keys])
    )
    return connection.execute(statement).mappings().all()


def set_rows(
    connection: DriverConnection,
    *,
    tenant_id: str,
    kind: str,
    rows: Sequence[Mapping[str, Any]],
    members: Sequence[str],
) -> int:
    """Set these members of the rows with their keys; return how many rows were changed."""
    table = TABLES[kind]
    names = [column.name for column in table.primary_key if column.name != "tenant_id"]
    statement = (
        sa.update(table)  # gate: SCOPE-001 - the table goes by its kind; its own tenant_id is compared
        .where(
            table.c.tenant_id == tenant_id,
            *(table.c[name] == sa.bindparam(f"of_{name}") for name in names),
        )
        .values({name: sa.bindparam(f"new_{name}") for name in members})
    )
    parameters = [
        {**{f"of_{name}": row[name] for name in names}, **{f"new_{name}": row[name] for name in members}}
        for row in rows
    ]
    return connection.execute(statement, parameters).rowcount


def list_chains(
    connection: DriverConnection, *, tenant_id: str, artifact_ids: Sequence[str]
) -> Sequence[Row]:
    """Return digest and redaction of the revisions of these artifacts, first to last."""
    columns = artifact_revisions.c
    statement = (
        sa.select(columns.artifact_id, columns.revision, columns.revision_digest, columns.redaction)
        .where(columns.tenant_id == tenant_id, columns.artifact_id.in_(artifact_ids))
        .order_by(columns.artifact_id, columns.revision)
    )
    return connection.execute(statement).mappings().all()


def list_bundle_digests(
    connection: DriverConnection, *, tenant_id: str, digests: Sequence[str]
) -> Sequence[str]:
    """Return which of these digests a bundle has."""
    columns = input_bundles.c
    statement = sa.select(columns.bundle_digest).where(
        columns.tenant_id == tenant_id, columns.bundle_digest.in_(digests)
    )
    return connection.scalars(statement).all()


def list_produced(
    connection: DriverConnection, *, tenant_id: str, revisions: Sequence[tuple[str, int]]
) -> Sequence[Row]:
    """Return which of these revisions are the output of a run."""
    columns = run_outputs.c
    statement = sa.select(columns.artifact_id, columns.revision).where(
        columns.tenant_id == tenant_id,
        among_pairs(connection, columns.artifact_id, columns.revision, revisions),
    )
    return connection.execute(statement).mappings().all()


def list_name_holders(
    connection: DriverConnection, *, tenant_id: str, kind: str, places: Sequence[Sequence[Any]]
) -> Sequence[Row]:
    """Return the live collections or artifacts at these (collection_id, name_key) places."""
    if kind == "collection":
        statement = sa.select(
            collections.c.id, sa.literal("").label("collection_id"), collections.c.name_key
        ).where(
            collections.c.tenant_id == tenant_id,
            collections.c.name_key.in_([place[1] for place in places]),
            collections.c.deleted_at.is_(None),
        )
    else:
        statement = sa.select(artifacts.c.id, artifacts.c.collection_id, artifacts.c.name_key).where(
            artifacts.c.tenant_id == tenant_id,
            among_pairs(connection, artifacts.c.collection_id, artifacts.c.name_key, places),
            artifacts.c.deleted_at.is_(None),
        )
    return connection.execute(statement).mappings().all()
