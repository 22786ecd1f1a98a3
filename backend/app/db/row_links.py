"""Database: which rows of a tenant need which others, found through the register and the foreign keys.

It crosses slices, as `batch_read` does: what a purge may take of one depends on what stays of all. It knows
the tables by the register, the keys between them, and a few names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection
from app.db.governed import EXEMPT, GOVERNED, Governed
from app.db.metadata import metadata
from app.db.run_rows import FORGETTING, KEPT, has_facts, may_go, owner_key, run_column

_SNAPSHOT_NAMES = ("snapshot_id", "policy_snapshot_id")
_TENANT = sa.bindparam("tenant", type_=sa.Text)
_EPOCH = sa.bindparam("epoch", type_=sa.Integer)
_CUT = sa.bindparam("cut", type_=sa.BigInteger)
Node = tuple[str | None, str | None]
"""What a row goes or stays with: (run, None), (None, fact), or (None, None), which is there to stay."""
Link = tuple[Node, Node]
_Parts = tuple[sa.FromClause, sa.ColumnElement[Any], sa.ColumnElement[Any]]


def list_links(connection: DriverConnection, *, tenant_id: str, epoch: int, cut: int) -> Iterator[Link]:
    """Yield (row, row it needs) for all rows of a tenant, as far as the second may go.

    Needed are the rows that keys refer to, the snapshot of policy that a row names, the version of the plane
    that an access names, and, by heads, their own facts and parts.
    """
    given = {"tenant": tenant_id, "epoch": epoch, "cut": cut}
    for statement in _statements():
        for row in connection.execute(statement, given):
            yield (
                (row[0], None if row[0] is not None else row[1]),
                (
                    row[2],
                    None if row[2] is not None else row[3],
                ),
            )


@cache
def _statements() -> tuple[sa.Select[Any], ...]:
    found: list[sa.Select[Any]] = []
    for name in sorted(metadata.tables):
        table = metadata.tables[name]
        if name in KEPT or not (name in GOVERNED or name in EXEMPT):
            continue
        for key in table.foreign_key_constraints:
            found += _by_key(name, key)
        if name in GOVERNED and GOVERNED[name].mode == "APPEND":
            found += [
                _linked(name, "policy_snapshots", [(column, "snapshot_id")])
                for column in _SNAPSHOT_NAMES
                if column in table.c and name != "policy_snapshots" and not table.c[column].foreign_keys
            ]
        entry = GOVERNED.get(name)
        if entry is not None and entry.types and entry.mode in ("EVENTED", "AUDITED"):
            found += _own_facts(entry)
    found.append(_versions_named())
    return tuple(found)


def _by_key(name: str, key: sa.ForeignKeyConstraint) -> list[sa.Select[Any]]:
    parent = key.referred_table.name
    if parent not in GOVERNED or not (may_go(parent) or GOVERNED[parent].mode == "HEAD"):
        return []
    pairs = [(part.parent.name, part.column.name) for part in key.elements if part.parent.name != "tenant_id"]
    found = []
    # What has no fact of its own is of the run that this key names, or of what it is a part of.
    its_own = not has_facts(name) and (pairs[0][0] == run_column(name) or key is owner_key(name))
    told = name in EXEMPT and run_column(name) is None
    if GOVERNED[parent].mode != "HEAD" and not (its_own or told or name == FORGETTING):
        found.append(_linked(name, parent, pairs))
    own = [column.name for column in metadata.tables[name].primary_key if column.name != "tenant_id"]
    part = own[: len(pairs)] == [column for column, _ in pairs]
    if part and name in GOVERNED and GOVERNED[name].mode == "APPEND" and GOVERNED[parent].mode != "APPEND":
        found.append(_linked(name, parent, pairs, turned=True))
    return found


def _node(name: str, table: sa.FromClause) -> _Parts:
    """Return a row's source, and its run and fact; the fact of a head is null."""
    entry = GOVERNED.get(name)
    nothing: sa.ColumnElement[Any] = sa.null()
    if entry is not None and entry.mode == "APPEND":
        leaf = metadata.tables["log_leaves"].alias()
        source = table.join(
            leaf, sa.and_(leaf.c.tenant_id == table.c.tenant_id, leaf.c.fact_id == table.c.fact_id)
        )
        return source, leaf.c.run_id, table.c.fact_id
    key = owner_key(name)
    if key is not None and entry is not None and entry.mode == "CHAINED":
        owner = key.referred_table.alias()
        same = [owner.c[part.column.name] == table.c[part.parent.name] for part in key.elements]
        return table.join(owner, sa.and_(*same)), owner.c[str(run_column(key.referred_table.name))], nothing
    column = run_column(name)
    if column is None or (entry is not None and not entry.types):
        return table, nothing, nothing
    return table, table.c[column], nothing


