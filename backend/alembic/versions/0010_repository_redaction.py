"""Redaction of revisions: the erasure door lets exactly two changes through; removed edges are found."""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op
from hoc_ddl import on_postgresql, refuse, run_ddl

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

GUARD = "artifact_revisions_no_update"
KEPT = (
    "tenant_id", "artifact_id", "revision", "parent_digest", "content_digest", "size", "media_type",
    "name_digest", "collection_id", "artifact_type", "metadata_digest", "provenance_digest",
    "produced_by_run", "created_at", "created_by", "revision_digest",
)  # fmt: skip
ERASABLE = ("name", "metadata", "provenance")
GONE_EDGES = {
    "ix_relationships_gone_source": "source_id",
    "ix_relationships_gone_target": "target_id",
}


def _same(column: str) -> str:
    return f"NEW.{column} {'IS NOT DISTINCT FROM' if on_postgresql() else 'IS'} OLD.{column}"


def _guard(allowed: str) -> None:
    """Replace the guard of revisions: an UPDATE is refused unless `allowed` holds."""
    run_ddl(
        sqlite=f"DROP TRIGGER {GUARD}",
        postgresql=(f"DROP TRIGGER {GUARD} ON artifact_revisions", f"DROP FUNCTION {GUARD}()"),
    )
    refuse(
        GUARD,
        "artifact_revisions",
        "UPDATE",
        "artifact_revisions is append-only",
        when=f"NOT ({allowed})",
    )


def upgrade() -> None:
    kept = " AND ".join(_same(column) for column in KEPT)
    untouched = " AND ".join(_same(column) for column in ERASABLE)
    erased = " AND ".join(f"NEW.{column} IS NULL" for column in ERASABLE)
    # The bytes alone may go, once; or all that the revision says, once, also after its bytes.
    content = f"OLD.redaction IS NULL AND NEW.redaction = 'CONTENT' AND {untouched}"
    full = f"(OLD.redaction IS NULL OR OLD.redaction = 'CONTENT') AND NEW.redaction = 'FULL' AND {erased}"
    # A comparison with null is no refusal: WHEN needs a condition that is true or false.
    door = f"CASE WHEN ({content}) OR ({full}) THEN 1 ELSE 0 END = 1"
    _guard(f"{kept} AND NEW.redacted_at IS NOT NULL AND {door}")
    removed = sa.text("deleted_at IS NOT NULL")
    for name, column in GONE_EDGES.items():
        op.create_index(
            name,
            "relationships",
            ["tenant_id", column],
            sqlite_where=removed,
            postgresql_where=removed,
        )


def downgrade() -> None:
    for name in GONE_EDGES:
        op.drop_index(name, "relationships")
    allowed = [_same(column) for column in KEPT]
    allowed += [f"(NEW.{column} IS NULL OR {_same(column)})" for column in ERASABLE]
    allowed += [
        "NEW.redaction IS NOT NULL",
        "NEW.redacted_at IS NOT NULL",
        "(OLD.redaction IS NULL OR (OLD.redaction = 'CONTENT' AND NEW.redaction = 'FULL'))",
        f"(NEW.redaction = 'CONTENT' OR ({' AND '.join(f'NEW.{column} IS NULL' for column in ERASABLE)}))",
    ]
    _guard(" AND ".join(allowed))
