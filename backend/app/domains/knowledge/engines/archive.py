"""L5 archive of a plane: what is kept of it besides its collection, as canonical text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from app.db.connection import DriverConnection
from app.domains.knowledge.drivers import (
    plane_bindings,
    plane_documents,
    plane_events,
    plane_registry,
    purge_approvals,
)
from app.domains.knowledge.engines.config_secrets import mask_credentials
from app.domains.knowledge.errors import plane_not_found
from app.domains.knowledge.models.vocabulary import (
    KnowledgePlaneLifecycleState,
)
from app.kernel.canonical_json import dumps, loads
from app.kernel.clock import format_time

FORMAT: Final = "hoc-plane-archive"
PAGE: Final = 500
# Set by the archive's own completion: an archive cannot hold its own name and digest.
_OF_ARCHIVE = frozenset(
    {
        "tenant_id",
        "archive_key",
        "archive_digest",
        "archive_size_bytes",
        "archived_at",
        "retention_until",
        "purge_certificate",
    }
)
_JSON = frozenset({"classification", "gate", "details", "pii_counts", "categories"})
Row = Mapping[str, Any]


def plane_text(connection: DriverConnection, *, tenant_id: str, plane_id: str) -> str:
    """Return the plane's row, bindings, approvals and pins as one canonical text; raise PLANE_NOT_FOUND."""
    plane = plane_registry.get_plane(connection, tenant_id=tenant_id, plane_id=plane_id)
    if plane is None:
        raise plane_not_found()
    keys: dict[str, Any] = {"tenant_id": tenant_id, "plane_id": plane_id}
    body = {
        "plane": {**_plain(plane), "config": mask_credentials(loads(plane["config"]))},
        "bindings": [_plain(row) for row in plane_bindings.list_bindings(connection, **keys)],
        "approvals": [_plain(row) for row in purge_approvals.list_approvals(connection, **keys)],
        "pins": [_plain(row) for row in _pins(connection, plane, **keys)],
    }
    return dumps(body) + "\n"


def event_lines(connection: DriverConnection, *, tenant_id: str, plane_id: str) -> Iterator[str]:
    """Yield the plane's events up to the one that entered ARCHIVED, each as one canonical line."""
    after = 0
    while True:
        rows = plane_events.list_events(
            connection,
            tenant_id=tenant_id,
            plane_id=plane_id,
            event_type=None,
            decision=None,
            after=after,
            limit=PAGE,
        )
        for row in rows:
            yield dumps(_plain(row))
            archived = row["to_state_value"] == KnowledgePlaneLifecycleState.ARCHIVED
            if archived and row["decision"] == "ALLOWED":
                return
        if len(rows) < PAGE:
            return
        after = rows[-1]["seq"]


def _pins(connection: DriverConnection, plane: Row, *, tenant_id: str, plane_id: str) -> Iterator[Row]:
    after: str | None = None
    while rows := plane_documents.list_served(
        connection,
        tenant_id=tenant_id,
        plane_id=plane_id,
        generation=plane["generation"],
        after=after,
        limit=PAGE,
    ):
        yield from rows
        after = rows[-1]["artifact_id"]


def _plain(row: Row) -> dict[str, Any]:
    return {name: _value(name, value) for name, value in row.items() if name not in _OF_ARCHIVE}


def _value(name: str, value: Any) -> Any:
    if isinstance(value, datetime):
        return format_time(value)
    if name in _JSON and value is not None:
        return loads(value)
    return value
