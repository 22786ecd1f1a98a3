"""Spine: a purge from its permit to its end, in short transactions; cut off anywhere, it is done again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from app.domains.logs.models.retention import PurgeOpened
from app.hoc_spine.coordinators.retention_purge import (
    Purge,
    Slice,
    delete_events,
    delete_slice,
    read_purge,
    touched_tables,
)
from app.hoc_spine.spine import Spine
from app.kernel.context import Actor, RequestContext

ROLE: Final = "hoc_maintenance"


@dataclass(frozen=True, slots=True)
class Purged:
    """A purge that is done; `left` facts stayed, since rows that came meanwhile refer to them."""

    opened: PurgeOpened
    slices: int
    left: int


class LogPurge:
    """Deletes what the archive of a tenant holds; another process may do the same at the same time."""

    def __init__(self, spine: Spine, *, tenant_id: str, actor: Actor) -> None:
        self._spine = spine
        self._tenant_id = tenant_id
        self._actor = actor
        self._slices = 0
        self._left = 0

    def run(self, *, archive_id: str | None = None, path: str | None = None) -> Purged:
        """Open the permit or take up the one that is open, delete, close it; refuse ARCHIVE_REQUIRED."""
        opened: PurgeOpened = self._dispatch("ops.retention.purge", {"archive_id": archive_id, "path": path})
        with self._spine.transactions.read(self._tenant_id, snapshot=True, role=ROLE) as connection:
            found, slices = read_purge(connection, tenant_id=self._tenant_id)
        for part in slices:
            self._delete(found, part)
        self._delete_events()
        self._spine.transactions.vacuum(touched_tables())
        self._dispatch("ops.retention.end_purge", {"purge_id": opened.purge_id})
        return Purged(opened, self._slices, self._left)

    def _delete(self, found: Purge, part: Slice) -> None:
        services = self._spine.services
        is_more = True
        while is_more:
            try:
                with self._spine.transactions.write(self._tenant_id, role=ROLE) as connection:
                    is_more = delete_slice(
                        connection, found, part, new_id=services.ids.new, now=services.clock.now()
                    )
            except Exception as error:
                # A row that came after the permit refers to one of these: the others go.
                if not (part.facts and self._spine.transactions.is_refused_by_rows(error)):
                    raise
                self._left += len(part.facts) == 1
                for half in part.halves() if len(part.facts) > 1 else ():
                    self._delete(found, half)
                return
            self._slices += 1

    def _delete_events(self) -> None:
        now, is_more = self._spine.services.clock.now(), True
        while is_more:
            with self._spine.transactions.write(self._tenant_id, role=ROLE) as connection:
                is_more = delete_events(connection, tenant_id=self._tenant_id, now=now)

    def _dispatch(self, operation: str, payload: dict[str, str | None]) -> PurgeOpened:
        context = RequestContext(
            tenant_id=self._tenant_id,
            actor=self._actor,
            request_id=self._spine.services.ids.new("req"),
            door="worker",
        )
        opened: PurgeOpened = self._spine.dispatch(operation, context, payload).unwrap()
        return opened
