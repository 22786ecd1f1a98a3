"""L6 SQL of plane documents: the artifacts a plane serves, each at its pinned revision, and their scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection
from app.db.dialect import bytewise
from app.db.hot import HotStatement
from app.db.many_rows import ManyRows, array_rows, array_text
from app.domains.knowledge.tables import knowledge_plane_registry as registry
from app.domains.knowledge.tables import plane_documents as documents
from app.kernel.canonical_json import dumps

_REFERENCE = (
    documents.c.artifact_id,
    documents.c.gen_from,
    documents.c.revision,
    documents.c.revision_digest,
    documents.c.content_digest,
    documents.c.name,
    documents.c.media_type,
    documents.c.size_bytes,
)


Row = Mapping[str, Any]
_INSERTION = ManyRows(
    documents,
    of_all=("tenant_id",),
    of_each=[column.name for column in documents.columns if column.name != "tenant_id"],
)
_pins = sa.select(*_REFERENCE).where(
    documents.c.tenant_id == sa.bindparam("tenant_id"),
    documents.c.plane_id == sa.bindparam("plane_id"),
    documents.c.gen_from <= sa.bindparam("generation"),
    sa.or_(documents.c.gen_to.is_(None), documents.c.gen_to > sa.bindparam("generation")),
)
_asked = array_rows({"artifact_ids": sa.Text()})
_asked_sqlite = sa.func.json_each(sa.bindparam("artifact_ids", type_=sa.Text)).table_valued("value")
# One by one: a planner without statistics, as of a new plane, would compare each document with each id.
_found = (
    _pins.where(documents.c.artifact_id == _asked.c.artifact_ids)
    .correlate(_asked)
    .limit(sa.literal_column("1"))
    .lateral("found")
)
_PINS = HotStatement(
    sa.select(*_found.c).select_from(  # gate: SCOPE-001 - what it selects from names the tenant
        sa.join(_asked, _found, sa.true())
    ),
    sqlite=_pins.where(documents.c.artifact_id.in_(sa.select(_asked_sqlite.c.value))),
)


def insert_documents(
    connection: DriverConnection, *, tenant_id: str, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Insert pinned documents."""
    _INSERTION.insert(connection, rows, tenant_id=tenant_id)


def list_pins(
    connection: DriverConnection,
    *,
    tenant_id: str,
    plane_id: str,
    generation: int,
    artifact_ids: Sequence[str],
) -> dict[str, Row]:
    """Return the pins of these artifacts that a generation shows, by artifact id."""
    as_text = dumps if connection.dialect_name == "sqlite" else array_text
    given = {
        "tenant_id": tenant_id,
        "plane_id": plane_id,
        "generation": generation,
        "artifact_ids": as_text(list(artifact_ids)),
    }
    return {row["artifact_id"]: row for row in connection.hot(_PINS, given)}


def list_served(
    connection: DriverConnection,
    *,
    tenant_id: str,
    plane_id: str,
    generation: int,
    after: str | None,
    limit: int,
) -> list[Row]:
    """Return every column of the served documents by artifact id, after one of them."""
    artifact_id = bytewise(connection, documents.c.artifact_id)
    conditions = [] if after is None else [artifact_id > after]
    statement = (
        sa.select(*documents.c)
        .where(
            documents.c.tenant_id == tenant_id,
            documents.c.plane_id == plane_id,
            *_visible(generation),
            *conditions,
        )
        .order_by(artifact_id)
        .limit(limit)
    )
    return list(connection.execute(statement).mappings())


def list_pin_digests(
    connection: DriverConnection, *, tenant_id: str, plane_id: str, generation: int
) -> list[tuple[str, int, str]]:
    """Return (artifact, revision, revision digest) of every document a generation shows, sorted."""
    artifact_id = bytewise(connection, documents.c.artifact_id)
    statement = (
        sa.select(documents.c.artifact_id, documents.c.revision, documents.c.revision_digest)
        .where(documents.c.tenant_id == tenant_id, documents.c.plane_id == plane_id, *_visible(generation))
        .order_by(artifact_id)
    )
    return [(row.artifact_id, row.revision, row.revision_digest) for row in connection.execute(statement)]


def get_scan_totals(
    connection: DriverConnection,
    *,
    tenant_id: str,
    plane_id: str,
    generation: int,
    pii_types: Sequence[str],
    categories: Sequence[str],
    levels: Sequence[str],
) -> Row:
    """Return the scan of a generation's documents summed up: detections by type, categories, highest rank."""
    found = [sa.func.sum(_member(connection, kind)).label(f"pii_{kind}") for kind in pii_types]
    held = [
        sa.func.max(
            sa.case((documents.c.categories.contains(f'"{name}"', autoescape=True), 1), else_=0)
        ).label(f"category_{name}")
        for name in categories
    ]
    ranks = sa.case({level: rank for rank, level in enumerate(levels)}, value=documents.c.sensitivity_level)
    statement = (
        sa.select(sa.func.count().label("documents"), *found, *held, sa.func.max(ranks).label("highest_rank"))
        .select_from(documents)
        .where(documents.c.tenant_id == tenant_id, documents.c.plane_id == plane_id, *_visible(generation))
    )
    return connection.execute(statement).mappings().one()


