"""`hoc repository fsck` and `gc`: what they print, and how they end."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from typer.testing import CliRunner

from app.cli.program import cli
from tests.factories.tenants import Tenant
from tests.factories.worlds import without_triggers


def hoc(database_url: str, *arguments: str, code: int = 0) -> str:
    """Run the command on a database and return what it printed."""
    ended = CliRunner().invoke(cli, ["repository", *arguments], env={"HOC_DATABASE_URL": database_url})
    assert ended.exit_code == code, ended.output
    return ended.stdout


def note(tenant: Tenant) -> str:
    """Create a note and return its id."""
    payload: dict[str, Any] = {"name": "a", "artifact_type": "note", "content": "words"}
    return str(tenant.call("repository.artifacts.create", payload).id)


def test_fsck_tells_damage_by_its_exit_code(
    database_url: str, tenant: Tenant, second_connection: sa.Connection
) -> None:
    artifact_id = note(tenant)
    here = ("--tenant-id", tenant.tenant_id)
    assert hoc(database_url, "fsck", *here).startswith("clean: 0 findings in 1 blobs, 1 revisions")
    without_triggers(second_connection, "UPDATE blobs SET size = 9 WHERE tenant_id = :t", t=tenant.tenant_id)
    shown = hoc(database_url, "fsck", *here, code=1)
    assert "E02" in shown
    assert "DAMAGED: 1 findings" in shown
    report = json.loads(hoc(database_url, "fsck", *here, "--scope", artifact_id, "--json", code=1))
    assert [finding["code"] for finding in report["findings"]] == ["E02"]
    hoc(database_url, "fsck", *here, "--scope", "nobody", code=1)


def test_gc_only_counts_until_it_is_told_to_act(database_url: str, tenant: Tenant) -> None:
    tenant.call("repository.artifacts.delete", {"artifact_id": note(tenant)})
    here = ("--tenant-id", tenant.tenant_id, "--grace-days", "0", "--json")
    assert json.loads(hoc(database_url, "gc", *here)) == {
        "candidates": 1, "collected": 0, "bytes": 5, "dry_run": True,
    }  # fmt: skip
    assert json.loads(hoc(database_url, "gc", *here, "--apply"))["collected"] == 1
    assert json.loads(hoc(database_url, "gc", *here))["candidates"] == 0
