"""L5 engine of redaction: which revisions go, whose bytes go with them, and what stays as a stub."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.db.connection import DriverConnection
from app.domains.repository.drivers import projections
from app.domains.repository.drivers import redaction as driver
from app.domains.repository.engines.changes import ChangeSet
from app.domains.repository.engines.search import index_entry
from app.domains.repository.engines.values import REDACTED_PREFIX, chunks
from app.domains.repository.engines.writing import side, touched
from app.domains.repository.errors import blob_shared, reference_not_found
from app.domains.repository.models.upkeep import RedactArtifact
from app.domains.repository.models.vocabulary import Action, EntityType, Redaction

SHOWN_CITATIONS = 20
FULL_FIELDS = ("content", "metadata", "name", "provenance")
Row = Mapping[str, Any]
Place = tuple[str, int]
NewId = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a request destroys: revisions of its artifact, revisions elsewhere, bytes, and what is blocked."""

    revisions: tuple[int, ...]
    shared: tuple[Place, ...]
    digests: tuple[str, ...]
    blocked: tuple[str, ...]

    @property
    def nothing(self) -> bool:
        """Whether everything that is asked for was done before."""
        return not self.revisions and not self.blocked


@dataclass(slots=True)
class Outcome:
    """What was done."""

    dropped: list[int] = field(default_factory=list)
    kept: int = 0


def redacted_name(artifact_id: str) -> str:
    """Return the name that a head bears once its own was destroyed."""
    return REDACTED_PREFIX + artifact_id


def plan_redaction(connection: DriverConnection, request: RedactArtifact, *, tenant_id: str) -> Plan:
    """Return what a request destroys; refuse REFERENCE_NOT_FOUND, and BLOB_SHARED where it says refuse."""
    rows = driver.list_revisions(connection, tenant_id=tenant_id, artifact_ids=[request.artifact_id])
    known = {row["revision"]: row for row in rows}
    wanted = sorted(known) if request.revisions == "all" else sorted(set(request.revisions))
    if any(revision not in known for revision in wanted):
        raise reference_not_found("revisions")
    targets = [known[revision] for revision in wanted if known[revision]["redaction"] != Redaction.FULL]
    digests = _readable(targets)
    mine = {(request.artifact_id, row["revision"]) for row in targets}
    shared: tuple[Place, ...] = ()
    if digests and request.shared != "keep":
        shared = _citations(connection, request, tenant_id=tenant_id, digests=digests, mine=mine)
    blockable = [known[revision] for revision in wanted if known[revision]["blocked"] is False]
    return Plan(
        revisions=tuple(row["revision"] for row in targets),
        shared=shared,
        digests=digests,
        blocked=_unique(row["content_digest"] for row in blockable) if request.block_reupload else (),
    )


def _unique(digests: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(digests))


def _readable(rows: Sequence[Row]) -> tuple[str, ...]:
    return _unique(row["content_digest"] for row in rows if row["content_digest"] and not row["redaction"])


def _citations(
    connection: DriverConnection,
    request: RedactArtifact,
    *,
    tenant_id: str,
    digests: Sequence[str],
    mine: set[Place],
) -> tuple[Place, ...]:
    refuse = request.shared == "refuse"
    limit = len(mine) + SHOWN_CITATIONS if refuse else None
    rows = driver.list_citations(connection, tenant_id=tenant_id, digests=digests, limit=limit)
    others = [row for row in rows if (row["artifact_id"], row["revision"]) not in mine]
    if refuse and others:
        total = driver.count_citations(connection, tenant_id=tenant_id, digests=digests)
        readable = sum((row["artifact_id"], row["revision"]) in mine for row in rows)
        shown = [{name: row[name] for name in ("artifact_id", "revision")} for row in others]
        raise blob_shared(shown[:SHOWN_CITATIONS], max(total - readable, len(others)))
    return tuple((row["artifact_id"], row["revision"]) for row in others)


