"""L5 engine of revisions: the digest chain of an artifact, its differences, and reads of its history."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.db.connection import DriverConnection
from app.domains.repository.drivers import revisions as driver
from app.domains.repository.engines import documents
from app.domains.repository.engines.artifacts import MAX_REVISION, check_live
from app.domains.repository.engines.values import is_id
from app.domains.repository.errors import content_corrupt, content_gone, not_found
from app.domains.repository.models.vocabulary import BlobState, ContentState
from app.kernel.canonical_json import dumps
from app.kernel.clock import format_time
from app.kernel.hashing import digest_of

MAX_DIFF_INPUT = 1024 * 1024
MAX_DIFF_OUTPUT = 256 * 1024
# Beyond this many line pairs the differing middle is shown as one replacement: the exact diff is quadratic.
_MAX_LINE_PAIRS = 1_000_000
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_HUNK = re.compile(r"@@ -(\d+)((?:,\d+)?) \+(\d+)((?:,\d+)?) @@")
_TAG = "hoc-rev-1\n"


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of one revision, null where it has none."""

    data: bytes | None
    media_type: str | None
    digest: str | None


def revision_digest(row: Mapping[str, Any]) -> str:
    """Return the digest of a revision's envelope.

    Digests stand in for name, metadata and provenance, so redaction keeps the chain valid; the tenant is left
    out, so a chain survives import into another.
    """
    envelope = {
        "artifact_id": row["artifact_id"],
        "revision": row["revision"],
        "parent": row["parent_digest"],
        "content_digest": row["content_digest"],
        "size": row["size"],
        "media_type": row["media_type"],
        "artifact_type": row["artifact_type"],
        "name_digest": row["name_digest"],
        "collection_id": row["collection_id"],
        "metadata_digest": row["metadata_digest"],
        "provenance_digest": row["provenance_digest"],
        "produced_by_run": row["produced_by_run"],
        "created_at": format_time(row["created_at"]),
        "created_by": row["created_by"],
    }
    return digest_of((_TAG + dumps(envelope)).encode())


def content_state(row: Mapping[str, Any]) -> ContentState:
    """Return what a reader of a revision's content finds (of content_digest, redaction, blob_state)."""
    if row["content_digest"] is None:
        return ContentState.NONE
    if row["redaction"] is not None or row["blob_state"] == BlobState.REDACTED:
        return ContentState.REDACTED
    return ContentState.COLLECTED if row["blob_state"] == BlobState.COLLECTED else ContentState.PRESENT


def get_revision(
    connection: DriverConnection, *, tenant_id: str, artifact_id: str, revision: int
) -> Mapping[str, Any]:
    """Return one revision; refuse ARTIFACT_NOT_FOUND or REVISION_NOT_FOUND."""
    if not is_id(artifact_id):
        raise not_found("ARTIFACT")
    row = None
    if 1 <= revision <= MAX_REVISION:
        row = driver.get_revision(connection, tenant_id=tenant_id, artifact_id=artifact_id, revision=revision)
    if row is None:
        # Revision 1 exists exactly when the artifact does.
        first = driver.get_revision(connection, tenant_id=tenant_id, artifact_id=artifact_id, revision=1)
        raise not_found("ARTIFACT" if first is None else "REVISION")
    return row


def list_revisions(
    connection: DriverConnection, *, tenant_id: str, artifact_id: str, after: int, limit: int
) -> Sequence[Mapping[str, Any]]:
    """Return up to `limit` revisions after a number, in order; refuse ARTIFACT_NOT_FOUND."""
    rows: Sequence[Mapping[str, Any]] = ()
    if is_id(artifact_id):
        rows = driver.list_revisions(
            connection, tenant_id=tenant_id, artifact_id=artifact_id, after=after, limit=limit
        )
    if not rows and after == 0:
        raise not_found("ARTIFACT")
    return rows


def read_content(
    connection: DriverConnection, *, tenant_id: str, artifact_id: str, revision: int | None
) -> tuple[Mapping[str, Any], Content]:
    """Return the head (`revision` null) or a revision with its bytes, hashed again before they leave.

    Refuses ARTIFACT_NOT_FOUND, REVISION_NOT_FOUND, GONE (a deleted head), CONTENT_REDACTED,
    CONTENT_COLLECTED, CONTENT_CORRUPT.
    """
    row = None
    if is_id(artifact_id) and (revision is None or 1 <= revision <= MAX_REVISION):
        row = driver.get_content(connection, tenant_id=tenant_id, artifact_id=artifact_id, revision=revision)
    if row is None:
        # Either the artifact is unknown, or it has no such revision.
        get_revision(
            connection,
            tenant_id=tenant_id,
            artifact_id=artifact_id,
            revision=1 if revision is None else revision,
        )
        raise not_found("ARTIFACT")
    if revision is None:
        check_live(row)
    return row, check_content(row)


