"""Logs L5: rows that the tenant and the operator change, each of them in a ledger of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.db.connection import DriverConnection, Row
from app.db.governed import GOVERNED, Governed
from app.domains.logs.drivers import governed_rows as driver
from app.domains.logs.drivers import leaves as leaves_driver
from app.domains.logs.engines.heads import SYSTEM
from app.domains.logs.engines.recorded import Recorded, read
from app.domains.logs.engines.row_reading import AUDIT, ENTRIES, Subject, claim_of_image, tolerant
from app.kernel.canonical_json import dumps

Owned = tuple[str, str]


def read_operated(
    connection: DriverConnection, facts: Sequence[Recorded], *, tenant_id: str, across: bool
) -> list[Subject]:
    """Return the rows of operated tables that these facts' ledger entries are about.

    `across`: the connection may read the system's ledger too. Without it, a row with a higher version than
    the tenant's own entries know has been changed by the operator, and is not judged here.
    """
    subjects: list[Subject] = []
    for (owner, entity), mine in _wanted(facts, tenant_id).items():
        entries = [entry for entry in GOVERNED.values() if entry.operated and entry.entity == entity]
        names = sorted({str(fact.body["entity_id"]) for fact in mine})
        spoken = list(mine)
        spoken += _entries(connection, entity, names, tenant_id=owner)
        if across:
            # Two tenants may have rows of one name; the operator's entries say whose it is.
            whose = f'"tenant_id":{dumps(owner)}' if entries[0].key else None
            spoken += _entries(connection, entity, names, tenant_id=SYSTEM, saying=whose)
        for entry in entries:
            found: dict[Owned, Subject] = {}
            for fact in {fact.fact_id: fact for fact in spoken}.values():
                claim_of_image(entry, fact, found)
            _read_rows(connection, entry, found, tenant_id=owner)
            subjects += [subject for subject in found.values() if across or not _moved_on(subject)]
    return subjects


def _wanted(facts: Sequence[Recorded], tenant_id: str) -> dict[Owned, list[Recorded]]:
    operated = {entry.entity: entry for entry in GOVERNED.values() if entry.operated}
    found: dict[Owned, list[Recorded]] = {}
    for fact in facts:
        if fact.said is None or fact.said.get("type") != AUDIT:
            continue
        entry = operated.get(str(fact.body.get("entity_type")))
        owner = None if entry is None else _owner(entry, fact.body, tenant_id)
        # The system is no tenant of the operator's.
        if entry is not None and owner is not None and owner != SYSTEM:
            found.setdefault((owner, entry.entity), []).append(fact)
    return found


def _owner(entry: Governed, body: Mapping[str, Any], tenant_id: str) -> str | None:
    state = body.get("after_state")
    if not isinstance(state, dict):
        return None
    if tenant_id != SYSTEM:
        return tenant_id
    return str(state["tenant_id"]) if "tenant_id" in state else None if entry.key else str(body["entity_id"])


def _entries(
    connection: DriverConnection,
    entity: str,
    names: Sequence[str],
    *,
    tenant_id: str,
    saying: str | None = None,
) -> list[Recorded]:
    newest = driver.list_entries_about(
        connection, entity, names, tenant_id=tenant_id, newest=ENTRIES, saying=saying
    )
    fact_ids = [row["fact_id"] for row in newest]
    if not fact_ids:
        return []
    return read(tolerant(leaves_driver.list_known, connection, fact_ids, tenant_id=tenant_id))


def _read_rows(
    connection: DriverConnection, entry: Governed, found: dict[Owned, Subject], *, tenant_id: str
) -> None:
    keys = [subject.key for subject in found.values()]
    if not keys:
        return
    rows: Sequence[Row] = tolerant(
        driver.list_by_keys, connection, entry.table.name, keys, tenant_id=tenant_id
    )
    by_key = {dumps([row[name] for name in entry.key]): row for row in rows}
    for (_, name), subject in found.items():
        subject.row = by_key.get(name)


def _moved_on(subject: Subject) -> bool:
    known = [claim.stated["version"] for claim in subject.claims if "version" in claim.stated]
    version = None if subject.row is None else subject.row["version"]
    return bool(known) and isinstance(version, int) and version > max(known)
