"""L6 SQL of the repository check: every table in pages by key, and the links that a join can judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection
from app.db.dialect import among, bytewise
from app.domains.repository.tables import (
    artifact_metadata,
    artifact_revisions,
    artifact_search,
    artifacts,
    blobs,
    collections,
    context_items,
    context_packages,
    input_bundle_items,
    input_bundles,
    relationships,
    repository_changes,
    repository_state,
    run_manifests,
    run_outputs,
)

_A, _R, _B, _E, _C = artifacts.c, artifact_revisions.c, blobs.c, relationships.c, repository_changes.c
_L = collections.c
_REVISION_COLUMNS = (
    *(column for column in artifact_revisions.columns if column.name not in ("tenant_id", "metadata")),
    _R.metadata.label("metadata_text"),
)
Row = Mapping[str, Any]


def list_blobs(
    connection: DriverConnection, *, tenant_id: str, artifact_id: str | None, after: str | None, limit: int
) -> Sequence[Row]:
    """Return blobs by digest, of one artifact or all, with the `length` of their bytes, and if `cited`."""
    cited = sa.exists().where(
        _B.tenant_id == tenant_id, _R.tenant_id == tenant_id, _R.content_digest == _B.digest
    )
    statement = sa.select(
        _B.digest,
        _B.size,
        _B.state,
        sa.func.length(_B.data).label("length"),
        cited.label("cited"),
    ).where(_B.tenant_id == tenant_id)
    if artifact_id is not None:
        own = sa.select(_R.content_digest).where(_R.tenant_id == tenant_id, _R.artifact_id == artifact_id)
        statement = statement.where(_B.digest.in_(own))
    return _page(connection, statement, _B.digest, after=after, limit=limit)


def list_data(connection: DriverConnection, *, tenant_id: str, digests: Sequence[str]) -> dict[str, bytes]:
    """Return the bytes of these digests."""
    statement = sa.select(_B.digest, _B.data).where(
        _B.tenant_id == tenant_id, among(connection, _B.digest, digests), _B.data.is_not(None)
    )
    return {row.digest: bytes(row.data) for row in connection.execute(statement)}


def list_revisions(
    connection: DriverConnection,
    *,
    tenant_id: str,
    artifact_id: str | None,
    after: tuple[str, int] | None,
    limit: int,
) -> Sequence[Row]:
    """Return revisions by (artifact, number), with the state of their bytes and what their record names."""
    named = (
        sa.select(_C.new_revision_digest)
        .where(
            _C.tenant_id == tenant_id,
            _C.entity_type == "ARTIFACT",
            _C.entity_id == _R.artifact_id,
            _C.new_revision == _R.revision,
        )
        .order_by(_C.seq)
        .limit(1)
        .scalar_subquery()
    )
    identifier = bytewise(connection, _R.artifact_id)
    statement = (
        sa.select(*_REVISION_COLUMNS, _B.state.label("blob_state"), named.label("recorded_digest"))
        .select_from(
            artifact_revisions.outerjoin(
                blobs, sa.and_(_B.tenant_id == _R.tenant_id, _B.digest == _R.content_digest)
            )
        )
        .where(_R.tenant_id == tenant_id)
        .order_by(identifier, _R.revision)
        .limit(limit)
    )
    if artifact_id is not None:
        statement = statement.where(_R.artifact_id == artifact_id)
    if after is not None:
        known, number = after
        statement = statement.where(identifier >= known, sa.or_(identifier > known, _R.revision > number))
    return connection.execute(statement).mappings().all()


def list_heads(
    connection: DriverConnection, *, tenant_id: str, artifact_id: str | None, after: str | None, limit: int
) -> Sequence[Row]:
    """Return artifacts by id with their last revision, their head revision, and what their record says."""
    last = (
        sa.select(sa.func.max(_R.revision))
        .where(_R.tenant_id == tenant_id, _R.artifact_id == _A.id)
        .scalar_subquery()
    )
    head, record = artifact_revisions.alias("head"), repository_changes.alias("record")
    statement = (
        sa.select(
            _A.id, _A.name, _A.name_key, _A.collection_id, _A.artifact_type, _A.head_revision, _A.version,
            _A.updated_seq, _A.deleted_at, last.label("last_revision"), head.c.name.label("revision_name"),
            head.c.collection_id.label("revision_collection_id"),
            head.c.artifact_type.label("revision_type"), head.c.redaction, head.c.media_type, head.c.size,
            head.c.content_digest, head.c.metadata.label("metadata_text"), _B.state.label("blob_state"),
            *_record(record),
        )
        .select_from(
            artifacts.outerjoin(
                head,
                sa.and_(
                    head.c.tenant_id == _A.tenant_id,
                    head.c.artifact_id == _A.id,
                    head.c.revision == _A.head_revision,
                ),
            )
            .outerjoin(
                blobs, sa.and_(_B.tenant_id == _A.tenant_id, _B.digest == head.c.content_digest)
            )
            .outerjoin(
                record, sa.and_(record.c.tenant_id == _A.tenant_id, record.c.seq == _A.updated_seq)
            )
        )
        .where(_A.tenant_id == tenant_id)
    )  # fmt: skip
    if artifact_id is not None:
        statement = statement.where(_A.id == artifact_id)
    return _page(connection, statement, _A.id, after=after, limit=limit)


def _record(record: Any) -> tuple[sa.ColumnElement[Any], ...]:
    return (
        record.c.entity_id.label("record_entity"),
        record.c.action.label("record_action"),
        record.c.new_version.label("record_version"),
        record.c.new_revision.label("record_revision"),
    )


def list_relationship_heads(
    connection: DriverConnection, *, tenant_id: str, artifact_id: str | None, after: str | None, limit: int
) -> Sequence[Row]:
    """Return relationships by id, with what the newest record of each says."""
    statement = _with_newest(relationships, "RELATIONSHIP", tenant_id)
    if artifact_id is not None:
        statement = statement.where(sa.or_(_E.source_id == artifact_id, _E.target_id == artifact_id))
    return _page(connection, statement, _E.id, after=after, limit=limit)


def list_collection_heads(
    connection: DriverConnection, *, tenant_id: str, after: str | None, limit: int
) -> Sequence[Row]:
    """Return collections by id, with what the newest record of each says."""
    statement = _with_newest(collections, "COLLECTION", tenant_id)
    return _page(connection, statement, _L.id, after=after, limit=limit)


def _with_newest(table: sa.Table, kind: str, tenant_id: str) -> sa.Select[Any]:
    record = repository_changes.alias("record")
    newest = (
        sa.select(sa.func.max(_C.seq))
        .where(_C.tenant_id == tenant_id, _C.entity_type == kind, _C.entity_id == table.c.id)
        .scalar_subquery()
    )
    return (
        sa.select(table.c.id, table.c.version, table.c.deleted_at, *_record(record))
        .select_from(
            table.outerjoin(record, sa.and_(record.c.tenant_id == table.c.tenant_id, record.c.seq == newest))
        )
        .where(table.c.tenant_id == tenant_id)
    )


def _page(
    connection: DriverConnection,
    statement: sa.Select[Any],
    column: sa.ColumnElement[str],
    *,
    after: str | None,
    limit: int,
) -> Sequence[Row]:
    """Return the rows of a statement after a key, in order of the key."""
    key = bytewise(connection, column)
    if after is not None:
        statement = statement.where(key > after)
    return connection.execute(statement.order_by(key).limit(limit)).mappings().all()


def list_dangling_edges(
    connection: DriverConnection, *, tenant_id: str, artifact_id: str | None
) -> Sequence[tuple[str, str]]:
    """Return (edge, artifact) of the live edges with an end that is deleted."""
    statement = (
        sa.select(_E.id, _A.id.label("end_id"))
        .join(artifacts, sa.and_(_A.tenant_id == _E.tenant_id, _A.id.in_([_E.source_id, _E.target_id])))
        .where(_E.tenant_id == tenant_id, _E.deleted_at.is_(None), _A.deleted_at.is_not(None))
        .order_by(bytewise(connection, _E.id))
    )
    if artifact_id is not None:
        statement = statement.where(sa.or_(_E.source_id == artifact_id, _E.target_id == artifact_id))
    return [(row.id, row.end_id) for row in connection.execute(statement)]


def list_artifact_twins(
    connection: DriverConnection, *, tenant_id: str, artifact_id: str | None
) -> Sequence[str]:
    """Return the live artifacts whose name another live one of their collection bears."""
    other = artifacts.alias("other")
    same = sa.exists().where(
        _A.tenant_id == tenant_id,
        other.c.tenant_id == tenant_id,
        other.c.collection_id == _A.collection_id,
        other.c.name_key == _A.name_key,
        other.c.id != _A.id,
        other.c.deleted_at.is_(None),
    )
    statement = (
        sa.select(_A.id)
        .where(_A.tenant_id == tenant_id, _A.deleted_at.is_(None), same)
        .order_by(bytewise(connection, _A.id))
    )
    if artifact_id is not None:
        statement = statement.where(_A.id == artifact_id)
    return connection.scalars(statement).all()


def list_collection_twins(connection: DriverConnection, *, tenant_id: str) -> Sequence[str]:
    """Return the live collections whose name another live one bears."""
    other = collections.alias("other")
    same = sa.exists().where(
        _L.tenant_id == tenant_id,
        other.c.tenant_id == tenant_id,
        other.c.name_key == _L.name_key,
        other.c.id != _L.id,
        other.c.deleted_at.is_(None),
    )
    statement = (
        sa.select(_L.id)
        .where(_L.tenant_id == tenant_id, _L.deleted_at.is_(None), same)
        .order_by(bytewise(connection, _L.id))
    )
    return connection.scalars(statement).all()


def list_missing_revisions(
    connection: DriverConnection, *, tenant_id: str, artifact_id: str | None
) -> Sequence[Row]:
    """Return (kind, owner, artifact_id, revision) of every link to a revision that is not there."""
    given, made, item, edge = input_bundle_items.c, run_outputs.c, context_items.c, relationships.c
    links = (
        (given, "bundle", given.bundle_id, given.artifact_id, given.revision),
        (made, "run", made.run_id, made.artifact_id, made.revision),
        (item, "context_package", item.package_id, item.artifact_id, item.revision),
        (edge, "relationship", edge.id, edge.source_id, edge.source_revision),
        (edge, "relationship", edge.id, edge.target_id, edge.target_revision),
    )
    parts = []
    for columns, kind, owner, linked, revision in links:
        there = sa.exists().where(
            _R.tenant_id == tenant_id, _R.artifact_id == linked, _R.revision == revision
        )
        part = sa.select(
            sa.literal(kind, sa.Text).label("kind"),
            owner.label("owner"),
            linked.label("artifact_id"),
            revision.label("revision"),
        ).where(columns.tenant_id == tenant_id, revision.is_not(None), ~there)
        parts.append(part if artifact_id is None else part.where(linked == artifact_id))
    return connection.execute(sa.union_all(*parts)).mappings().all()


def get_state(connection: DriverConnection, *, tenant_id: str) -> Row | None:
    """Return the head of the change chain as the tenant's row has it."""
    state = repository_state.c
    statement = sa.select(state.last_seq, state.last_hash).where(state.tenant_id == tenant_id)
    return connection.execute(statement).mappings().one_or_none()


