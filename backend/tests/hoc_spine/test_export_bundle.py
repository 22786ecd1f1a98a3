"""The consequence `export_bundle`: the bundle of each run that ends, in HOC_BUNDLE_DIR."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from prometheus_client import REGISTRY

from app.hoc_spine.coordinators.log_files import write_new_key
from app.hoc_spine.spine import Spine
from tests.factories.bundles import load_verifier
from tests.factories.logs import LogWorld
from tests.factories.worlds import start_run

FAILED = "hoc_bundle_exports_failed_total"


def failed() -> float:
    """Return how many exports have failed in this process."""
    return REGISTRY.get_sample_value(FAILED) or 0.0


def test_each_run_that_ends_leaves_its_bundle(
    make_spine: Callable[..., Spine], new_database: Callable[..., str], tmp_path: Path
) -> None:
    write_new_key(tmp_path / "log-key.pem")
    folder = tmp_path / "bundles"
    log = LogWorld(make_spine, new_database(), tmp_path, bundle_dir=folder)
    assert log.spine.pipeline.adapter_names == ("dispatch_metrics", "export_bundle")
    before = failed()
    ended = [start_run(log.tenant) for _ in range(3)]
    running = start_run(log.tenant)
    log.tenant.call("runs.complete", {"run_id": ended[0], "status": "succeeded"})
    log.tenant.call("runs.halt", {"run_id": ended[1], "reason": "enough"})
    log.tenant.call("runs.cancel", {"run_id": ended[2], "reason": "enough"})
    # What is refused ends nothing.
    refused = log.tenant.dispatch(
        "runs.complete", {"run_id": running, "status": "succeeded", "expected_steps": 7}
    )
    assert refused.error_code == "STEP_COUNT_MISMATCH"
    vkey = log.key.vkey(log.origin)
    # Whoever closes the spine waits for what it has begun.
    log.spine.close()
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert files == sorted(Path(log.tenant_id) / f"{run_id}.hocproof" for run_id in ended)
    verifier = load_verifier()
    for file in files:
        assert verifier.main([str(folder / file), "--key", vkey]) == 0
    assert failed() == before


def test_a_run_whose_bundle_is_refused_is_counted_and_hinders_nobody(
    make_spine: Callable[..., Spine], new_database: Callable[..., str], tmp_path: Path
) -> None:
    folder = tmp_path / "bundles"
    # Where the key should be is a folder, and a folder signs nothing.
    log = LogWorld(make_spine, new_database(), tmp_path, bundle_dir=folder, log_key_file=tmp_path)
    before = failed()
    run_id = start_run(log.tenant)
    assert log.tenant.dispatch("runs.complete", {"run_id": run_id, "status": "succeeded"}).success
    log.spine.close()
    assert failed() == before + 1
    assert not folder.exists()


def test_without_a_folder_there_is_no_such_adapter(spine: Spine) -> None:
    assert "export_bundle" not in spine.pipeline.adapter_names
