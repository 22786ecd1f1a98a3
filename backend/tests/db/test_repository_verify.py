"""The repository check: clean after every operation, and each fault found under its code and no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa

from app.domains.repository.engines import findings, verification
from app.domains.repository.engines.bundles import bundle_digest
from app.domains.repository.engines.changes import GENESIS_HASH
from app.hoc_spine.spine import Spine
from tests.factories.tenants import Tenant
from tests.factories.worlds import make_world, without_triggers

WHY = {"reason": "asked", "legal_basis": "law"}


@dataclass(slots=True)
class History:
    """A tenant with a little of everything."""

    tenant: Tenant
    first: str
    second: str
    third: str
    gone: str
    edge: str
    gone_edge: str
    collection: str

    def verify(self, **members: Any) -> Any:
        """Check the repository."""
        return self.tenant.call("repository.verify", members)

    def codes(self, **members: Any) -> list[str]:
        """Return the codes that a check finds."""
        return sorted({finding.code for finding in self.verify(**members).findings})


def note(tenant: Tenant, name: str, **members: Any) -> str:
    """Create a note and return its id."""
    made = tenant.call("repository.artifacts.create", {"name": name, "artifact_type": "note", **members})
    return str(made.id)


def link(tenant: Tenant, source: str, target: str) -> str:
    """Create a relationship and return its id."""
    payload = {"source_id": source, "target_id": target, "type": "cites"}
    return str(tenant.call("repository.relationships.create", payload).id)


@pytest.fixture
def history(tenant: Tenant) -> History:
    """Artifacts with three revisions, an edge, a tombstone with its edge, a stub."""
    collection = tenant.call("repository.collections.create", {"name": "other"}).id
    first = note(tenant, "first", content="one word", metadata={"n": 1, "deep": {"a": ["x", None]}})
    second = note(tenant, "second", content="zwei Wörter 日本", provenance={"p": 1})
    third = note(tenant, "third", collection_id=collection)
    gone = note(tenant, "gone", content="gone")
    stub = note(tenant, "stub", content="stub")
    for name in ("uno", "due"):
        tenant.call("repository.artifacts.update", {"artifact_id": first, "metadata": {name: 1.0}})
    edge, gone_edge = link(tenant, first, second), link(tenant, first, gone)
    tenant.call("repository.artifacts.delete", {"artifact_id": gone, "mode": "detach"})
    tenant.call("repository.artifacts.redact", {"artifact_id": stub, "revisions": "all", **WHY})
    return History(tenant, first, second, third, gone, edge, gone_edge, collection)


@pytest.fixture
def damage(history: History, second_connection: sa.Connection) -> Callable[..., None]:
    """Alter rows of the tenant as a superuser would."""

    def alter(*statements: str, **parameters: Any) -> None:
        without_triggers(second_connection, *statements, t=history.tenant.tenant_id, **parameters)

    return alter


def test_a_repository_with_a_history_is_clean(history: History) -> None:
    report = history.verify()
    assert (report.clean, report.findings, report.total, report.redacted) == (True, [], 0, 1)
    assert report.checked["artifacts"] == 5
    assert report.checked["revisions"] == 7
    assert report.checked["relationships"] == 2
    assert report.checked["collections"] == 2
    assert report.checked["changes"] == report.checked["leaves"] + 2
    assert history.verify(scope=history.first, read_content=False).clean
    assert history.tenant.call("logs.audit_list", {"event_type": "RepositoryVerified"}).items == []


def test_pages_and_portions_of_a_check_join_up(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    from app.domains.repository.engines import chain_check, indexing

    for module in (verification, chain_check, indexing):
        monkeypatch.setattr(module, "PAGE", 2)
    for module in (verification, indexing):
        monkeypatch.setattr(module, "BUDGET", 10)
    report = history.verify()
    assert (report.clean, report.checked["revisions"]) == (True, 7)


def test_everything_that_other_operations_write_is_clean(spine: Spine, tenant: Tenant) -> None:
    world = make_world(spine, tenant)
    world.access().unwrap()
    assert tenant.call("repository.verify", {}).clean


def test_a_published_run_with_its_bundle_manifest_and_package_is_clean(tenant: Tenant) -> None:
    source = note(tenant, "source", content="given")
    item = {"artifact_id": source, "role": "source"}
    bundle = tenant.call("repository.bundles.create", {"items": [item]})
    run = tenant.call("repository.runs.create", {"operation": "summarise", "bundle_id": bundle.id})
    ref = {"run_id": run.run_id}
    tenant.call("repository.runs.transition", ref | {"status": "running"})
    made = {"name": "result", "artifact_type": "note", "content": "made", "role": "result"}
    tenant.call("repository.runs.publish", ref | {"artifacts": [made], "status": "succeeded", "manifest": {}})
    package = tenant.call("repository.context_packages.for_artifact", {"artifact_id": source})
    report = tenant.call("repository.verify", {})
    assert (report.clean, report.findings, package.id[:4]) == (True, [], "ctx_")
    counted = {name: report.checked[name] for name in ("manifests", "bundles", "context_packages")}
    assert counted == {"manifests": 1, "bundles": 1, "context_packages": 1}
    graph = tenant.call("repository.artifacts.lineage", {"artifact_id": source, "direction": "downstream"})
    assert [node.kind for node in graph.nodes] == ["artifact", "run", "artifact"]
    uses = tenant.call("repository.revisions.consumers", {"artifact_id": source, "revision": 1}).items
    assert [use.kind for use in uses] == ["bundle", "context_package", "run"]


def test_what_does_not_exist_is_not_checked(history: History, other_tenant: Tenant) -> None:
    for tenant, scope in ((other_tenant, history.first), (history.tenant, "a/b")):
        error = tenant.dispatch("repository.verify", {"scope": scope}).error
        assert error is not None
        assert error.code == "ARTIFACT_NOT_FOUND"
    assert other_tenant.call("repository.verify", {}).clean


REVISION = "UPDATE artifact_revisions SET {} WHERE tenant_id = :t AND artifact_id = :first AND revision = {}"
BLOB = "UPDATE blobs SET {} WHERE tenant_id = :t AND digest = (SELECT content_digest FROM artifact_revisions \
WHERE tenant_id = :t AND artifact_id = :second)"
ZERO = "'" + GENESIS_HASH + "'"
BYTES = {"sqlite": "X'{}'", "postgresql": "'\\x{}'::bytea"}
# The damage, the code, and whether a check of the one artifact finds it too.
DAMAGE = {
    "bytes": (BLOB.format("data = {eighteen}"), "E01", "second"),
    "size": (BLOB.format("size = size + 1"), "E02", "second"),
    "missing bytes": (
        (
            "DELETE FROM blobs WHERE tenant_id = :t AND digest = "
            "(SELECT content_digest FROM artifact_revisions WHERE tenant_id = :t AND artifact_id = :second)"
        ),
        "E03",
        "second",
    ),
    "redacted bytes that are cited": (
        BLOB.format("data = NULL, state = 'REDACTED'"),
        "E03",
        "second",
    ),
    "gap": (
        "DELETE FROM artifact_revisions WHERE tenant_id = :t AND artifact_id = :first AND revision = 2",
        "E04",
        "first",
    ),
    "head": ("UPDATE artifacts SET head_revision = 1 WHERE tenant_id = :t AND id = :first", "E05", "first"),
    "version": ("UPDATE artifacts SET version = 9 WHERE tenant_id = :t AND id = :first", "E05", "first"),
    "collection of the head": (
        "UPDATE artifacts SET collection_id = :collection WHERE tenant_id = :t AND id = :first",
        "E05",
        "first",
    ),
    "name of the head": (
        "UPDATE artifacts SET name = 'x', name_key = 'x' WHERE tenant_id = :t AND id = :first",
        "E05",
        "first",
    ),
    "version of an edge": (
        "UPDATE relationships SET version = 9 WHERE tenant_id = :t AND id = :edge",
        "E05",
        "first",
    ),
    "version of a collection": (
        "UPDATE collections SET version = 9 WHERE tenant_id = :t AND id = :collection",
        "E05",
        None,
    ),
    "parent": (REVISION.format(f"parent_digest = {ZERO}", 2), "E06", "first"),
    "envelope": (REVISION.format("created_by = 'x'", 2), "E07", "first"),
    "digest of a revision": (REVISION.format(f"revision_digest = {ZERO}", 3), "E07", "first"),
    "metadata": (REVISION.format("metadata = '[2]'", 3), "E08", "first"),
    "older metadata": (REVISION.format("metadata = '[]'", 1), "E08", "first"),
    "name": (REVISION.format("name = 'x'", 1), "E08", "first"),
    "provenance that is gone": (REVISION.format("provenance = NULL", 3), "E08", "first"),
    "edge to a tombstone": (
        "UPDATE relationships SET deleted_at = NULL WHERE tenant_id = :t AND id = :gone_edge",
        "E09",
        "first",
    ),
    "gap of changes": (
        "DELETE FROM repository_changes WHERE tenant_id = :t AND action = 'UPDATED' AND new_revision = 2",
        "E11",
        None,
    ),
    "counter": ("UPDATE repository_state SET last_seq = last_seq + 1 WHERE tenant_id = :t", "E11", None),
    "change": ("UPDATE repository_changes SET reason = 'x' WHERE tenant_id = :t AND seq = 3", "E12", None),
    "head of the chain": (
        f"UPDATE repository_state SET last_hash = {ZERO} WHERE tenant_id = :t",
        "E12",
        None,
    ),
    "leaf": (
        "DELETE FROM log_leaves WHERE tenant_id = :t AND type = 'repository.changed' AND ref_key = '[3]'",
        "E13",
        None,
    ),
    "last leaf": (
        (
            "DELETE FROM log_leaves WHERE tenant_id = :t AND type = 'repository.changed' AND ref_key = "
            "(SELECT '[' || last_seq || ']' FROM repository_state WHERE tenant_id = :t)"
        ),
        "E13",
        None,
    ),
    "hash in a leaf": (
        (
            "UPDATE log_leaves SET statement = replace(statement, (SELECT hash FROM repository_changes "
            f"WHERE tenant_id = :t AND seq = 3), {ZERO}) WHERE tenant_id = :t AND ref_key = '[3]'"
        ),
        "E13",
        None,
    ),
    "cut tail": (
        (
            "DELETE FROM repository_changes WHERE tenant_id = :t AND seq = "
            "(SELECT last_seq FROM repository_state WHERE tenant_id = :t)"
        ),
        "E13",
        None,
    ),
    "projection": (
        "DELETE FROM artifact_metadata WHERE tenant_id = :t AND artifact_id = :first AND ptr = '/deep/a'",
        "E14",
        "first",
    ),
    "projected value": (
        "UPDATE artifact_metadata SET vkey = 'y' WHERE tenant_id = :t AND ptr = '/deep/a/0'",
        "E14",
        "first",
    ),
    "index": ("DELETE FROM artifact_search WHERE tenant_id = :t AND artifact_id = :second", "E14", "second"),
    "count of words": (
        "UPDATE artifact_search SET token_count = 1 WHERE tenant_id = :t AND artifact_id = :second",
        "E14",
        "second",
    ),
    "indexed tombstone": (
        (
            "INSERT INTO artifact_metadata (tenant_id, artifact_id, ptr, elem, ord, vtype) "
            "VALUES (:t, :gone, '/x', false, 0, 'z')"
        ),
        "E14",
        "gone",
    ),
    "link": (
        "UPDATE relationships SET target_revision = 9 WHERE tenant_id = :t AND id = :edge",
        "E16",
        "second",
    ),
}


@pytest.mark.parametrize("fault", DAMAGE)
def test_each_damage_is_found_under_its_code_alone(
    history: History, damage: Callable[..., None], dialect: str, fault: str
) -> None:
    statement, code, scope = DAMAGE[fault]
    named = {
        name: getattr(history, name)
        for name in ("first", "second", "gone", "edge", "gone_edge", "collection")
    }
    used = {name: value for name, value in named.items() if f":{name}" in statement}
    damage(statement.replace("{eighteen}", BYTES[dialect].format("00" * 19)), **used)
    report = history.verify()
    assert {finding.code for finding in report.findings} == {code}
    assert (report.clean, report.total) == (False, len(report.findings))
    if scope is not None:
        assert history.codes(scope=named[scope]) == [code]
        assert history.codes(scope=history.third) == []
    (entry,) = history.tenant.call(
        "logs.audit_list", {"event_type": "RepositoryVerified", "entity_id": "all"}
    ).items
    after = history.tenant.call("logs.audit_get", {"entry_id": entry.entry_id}).after_state
    assert after["codes"] == {code: report.total}


def test_bytes_are_not_read_when_that_is_not_asked(
    history: History, damage: Callable[..., None], dialect: str
) -> None:
    damage(DAMAGE["bytes"][0].replace("{eighteen}", BYTES[dialect].format("00" * 19)), second=history.second)
    assert history.codes(read_content=False) == []
    damage(DAMAGE["index"][0], second=history.second)
    assert history.codes(read_content=False) == ["E14"]


def test_a_rebuild_of_the_index_mends_it(history: History, damage: Callable[..., None]) -> None:
    damage(
        "DELETE FROM artifact_metadata WHERE tenant_id = :t",
        "DELETE FROM artifact_search WHERE tenant_id = :t AND artifact_id = :first",
        "UPDATE artifact_search SET token_count = 1 WHERE tenant_id = :t",
        first=history.first,
    )
    assert history.codes() == ["E14"]
    assert history.tenant.call("repository.search.rebuild", {}).artifacts == 3
    assert history.verify().clean
    page = history.tenant.call("repository.artifacts.query", {"text": "word"})
    assert [item.id for item in page.items] == [history.first]


def test_two_live_equal_names_are_found(
    history: History, damage: Callable[..., None], second_connection: sa.Connection
) -> None:
    indexes = ("uq_artifacts_live_name", "uq_collections_live_name")
    for index in indexes:
        second_connection.execute(sa.text(f"DROP INDEX {index}"))
    try:
        damage(
            "UPDATE artifacts SET name = 'first', name_key = 'first' WHERE tenant_id = :t AND id = :second",
            "UPDATE collections SET name = 'other', name_key = 'other' WHERE tenant_id = :t",
            second=history.second,
        )
        report = history.verify()
        assert [(finding.code, finding.entity) for finding in report.findings] == [
            ("E10", name)
            for name in (*sorted([history.first, history.second]), *sorted(["default", history.collection]))
        ]
    finally:
        damage(
            "UPDATE artifacts SET name = 'second', name_key = 'second' WHERE tenant_id = :t AND id = :second",
            "UPDATE collections SET name = 'default', name_key = 'default' "
            "WHERE tenant_id = :t AND id = 'default'",
            second=history.second,
        )
        for index, columns in zip(indexes, ("collection_id, name_key", "name_key"), strict=True):
            table = index.split("_")[1]
            second_connection.execute(
                sa.text(
                    f"CREATE UNIQUE INDEX {index} ON {table} (tenant_id, {columns}) WHERE deleted_at IS NULL"
                )
            )
    assert history.verify().clean


def test_a_tail_that_was_cut_with_its_counter_shows_in_the_log(
    history: History, damage: Callable[..., None]
) -> None:
    damage(
        DAMAGE["cut tail"][0],
        "UPDATE repository_state SET last_seq = last_seq - 1, last_hash = "
        "(SELECT hash FROM repository_changes c WHERE c.tenant_id = :t AND c.seq = "
        "(SELECT max(seq) FROM repository_changes WHERE tenant_id = :t)) "
        "WHERE tenant_id = :t",
    )
    (finding,) = history.verify().findings
    assert (finding.code, "beyond the last record" in finding.detail) == ("E13", True)


def test_sealed_records_with_another_digest_are_found(history: History, damage: Callable[..., None]) -> None:
    at = "'2026-01-01T00:00:00.000000Z'"
    empty = bundle_digest([])
    damage(
        f"INSERT INTO input_bundles (tenant_id, id, bundle_digest, created_at, created_by, fact_id) VALUES "
        f"(:t, 'bnd-good', '{empty}', {at}, 'u', 'f1'), (:t, 'bnd-bad', {ZERO}, {at}, 'u', 'f2')",
        "INSERT INTO context_packages (tenant_id, id, name, metadata, provenance, package_digest, "
        "created_seq, created_at, created_by, fact_id) "
        f"VALUES (:t, 'ctx-bad', 'c', '{{}}', '{{}}', {ZERO}, 99, {at}, 'u', 'f3')",
        "INSERT INTO operation_runs (tenant_id, run_id, operation, status, version, parameters, attempt, "
        f"requested_by, created_at) VALUES (:t, 'run-bad', 'op', 'running', 1, '{{}}', 1, 'u', {at})",
        "INSERT INTO run_manifests (tenant_id, run_id, body, manifest_digest, sealed_at, sealed_by, fact_id) "
        f"VALUES (:t, 'run-bad', '{{}}', {ZERO}, {at}, 'u', 'f4')",
    )
    report = history.verify()
    assert [(finding.code, finding.entity) for finding in report.findings] == [
        ("E15", "manifest run-bad"), ("E15", "bundle bnd-bad"), ("E15", "context package ctx-bad"),
    ]  # fmt: skip
    assert (report.checked["bundles"], report.checked["manifests"]) == (2, 1)


def test_bytes_that_nothing_cites_are_a_warning(history: History, damage: Callable[..., None]) -> None:
    digest = "sha256:" + "ab" * 32
    damage(
        "INSERT INTO blobs (tenant_id, digest, size, state, blocked, created_at) "
        "VALUES (:t, :d, 0, 'COLLECTED', false, '2026-01-01T00:00:00.000000Z')",
        d=digest,
    )
    report = history.verify()
    assert [(finding.code, finding.entity) for finding in report.findings] == [("W01", digest)]
    assert (report.clean, report.total, report.collected) == (True, 1, 1)


def test_of_very_many_findings_the_first_are_shown(
    monkeypatch: pytest.MonkeyPatch, history: History, damage: Callable[..., None]
) -> None:
    monkeypatch.setattr(findings, "MAX_FINDINGS", 1)
    damage("UPDATE artifact_search SET token_count = 99 WHERE tenant_id = :t")
    report = history.verify()
    assert (len(report.findings), report.total) == (1, 3)