def list_manifests(
    connection: DriverConnection, *, tenant_id: str, after: str | None, limit: int
) -> Sequence[Row]:
    """Return manifests by run."""
    columns = run_manifests.c
    statement = sa.select(columns.run_id.label("id"), columns.body, columns.manifest_digest).where(
        columns.tenant_id == tenant_id
    )
    return _page(connection, statement, columns.run_id, after=after, limit=limit)


def list_bundles(
    connection: DriverConnection, *, tenant_id: str, after: str | None, limit: int
) -> Sequence[Row]:
    """Return input bundles by id."""
    columns = input_bundles.c
    statement = sa.select(columns.id, columns.bundle_digest).where(columns.tenant_id == tenant_id)
    return _page(connection, statement, columns.id, after=after, limit=limit)


def list_bundle_items(connection: DriverConnection, *, tenant_id: str, ids: Sequence[str]) -> Sequence[Row]:
    """Return the items of these bundles, in order, with their bundle as `owner`."""
    return _items(connection, input_bundle_items, input_bundle_items.c.bundle_id, tenant_id, ids)


def list_packages(
    connection: DriverConnection, *, tenant_id: str, after: str | None, limit: int
) -> Sequence[Row]:
    """Return context packages by id."""
    columns = context_packages.c
    statement = sa.select(
        columns.id,
        columns.name,
        columns.purpose,
        columns.metadata.label("metadata_text"),
        columns.provenance,
        columns.supersedes,
        columns.package_digest,
    ).where(columns.tenant_id == tenant_id)
    return _page(connection, statement, columns.id, after=after, limit=limit)


