"""Bulk creation finds who bears a name by the index of names, whatever the names and the size of the rest."""

from __future__ import annotations

import re
from typing import Any

import sqlalchemy as sa

from app.hoc_spine.spine import Spine
from tests.factories.tenants import Tenant

ODD = ('a"b', "c\\d", "{e,f}", "NULL", "null", "é", "e\u0301", "\U0001f600", "[1]", "'", "A", "a")


def _create(tenant: Tenant, names: tuple[str, ...], **members: Any) -> Any:
    items = [{"name": name, "artifact_type": "note", **members} for name in names]
    return tenant.dispatch("repository.artifacts.create_bulk", {"items": items})


def test_a_taken_name_is_found_however_odd_and_in_its_own_collection_alone(tenant: Tenant) -> None:
    other = tenant.call("repository.collections.create", {"name": "other"}).id
    # The seventh is the sixth in another form.
    distinct = ODD[:6] + ODD[7:]
    for collection_id in ("default", other):
        assert _create(tenant, distinct, collection_id=collection_id).error_code is None
    free = _create(tenant, tuple(f"{name}{name}" for name in distinct))
    assert free.error_code is None
    for name in ODD:
        assert _create(tenant, ("new", name)).error_code == "DUPLICATE_NAME", name
    mixed = [
        {"name": name, "artifact_type": "note", "content": "x", "collection_id": collection_id}
        for name in distinct
        for collection_id in ("default", other)
    ]
    again = {"items": mixed, "on_existing": "update"}
    results = tenant.call("repository.artifacts.create_bulk", again).items
    assert {made.result for made in results} == {"updated"}
    assert len({made.id for made in results}) == len(mixed)


def test_the_look_up_of_names_reads_no_table_from_end_to_end(spine: Spine, tenant: Tenant) -> None:
    plans: list[str] = []

    def explain(connection: sa.Connection, cursor: Any, statement: str, given: Any, *_: Any) -> None:
        if not re.search(r"^SELECT artifacts\.id, .*name_key\) IN", statement, re.DOTALL):
            return
        if connection.dialect.name == "postgresql":
            cursor.execute("SET LOCAL enable_seqscan = off")
            plans.extend(row[0] for row in cursor.execute(f"EXPLAIN {statement}", given))
        else:
            plans.extend(row[3] for row in cursor.execute(f"EXPLAIN QUERY PLAN {statement}", given))

    sa.event.listen(spine.transactions.engine, "before_cursor_execute", explain)
    try:
        assert _create(tenant, tuple(f"note {number}" for number in range(500))).error_code is None
    finally:
        sa.event.remove(spine.transactions.engine, "before_cursor_execute", explain)
    # Which of its indexes PostgreSQL takes for a few rows depends on what it knows of all tenants.
    index = "uq_artifacts_live_name" if spine.transactions.dialect_name == "sqlite" else "Index"
    assert any(index in line for line in plans)
    assert not [line for line in plans if re.search(r"SCAN (artifact|blob)|Seq Scan|CONSTANT ROWS", line)]
