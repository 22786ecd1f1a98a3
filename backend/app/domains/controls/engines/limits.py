"""Controls L5: limits: making, changing, their content hash, and what a snapshot takes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from app.db.connection import DriverConnection, Row
from app.db.governed import row_image
from app.domains.controls.drivers import limits as driver
from app.domains.controls.errors import (
    halts_without_block,
    immutable_field,
    limit_exists,
    limit_integrity,
    limit_not_found,
    limit_system,
)
from app.domains.controls.models.limits import (
    CHANGEABLE,
    FIXED,
    CreateLimit,
    LimitRule,
    LimitView,
    ListLimits,
    UpdateLimit,
)
from app.domains.controls.models.vocabulary import LimitEnforcement, LimitScope, LimitSource, LimitStatus
from app.kernel.amounts import as_number
from app.kernel.canonical_json import dumps
from app.kernel.hashing import text_hash

JUDGING: Final = (
    "category",
    "metric",
    "scope",
    "scope_id",
    "reset_period",
    "window_seconds",
    "source",
    "max_value",
    "enforcement",
    "consequence",
    "halts_run",
)


def content_hash(tenant_id: str, limit: Mapping[str, Any]) -> str:
    """Return the hash of everything in a version of a limit that judges, 64 hex digits."""
    members = {
        "v": "limit-1",
        "tenant_id": tenant_id,
        "limit_id": limit["limit_id"],
        "limit_version": limit["limit_version"],
        **{name: limit[name] for name in JUDGING},
    }
    return text_hash(dumps(members))


def snapshot_limits(
    connection: DriverConnection, *, tenant_id: str, project_id: str | None, agent_id: str
) -> list[dict[str, Any]]:
    """Return the ACTIVE limits that count the use of this project and agent, as a snapshot's members.

    Refuses with POLICY_INTEGRITY a limit that lost its content hash.
    """
    found = []
    for row in driver.list_active(connection, tenant_id=tenant_id):
        rule = LimitRule.of(row).as_json()
        if not is_applicable(row, project_id=project_id, agent_id=agent_id):
            continue
        if content_hash(tenant_id, rule) != row["content_hash"]:
            raise limit_integrity(row["limit_id"], row["limit_version"])
        found.append(rule)
    return found


def is_applicable(limit: Mapping[str, Any], *, project_id: str | None, agent_id: str) -> bool:
    """Tell whether a limit counts the runs of this project and agent."""
    if limit["scope"] == LimitScope.TENANT:
        return True
    wanted = project_id if limit["scope"] == LimitScope.PROJECT else agent_id
    return wanted is not None and limit["scope_id"] == wanted


def list_active_rules(connection: DriverConnection, *, tenant_id: str) -> list[LimitRule]:
    """Return every ACTIVE limit, by id."""
    return [LimitRule.of(row) for row in driver.list_active(connection, tenant_id=tenant_id)]


def build(
    given: CreateLimit,
    *,
    tenant_id: str,
    limit_id: str,
    source: LimitSource,
    created_by: str,
    now: datetime,
) -> dict[str, Any]:
    """Return the row of a new ACTIVE limit."""
    row = {
        **given.model_dump(mode="json", exclude={"limit_id"}),
        "limit_id": limit_id,
        "source": source.value,
        "created_by": created_by,
        "status": LimitStatus.ACTIVE.value,
        "limit_version": 1,
        "created_at": now,
        "updated_at": now,
        "version": 1,
    }
    return row | {"content_hash": content_hash(tenant_id, row)}


def insert(connection: DriverConnection, row: Mapping[str, Any], *, tenant_id: str) -> None:
    """Insert a limit; refuse LIMIT_EXISTS with the field that is taken."""
    if driver.insert_limit(connection, tenant_id=tenant_id, row=row):
        return
    taken = driver.get_limit(connection, tenant_id=tenant_id, limit_id=row["limit_id"]) is not None
    raise limit_exists("limit_id" if taken else "name")


def require(connection: DriverConnection, *, tenant_id: str, limit_id: str, lock: bool = False) -> Row:
    """Return a limit's row, held for a change if asked; refuse LIMIT_NOT_FOUND."""
    row = driver.get_limit(connection, tenant_id=tenant_id, limit_id=limit_id, lock=lock)
    if row is None:
        raise limit_not_found()
    return row


