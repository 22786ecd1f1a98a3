"""The commands `hoc snapshot export | import | verify`, on a database of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.cli.program import cli
from app.kernel.canonical_json import loads

Hoc = Callable[..., Result]
GOLDEN = Path(__file__).parent / "golden_snapshot"


@pytest.fixture
def hoc(new_database: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Hoc:
    """Run `hoc` on a database with the tenant acme."""
    monkeypatch.setenv("HOC_DATABASE_URL", new_database())
    runner = CliRunner()

    def run(*words: object) -> Result:
        return runner.invoke(cli, [str(word) for word in words])

    assert run("tenants", "create", "--tenant-id", "acme").exit_code == 0
    return run


def test_a_snapshot_is_imported_exported_and_verified(hoc: Hoc, tmp_path: Path) -> None:
    tenant = ("--tenant-id", "acme", "--json")
    planned = hoc("snapshot", "import", GOLDEN, "--dry-run", *tenant)
    assert (planned.exit_code, loads(planned.stdout)["created"]["artifact"]) == (0, 4)
    report = loads(hoc("snapshot", "import", GOLDEN, *tenant).stdout)
    assert (report["mode"], report["dry_run"]) == ("adopt", False)
    made = loads(hoc("snapshot", "export", tmp_path / "folder", *tenant).stdout)
    assert made["snapshot_digest"] == report["snapshot_digest"]
    assert (tmp_path / "folder" / "records.jsonl").read_bytes() == (GOLDEN / "records.jsonl").read_bytes()
    told = hoc("snapshot", "verify", tmp_path / "folder", *tenant)
    assert (told.exit_code, loads(told.stdout)["valid"]) == (0, True)


def test_a_refused_import_ends_with_one(hoc: Hoc) -> None:
    assert hoc("snapshot", "import", GOLDEN, "--tenant-id", "acme").exit_code == 0
    again = hoc("snapshot", "import", GOLDEN, "--tenant-id", "acme")
    assert (again.exit_code, "SNAPSHOT_CONFLICT" in again.stderr) == (1, True)
    planned = hoc("snapshot", "import", GOLDEN, "--tenant-id", "acme", "--dry-run")
    assert planned.exit_code == 1


def test_a_damaged_snapshot_ends_with_one_and_an_absent_one_with_two(hoc: Hoc, tmp_path: Path) -> None:
    (tmp_path / "none.zip").write_bytes(b"words")
    told = hoc("snapshot", "verify", tmp_path / "none.zip", "--tenant-id", "acme")
    assert (told.exit_code, "BAD_ARCHIVE" in told.stdout) == (1, True)
    assert hoc("snapshot", "verify", tmp_path / "absent.zip", "--tenant-id", "acme").exit_code == 2


def test_a_folder_that_holds_something_is_not_written_to(hoc: Hoc, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("kept")
    told = hoc("snapshot", "export", tmp_path / "full", "--tenant-id", "acme")
    assert (told.exit_code, "STORAGE_FAILED" in told.stderr) == (1, True)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine"]