def redact(
    connection: DriverConnection,
    change_set: ChangeSet,
    head: Row,
    request: RedactArtifact,
    plan: Plan,
    *,
    tenant_id: str,
    new_id: NewId,
) -> Outcome:
    """Do what was planned: stubs, bytes, heads, index and projection rows, one record for each artifact.

    A revision outside the request that loses its bytes has a record of its own.
    """
    outcome = Outcome()
    keys: dict[str, Any] = {"tenant_id": tenant_id}
    for numbers in chunks(plan.revisions):
        places = [(request.artifact_id, number) for number in numbers]
        driver.set_redacted(connection, **keys, places=places, redaction=Redaction.FULL, at=change_set.at)
    for part in chunks(plan.shared):
        driver.set_redacted(connection, **keys, places=part, redaction=Redaction.CONTENT, at=change_set.at)
    outcome.dropped = drop_bytes(connection, change_set, tenant_id=tenant_id, digests=plan.digests)
    outcome.kept = len(plan.digests) - len(outcome.dropped)
    if plan.blocked:
        driver.set_blocked(connection, **keys, digests=plan.blocked)
    heads = _Heads(change_set, new_id)
    detail = {
        "revisions": list(plan.revisions),
        "redaction": Redaction.FULL.value,
        "legal_basis": request.legal_basis,
        "shared": request.shared,
        "block_reupload": request.block_reupload,
    }
    hide = head["head_revision"] in plan.revisions
    heads.redact(head, detail, hide=hide, fields=FULL_FIELDS if plan.revisions else ())
    others = sorted({artifact_id for artifact_id, _ in plan.shared})
    elsewhere = driver.list_heads(connection, **keys, artifact_ids=others)
    rows = {row["id"]: row for row in elsewhere} | {head["id"]: heads.newest(head)}
    for artifact_id, revision in plan.shared:
        said = {
            "revisions": [revision],
            "redaction": Redaction.CONTENT.value,
            "legal_basis": request.legal_basis,
        }
        rows[artifact_id] = heads.redact(rows[artifact_id], said, hide=False, fields=("content",))
    heads.write(connection, tenant_id=tenant_id)
    hide_from_search(connection, tenant_id=tenant_id, artifact_ids=[head["id"]] if hide else [])
    lost = [rows[place[0]] for place in plan.shared if rows[place[0]]["head_revision"] == place[1]]
    index_names(connection, lost, tenant_id=tenant_id)
    return outcome


class _Heads:
    """Heads that change, some of them more than once; each is written once, with its last version."""

    def __init__(self, change_set: ChangeSet, new_id: NewId) -> None:
        self._change_set = change_set
        self._new_id = new_id
        self._first: dict[str, int] = {}
        self._rows: dict[str, dict[str, Any]] = {}

    def redact(self, row: Row, detail: Row, *, hide: bool, fields: Sequence[str]) -> dict[str, Any]:
        """Add a record, and return the head after it."""
        after = {**row, **touched(self._change_set), "version": row["version"] + 1}
        if hide:
            after["name"] = after["name_key"] = redacted_name(row["id"])
        self._first.setdefault(row["id"], row["version"])
        self._rows[row["id"]] = after
        add_record(self._change_set, row, detail, change_id=self._new_id("chg"), fields=fields)
        return after

    def newest(self, row: Row) -> dict[str, Any]:
        """Return a head as the last record left it."""
        return self._rows[row["id"]]

    def write(self, connection: DriverConnection, *, tenant_id: str) -> None:
        """Write every changed head."""
        write_heads(connection, list(self._rows.values()), self._first, tenant_id=tenant_id)


def add_record(
    change_set: ChangeSet, row: Row, detail: Row, *, change_id: str, fields: Sequence[str]
) -> None:
    """Add the REDACTED record of a head; that of a tombstone names the last revision on the old side only."""
    version = row["version"] + 1
    change_set.add(
        change_id,
        EntityType.ARTIFACT,
        row["id"],
        Action.REDACTED,
        old=side(row["version"], row),
        new=side(version, row) if row["deleted_at"] is None else {"version": version},
        changed_fields=fields,
        detail=detail,
    )


def write_heads(
    connection: DriverConnection, rows: Sequence[Row], versions: Mapping[str, int], *, tenant_id: str
) -> None:
    """Write changed heads, whose versions were those before; raise when one is not as it was read."""
    members = (
        "version", "name", "name_key", "updated_seq", "updated_at", "updated_by", "deleted_at", "deleted_by",
        "delete_change_set_id",
    )  # fmt: skip
    for part in chunks(rows):
        changed = driver.set_heads(
            connection,
            tenant_id=tenant_id,
            rows=[
                {"id": row["id"], "old_version": versions[row["id"]], **{name: row[name] for name in members}}
                for row in part
            ],
        )
        if changed != len(part):
            raise RuntimeError("an artifact changed under the tenant's write lock")


def drop_bytes(
    connection: DriverConnection, change_set: ChangeSet, *, tenant_id: str, digests: Sequence[str]
) -> list[int]:
    """Drop the bytes that no readable revision has any more; return their sizes."""
    if not digests:
        return []
    return driver.set_dropped(connection, tenant_id=tenant_id, digests=digests, at=change_set.at)


def hide_from_search(connection: DriverConnection, *, tenant_id: str, artifact_ids: Sequence[str]) -> None:
    """Remove the projection and the index entries of artifacts."""
    for part in chunks(artifact_ids):
        projections.delete_metadata(connection, tenant_id=tenant_id, artifact_ids=part)
        projections.delete_search(connection, tenant_id=tenant_id, artifact_ids=part)


def index_names(connection: DriverConnection, heads: Sequence[Row], *, tenant_id: str) -> None:
    """Index live heads that lost their bytes by what they still say: their name."""
    entries = {row["id"]: (row["name"], row["media_type"]) for row in heads if row["deleted_at"] is None}
    if not entries:
        return
    found = [(identifier, index_entry(name, None, kind)) for identifier, (name, kind) in entries.items()]
    projections.insert_search(
        connection,
        tenant_id=tenant_id,
        rows=[
            {
                "artifact_id": artifact_id,
                "tokens": entry.tokens,
                "token_count": entry.token_count,
                "truncated": entry.truncated,
            }
            for artifact_id, entry in found
        ],
    )
