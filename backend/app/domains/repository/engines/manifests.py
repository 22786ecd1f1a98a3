"""L5 engine of run manifests: one canonical body that says what a run was, sealed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.db.connection import DriverConnection
from app.domains.repository.drivers import manifests as driver
from app.domains.repository.engines import documents
from app.domains.repository.engines.diagnostics import read_diagnostics
from app.domains.repository.engines.documents import Document
from app.domains.repository.engines.operation_runs import ENDED
from app.domains.repository.errors import already_sealed, not_found, run_not_finished
from app.domains.repository.models.runs import ManifestDraft, ManifestView
from app.kernel.canonical_json import RawJson, dumps_object, loads
from app.kernel.clock import format_time
from app.kernel.hashing import digest_of

Row = Mapping[str, Any]
_TAG = "hoc-manifest-1\n"


@dataclass(frozen=True, slots=True)
class Statement:
    """What the caller says in a manifest, checked and canonical."""

    diagnostics: str
    environment: Document


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the repository adds: the bundle with its items, the outputs and the steps of the run."""

    bundle: Row | None
    bundle_items: Sequence[Row]
    outputs: Sequence[Row]
    steps: Sequence[Row]


def read_manifest(draft: ManifestDraft) -> Statement:
    """Return what the caller says; refuse INVALID_METADATA and TOO_LARGE."""
    return Statement(
        diagnostics=read_diagnostics(draft.diagnostics),
        environment=documents.read_document(draft.environment, field="environment"),
    )


def check_finished(status: str) -> None:
    """Refuse RUN_NOT_FINISHED."""
    if status not in ENDED:
        raise run_not_finished()


def manifest_body(run: Row, said: Statement, around: Surroundings) -> str:
    """Return the canonical text of a manifest.

    The steps stand in it with the digests of their values: they are working state until this seals them.
    """
    return dumps_object(
        {
            "run_id": run["run_id"],
            "operation": run["operation"],
            "attempt": run["attempt"],
            "parent_run_id": run["parent_run_id"],
            "status": str(run["status"]),
            "error_code": run["error_code"],
            "error_message": run["error_message"],
            "requested_by": run["requested_by"],
            "trace_id": run["trace_id"],
            "created_at": _time(run["created_at"]),
            "started_at": _time(run["started_at"]),
            "finished_at": _time(run["finished_at"]),
            "parameters": RawJson(run["parameters"]),
            "bundle": _bundle(around),
            "outputs": [
                _pick(row, "artifact_id", "revision", "revision_digest", "role") for row in around.outputs
            ],
            "steps": [_step(row) for row in around.steps],
            "diagnostics": RawJson(said.diagnostics),
            "environment": RawJson(said.environment.text),
        }
    )


def manifest_digest(body: str) -> str:
    """Return the digest of a body."""
    return digest_of((_TAG + body).encode())


def decide_seal(known: Row | None, digest: str) -> bool:
    """Tell whether the manifest is new (False: sealed before, the same); refuse SEALED."""
    if known is None:
        return True
    if known["manifest_digest"] != digest:
        raise already_sealed(known["manifest_digest"])
    return False


def manifest_row(run_id: str, body: str, *, at: datetime, sealed_by: str) -> dict[str, Any]:
    """Return the row of a new manifest, without its fact."""
    return {
        "run_id": run_id,
        "body": body,
        "manifest_digest": manifest_digest(body),
        "sealed_at": at,
        "sealed_by": sealed_by,
    }


def find_manifest(connection: DriverConnection, *, tenant_id: str, run_id: str) -> Row | None:
    """Return the manifest of a run, None when it has none."""
    return driver.get_manifest(connection, tenant_id=tenant_id, run_id=run_id)


def get_manifest(connection: DriverConnection, *, tenant_id: str, run_id: str) -> Row:
    """Return the manifest of a run; refuse MANIFEST_NOT_FOUND."""
    row = find_manifest(connection, tenant_id=tenant_id, run_id=run_id)
    if row is None:
        raise not_found("MANIFEST")
    return row


def get_digest(connection: DriverConnection, *, tenant_id: str, run_id: str) -> str | None:
    """Return the digest of a run's manifest, None when it has none."""
    return driver.get_digest(connection, tenant_id=tenant_id, run_id=run_id)


def insert_manifest(connection: DriverConnection, row: Row, *, tenant_id: str) -> None:
    """Append a manifest."""
    driver.insert_manifest(connection, tenant_id=tenant_id, row=row)


def view_members(row: Row) -> dict[str, Any]:
    """Return the members of a view."""
    members = {name: row[name] for name in ManifestView.model_fields if name != "body"}
    return {**members, "body": loads(row["body"])}


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else format_time(moment)


def _pick(row: Row, *names: str) -> dict[str, Any]:
    return {name: row[name] for name in names}


def _bundle(around: Surroundings) -> dict[str, Any] | None:
    if around.bundle is None:
        return None
    names = ("artifact_id", "revision", "revision_digest", "role")
    return {
        **_pick(around.bundle, "id", "bundle_digest"),
        "items": [_pick(item, *names) for item in around.bundle_items],
    }


def _step(row: Row) -> dict[str, Any]:
    return {
        **_pick(row, "step_id", "position", "attempt"),
        "status": str(row["status"]),
        "depends_on": loads(row["depends_on"]),
        "started_at": _time(row["started_at"]),
        "finished_at": _time(row["finished_at"]),
        **{f"{name}_digest": digest_of(row[name].encode()) for name in ("inputs", "outputs", "diagnostics")},
    }
