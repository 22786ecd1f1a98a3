"""The log under processes of their own: writers and sequencers at once, and kill -9 at every step."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from app.domains.logs.engines.note import parse_checkpoint, parse_note
from app.hoc_spine.coordinators.log_files import write_new_key
from app.hoc_spine.sequencer import LogSequencer
from app.hoc_spine.spine import Spine
from app.hoc_spine.transactions import statement_counter
from app.kernel import merkle
from tests.factories.logs import LogWorld
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
        for _ in range(FACTS):
            start_run(world.tenant)

    def sequence() -> None:
        # Without the lease between them: each takes it from the other after every round.
        for _ in range(40):
            sequencer = LogSequencer(world.spine)
            sequencer.run_round()
            sequencer.release()

    children = [child(write) for _ in range(WRITERS)] + [child(sequence) for _ in range(2)]
    assert [ended(process) for process in children] == [0] * (WRITERS + 2)
    world.sequence()
    assert check_all(world) == len(world.facts_of(world.tenant_id)) >= before + WRITERS * FACTS
    assert (world.status().state, world.status().pending) == ("ACTIVE", 0)


def kill_at(world: LogWorld, step: int) -> None:
    """Let this process be killed at a deed: a statement, or a file of checkpoints opened or moved."""
    count, folder = itertools.count(), str(world.checkpoints)

    def deed(_statement: str = "") -> None:
        if next(count) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def audited(event: str, arguments: tuple[object, ...]) -> None:
        if event in ("open", "os.rename", "os.mkdir") and str(arguments[0]).startswith(folder):
            deed()

    statement_counter(world.spine.transactions.engine, deed)
    sys.addaudithook(audited)


def check_signed(world: LogWorld) -> None:
    """Check that whatever was signed outside the database is a state that the tree had."""
    with world.connect() as connection:
        world.check(connection)
        query = "SELECT leaf_hash FROM log_leaves JOIN log_entries USING (tenant_id, fact_id)"
        rows = world.rows(connection, f"{query} WHERE tenant_id = :t ORDER BY idx")
    hashes = [bytes.fromhex(row["leaf_hash"]) for row in rows]
    for text in [*world.files.history(world.tenant_id, 1), world.files.latest(world.tenant_id, 1)]:
        signed = parse_checkpoint(parse_note(text).text) if text is not None else None
        assert signed is None or signed.root == merkle.root(hashes[: signed.size])
        assert signed is None or signed.size <= len(hashes)


def test_kill_9_at_each_step_leaves_no_gap_no_duplicate_and_no_bad_signature(world: LogWorld) -> None:
    killed = -1
    for step in itertools.count():
        world.facts(1)
        world.spine.transactions.engine.dispose()

        def die(left: int = step) -> None:
            # The fork has all of the parent's program, and none of its connections.
            kill_at(world, left)
            LogSequencer(world.spine).drain()

        code = ended(child(die))
        check_signed(world)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        killed = step
        with world.connect() as connection:
            connection.execute(sa.text("DELETE FROM worker_leases"))
    # Two transactions of each log, the system's too: to integrate, and to sign, with three deeds on files.
    assert killed > 25
    world.sequence()
    assert check_all(world) == world.status().signed_size
    assert (world.status().state, world.status().pending) == ("ACTIVE", 0)
