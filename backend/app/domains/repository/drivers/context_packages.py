"""L6 SQL of context packages and their items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import insert
from app.domains.repository.tables import (
    artifact_revisions,
    artifacts,
    context_items,
    context_packages,
    relationships,
)

_P, _I = context_packages.c, context_items.c
_R, _A, _E = artifact_revisions.c, artifacts.c, relationships.c
_ITEM_COUNT = (
    sa.select(sa.func.count())
    .where(_I.tenant_id == _P.tenant_id, _I.package_id == _P.id)
    .scalar_subquery()
    .label("item_count")
)
# `metadata` is a name of the statement itself.
_COLUMNS = (
    _P.id, _P.name, _P.purpose, _P.metadata.label("metadata_text"), _P.provenance, _P.supersedes,
    _P.package_digest, _P.created_seq, _P.created_at, _P.created_by,
    _ITEM_COUNT,  # gate: SCOPE-001 - correlated with a package whose tenant is compared
)  # fmt: skip
_ITEM_COLUMNS = tuple(
    column for column in context_items.columns if column.name not in ("tenant_id", "package_id")
)


def get_package(connection: DriverConnection, *, tenant_id: str, package_id: str) -> Row | None:
    """Return a package with the number of its items."""
    statement = sa.select(*_COLUMNS).where(_P.tenant_id == tenant_id, _P.id == package_id)
    return connection.execute(statement).mappings().one_or_none()


def list_packages(
    connection: DriverConnection,
    *,
    tenant_id: str,
    item_filters: Mapping[str, Any],
    after: int,
    limit: int,
) -> Sequence[Row]:
    """Return packages after a creation number that have an item whose columns equal the filters."""
    statement = (
        sa.select(*_COLUMNS)
        .where(_P.tenant_id == tenant_id, _P.created_seq > after)
        .order_by(_P.created_seq)
        .limit(limit)
    )
    if item_filters:
        wanted = sa.select(_I.package_id).where(
            _I.tenant_id == tenant_id, *(_I[name] == item_filters[name] for name in item_filters)
        )
        statement = statement.where(_P.id.in_(wanted))
    return connection.execute(statement).mappings().all()


def list_items(connection: DriverConnection, *, tenant_id: str, package_id: str) -> Sequence[Row]:
    """Return the items of a package in order, with what has become of their targets."""
    source = (
        context_items.outerjoin(
            artifact_revisions,
            sa.and_(
                _R.tenant_id == _I.tenant_id, _R.artifact_id == _I.artifact_id, _R.revision == _I.revision
            ),
        )
        .outerjoin(artifacts, sa.and_(_A.tenant_id == _I.tenant_id, _A.id == _I.artifact_id))
        .outerjoin(relationships, sa.and_(_E.tenant_id == _I.tenant_id, _E.id == _I.relationship_id))
    )
    statement = (
        sa.select(
            *_ITEM_COLUMNS,
            _R.redaction,
            _A.head_revision,
            sa.func.coalesce(_A.deleted_at, _E.deleted_at).label("deleted_at"),
        )
        .select_from(source)
        .where(_I.tenant_id == tenant_id, _I.package_id == package_id)
        .order_by(_I.position)
    )
    return connection.execute(statement).mappings().all()


def insert_package(connection: DriverConnection, *, tenant_id: str, row: Mapping[str, Any]) -> None:
    """Append a package."""
    connection.execute(insert(connection, context_packages), {**row, "tenant_id": tenant_id})


def insert_items(connection: DriverConnection, *, tenant_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append the items of a package."""
    connection.execute(insert(connection, context_items), [{"tenant_id": tenant_id, **row} for row in rows])
