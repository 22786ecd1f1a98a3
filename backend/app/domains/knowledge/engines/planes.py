"""L5 planes: rows read for a decision, conditional changes, and the views of answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from app.db.connection import DriverConnection
from app.domains.knowledge.drivers import plane_documents, plane_jobs, plane_passages, plane_terms
from app.domains.knowledge.drivers import plane_registry as driver
from app.domains.knowledge.engines.plane_config import shown_config
from app.domains.knowledge.errors import plane_not_found
from app.domains.knowledge.models.planes import (
    ListPlanes,
    PlaneAllows,
    PlaneDocumentView,
    PlaneView,
)
from app.domains.knowledge.models.vocabulary import (
    ConnectorType,
    JobStatus,
    JobType,
    KnowledgePlaneLifecycleState,
)
from app.kernel.canonical_json import loads
from app.kernel.clock import format_time

State = KnowledgePlaneLifecycleState
# No access lasts longer: what it found in a generation is there until its end.
ENDED_SECONDS = 60
# For so long after that is a move looked at; a later sweep is part of the next refresh.
NOTICED_SECONDS = 3600
PlaneRow = Mapping[str, Any]
_AUTO_REFRESHED: Mapping[str, Any] = {
    "connector_type": ConnectorType.REPOSITORY.value,
    "lowest": int(State.INDEXED),
    "highest": int(State.ACTIVE),
    # A configuration is kept as its canonical text, and the key is of no other object.
    "config_part": '"auto_refresh":true',
}
# The configuration stands in the ledger by its digest; the leaf is named by the ledger's own fact.
_NOT_IN_IMAGE = frozenset({"tenant_id", "config", "fact_id"})


def find_plane(
    connection: DriverConnection, *, tenant_id: str, plane_id: str, lock: bool = False
) -> PlaneRow | None:
    """Return the whole row of a plane, held against other writers if asked for, or None."""
    read = driver.lock_plane if lock else driver.get_plane
    return read(connection, tenant_id=tenant_id, plane_id=plane_id)


def require_plane(
    connection: DriverConnection, *, tenant_id: str, plane_id: str, lock: bool = False
) -> PlaneRow:
    """Return the whole row of a plane, or raise PLANE_NOT_FOUND."""
    plane = find_plane(connection, tenant_id=tenant_id, plane_id=plane_id, lock=lock)
    if plane is None:
        raise plane_not_found()
    return plane


def state_of(plane: PlaneRow) -> State:
    """Return the lifecycle state of a row."""
    return State(plane["lifecycle_state_value"])


def new_plane(
    *,
    plane_id: str,
    plane_type: str,
    plane_name: str,
    connector_type: str,
    connector_id: str,
    config: str,
    config_digest: str,
    created_by: str,
    now: datetime,
) -> dict[str, Any]:
    """Return the whole row of a plane that is being registered; its first event is number 1."""
    empty = (
        "suspended_at",
        "suspended_by",
        "grace_until",
        "retention_until",
        "sensitivity_level",
        "pii_detected",
    )
    unwritten = ("archive_key", "archive_digest", "archive_size_bytes", "archived_at", "purge_certificate")
    counters = ("document_count", "passage_count", "token_total", "generation")
    return {
        "plane_id": plane_id,
        "plane_type": plane_type,
        "plane_name": plane_name,
        "lifecycle_state_value": int(State.DRAFT),
        "connector_type": connector_type,
        "connector_id": connector_id,
        "config": config,
        "config_digest": config_digest,
        "created_by": created_by,
        "created_at": now,
        "updated_at": now,
        "state_entered_at": now,
        "version": 1,
        "event_seq": 1,
        **dict.fromkeys((*empty, "pii_count", "classification", "ingested_seq", *unwritten)),
        **dict.fromkeys(counters, 0),
    }


def insert_plane(connection: DriverConnection, *, tenant_id: str, row: PlaneRow) -> bool:
    """Insert a plane; return False when a live plane of the tenant has its type and name."""
    return driver.insert_plane(connection, tenant_id=tenant_id, row=row)


def set_plane(
    connection: DriverConnection, *, tenant_id: str, plane: PlaneRow, values: Mapping[str, Any], events: int
) -> int | None:
    """Change a plane that is still as it was read; return its new event_seq, None when it moved on."""
    return driver.set_plane(
        connection,
        tenant_id=tenant_id,
        plane_id=plane["plane_id"],
        expected_state=plane["lifecycle_state_value"],
        expected_version=plane["version"],
        values=values,
        events=events,
    )


def count_events(connection: DriverConnection, *, tenant_id: str, plane_id: str, events: int) -> PlaneRow:
    """Take the next event numbers of a plane and return it as it stands; raise PLANE_NOT_FOUND."""
    row = driver.count_events(connection, tenant_id=tenant_id, plane_id=plane_id, events=events)
    if row is None:
        raise plane_not_found()
    return row


def get_visit_job_status(
    connection: DriverConnection, *, tenant_id: str, plane: PlaneRow, job_type: JobType
) -> JobStatus | None:
    """Return the status of the newest job of a type since the plane entered its state, None without one."""
    row = plane_jobs.get_newest_job(
        connection,
        tenant_id=tenant_id,
        plane_id=plane["plane_id"],
        job_type=job_type.value,
        since=plane["state_entered_at"],
    )
    return None if row is None else JobStatus(row["status"])


def delete_content(connection: DriverConnection, *, tenant_id: str, plane_id: str) -> None:
    """Delete everything derived that a plane serves; its events and evidence stay."""
    plane_terms.delete_terms(connection, tenant_id=tenant_id, plane_id=plane_id)
    plane_passages.delete_passages(connection, tenant_id=tenant_id, plane_id=plane_id)
    plane_documents.delete_documents(connection, tenant_id=tenant_id, plane_id=plane_id)


def list_documents(
    connection: DriverConnection, *, tenant_id: str, plane: PlaneRow, after: str | None, limit: int
) -> list[PlaneDocumentView]:
    """Return the documents that a plane serves, by artifact_id, after the given one."""
    rows = plane_documents.list_served(
        connection,
        tenant_id=tenant_id,
        plane_id=plane["plane_id"],
        generation=plane["generation"],
        after=after,
        limit=limit,
    )
    return [
        PlaneDocumentView(
            **{
                **{name: row[name] for name in PlaneDocumentView.model_fields},
                "pii_counts": loads(row["pii_counts"]),
                "categories": loads(row["categories"]),
            }
        )
        for row in rows
    ]


def list_moved(connection: DriverConnection, *, tenant_id: str, now: datetime) -> list[PlaneRow]:
    """Return planes whose generation moved a while ago: nothing reads what ended with it any more."""
    since, until = _moved_between(now)
    return driver.list_moved(connection, tenant_id=tenant_id, since=since, until=until)


def list_tenants_moved(connection: DriverConnection, *, now: datetime) -> Sequence[str]:
    """Return the tenants that have such planes."""
    since, until = _moved_between(now)
    return driver.list_tenants_moved(connection, since=since, until=until)


def _moved_between(now: datetime) -> tuple[datetime, datetime]:
    until = now - timedelta(seconds=ENDED_SECONDS)
    return until - timedelta(seconds=NOTICED_SECONDS), until


def list_auto_refreshed(connection: DriverConnection, *, tenant_id: str) -> list[PlaneRow]:
    """Return planes from INDEXED to ACTIVE that refresh by themselves and have no open job."""
    return driver.list_refreshable(connection, tenant_id=tenant_id, **_AUTO_REFRESHED)


def auto_refreshed_seqs(connection: DriverConnection) -> Mapping[str, int]:
    """Return, by tenant, the oldest change that one of its planes with auto_refresh was made from."""
    rows = driver.list_ingested_seqs(connection, **_AUTO_REFRESHED)
    return {row["tenant_id"]: row["ingested_seq"] for row in rows}


def get_view(connection: DriverConnection, *, tenant_id: str, plane_id: str, now: datetime) -> PlaneView:
    """Return a plane as answers show it, or raise PLANE_NOT_FOUND."""
    row = driver.get_plane_view(connection, tenant_id=tenant_id, plane_id=plane_id, now=now)
    if row is None:
        raise plane_not_found()
    return _view(row)


def list_views(
    connection: DriverConnection,
    *,
    tenant_id: str,
    wanted: ListPlanes,
    state: State | None,
    now: datetime,
    after: str | None,
    limit: int,
) -> list[PlaneView]:
    """Return planes by plane_id, after the given one."""
    rows = driver.list_plane_views(
        connection,
        tenant_id=tenant_id,
        now=now,
        plane_type=wanted.plane_type,
        plane_name=wanted.plane_name,
        connector_type=None if wanted.connector_type is None else wanted.connector_type.value,
        state=None if state is None else int(state),
        after=after,
        limit=limit,
    )
    return [_view(row) for row in rows]


def audit_image(plane: PlaneRow) -> dict[str, Any]:
    """Return a row as the audit ledger keeps it: every column, the configuration by its digest."""
    return {name: _plain(name, value) for name, value in plane.items() if name not in _NOT_IN_IMAGE}


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, datetime):
        return format_time(value)
    if name == "classification" and value is not None:
        return loads(value)
    return value


def _view(row: Mapping[str, Any]) -> PlaneView:
    state = State(row["lifecycle_state_value"])
    members = {name: row[name] for name in PlaneView.model_fields if name in row}
    return PlaneView(
        **{
            **members,
            "lifecycle_state": state.name,
            "config": shown_config(row["config"]),
            "classification": None if row["classification"] is None else loads(row["classification"]),
            "suspended": row["suspended_at"] is not None,
            "bound_policy_ids": sorted(row["bound_policies"].split(",")) if row["bound_policies"] else [],
            "purge_approved": bool(row["purge_approved"]),
            "allows": PlaneAllows(
                queries=state.allows_queries and row["suspended_at"] is None,
                policy_binding=state.allows_policy_binding,
                modifications=state.allows_modifications,
            ),
        }
    )