def find(connection: DriverConnection, *, tenant_id: str, limit_id: str, lock: bool = False) -> Row | None:
    """Return a limit's row, None when the tenant has no such limit."""
    return driver.get_limit(connection, tenant_id=tenant_id, limit_id=limit_id, lock=lock)


def system_values(connection: DriverConnection, *, limit_id: str) -> Mapping[str, int]:
    """Return the value of a SYSTEM limit by tenant."""
    return {row["tenant_id"]: row["max_value"] for row in driver.list_system(connection, limit_id=limit_id)}


def require_own(row: Row) -> Row:
    """Refuse LIMIT_SYSTEM for a limit that the plan sets."""
    if row["source"] == LimitSource.SYSTEM:
        raise limit_system()
    return row


def plan_update(row: Row, given: UpdateLimit) -> dict[str, Any]:
    """Return the columns that an update changes, none for a no-op; refuse IMMUTABLE_FIELD.

    A fixed member that says what the limit has already is no change.
    """
    said = given.model_dump(mode="json", include=given.model_fields_set)
    fixed = [name for name in FIXED if name in said and said[name] != row[name]]
    if fixed:
        raise immutable_field(fixed)
    # Null clears the description; of the others every limit has one.
    wanted = {
        name: said[name]
        for name in CHANGEABLE
        if name in said and (said[name] is not None or name == "description")
    }
    changed = {name: value for name, value in wanted.items() if value != row[name]}
    after = {**row, **changed}
    if after["halts_run"] and after["enforcement"] != LimitEnforcement.BLOCK:
        raise halts_without_block()
    return changed


def write(
    connection: DriverConnection, row: Row, changed: Mapping[str, Any], *, tenant_id: str, now: datetime
) -> dict[str, Any]:
    """Write a change of a limit that is held as its next version and return the row.

    Refuses LIMIT_EXISTS when another ACTIVE limit has the name.
    """
    after = {**row, **changed, "limit_version": row["limit_version"] + 1, "updated_at": now}
    after["content_hash"] = content_hash(tenant_id, after)
    if after["status"] == LimitStatus.ACTIVE:
        others = driver.count_name(
            connection, tenant_id=tenant_id, name=after["name"], except_id=row["limit_id"]
        )
        if others:
            raise limit_exists("name")
    values = {
        name: after[name] for name in (*CHANGEABLE, "status", "limit_version", "content_hash", "updated_at")
    }
    if not driver.set_limit(
        connection, tenant_id=tenant_id, limit_id=row["limit_id"], version=row["version"], values=values
    ):
        raise LookupError(f"limit {row['limit_id']} moved under its own lock")
    return {**after, "version": row["version"] + 1}


def list_page(
    connection: DriverConnection,
    query: ListLimits,
    *,
    tenant_id: str,
    before: tuple[datetime, str] | None,
    limit: int,
) -> Sequence[Row]:
    """Return limits newest first."""
    equal = query.model_dump(mode="json", include={"category", "metric", "scope", "status"})
    return driver.list_limits(connection, tenant_id=tenant_id, equal=equal, before=before, limit=limit)


def lock_shared(connection: DriverConnection, *, tenant_id: str, limit_ids: Sequence[str]) -> dict[str, Row]:
    """Return these limits by id as they stay until the transaction ends."""
    rows = driver.lock_shared(connection, tenant_id=tenant_id, limit_ids=sorted(set(limit_ids)))
    return {row["limit_id"]: row for row in rows}


def image(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the audit image of a limit."""
    return row_image("limits", row)


def view_members(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members of a limit's view."""
    return {name: row[name] for name in LimitView.model_fields} | {"max_value": as_number(row["max_value"])}


def view(row: Mapping[str, Any]) -> LimitView:
    """Return what a caller sees of a limit."""
    return LimitView.model_validate(view_members(row))
