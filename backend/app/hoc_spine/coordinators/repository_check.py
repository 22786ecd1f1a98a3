"""Spine: the whole repository check in one snapshot, with the log's leaves beside the change feed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app.db.connection import DriverConnection
from app.domains.logs.engines import leaf_lookup
from app.domains.logs.engines.row_check import RowFailure
from app.domains.repository.engines import artifacts, chain_check, indexing, verification
from app.domains.repository.engines.chain_check import Leaf, Leaves
from app.domains.repository.engines.findings import Code, Findings
from app.domains.repository.models.upkeep import RepositoryVerified

TABLE, TYPE = "repository_changes", "repository.changed"
_MISSING = {
    Code.BLOB_MISSING.value,
    Code.REVISION_GAP.value,
    Code.CHANGE_GAP.value,
    Code.MISSING_REVISION.value,
}


def check_repository(
    connection: DriverConnection, *, tenant_id: str, scope: str | None, read_content: bool
) -> RepositoryVerified:
    """Check a tenant's repository, or (`scope`) one artifact; refuse ARTIFACT_NOT_FOUND.

    The order matters: what is derived from a faulty row is not reported again.
    """
    given: dict[str, Any] = {"tenant_id": tenant_id}
    if scope is not None:
        artifacts.get_artifact(connection, **given, artifact_id=scope)
    found = Findings()
    verification.verify_blobs(connection, found, **given, scope=scope, read_content=read_content)
    verification.verify_revisions(connection, found, **given, scope=scope)
    for heads in verification.verify_heads(connection, found, **given, scope=scope):
        indexing.verify_index(connection, found, heads, **given, read_content=read_content)
    indexing.verify_tombstones(connection, found, **given, scope=scope)
    verification.verify_plain_heads(connection, found, **given, scope=scope)
    verification.verify_links(connection, found, **given, scope=scope)
    if scope is None:
        chain_check.verify_changes(connection, found, _leaves(connection, tenant_id), **given)
        verification.verify_sealed(connection, found, **given)
    return found.result()


def recount_repository(connection: DriverConnection, tenant_id: str) -> Iterator[RowFailure]:
    """Yield what of a tenant's repository is not as its revisions and changes have it, without content."""
    report = check_repository(connection, tenant_id=tenant_id, scope=None, read_content=False)
    for finding in report.findings:
        if finding.code != Code.UNCITED_BLOB.value:
            code = "ROW_MISSING" if finding.code in _MISSING else "ROW_MISMATCH"
            yield RowFailure(code, "repository", finding.entity, column=finding.code)


def _leaves(connection: DriverConnection, tenant_id: str) -> Leaves:
    given: dict[str, Any] = {"tenant_id": tenant_id, "table": TABLE, "type_name": TYPE}

    def ending_at(numbers: Sequence[int]) -> list[Leaf]:
        return _read(leaf_lookup.list_statements(connection, **given, numbers=numbers))

    def beyond(number: int) -> list[Leaf]:
        return _read(leaf_lookup.list_beyond(connection, **given, number=number))

    return Leaves(ending_at, beyond)


def _read(statements: Sequence[Mapping[str, Any]]) -> list[Leaf]:
    leaves = []
    for statement in statements:
        body = statement["body"]
        leaves.append(Leaf(statement["fact"], body["seq_from"], body["seq_to"], body["change_head_hash"]))
    return leaves