def list_package_items(connection: DriverConnection, *, tenant_id: str, ids: Sequence[str]) -> Sequence[Row]:
    """Return the items of these packages, in order, with their package as `owner`."""
    return _items(connection, context_items, context_items.c.package_id, tenant_id, ids)


def _items(
    connection: DriverConnection, table: sa.Table, owner: sa.Column[str], tenant_id: str, ids: Sequence[str]
) -> Sequence[Row]:
    columns = [column for column in table.c if column.name != "tenant_id"]
    statement = (
        sa.select(*columns, owner.label("owner"))
        .where(table.c.tenant_id == tenant_id, among(connection, owner, ids))
        .order_by(owner, table.c.position)
    )
    return connection.execute(statement).mappings().all()


def list_projection(
    connection: DriverConnection, *, tenant_id: str, artifact_ids: Sequence[str]
) -> Sequence[Row]:
    """Return the projection rows of these artifacts."""
    columns = artifact_metadata.c
    statement = sa.select(*(column for column in columns if column.name != "tenant_id")).where(
        columns.tenant_id == tenant_id, among(connection, columns.artifact_id, artifact_ids)
    )
    return connection.execute(statement).mappings().all()


def list_indexed_tombstones(
    connection: DriverConnection, *, tenant_id: str, artifact_id: str | None
) -> Sequence[str]:
    """Return the artifacts that are deleted, or say nothing any more, and can still be found."""
    silent = sa.or_(_A.deleted_at.is_not(None), _R.redaction == "FULL")
    parts = []
    for table in (artifact_metadata, artifact_search):
        indexed = sa.exists().where(table.c.tenant_id == tenant_id, table.c.artifact_id == _A.id)
        part = (
            sa.select(_A.id)
            .select_from(
                artifacts.outerjoin(
                    artifact_revisions,
                    sa.and_(
                        _R.tenant_id == _A.tenant_id,
                        _R.artifact_id == _A.id,
                        _R.revision == _A.head_revision,
                    ),
                )
            )
            .where(_A.tenant_id == tenant_id, silent, indexed)
        )
        parts.append(part if artifact_id is None else part.where(_A.id == artifact_id))
    return connection.scalars(sa.union(*parts)).all()
