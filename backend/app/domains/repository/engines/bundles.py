"""L5 engine of input bundles: pinned revisions in order, one bundle for the same items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from app.db.connection import DriverConnection
from app.domains.repository.drivers import bundles as driver
from app.domains.repository.engines.references import pin, target_state
from app.domains.repository.engines.values import is_id
from app.domains.repository.errors import item_not_found, not_found
from app.domains.repository.models.bundles import BundleItem, BundleItemView, BundleView
from app.kernel.canonical_json import dumps
from app.kernel.hashing import digest_of

Row = Mapping[str, Any]
_TAG = "hoc-bundle-1\n"
_DIGEST_PREFIX = "sha256:"
_DIGESTED = ("artifact_id", "revision", "revision_digest", "role")


def pin_items(
    connection: DriverConnection, items: Sequence[BundleItem], *, tenant_id: str
) -> list[dict[str, Any]]:
    """Return the items with their revisions; refuse REFERENCE_NOT_FOUND with the position."""
    found = pin(connection, tenant_id=tenant_id, refs=[(item.artifact_id, item.revision) for item in items])
    rows = []
    for position, item in enumerate(items):
        pinned = found.get((item.artifact_id, item.revision))
        if pinned is None:
            raise item_not_found("artifact_id", position)
        rows.append(
            {
                "position": position,
                "artifact_id": pinned.artifact_id,
                "revision": pinned.revision,
                "revision_digest": pinned.revision_digest,
                "role": item.role,
            }
        )
    return rows


def bundle_digest(items: Sequence[Row]) -> str:
    """Return the digest of the items in their order."""
    text = dumps([{name: item[name] for name in _DIGESTED} for item in items])
    return digest_of((_TAG + text).encode())


def bundle_row(bundle_id: str, digest: str, *, at: datetime, created_by: str) -> dict[str, Any]:
    """Return the row of a new bundle, without its fact."""
    return {"id": bundle_id, "bundle_digest": digest, "created_at": at, "created_by": created_by}


def insert_bundle(
    connection: DriverConnection, row: Row, items: Sequence[Mapping[str, Any]], *, tenant_id: str
) -> None:
    """Append a bundle with its items."""
    driver.insert_bundle(connection, tenant_id=tenant_id, row=row)
    if items:
        driver.insert_items(
            connection, tenant_id=tenant_id, rows=[{"bundle_id": row["id"], **item} for item in items]
        )


def find_by_digest(connection: DriverConnection, *, tenant_id: str, digest: str) -> Row | None:
    """Return the bundle of a digest, None when there is none."""
    return driver.get_bundle_by_digest(connection, tenant_id=tenant_id, bundle_digest=digest)


def get_bundle(connection: DriverConnection, *, tenant_id: str, name: str) -> Row:
    """Return a bundle by id or digest; refuse BUNDLE_NOT_FOUND."""
    row = find_bundle(connection, tenant_id=tenant_id, bundle_id=name)
    # Whatever can be a digest can be an id; what cannot be an id is not looked up.
    if row is None and is_id(name) and name.startswith(_DIGEST_PREFIX):
        row = find_by_digest(connection, tenant_id=tenant_id, digest=name)
    if row is None:
        raise not_found("BUNDLE")
    return row


def find_bundle(connection: DriverConnection, *, tenant_id: str, bundle_id: str) -> Row | None:
    """Return a bundle by its id, None when there is none."""
    if not is_id(bundle_id):
        return None
    return driver.get_bundle(connection, tenant_id=tenant_id, bundle_id=bundle_id)


def list_items(connection: DriverConnection, *, tenant_id: str, bundle_id: str) -> Sequence[Row]:
    """Return the items of a bundle in order, with what has become of them."""
    return driver.list_items(connection, tenant_id=tenant_id, bundle_id=bundle_id)


def bundle_view(row: Row, items: Sequence[Row]) -> BundleView:
    """Return a bundle as it is shown."""
    shown = [
        BundleItemView(
            **{name: item[name] for name in BundleItemView.model_fields if name != "target_state"},
            target_state=target_state(item),
        )
        for item in items
    ]
    members = {name: row[name] for name in BundleView.model_fields if name != "items"}
    return BundleView(**members, items=shown)
