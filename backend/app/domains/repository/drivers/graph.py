"""L6 SQL of the graph of artifacts: neighbours, one level of lineage, and who used a revision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection
from app.db.dialect import among, bytewise
from app.domains.repository.tables import (
    HEAD_COLUMNS,
    artifact_revisions,
    artifacts,
    context_items,
    head_with,
    input_bundle_items,
    operation_runs,
    relationships,
    run_outputs,
)

_E, _A, _R = relationships.c, artifacts.c, artifact_revisions.c
_O, _B, _N = run_outputs.c, input_bundle_items.c, operation_runs.c
Row = Mapping[str, Any]
Key = tuple[str, str, str]
_LINK_ORDER = ("far_id", "near_id", "type", "relationship_id")
_ENDS = {"out": (_E.source_id, _E.target_id), "in": (_E.target_id, _E.source_id)}


def list_neighbors(
    connection: DriverConnection,
    *,
    tenant_id: str,
    artifact_id: str,
    directions: Sequence[str],
    type_name: str | None,
    after: Key | None,
    limit: int,
) -> Sequence[Row]:
    """Return the head of an artifact, beside each of its neighbours by (type, artifact, edge); none: once.

    An unknown artifact gives no row; without neighbours there is one row whose `relationship_id` is null.
    """
    halves = [
        _half(connection, direction, tenant_id, artifact_id, type_name, after, limit)
        for direction in directions
    ]
    edges = sa.union_all(*(sa.select(*half.subquery().c) for half in halves)).subquery("edges")
    order = [bytewise(connection, edges.c[name]) for name in ("type", "other_id", "relationship_id")]
    page = sa.select(*edges.c).order_by(*order).limit(limit).subquery("page")
    other = artifacts.alias("other")
    found = page.join(other, sa.and_(other.c.tenant_id == tenant_id, other.c.id == page.c.other_id))
    statement = (
        sa.select(
            *HEAD_COLUMNS,
            *page.c,
            other.c.name.label("other_name"),
            other.c.artifact_type.label("other_type"),
            other.c.collection_id.label("other_collection_id"),
            other.c.head_revision.label("other_head_revision"),
            other.c.version.label("other_version"),
        )
        .select_from(head_with(_A.head_revision).outerjoin(found, sa.true()))
        .where(_A.tenant_id == tenant_id, _A.id == artifact_id)
        .order_by(*(bytewise(connection, page.c[name]) for name in ("type", "other_id", "relationship_id")))
    )
    return connection.execute(statement).mappings().all()


def _half(
    connection: DriverConnection,
    direction: str,
    tenant_id: str,
    artifact_id: str,
    type_name: str | None,
    after: Key | None,
    limit: int,
) -> sa.Select[Any]:
    here, there = _ENDS[direction]
    key = [bytewise(connection, column) for column in (_E.type, there, _E.id)]
    statement = (
        sa.select(
            _E.id.label("relationship_id"),
            _E.type.label("type"),
            sa.literal(direction, sa.Text).label("direction"),
            _E.source_revision.label("source_revision"),
            _E.target_revision.label("target_revision"),
            there.label("other_id"),
        )
        .where(_E.tenant_id == tenant_id, here == artifact_id, _E.deleted_at.is_(None))
        .order_by(*key)
        .limit(limit)
    )
    if type_name is not None:
        statement = statement.where(_E.type == type_name)
    if after is not None:
        statement = statement.where(sa.tuple_(*key) > sa.tuple_(*map(sa.literal, after)))
    return statement


def list_links(
    connection: DriverConnection,
    *,
    tenant_id: str,
    artifact_ids: Sequence[str],
    run_ids: Sequence[str],
    upstream: bool,
    downstream: bool,
    types: Sequence[str],
    include_runs: bool,
    include_deleted: bool,
    limit: int,
) -> Sequence[Row]:
    """Return what these artifacts and runs come from and lead to, one step away, each with its far node.

    Rows are ordered by the far node and the link, so that a cut list is the same list everywhere.
    """
    parts: list[sa.Select[Any]] = []
    if upstream:
        parts += _steps(connection, tenant_id, artifact_ids, run_ids, types, include_runs, include_deleted)
    if downstream:
        parts += _steps(
            connection, tenant_id, artifact_ids, run_ids, types, include_runs, include_deleted, back=True
        )
    if not parts:
        return []
    links = sa.union_all(*parts).subquery("links")
    statement = (
        sa.select(
            *links.c,
            _A.name, _A.artifact_type, _A.head_revision, _A.deleted_at, _N.status,
        )
        .select_from(
            links.outerjoin(
                artifacts,
                sa.and_(_A.tenant_id == tenant_id, links.c.far_kind == "artifact", _A.id == links.c.far_id),
            ).outerjoin(
                operation_runs,
                sa.and_(_N.tenant_id == tenant_id, links.c.far_kind == "run", _N.run_id == links.c.far_id),
            )
        )
        .order_by(
            links.c.far_kind,
            *(bytewise(connection, links.c[name]) for name in _LINK_ORDER),
            links.c.near_revision,
            links.c.far_revision,
            links.c.back,
        )
        .limit(limit)
    )  # fmt: skip
    if not include_deleted:
        statement = statement.where(_A.deleted_at.is_(None))
    return connection.execute(statement).mappings().all()


def _steps(
    connection: DriverConnection,
    tenant_id: str,
    artifact_ids: Sequence[str],
    run_ids: Sequence[str],
    types: Sequence[str],
    include_runs: bool,
    include_deleted: bool,
    *,
    back: bool = False,
) -> list[sa.Select[Any]]:
    """Return the selects of one direction; `back` is downstream, against the direction of the edges."""
    parts: list[sa.Select[Any]] = []
    if artifact_ids and types:
        near, far = ("target", "source") if back else ("source", "target")
        edge = sa.select(
            *_link("relationship", "artifact", "artifact", back=back),
            _E[f"{near}_id"].label("near_id"),
            _E[f"{far}_id"].label("far_id"),
            _E.type.label("type"),
            _E.id.label("relationship_id"),
            _E[f"{near}_revision"].label("near_revision"),
            _E[f"{far}_revision"].label("far_revision"),
        ).where(
            _E.tenant_id == tenant_id, among(connection, _E[f"{near}_id"], artifact_ids), _E.type.in_(types)
        )
        parts.append(edge.where(_E.deleted_at.is_(None)))
        if include_deleted:
            parts.append(_gone_with_an_end(edge, tenant_id))
    if include_runs and artifact_ids:
        parts.append((_users if back else _makers)(connection, tenant_id, artifact_ids))
    if include_runs and run_ids:
        parts.append((_made if back else _used)(connection, tenant_id, run_ids))
    return parts


def _gone_with_an_end(edge: sa.Select[Any], tenant_id: str) -> sa.Select[Any]:
    """Return the edges that were removed with an artifact, not those that somebody took away."""
    end = artifacts.alias("end")
    return edge.where(
        _E.deleted_at.is_not(None),
        sa.exists().where(
            _E.tenant_id == tenant_id,
            end.c.tenant_id == tenant_id,
            end.c.id.in_([_E.source_id, _E.target_id]),
            end.c.delete_change_set_id == _E.delete_change_set_id,
        ),
    )


def _link(kind: str, near: str, far: str, *, back: bool) -> tuple[sa.ColumnElement[Any], ...]:
    """Return the columns that are the same for every link of a select."""
    return (
        sa.literal(kind, sa.Text).label("kind"),
        sa.literal(near, sa.Text).label("near_kind"),
        sa.literal(far, sa.Text).label("far_kind"),
        sa.literal(int(back), sa.Integer).label("back"),
    )


def _run_link(kind: str) -> tuple[sa.ColumnElement[Any], ...]:
    return (
        sa.literal(kind, sa.Text).label("type"),
        sa.cast(sa.null(), sa.Text).label("relationship_id"),
    )


_NO_REVISION = sa.cast(sa.null(), sa.Integer)
_INPUT_OF_RUN = sa.and_(_B.tenant_id == _N.tenant_id, _B.bundle_id == _N.bundle_id)


def _makers(connection: DriverConnection, tenant_id: str, artifact_ids: Sequence[str]) -> sa.Select[Any]:
    """Return the runs that made these artifacts."""
    return sa.select(
        *_link("output", "artifact", "run", back=False),
        _O.artifact_id.label("near_id"),
        _O.run_id.label("far_id"),
        *_run_link("output"),
        _O.revision.label("near_revision"),
        _NO_REVISION.label("far_revision"),
    ).where(_O.tenant_id == tenant_id, among(connection, _O.artifact_id, artifact_ids))


def _made(connection: DriverConnection, tenant_id: str, run_ids: Sequence[str]) -> sa.Select[Any]:
    """Return the artifacts that these runs made."""
    return sa.select(
        *_link("output", "run", "artifact", back=True),
        _O.run_id.label("near_id"),
        _O.artifact_id.label("far_id"),
        *_run_link("output"),
        _NO_REVISION.label("near_revision"),
        _O.revision.label("far_revision"),
    ).where(_O.tenant_id == tenant_id, among(connection, _O.run_id, run_ids))


def _users(connection: DriverConnection, tenant_id: str, artifact_ids: Sequence[str]) -> sa.Select[Any]:
    """Return the runs that were given these artifacts."""
    return (
        sa.select(
            *_link("input", "artifact", "run", back=True),
            _B.artifact_id.label("near_id"),
            _N.run_id.label("far_id"),
            *_run_link("input"),
            _B.revision.label("near_revision"),
            _NO_REVISION.label("far_revision"),
        )
        .select_from(input_bundle_items.join(operation_runs, _INPUT_OF_RUN))
        .where(
            _B.tenant_id == tenant_id,
            _N.tenant_id == tenant_id,
            among(connection, _B.artifact_id, artifact_ids),
        )
    )


def _used(connection: DriverConnection, tenant_id: str, run_ids: Sequence[str]) -> sa.Select[Any]:
    """Return the artifacts that these runs were given."""
    return (
        sa.select(
            *_link("input", "run", "artifact", back=False),
            _N.run_id.label("near_id"),
            _B.artifact_id.label("far_id"),
            *_run_link("input"),
            _NO_REVISION.label("near_revision"),
            _B.revision.label("far_revision"),
        )
        .select_from(operation_runs.join(input_bundle_items, _INPUT_OF_RUN))
        .where(_B.tenant_id == tenant_id, _N.tenant_id == tenant_id, among(connection, _N.run_id, run_ids))
    )


def list_consumers(
    connection: DriverConnection,
    *,
    tenant_id: str,
    artifact_id: str,
    revision: int,
    after: tuple[str, str, int] | None,
    limit: int,
) -> Sequence[Row]:
    """Return bundles, runs and context packages that hold a revision, by (kind, id, position)."""
    item = context_items.c
    held = sa.and_(_B.tenant_id == tenant_id, _B.artifact_id == artifact_id, _B.revision == revision)
    parts = (
        sa.select(*_use("bundle", _B.bundle_id, _B.position, _B.role)).where(_B.tenant_id == tenant_id, held),
        sa.select(*_use("run", _N.run_id, _B.position, _B.role))
        .select_from(input_bundle_items.join(operation_runs, _INPUT_OF_RUN))
        .where(_N.tenant_id == tenant_id, held),
        sa.select(
            *_use("context_package", item.package_id, item.position, sa.cast(sa.null(), sa.Text))
        ).where(item.tenant_id == tenant_id, item.artifact_id == artifact_id, item.revision == revision),
    )
    uses = sa.union_all(*parts).subquery("uses")
    identifier = bytewise(connection, uses.c.id)
    statement = sa.select(*uses.c).order_by(uses.c.kind, identifier, uses.c.position).limit(limit)
    if after is not None:
        kind, known, position = after
        statement = statement.where(
            sa.or_(
                uses.c.kind > kind,
                sa.and_(uses.c.kind == kind, identifier > known),
                sa.and_(uses.c.kind == kind, identifier == known, uses.c.position > position),
            )
        )
    return connection.execute(statement).mappings().all()


def _use(
    kind: str, identifier: sa.ColumnElement[Any], position: sa.ColumnElement[Any], role: sa.ColumnElement[Any]
) -> tuple[sa.ColumnElement[Any], ...]:
    return (
        sa.literal(kind, sa.Text).label("kind"),
        identifier.label("id"),
        position.label("position"),
        role.label("role"),
    )
