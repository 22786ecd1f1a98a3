"""Input bundles: pinned, ordered, found by what they hold."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import sqlalchemy as sa

from app.kernel.canonical_json import dumps, loads
from tests.factories.repository_runs import artifact, call, changes, refusal, rows_of
from tests.factories.tenants import Tenant
from tests.factories.worlds import start_run


def bundle(tenant: Tenant, *items: dict[str, Any], **context: Any) -> Any:
    """Create a bundle."""
    return tenant.call("repository.bundles.create", {"items": list(items)}, **context)


def source(made: Any, revision: int | None = None, role: str = "source") -> dict[str, Any]:
    """Return an item."""
    return {"artifact_id": made.id, "revision": revision, "role": role}


def test_a_bundle_pins_the_heads_of_its_moment(tenant: Tenant) -> None:
    a, b = artifact(tenant, "a"), artifact(tenant, "b")
    made = bundle(tenant, source(b, role="second"), source(a, 1))
    call(tenant, "artifacts.update", {"artifact_id": b.id, "content": "new"})
    seen = tenant.call("repository.bundles.get", {"bundle_id": made.id})
    assert [(i.position, i.artifact_id, i.revision, i.role) for i in seen.items] == [
        (0, b.id, 1, "second"),
        (1, a.id, 1, "source"),
    ]
    assert [item.revision_digest for item in seen.items] == [b.revision_digest, a.revision_digest]
    text = dumps(
        [
            {name: getattr(i, name) for name in ("artifact_id", "revision", "revision_digest", "role")}
            for i in seen.items
        ]
    )
    digest = "sha256:" + hashlib.sha256(f"hoc-bundle-1\n{text}".encode()).hexdigest()
    assert (seen.bundle_digest, made.created) == (digest, True)
    assert tenant.call("repository.bundles.get", {"bundle_id": digest}) == seen


def test_the_same_items_are_the_same_bundle(tenant: Tenant, other_tenant: Tenant) -> None:
    made = artifact(tenant, "a", id="art-a")
    first = bundle(tenant, source(made), source(made, role="twice"))
    again = bundle(tenant, source(made, 1), source(made, 1, role="twice"), actor_id="someone-else")
    assert (again.created, again.id, again.created_by) == (False, first.id, "user-1")
    assert bundle(tenant, source(made, role="twice"), source(made)).id != first.id
    assert len(changes(tenant)) == 4
    theirs = artifact(other_tenant, "a", id="art-a")
    assert bundle(other_tenant, source(theirs)).created
    assert refusal(other_tenant, "bundles.get", {"bundle_id": first.id}) == "BUNDLE_NOT_FOUND"
    assert refusal(other_tenant, "bundles.get", {"bundle_id": first.bundle_digest}) == "BUNDLE_NOT_FOUND"


def test_an_empty_bundle_is_legal_and_there_is_one(tenant: Tenant) -> None:
    first = bundle(tenant)
    assert (first.items, first.created, bundle(tenant).id) == ([], True, first.id)


@pytest.mark.parametrize(
    ("item", "code"),
    [
        ({"artifact_id": "nobody"}, "REFERENCE_NOT_FOUND"),
        ({"artifact_id": "a/b"}, "REFERENCE_NOT_FOUND"),
        ({"revision": 2}, "REFERENCE_NOT_FOUND"),
        ({"revision": -1}, "REFERENCE_NOT_FOUND"),
        ({"artifact_id": "gone"}, "REFERENCE_NOT_FOUND"),
        ({"role": "Role"}, "INVALID_INPUT"),
        ({"revision": "1"}, "INVALID_INPUT"),
    ],
)
def test_an_item_that_is_not_there_is_refused_with_its_position(
    tenant: Tenant, item: dict[str, Any], code: str
) -> None:
    made, gone = artifact(tenant, "a"), artifact(tenant, "gone", id="gone")
    call(tenant, "artifacts.delete", {"artifact_id": gone.id})
    result = tenant.dispatch("repository.bundles.create", {"items": [source(made), source(made) | item]})
    assert result.error is not None
    assert result.error.code == code
    if code == "REFERENCE_NOT_FOUND":
        assert result.error.extra == {"field": "artifact_id", "position": 1}


def test_a_bundle_tells_what_became_of_its_items(tenant: Tenant) -> None:
    a, b = artifact(tenant, "a"), artifact(tenant, "b")
    made = bundle(tenant, source(a), source(b))
    call(tenant, "artifacts.delete", {"artifact_id": b.id})
    seen = call(tenant, "bundles.get", {"bundle_id": made.id})
    assert [item.target_state for item in seen.items] == ["live", "deleted"]
    pinned = bundle(tenant, source(b, 1))
    assert (pinned.created, pinned.items[0].target_state) == (True, "deleted")


def test_a_bundle_is_recorded_as_an_input_of_the_run_that_asks(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    asking, made = start_run(tenant), artifact(tenant, "a")
    kept = bundle(tenant, source(made), run_id=asking)
    record = changes(tenant)[-1]
    assert (record.entity_type, record.entity_id, record.action) == ("BUNDLE", kept.id, "CREATED")
    assert (record.new_version, record.detail) == (None, {"bundle_digest": kept.bundle_digest, "items": 1})
    (leaf,) = rows_of(second_connection, "log_leaves", tenant, type="run.input")
    statement = loads(leaf["statement"])
    assert (statement["run"], statement["body"]) == (
        asking,
        {"id": kept.id, "bundle_digest": kept.bundle_digest, "created_by": "user-1"},
    )
    (entry,) = tenant.call("logs.audit_list", {"entity_id": kept.id}).items
    assert (entry.event_type, entry.run_id) == ("RepositoryBundleCreated", asking)


@pytest.mark.parametrize("name", ["nobody", "sha256:" + "0" * 64, "a/b", "", "x\x00", "sha256:\x00"])
def test_a_bundle_that_is_not_there_is_not_found(tenant: Tenant, name: str) -> None:
    assert refusal(tenant, "bundles.get", {"bundle_id": name}) == "BUNDLE_NOT_FOUND"
