"""L6 SQL of artifact queries: one statement for a page, one for a count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection
from app.db.dialect import among, bytewise
from app.domains.repository.drivers.projections import matching_ids
from app.domains.repository.models.inputs import RelatedTo
from app.domains.repository.models.selections import MetadataCondition, Ordering, ScalarKey, Selection
from app.domains.repository.models.vocabulary import ScalarKind
from app.domains.repository.tables import (
    HEAD_COLUMNS,
    artifact_metadata,
    artifact_revisions,
    artifacts,
    head_with,
    relationships,
)

_A, _R, _M = artifacts.c, artifact_revisions.c, artifact_metadata.c
_whole = sa.func.coalesce(_M.vfull, _M.vkey)


def list_matching(
    connection: DriverConnection, *, tenant_id: str, selection: Selection, order: Ordering
) -> Sequence[Mapping[str, Any]]:
    """Return a page of artifacts with their heads."""
    column: sa.ColumnElement[Any] = _A[order.column]
    if order.column in ("name", "id"):
        column = bytewise(connection, column)
    tail = bytewise(connection, _A.id)
    keys = sa.select(_A.id, column.label("key")).select_from(_source(selection))
    keys = keys.where(*_conditions(connection, tenant_id, selection))
    if order.after is not None:
        value, identifier = order.after
        keys = keys.where(_beyond(column, tail, value, identifier, order))
    if selection.tokens and connection.dialect_name == "sqlite":
        # Without statistics the planner would walk all artifacts in order rather than sort the few found.
        column = sa.func.coalesce(column, column)
    keys = keys.order_by(*_directed(order, column, tail)).limit(order.limit)
    # Sorted and cut while rows are narrow; only the page is joined with revisions and blobs.
    page = keys.subquery("page")
    statement = (
        sa.select(*HEAD_COLUMNS)
        .select_from(head_with(_A.head_revision, page.join(artifacts, _A.id == page.c.id)))
        .where(_A.tenant_id == tenant_id)
        .order_by(*_directed(order, page.c.key, bytewise(connection, page.c.id)))
    )
    return connection.execute(statement).mappings().all()


def count_matching(connection: DriverConnection, *, tenant_id: str, selection: Selection) -> int:
    """Return how many artifacts match."""
    statement = (
        sa.select(sa.func.count())
        .select_from(_source(selection))
        .where(*_conditions(connection, tenant_id, selection))
    )
    return int(connection.execute(statement).scalar_one())


def _source(selection: Selection) -> sa.FromClause:
    if selection.digest_range is None and selection.produced_by_run is None:
        return artifacts
    return head_with(_A.head_revision)


def _directed(
    order: Ordering, column: sa.ColumnElement[Any], tail: sa.ColumnElement[Any]
) -> list[sa.ColumnElement[Any]]:
    keys = [column] if order.column == "id" else [column, tail]
    return [key.desc() if order.descending else key.asc() for key in keys]


def _beyond(
    column: sa.ColumnElement[Any], tail: sa.ColumnElement[Any], value: Any, identifier: str, order: Ordering
) -> sa.ColumnElement[bool]:
    if order.column == "id":
        return tail < identifier if order.descending else tail > identifier
    further = column < value if order.descending else column > value
    later = tail < identifier if order.descending else tail > identifier
    # The first member alone bounds the index range; the second decides among equals.
    bound = column <= value if order.descending else column >= value
    return sa.and_(bound, sa.or_(further, later))


def _conditions(
    connection: DriverConnection, tenant_id: str, selection: Selection
) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = [_A.tenant_id == tenant_id]
    found += [_A[name] == value for name, value in selection.equals.items()]
    if selection.live_only:
        found.append(_A.deleted_at.is_(None))
    if selection.ids is not None:
        found.append(_A.id.in_(selection.ids))
    for column, limits in ((_A.name_key, selection.name_range), (_R.content_digest, selection.digest_range)):
        if limits is not None:
            found.append(column >= limits[0])
            found += [] if limits[1] is None else [column < limits[1]]
    if selection.produced_by_run is not None:
        found.append(_R.produced_by_run == selection.produced_by_run)
    for name, moment in selection.times.items():
        column_name, _, end = name.rpartition("_")
        stamp = _A[f"{column_name}_at"]
        found.append(stamp >= moment if end == "from" else stamp < moment)
    sets: list[sa.SelectBase] = []
    for condition in selection.metadata:
        rows = _metadata(connection, tenant_id, condition)
        if condition.op == "missing":
            # Of live heads only: a tombstone has no projection and matches nothing.
            found.append(sa.and_(_A.id.not_in(rows), _A.deleted_at.is_(None)))
        else:
            sets.append(rows)
    if selection.related is not None:
        sets.append(_related(tenant_id, selection.related))
    if selection.tokens:
        # A function has neither statistics nor an index: a plan made without knowing the values would go
        # through all that it finds for each row of another set. So sets meet before any artifact is read.
        words = matching_ids(connection, tenant_id=tenant_id, tokens=selection.tokens)
        sets = [sa.intersect(*sets, words) if sets else words]
    return found + [_A.id.in_(rows) for rows in sets]


def _related(tenant_id: str, wanted: RelatedTo) -> sa.Select[tuple[str]]:
    edge = relationships.c
    ends = {"out": ((edge.source_id, edge.target_id),), "in": ((edge.target_id, edge.source_id),)}
    sides = ends.get(wanted.direction, (*ends["out"], *ends["in"]))
    parts = []
    for here, there in sides:
        part = sa.select(there.label("id")).where(
            edge.tenant_id == tenant_id, here == wanted.artifact_id, edge.deleted_at.is_(None)
        )
        parts.append(part if wanted.type is None else part.where(edge.type == wanted.type))
    return sa.select(sa.union(*parts).subquery("related").c.id)


def _metadata(
    connection: DriverConnection, tenant_id: str, condition: MetadataCondition
) -> sa.Select[tuple[str]]:
    """Return the query for the artifacts that have something at the pointer, and there what is asked for."""
    rows = sa.select(_M.artifact_id).where(
        _M.tenant_id == tenant_id, _M.ptr == condition.pointer, _M.elem.is_(condition.op == "contains")
    )
    if condition.op in ("missing", "exists"):
        return rows
    if condition.op == "ne":
        return rows.where(sa.not_(_equal(condition.values[0])))
    return rows.where(_value_condition(connection, condition))


def _value_condition(connection: DriverConnection, condition: MetadataCondition) -> sa.ColumnElement[bool]:
    if condition.op in ("eq", "contains"):
        return _equal(condition.values[0])
    if condition.op == "in":
        return _one_of(connection, condition.values)
    value = condition.values[0]
    same_kind: sa.ColumnElement[bool] = _M.vtype == value.kind
    if condition.op == "prefix":
        limits = [_M.vkey >= value.key] + ([] if condition.ceiling is None else [_M.vkey < condition.ceiling])
        if value.full is not None:
            limits.append(sa.func.substr(_whole, 1, len(value.full)) == value.full)
        return sa.and_(same_kind, *limits)
    # The cut key bounds the index range; the full text decides.
    text = value.text
    if condition.op == "lt":
        return sa.and_(same_kind, _M.vkey <= value.key, _whole < text)
    if condition.op == "lte":
        return sa.and_(same_kind, _M.vkey <= value.key, _whole <= text)
    if condition.op == "gt":
        return sa.and_(same_kind, _M.vkey >= value.key, _whole > text)
    return sa.and_(same_kind, _M.vkey >= value.key, _whole >= text)


def _equal(value: ScalarKey) -> sa.ColumnElement[bool]:
    same_kind: sa.ColumnElement[bool] = _M.vtype == value.kind
    if value.key is None:
        return same_kind
    if value.kind is not ScalarKind.STRING:
        return sa.and_(same_kind, _M.vkey == value.key)
    return sa.and_(same_kind, _M.vkey == value.key, _whole == value.text)


def _one_of(connection: DriverConnection, values: Sequence[ScalarKey]) -> sa.ColumnElement[bool]:
    parts: list[sa.ColumnElement[bool]] = []
    for kind in dict.fromkeys(value.kind for value in values):
        of_kind = [value for value in values if value.kind is kind]
        if of_kind[0].key is None:
            parts.append(_M.vtype == kind)
            continue
        keys = [str(value.key) for value in of_kind]
        part = sa.and_(_M.vtype == kind, among(connection, _M.vkey, keys))
        if any(value.full is not None for value in of_kind):
            part = sa.and_(part, among(connection, _whole, [str(value.text) for value in of_kind]))
        elif kind is ScalarKind.STRING:
            part = sa.and_(part, _M.vfull.is_(None))
        parts.append(part)
    return sa.or_(*parts)
