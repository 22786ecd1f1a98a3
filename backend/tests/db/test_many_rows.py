"""Many rows at once: what goes in as one array for each column comes out as it went in, in the same order."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from app.db.dialect import bytewise
from app.db.many_rows import ManyRows
from app.domains.knowledge.tables import plane_documents
from app.hoc_spine.spine import Spine
from tests.factories.planes import register_plane
from tests.factories.tenants import Tenant

TEXTS = ["", "NULL", "null", '"', "\\", '\\"', "{a,b}", ",", " x ", "{}", "ü\n\t\r東😀", "'; --", "a", "B"]
DOCUMENTS = plane_documents.c
INSERTION = ManyRows(
    plane_documents,
    of_all=("tenant_id", "plane_id", "pinned_at"),
    of_each=[
        column.name
        for column in plane_documents.columns
        if column.name not in ("tenant_id", "plane_id", "pinned_at")
    ],
)


def rows() -> list[dict[str, Any]]:
    return [
        {
            "artifact_id": f"art-{number:04}",
            "gen_from": 1,
            "gen_to": None if number % 2 else number,
            "revision": number,
            "revision_digest": text,
            "content_digest": text,
            "name": text,
            "media_type": None if number % 3 else text,
            "size_bytes": 2**40 + number,
            "token_count": 0,
            "passage_count": -number,
            "sensitivity_level": "public",
            "pii_counts": "{}",
            "categories": "[]",
        }
        for number, text in enumerate(TEXTS * 150)
    ]


def test_every_kind_of_value_comes_back_as_it_went(spine: Spine, tenant: Tenant) -> None:
    plane_id, now = register_plane(tenant), datetime(2026, 1, 31, 23, 59, 59, 123456, tzinfo=UTC)
    of_all = {"tenant_id": tenant.tenant_id, "plane_id": plane_id, "pinned_at": now}
    given = rows()
    with spine.transactions.write(tenant.tenant_id) as connection:
        INSERTION.insert(connection, [], **of_all)
        INSERTION.insert(connection, given, **of_all)
    statement = sa.select(plane_documents).where(
        DOCUMENTS.tenant_id == tenant.tenant_id, DOCUMENTS.plane_id == plane_id
    )
    with spine.transactions.read(tenant.tenant_id) as connection:
        found = connection.execute(statement.order_by(DOCUMENTS.artifact_id)).mappings().all()
    assert [dict(row) for row in found] == [{**of_all, **row} for row in given]


def test_an_order_by_bytes_is_served_by_the_key(spine: Spine, tenant: Tenant) -> None:
    with spine.transactions.read(tenant.tenant_id) as connection:
        if connection.dialect_name == "sqlite":
            return
        artifact_id = bytewise(connection, DOCUMENTS.artifact_id)
        page = (
            sa.select(DOCUMENTS.artifact_id)
            .where(DOCUMENTS.tenant_id == tenant.tenant_id, DOCUMENTS.plane_id == "kp", artifact_id > "a")
            .order_by(artifact_id)
            .limit(10)
        )
        engine = spine.transactions.engine
        text = str(page.compile(engine, compile_kwargs={"literal_binds": True}))
        connection.execute(sa.text("SET LOCAL enable_seqscan = off"))
        connection.execute(sa.text("SET LOCAL enable_bitmapscan = off"))
        plan = "\n".join(row[0] for row in connection.execute(sa.text(f"EXPLAIN {text}")))
    assert "Index" in plan
    assert "Sort" not in plan, plan
    # Where the database orders otherwise, the order is asked for.
    assert 'COLLATE "C"' in str(page.compile(dialect=sa.dialects.postgresql.dialect()))
