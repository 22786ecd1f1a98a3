"""Watching the logs: readiness, metrics, the limit of waiting facts, and the command of the operator."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from prometheus_client import REGISTRY
from typer.testing import CliRunner

from app.cli.program import cli
from app.hoc_spine.coordinators.log_files import write_new_key
from app.hoc_spine.log_watch import LogWatch
from app.hoc_spine.readiness import Component
from app.hoc_spine.spine import Spine
from tests.factories.logs import LogWorld
from tests.factories.processes import fork
from tests.factories.worlds import start_run, without_triggers

BACKEND = Path(__file__).resolve().parents[2]


@pytest.fixture
def world(make_spine: Callable[..., Spine], new_database: Callable[..., str], tmp_path: Path) -> LogWorld:
    """A tenant in a database of its own, with a key, on a server that sequences."""
    write_new_key(tmp_path / "log-key.pem")
    return LogWorld(make_spine, new_database(), tmp_path, log_sequencer="inline")


@pytest.fixture
def owner(world: LogWorld) -> Iterator[sa.Connection]:
    """A connection of the owner to the world's database."""
    with world.connect() as connection:
        yield connection


def watch_of(spine: Spine) -> LogWatch:
    watch: LogWatch = spine.services.caches["log_watch"]
    return watch


def readiness(world: LogWorld, **settings: Any) -> Component:
    return watch_of(world.another_spine(**settings) if settings else world.spine).component()


def halt(owner: sa.Connection, world: LogWorld) -> None:
    statement = sa.text("UPDATE log_heads SET state = 'HALTED' WHERE tenant_id = :t")
    owner.execute(statement, {"t": world.tenant_id})


def metric(name: str) -> float:
    value = REGISTRY.get_sample_value(name)
    assert value is not None
    return value


def test_a_log_that_keeps_up_is_ready(world: LogWorld) -> None:
    world.facts(1)
    assert readiness(world) == Component("log_sequencer", "ok")
    world.sequence()
    assert readiness(world) == Component("log_sequencer", "ok")


def test_a_halted_log_is_not_ready(world: LogWorld, owner: sa.Connection) -> None:
    owner.execute(
        sa.text("UPDATE log_heads SET state = 'HALTED' WHERE tenant_id = :t"), {"t": world.tenant_id}
    )
    for mode in ("inline", "external", "off"):
        assert readiness(world, log_sequencer=mode).status == "failed"
    assert metric("hoc_log_halted") == 1


def test_facts_that_wait_too_long_are_not_ready(world: LogWorld, clock: Any) -> None:
    world.facts(1)
    clock.advance(seconds=29)
    assert readiness(world).status == "ok"
    clock.advance(seconds=3)
    assert readiness(world).status == "failed"
    assert "waited" in str(readiness(world).reason)
    assert readiness(world, log_sequencer="external").status == "failed"
    assert readiness(world, log_sequencer="off").status == "not_configured"
    world.sequence()
    assert readiness(world).status == "ok"


def test_without_a_key_only_an_embedded_server_is_ready(
    world: LogWorld, dialect: str, tmp_path: Path
) -> None:
    found = readiness(world, log_key_file=tmp_path / "nowhere.pem")
    assert found.status == ("ok" if dialect == "sqlite" else "failed")
    assert readiness(world).status == "ok"


def test_a_look_that_fails_takes_nobody_out_of_service(world: LogWorld) -> None:
    def broken() -> Any:
        raise sa.exc.OperationalError("SELECT", {}, Exception("away"))

    services = world.spine.services
    watch = LogWatch(broken, settings=services.settings, files=world.files, clock=services.clock)
    assert watch.component().status == "degraded"


def test_readyz_tells_of_a_halted_log(world: LogWorld, owner: sa.Connection) -> None:
    from starlette.testclient import TestClient

    from app.main import create_app

    def states() -> tuple[int, dict[str, str]]:
        with TestClient(create_app(world.spine)) as http:
            reply = http.get("/readyz")
        return reply.status_code, {part["name"]: part["status"] for part in reply.json()["components"]}

    assert states()[1]["log_sequencer"] == "ok"
    owner.execute(
        sa.text("UPDATE log_heads SET state = 'HALTED' WHERE tenant_id = :t"), {"t": world.tenant_id}
    )
    status, found = states()
    assert (status, found["log_sequencer"], found["database"]) == (503, "failed", "ok")


