"""The commands `hoc bundle`, `hoc verify` and `hoc log export`, on a database of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from app.hoc_spine.coordinators.log_files import write_new_key
from app.hoc_spine.spine import Spine
from tests.factories.bundles import VERIFIER_FILE
from tests.factories.logs import LogWorld
from tests.factories.worlds import start_run


@pytest.fixture
def log(make_spine: Callable[..., Spine], new_database: Callable[..., str], tmp_path: Path) -> LogWorld:
    """A tenant with a log of its own and a key."""
    write_new_key(tmp_path / "log-key.pem")
    return LogWorld(make_spine, new_database(), tmp_path)


def test_a_bundle_is_written_and_verified_without_the_server(log: LogWorld, tmp_path: Path) -> None:
    run_id, file = start_run(log.tenant), tmp_path / "out" / "run.hocproof"
    bundle = ("bundle", run_id, "-o", str(file), "--tenant-id", log.tenant_id)
    assert log.hoc(*bundle, "--wait-ms", "0", code=1).startswith("RUN_OPEN: ")
    assert not file.exists()
    log.hoc(*bundle, "--allow-open")
    vkey = log.key.vkey(log.origin)
    assert "RUN_OPEN" in log.hoc("verify", str(file), "--key", vkey, code=1)
    assert log.hoc("verify", str(file), "--key", vkey, "--allow-open").endswith("VERIFIED\n")
    log.tenant.call("runs.complete", {"run_id": run_id, "status": "succeeded"})
    said = json.loads(log.hoc(*bundle, "--include-payloads", "--json"))
    assert (said["run_id"], said["complete"]) == (run_id, True)
    found = json.loads(log.hoc("verify", str(file), "--key", vkey, "--strict", "--json"))
    assert (found["verdict"], found["completeness"]) == ("VERIFIED", "COMPLETE")
    file.write_bytes(file.read_bytes()[:-5])
    assert "LINE_COUNT" in log.hoc("verify", str(file), "--key", vkey, code=1)
    log.hoc("verify", str(tmp_path / "nothing"), code=2)
    log.hoc("verify", code=2)


def test_a_whole_log_is_exported_and_continues_what_was_kept(log: LogWorld, tmp_path: Path) -> None:
    log.facts(3)
    log.sequence()
    kept = tmp_path / "kept"
    kept.write_text(log.tenant.call("log.checkpoint").content)
    small = tmp_path / "small"
    log.hoc("log", "export", str(small), "--tenant-id", log.tenant_id)
    vkey = log.key.vkey(log.origin)
    assert log.hoc("verify", "--log", str(small), "--key", vkey, "--strict").endswith("VERIFIED\n")
    log.repeat_leaves(600)
    log.sequence()
    folder = tmp_path / "log"
    export = ("log", "export", str(folder), "--tenant-id", log.tenant_id)
    size = json.loads(log.hoc(*export, "--json"))["entries"]
    assert size > 600
    found = json.loads(
        log.hoc("verify", "--log", str(folder), "--key", vkey, "--checkpoint", str(kept), "--json", code=1)
    )
    # The copies that made the tree grow are the same fact again and again; all else is as it should be.
    assert {failure["code"] for failure in found["failures"]} == {"DUPLICATE_FACT"}
    assert found["facts"] == size
    assert log.hoc(*export, code=1).startswith("FOLDER_NOT_EMPTY: ")


def test_the_verifier_is_emitted_as_it_is(log: LogWorld) -> None:
    assert log.hoc("verify", "--emit-verifier").encode() == VERIFIER_FILE.read_bytes()