def _member(connection: DriverConnection, kind: str) -> sa.ColumnElement[int]:
    if connection.dialect_name == "sqlite":
        return sa.cast(sa.func.json_extract(documents.c.pii_counts, "$." + kind), sa.Integer)
    return sa.cast(sa.cast(documents.c.pii_counts, sa.JSON)[kind].as_string(), sa.Integer)


def set_statistics(
    connection: DriverConnection, *, tenant_id: str, plane_id: str, values: Mapping[str, Any]
) -> None:
    """Write derived columns of a plane's registry row."""
    connection.execute(
        sa.update(registry)
        .where(registry.c.tenant_id == tenant_id, registry.c.plane_id == plane_id)
        .values(**values)
    )


def set_retired(
    connection: DriverConnection,
    *,
    tenant_id: str,
    plane_id: str,
    generation: int,
    artifact_ids: Sequence[str],
) -> None:
    """Let the pins of these artifacts that an earlier generation brought end before this one."""
    connection.execute(
        sa.update(documents)
        .where(
            documents.c.tenant_id == tenant_id,
            documents.c.plane_id == plane_id,
            documents.c.artifact_id.in_(artifact_ids),
            documents.c.gen_from < generation,
            documents.c.gen_to.is_(None),
        )
        .values(gen_to=generation)
    )


def count_changes(
    connection: DriverConnection, *, tenant_id: str, plane_id: str, generation: int
) -> tuple[int, int, int]:
    """Return how many documents a generation adds, changes and removes against the one before it."""
    old = documents.alias("old")
    of_plane = (documents.c.tenant_id == tenant_id, documents.c.plane_id == plane_id)
    replaced = sa.exists().where(
        old.c.tenant_id == tenant_id,
        old.c.plane_id == plane_id,
        old.c.artifact_id == documents.c.artifact_id,
        old.c.gen_to == generation,
    )
    new = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(sa.case((replaced, 1), else_=0)), 0)).where(
        *of_plane, documents.c.gen_from == generation
    )
    brought, changed = connection.execute(new).one()
    ended = connection.scalars(
        sa.select(sa.func.count()).select_from(documents).where(*of_plane, documents.c.gen_to == generation)
    ).one()
    return int(brought) - int(changed), int(changed), int(ended) - int(changed)


def delete_ended(connection: DriverConnection, *, tenant_id: str, plane_id: str, generation: int) -> int:
    """Delete the pins that ended with or before a generation and return how many there were."""
    return connection.execute(
        sa.delete(documents).where(
            documents.c.tenant_id == tenant_id,
            documents.c.plane_id == plane_id,
            documents.c.gen_to <= generation,
        )
    ).rowcount


def delete_staged(connection: DriverConnection, *, tenant_id: str, plane_id: str, generation: int) -> None:
    """Take back what was written for generations after this one."""
    connection.execute(
        sa.delete(documents).where(
            documents.c.tenant_id == tenant_id,
            documents.c.plane_id == plane_id,
            documents.c.gen_from > generation,
        )
    )
    connection.execute(
        sa.update(documents)
        .where(
            documents.c.tenant_id == tenant_id,
            documents.c.plane_id == plane_id,
            documents.c.gen_to > generation,
        )
        .values(gen_to=None)
    )


def delete_documents(connection: DriverConnection, *, tenant_id: str, plane_id: str) -> int:
    """Delete every document of a plane and return how many there were."""
    return connection.execute(
        sa.delete(documents).where(documents.c.tenant_id == tenant_id, documents.c.plane_id == plane_id)
    ).rowcount


def delete_artifact_documents(
    connection: DriverConnection,
    *,
    tenant_id: str,
    artifact_ids: Sequence[str],
    revisions: Sequence[int] | None,
) -> int:
    """Delete the pins of artifacts, at these revisions (None: all), in every plane; return how many."""
    statement = sa.delete(documents).where(
        documents.c.tenant_id == tenant_id, documents.c.artifact_id.in_(artifact_ids)
    )
    if revisions is not None:
        statement = statement.where(documents.c.revision.in_(revisions))
    return connection.execute(statement).rowcount


def _visible(generation: int) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        documents.c.gen_from <= generation,
        sa.or_(documents.c.gen_to.is_(None), documents.c.gen_to > generation),
    )
