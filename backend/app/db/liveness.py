"""Database: whether an artifact is live and its head unredacted, as a condition in another slice's statement.

A plane's search asks it of the few documents that answer; a further statement for that would cost as much
as they do. It knows the tables by their names only.
"""

from __future__ import annotations

import sqlalchemy as sa

from app.db.metadata import metadata


def is_live(*, tenant_id: sa.ColumnElement[str], artifact_id: sa.ColumnElement[str]) -> sa.Exists:
    """Return the condition for the artifact of this id."""
    artifacts, revisions = metadata.tables["artifacts"], metadata.tables["artifact_revisions"]
    return sa.exists().where(
        artifacts.c.tenant_id == tenant_id,
        artifacts.c.id == artifact_id,
        artifacts.c.deleted_at.is_(None),
        revisions.c.tenant_id == tenant_id,
        revisions.c.artifact_id == artifact_id,
        revisions.c.revision == artifacts.c.head_revision,
        revisions.c.redaction.is_(None),
    )