def test_the_metrics_follow_the_facts_into_the_log(world: LogWorld, clock: Any) -> None:
    world.facts(3)
    clock.advance(seconds=7)
    watch = watch_of(world.spine)
    watch.observe()
    waiting = world.status().pending + len(world.facts_of("_system"))
    assert metric("hoc_log_pending_entries") == waiting
    assert 6 < metric("hoc_log_lag_seconds") < 60
    assert metric("hoc_checkpoint_age_seconds") == 0
    world.sequence(sign=False)
    clock.advance(seconds=9)
    watch.observe()
    assert (metric("hoc_log_pending_entries"), metric("hoc_log_lag_seconds")) == (0, 0)
    assert 8 < metric("hoc_checkpoint_age_seconds") < 60
    world.sequence()
    watch.observe()
    assert (metric("hoc_checkpoint_age_seconds"), metric("hoc_log_halted")) == (0, 0)


def test_too_many_waiting_facts_stop_writes_until_some_are_sequenced(world: LogWorld) -> None:
    spine = world.another_spine(log_max_pending=5)
    watch = watch_of(spine)
    tenant = type(world.tenant)(spine, world.tenant_id)
    world.facts(4)
    watch.observe()
    refused = tenant.dispatch("tenants.freeze", {"reason": "too much"})
    assert (refused.error_code, refused.error and refused.error.retry_after) == ("LOG_BACKLOG", 5)
    assert not refused.committed
    assert tenant.call("log.status").pending == world.status().pending
    world.sequence()
    watch.observe()
    start_run(tenant)


def test_the_watch_looks_by_itself_and_stops(world: LogWorld) -> None:
    watch = watch_of(world.spine)
    watch.start()
    assert "hoc-log-watch" in [thread.name for thread in threading.enumerate()]
    watch.stop()
    assert "hoc-log-watch" not in [thread.name for thread in threading.enumerate()]


# The command


def hoc(world: LogWorld, *arguments: str, code: int = 0, **settings: str) -> Any:
    environment = {
        "HOC_DATABASE_URL": world.url,
        "HOC_LOG_KEY_FILE": str(world.key_file),
        "HOC_CHECKPOINT_DIR": str(world.checkpoints),
        **settings,
    }
    ended = CliRunner().invoke(cli, ["log", *arguments], env=environment)
    assert ended.exit_code == code, (arguments, ended.output, ended.exception)
    return ended


def test_the_command_sequences_once_and_shows_the_status(world: LogWorld) -> None:
    world.facts(3)
    done = json.loads(hoc(world, "sequence", "--once", "--json").stdout)
    status = json.loads(hoc(world, "status", "--tenant-id", world.tenant_id, "--json").stdout)
    of_system = len(world.facts_of("_system"))
    assert done == {"sequenced": status["size"] + of_system, "signed": 2, "halted": 0}
    assert (status["signed_size"], status["pending"]) == (status["size"], 0)
    everyone = json.loads(hoc(world, "status", "--json").stdout)
    assert everyone == {"status": "ok", "reason": None, "pending": 0, "halted": 0}


def test_the_command_says_when_another_sequencer_is_at_work(world: LogWorld) -> None:
    from app.hoc_spine.sequencer import LogSequencer

    working = LogSequencer(world.spine)
    working.run_round()
    assert "LEASE_HELD" in hoc(world, "sequence", "--once", code=1).stderr
    working.release()


def test_the_command_says_when_a_log_is_halted(world: LogWorld, owner: sa.Connection) -> None:
    owner.execute(
        sa.text("UPDATE log_heads SET state = 'HALTED' WHERE tenant_id = :t"), {"t": world.tenant_id}
    )
    assert json.loads(hoc(world, "status", "--json", code=1).stdout)["halted"] == 1


