"""The log under processes of their own: writers and sequencers at once, and kill -9 at every step."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from app.hoc_spine.coordinators.log_files import write_new_key
from app.hoc_spine.sequencer import LogSequencer
from app.hoc_spine.spine import Spine
from app.hoc_spine.transactions import statement_counter
from tests.factories.logs import LogWorld
from tests.factories.tenants import Tenant
from tests.factories.worlds import start_run

WRITERS, FACTS = 8, 6


@pytest.fixture
def world(make_spine: Callable[..., Spine], new_database: Callable[..., str], tmp_path: Path) -> LogWorld:
    write_new_key(tmp_path / "log-key.pem")
    made = LogWorld(make_spine, new_database(), tmp_path, log_batch=7, pool_size=2, lock_timeout_ms=30_000)
    # A child gets no connection of its parent.
    made.spine.transactions.engine.dispose()
    return made


def child(work: Callable[[], object]) -> int:
    """Do work in a process of its own and return its id; it ends by itself, well (0) or not (1)."""
    made = os.fork()
    if made:
        return made
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def ended(process: int) -> int:
    """Wait for a child and return its exit code; negative is the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def check_all(world: LogWorld) -> int:
    with world.connect() as connection:
        return world.check(connection)


def test_eight_writers_and_two_sequencers_neither_fork_nor_lose_a_fact(world: LogWorld) -> None:
    before = len(world.facts_of(world.tenant_id))
    world.spine.transactions.engine.dispose()

    def write() -> None:
        tenant = Tenant(world.another_spine(), world.tenant_id)
        for _ in range(FACTS):
            start_run(tenant)

    def sequence() -> None:
        spine = world.another_spine()
        # Without the lease between them: each takes it from the other after every round.
        for _ in range(40):
            sequencer = LogSequencer(spine)
            sequencer.run_round()
            sequencer.release()

    children = [child(write) for _ in range(WRITERS)] + [child(sequence) for _ in range(2)]
    assert [ended(process) for process in children] == [0] * (WRITERS + 2)
    world.sequence()
    assert check_all(world) == len(world.facts_of(world.tenant_id)) >= before + WRITERS * FACTS
    assert (world.status().state, world.status().pending) == ("ACTIVE", 0)


def test_kill_9_at_each_step_leaves_no_gap_no_duplicate_and_no_bad_signature(world: LogWorld) -> None:
    steps = 0
    # Every second statement: what lies between two is rolled back with the one or the other.
    for step in itertools.count(0, 2):
        world.facts(1)
        world.spine.transactions.engine.dispose()

        def die(left: int = step) -> None:
            spine = world.another_spine()
            count = itertools.count()

            def kill(_statement: str) -> None:
                if next(count) == left:
                    os.kill(os.getpid(), signal.SIGKILL)

            statement_counter(spine.transactions.engine, kill)
            LogSequencer(spine).drain()

        code = ended(child(die))
        with world.connect() as connection:
            connection.execute(sa.text("DELETE FROM worker_leases"))
        check_all(world)
        steps = step
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert steps > 10
    world.sequence()
    assert check_all(world) == world.status().signed_size
    assert (world.status().state, world.status().pending) == ("ACTIVE", 0)
