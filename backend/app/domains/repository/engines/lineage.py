"""L5 engine of the graph: neighbours, lineage level by level, and who used a revision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.db.connection import DriverConnection
from app.domains.repository.drivers import graph as driver
from app.domains.repository.engines.artifacts import check_live
from app.domains.repository.engines.values import is_id
from app.domains.repository.errors import invalid_query, not_found
from app.domains.repository.models.graph import (
    ACYCLIC_TYPES,
    Lineage,
    LineageEdge,
    LineageNode,
    LineageQuery,
    ListNeighbors,
    Neighbor,
)

MAX_DEPTH = 10
MAX_NODES = 5000
# A graph of a few nodes may have very many edges; a level that has more is cut, and says so.
MAX_EDGES = 20_000
Row = Mapping[str, Any]
Node = tuple[str, str]


def list_neighbors(
    connection: DriverConnection,
    wanted: ListNeighbors,
    *,
    tenant_id: str,
    after: tuple[str, str, str] | None,
) -> list[Row]:
    """Return a page of live relationships with the artifact at their other end, one row more if more follow.

    One statement. Refuses ARTIFACT_NOT_FOUND and GONE.
    """
    rows: Sequence[Row] = ()
    if is_id(wanted.artifact_id):
        rows = driver.list_neighbors(
            connection,
            tenant_id=tenant_id,
            artifact_id=wanted.artifact_id,
            directions=("out", "in") if wanted.direction == "both" else (wanted.direction,),
            type_name=wanted.type,
            after=after,
            limit=wanted.limit + 1,
        )
    if not rows:
        raise not_found("ARTIFACT")
    check_live(rows[0])
    return [row for row in rows if row["relationship_id"] is not None]


def neighbor_view(row: Row) -> Neighbor:
    """Return one neighbour."""
    return Neighbor(
        relationship_id=row["relationship_id"],
        type=row["type"],
        direction=row["direction"],
        source_revision=row["source_revision"],
        target_revision=row["target_revision"],
        artifact_id=row["other_id"],
        name=row["other_name"],
        artifact_type=row["other_type"],
        collection_id=row["other_collection_id"],
        head_revision=row["other_head_revision"],
        version=row["other_version"],
    )


def check_bounds(wanted: LineageQuery) -> None:
    """Refuse INVALID_QUERY for a depth or a number of nodes out of range."""
    if not 0 <= wanted.depth <= MAX_DEPTH:
        raise invalid_query(f"depth is 0 to {MAX_DEPTH}.")
    if not 1 <= wanted.max_nodes <= MAX_NODES:
        raise invalid_query(f"max_nodes is 1 to {MAX_NODES}.")


class Walk:
    """A breadth-first walk: nodes at their least depth, each once, and the edges between them."""

    def __init__(self, root: Row, wanted: LineageQuery) -> None:
        self._wanted = wanted
        self.nodes: dict[Node, LineageNode] = {}
        self.edges: dict[tuple[Any, ...], LineageEdge] = {}
        self.truncated = False
        self.frontier: list[Node] = []
        self._add(("artifact", root["id"]), root, 0)

    def ids(self, kind: str) -> list[str]:
        """Return the ids of the newest level's nodes of one kind."""
        return [identifier for found, identifier in self.frontier if found == kind]

    def take(self, rows: Sequence[Row], depth: int) -> None:
        """Add one level: the nodes that are new, as far as there is room, and the edges to known nodes."""
        self.frontier = []
        if len(rows) > MAX_EDGES:
            self.truncated = True
            rows = rows[:MAX_EDGES]
        for row in rows:
            far: Node = (row["far_kind"], row["far_id"])
            if far not in self.nodes:
                if len(self.nodes) >= self._wanted.max_nodes:
                    self.truncated = True
                    continue
                self._add(far, row, depth)
            edge = _edge(row)
            self.edges[tuple(edge.model_dump().values())] = edge

    def _add(self, node: Node, row: Row, depth: int) -> None:
        kind, identifier = node
        deleted = row["deleted_at"] is not None
        shown = kind == "artifact" and not deleted
        self.nodes[node] = LineageNode(
            kind=kind,  # type: ignore[arg-type]
            id=identifier,
            depth=depth,
            name=row["name"] if shown else None,
            artifact_type=row["artifact_type"] if kind == "artifact" else None,
            head_revision=row["head_revision"] if kind == "artifact" else None,
            status=row["status"] if kind == "run" else None,
            deleted=deleted,
        )
        self.frontier.append(node)

    def result(self) -> Lineage:
        """Return nodes by (depth, kind, id) and edges by (from, to, type)."""
        return Lineage(
            artifact_id=self._wanted.artifact_id,
            nodes=sorted(self.nodes.values(), key=lambda node: (node.depth, node.kind, node.id)),
            edges=sorted(self.edges.values(), key=_edge_order),
            truncated=self.truncated,
        )


def _edge_order(edge: LineageEdge) -> tuple[Any, ...]:
    return (
        edge.from_kind,
        edge.from_id,
        edge.to_kind,
        edge.to_id,
        edge.type,
        edge.relationship_id or "",
        edge.from_revision or 0,
        edge.to_revision or 0,
    )


def _edge(row: Row) -> LineageEdge:
    """Return a link in its own direction, whichever way it was walked."""
    near, far = ("to", "from") if row["back"] else ("from", "to")
    return LineageEdge(
        kind=row["kind"],
        type=row["type"],
        relationship_id=row["relationship_id"],
        **{f"{near}_{name}": row[f"near_{name}"] for name in ("kind", "id", "revision")},
        **{f"{far}_{name}": row[f"far_{name}"] for name in ("kind", "id", "revision")},
    )


def walk(connection: DriverConnection, root: Row, wanted: LineageQuery, *, tenant_id: str) -> Lineage:
    """Return the lineage of an artifact: one statement for each level, and no way walked twice."""
    found = Walk(root, wanted)
    for depth in range(1, wanted.depth + 1):
        if not found.frontier:
            break
        rows = driver.list_links(
            connection,
            tenant_id=tenant_id,
            artifact_ids=found.ids("artifact"),
            run_ids=found.ids("run"),
            upstream=wanted.direction != "downstream",
            downstream=wanted.direction != "upstream",
            types=ACYCLIC_TYPES if wanted.types is None else wanted.types,
            include_runs=wanted.include_runs,
            include_deleted=wanted.include_deleted,
            limit=MAX_EDGES + 1,
        )
        found.take(rows, depth)
    return found.result()


def list_consumers(
    connection: DriverConnection,
    *,
    tenant_id: str,
    artifact_id: str,
    revision: int,
    after: tuple[str, str, int] | None,
    limit: int,
) -> Sequence[Row]:
    """Return up to `limit` uses of a revision."""
    return driver.list_consumers(
        connection, tenant_id=tenant_id, artifact_id=artifact_id, revision=revision, after=after, limit=limit
    )