def check_content(row: Mapping[str, Any]) -> Content:
    """Return the bytes of a joined revision row if they are here and have their digest."""
    state = content_state(row)
    if state in (ContentState.REDACTED, ContentState.COLLECTED):
        raise content_gone(state)
    if state is ContentState.NONE:
        return Content(None, row["media_type"], None)
    data = bytes(row["data"])
    if digest_of(data) != row["content_digest"]:
        raise content_corrupt(row["content_digest"])
    return Content(data, row["media_type"], row["content_digest"])


def diff_metadata(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the pointers that were added, removed and changed between two revisions."""
    found: dict[str, list[str]] = {"added": [], "removed": [], "changed": []}
    redacted = old["metadata_text"] is None or new["metadata_text"] is None
    if not redacted and old["metadata_digest"] != new["metadata_digest"]:
        before = documents.stored_document(old["metadata_text"]).value
        after = documents.stored_document(new["metadata_text"]).value
        for kind, pointer in documents.compare(before, after):
            found[kind].append(pointer)
    return {**found, "redacted": redacted}


def diff_state(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return `equal`, `different`, `absent` (neither has content) or `redacted`."""
    if old["content_digest"] is None and new["content_digest"] is None:
        return "absent"
    if old["content_digest"] == new["content_digest"]:
        return "equal"
    return "redacted" if old["redaction"] or new["redaction"] else "different"


def is_short(row: Mapping[str, Any]) -> bool:
    """Tell whether content is readable and small enough to be compared line by line."""
    readable = content_state(row) in (ContentState.PRESENT, ContentState.NONE)
    return readable and (row["size"] or 0) <= MAX_DIFF_INPUT


def unified_diff(old: bytes | None, new: bytes | None) -> tuple[str | None, bool]:
    """Return a unified diff and whether it was cut; null unless both are UTF-8 of at most 1 MiB."""
    try:
        # Only a line feed ends a line here; splitlines() knows eleven other characters.
        before, after = (_LINE.findall((data or b"").decode()) for data in (old, new))
    except UnicodeDecodeError:
        return None, False
    text = "".join(_diff_lines(before, after))
    data = text.encode()
    if len(data) <= MAX_DIFF_OUTPUT:
        return text, False
    return data[:MAX_DIFF_OUTPUT].decode(errors="ignore"), True


def _diff_lines(before: list[str], after: list[str]) -> Iterator[str]:
    head = 0
    while head < min(len(before), len(after)) and before[head] == after[head]:
        head += 1
    tail = 0
    while tail < min(len(before), len(after)) - head and before[-1 - tail] == after[-1 - tail]:
        tail += 1
    # Equal ends are cut down to the three lines of context that the diff shows.
    start, spare = max(0, head - 3), max(0, tail - 3)
    old, new = before[start : len(before) - spare], after[start : len(after) - spare]
    if len(old) * len(new) <= _MAX_LINE_PAIRS:
        lines: Iterator[str] = (_shift(line, start) for line in difflib.unified_diff(old, new, "from", "to"))
    else:
        lines = iter(
            (
                "--- from\n",
                "+++ to\n",
                f"@@ -{start + 1},{len(old)} +{start + 1},{len(new)} @@\n",
                *(f"-{line}" for line in old),
                *(f"+{line}" for line in new),
            )
        )
    for line in lines:
        yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"


def _shift(line: str, offset: int) -> str:
    """Move the line numbers of a hunk header by the lines that were left out before."""
    match = _HUNK.match(line)
    if match is None or not offset:
        return line
    return f"@@ -{int(match[1]) + offset}{match[2]} +{int(match[3]) + offset}{match[4]} @@\n"


def state_at(
    connection: DriverConnection,
    *,
    tenant_id: str,
    artifact_id: str,
    seq: int | None = None,
    moment: datetime | None = None,
) -> Mapping[str, Any] | None:
    """Return the newest change record of an artifact at a change number or time; null before its creation."""
    return driver.get_change_at(
        connection, tenant_id=tenant_id, artifact_id=artifact_id, seq=seq, moment=moment
    )
