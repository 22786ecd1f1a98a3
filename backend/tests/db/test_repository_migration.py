"""The repository's tables go down and up again, but never with records in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from app.db.migrations import downgrade, upgrade
from tests.factories.tenants import make_tenant


def test_an_empty_repository_goes_down_and_up_again(
    new_database: Callable[..., str], make_spine: Callable[..., Any]
) -> None:
    url = new_database()
    downgrade(url, "0005")
    upgrade(url)
    tenant = make_tenant(make_spine(database_url=url))
    payload = {"name": "n", "artifact_type": "note", "content": "word"}
    made = tenant.call("repository.artifacts.create", payload)
    assert tenant.call("repository.artifacts.query", {"text": "word"}).items == [made]


def test_a_repository_with_records_does_not_go_down(
    new_database: Callable[..., str], make_spine: Callable[..., Any]
) -> None:
    url = new_database()
    tenant = make_tenant(make_spine(database_url=url))
    made = tenant.call("repository.artifacts.create", {"name": "n", "artifact_type": "note"})
    with pytest.raises(RuntimeError, match="holds records"):
        downgrade(url, "0005")
    assert tenant.call("repository.artifacts.get", {"artifact_id": made.id}) == made