def _linked(
    name: str, parent: str, pairs: Sequence[tuple[str, str]], *, turned: bool = False
) -> sa.Select[Any]:
    """Return the query of links from rows of a table to those of another; turned, the other way round."""
    child, referred = metadata.tables[name].alias("child"), metadata.tables[parent].alias("parent")
    source, run, fact = _node(name, child)
    other, other_run, other_fact = _node(parent, referred)
    same = [child.c.tenant_id == referred.c.tenant_id]
    same += [child.c[column] == referred.c[target] for column, target in pairs]
    needing, needed = (run, fact), (other_run, other_fact)
    if turned:
        needing, needed = needed, needing
    statement = (
        sa.select(needing[0], needing[1], needed[0], needed[1])
        .select_from(source.join(other, sa.and_(*same)))
        .where(child.c.tenant_id == _TENANT)
        .distinct()
    )
    if name in EXEMPT:
        statement = statement.where(run.is_not(None))
    return _that_may_go(statement, needing, needed)


def _that_may_go(
    statement: sa.Select[Any],
    needing: tuple[sa.ColumnElement[Any], sa.ColumnElement[Any]],
    needed: tuple[sa.ColumnElement[Any], sa.ColumnElement[Any]],
) -> sa.Select[Any]:
    run, fact = needed
    entries = metadata.tables["log_entries"].c
    below = sa.exists().where(
        entries.tenant_id == _TENANT, entries.epoch == _EPOCH, entries.fact_id == fact, entries.idx < _CUT
    )
    may_go = run.is_not(None) if isinstance(fact, sa.sql.elements.Null) else sa.or_(run.is_not(None), below)
    alike = sa.and_(run.is_not(None), needing[0].is_not_distinct_from(run))
    return statement.where(may_go, ~alike)


def _own_facts(entry: Governed) -> list[sa.Select[Any]]:
    """Return the queries of heads and facts of theirs that are not of the same run, in both directions."""
    table = entry.table.alias("child")
    leaf = metadata.tables["log_leaves"].alias()
    column = table.c[str(run_column(entry.table.name))]
    (name,) = entry.key
    # The key of the row out of the text of the leaf's, so that its own index finds the row.
    key = sa.func.substr(leaf.c.ref_key, 3, sa.func.length(leaf.c.ref_key) - 4)
    source = leaf.join(
        table,
        sa.and_(
            table.c.tenant_id == leaf.c.tenant_id,
            table.c[name] == key,
            leaf.c.ref_table == entry.table.name,
            leaf.c.tenant_id == _TENANT,
        ),
    )
    head, fact = (column, sa.null()), (leaf.c.run_id, leaf.c.fact_id)
    return [
        _that_may_go(
            sa.select(*needing, *needed).select_from(source).where(table.c.tenant_id == _TENANT),
            needing,
            needed,
        )
        for needing, needed in ((head, fact), (fact, head))
    ]


def _versions_named() -> sa.Select[Any]:
    """Return the query of accesses and the facts of the versions of planes that they name."""
    table = GOVERNED["retrieval_evidence"].table.alias("child")
    source, run, fact = _node("retrieval_evidence", table)
    leaf = metadata.tables["log_leaves"].alias()
    named = sa.and_(
        leaf.c.tenant_id == table.c.tenant_id,
        leaf.c.ref_table == "knowledge_plane_registry",
        leaf.c.ref_key == sa.literal('["') + table.c.plane_id + sa.literal('"]'),
        leaf.c.ref_version == table.c.plane_version,
    )
    needing, needed = (run, fact), (leaf.c.run_id, leaf.c.fact_id)
    statement = (
        sa.select(*needing, *needed)
        .select_from(source.join(leaf, named))
        .where(table.c.tenant_id == _TENANT)
        .distinct()
    )
    return _that_may_go(statement, needing, needed)


def list_of_planes(
    connection: DriverConnection, *, tenant_id: str, plane_ids: Sequence[str]
) -> Iterator[Node]:
    """Yield the rows that are about one of the planes."""
    for name in sorted(GOVERNED):
        entry = GOVERNED[name]
        if entry.mode != "APPEND" or "plane_id" not in entry.table.c:
            continue
        table = entry.table.alias("row")
        source, run, fact = _node(name, table)
        statement = (
            sa.select(run, fact)
            .select_from(source)
            .where(table.c.tenant_id == tenant_id, table.c.plane_id.in_(plane_ids))
        )
        for row in connection.execute(statement):
            yield (row[0], None) if row[0] is not None else (None, row[1])