def test_the_command_makes_a_key_once(world: LogWorld, tmp_path: Path) -> None:
    file = tmp_path / "new" / "key.pem"
    hoc(world, "keygen", HOC_LOG_KEY_FILE=str(file))
    made = file.read_bytes()
    assert "KEY_EXISTS" in hoc(world, "keygen", code=1, HOC_LOG_KEY_FILE=str(file)).stderr
    hoc(world, "keygen", "--if-missing", HOC_LOG_KEY_FILE=str(file))
    assert file.read_bytes() == made
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_the_command_wants_to_know_where_a_key_belongs(world: LogWorld) -> None:
    ended = CliRunner().invoke(cli, ["log", "keygen"], env={"HOC_DATABASE_URL": world.url})
    assert ended.exit_code == 1
    assert "NO_KEY_FILE" in ended.stderr


def environment_of(world: LogWorld) -> dict[str, str]:
    return {
        "HOC_DATABASE_URL": world.url,
        "HOC_LOG_KEY_FILE": str(world.key_file),
        "HOC_CHECKPOINT_DIR": str(world.checkpoints),
        "HOC_LOG_INTERVAL_MS": "10",
        "HOC_CHECKPOINT_INTERVAL_MS": "0",
        "HOC_LOG_BATCH": "2",
    }


def start_sequencer(world: LogWorld, *, anew: bool = False) -> int:
    """Run the command in a fork of the test, or in an interpreter of its own; return its process."""
    if anew:
        environment = os.environ | environment_of(world) | {"PYTHONPATH": str(BACKEND)}
        command = [sys.executable, "-m", "app.cli", "log", "sequence"]
        return os.posix_spawn(sys.executable, command, environment)
    child = fork()
    if not child:
        code: Any = 1
        try:
            os.environ.update(environment_of(world))
            cli(["log", "sequence"])
        except SystemExit as ended:
            code = ended.code
        finally:
            os._exit(code or 0)
    return child


def exit_code_of(child: int) -> int:
    """Wait for its end, and bring it about where it does not come."""
    deadline = time.monotonic() + 30
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(ended[1])


def has_grown(world: LogWorld, before: int) -> bool:
    return bool(world.status().size > before)


def has_ended(child: int) -> bool:
    return os.waitpid(child, os.WNOHANG)[0] != 0


def wait_until(condition: Callable[[], bool], child: int) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert not has_ended(child), "the sequencer ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_kill_9_of_a_sequencer_process_loses_nothing(world: LogWorld, owner: sa.Connection) -> None:
    for _ in range(2):
        world.facts(6)
        before = world.status().size
        child = start_sequencer(world)
        try:
            wait_until(partial(has_grown, world, before), child)
        finally:
            os.kill(child, signal.SIGKILL)
        assert exit_code_of(child) == -signal.SIGKILL
        owner.execute(sa.text("DELETE FROM worker_leases"))
        world.check(owner)
    world.sequence()
    assert world.check(owner) == world.status().signed_size
    assert world.status().state == "ACTIVE"


def test_a_sequencer_process_ends_cleanly_when_it_is_told_to(
    world: LogWorld, owner: sa.Connection, dialect: str
) -> None:
    world.facts(2)
    # What is no fork of a test takes seconds to start: once is enough.
    child = start_sequencer(world, anew=dialect == "sqlite")
    try:
        wait_until(lambda: world.status().signed_size > 0, child)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    os.kill(child, signal.SIGTERM)
    assert exit_code_of(child) == 0
    # It gave its lease back.
    world.facts(1)
    assert world.sequence().taken > 0
    assert world.check(owner) == world.status().size


def test_without_triggers_is_no_way_around_the_check(world: LogWorld, owner: sa.Connection) -> None:
    world.facts(2)
    world.sequence()
    without_triggers(owner, "DELETE FROM log_entries WHERE tenant_id = :t AND idx = 1", t=world.tenant_id)
    with pytest.raises(AssertionError):
        world.check(owner)
