"""The sequencer: every fact enters its tenant's tree once, in order, whatever crashes or races."""

from __future__ import annotations

import gc
import itertools
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from app.domains.logs.engines import note, sequence
from app.domains.logs.engines.sequence import ForkRefusedError
from app.hoc_spine.coordinators.log_files import write_new_key
from app.hoc_spine.sequencer import LogSequencer, LogSequencerLoop
from app.hoc_spine.spine import Spine
from app.hoc_spine.transactions import statement_counter
from tests.factories.databases import Databases, Dialect
from tests.factories.logs import LogWorld
from tests.factories.tenants import make_tenant, operator_context
from tests.factories.worlds import start_run, without_triggers


@pytest.fixture(scope="module")
def home(
    databases: Databases, dialect: Dialect, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """A database, and a folder with the key and the checkpoints of its logs."""
    folder = tmp_path_factory.mktemp("home")
    write_new_key(folder / "log-key.pem")
    return databases.new(dialect), folder


@pytest.fixture
def world(
    request: pytest.FixtureRequest,
    make_spine: Callable[..., Spine],
    home: tuple[str, Path],
    new_database: Callable[..., str],
    tmp_path: Path,
) -> LogWorld:
    """A tenant in the module's database; alone in one of its own where the test says `alone`."""
    if request.node.get_closest_marker("usefixtures") is None:
        shared = LogWorld(make_spine, *home)
        with shared.connect() as connection:
            # What an earlier test let die holds its lease for a while.
            connection.execute(sa.text("DELETE FROM worker_leases"))
        return shared
    write_new_key(tmp_path / "log-key.pem")
    return LogWorld(make_spine, new_database(), tmp_path)


@pytest.fixture
def alone() -> None:
    """Mark a test whose log must be the only one beside the operator's."""


@pytest.fixture
def owner(world: LogWorld) -> Iterator[sa.Connection]:
    """A connection of the owner to the world's database."""
    with world.connect() as connection:
        yield connection


@pytest.mark.usefixtures("alone")
def test_every_fact_enters_the_tree_and_a_checkpoint_signs_it(world: LogWorld, owner: sa.Connection) -> None:
    world.facts(5)
    done = world.sequence()
    status = world.status()
    assert (status.origin, status.epoch, status.state) == (world.origin, 1, "ACTIVE")
    assert status.size == status.signed_size == world.check(owner) >= 5
    # The operator made the tenant and the limit of its plan: facts of the operator's own log.
    assert done.taken == status.size + 2
    assert (status.pending, done.held, done.halted) == (0, False, 0)


def test_a_log_is_opened_with_its_tenant(world: LogWorld, owner: sa.Connection) -> None:
    heads = world.rows(owner, "SELECT * FROM log_heads WHERE tenant_id = :t")
    assert [(head["origin"], head["size"], head["state"]) for head in heads] == [(world.origin, 0, "ACTIVE")]
    # An operator's own log is there too: its facts are the operator's deeds.
    assert world.rows(owner, "SELECT 1 FROM log_heads WHERE tenant_id = '_system'")


@pytest.mark.usefixtures("alone")
def test_a_tenant_from_before_the_log_gets_one_with_its_first_facts(
    world: LogWorld, owner: sa.Connection
) -> None:
    without_triggers(owner, "DELETE FROM log_heads")
    assert (world.status().origin, world.status().size) == (None, 0)
    world.facts(2)
    world.sequence()
    assert world.status().origin == world.origin
    assert world.check(owner) >= 2


def test_without_an_origin_of_the_operators_all_logs_share_one_that_stays(
    make_spine: Callable[..., Spine], new_database: Callable[..., str], tmp_path: Path
) -> None:
    world = LogWorld(make_spine, new_database(), tmp_path, log_origin=None)
    other = make_tenant(world.another_spine())
    mine, theirs = world.status().origin, other.call("log.status").origin
    prefix = mine.removesuffix(f"/{world.tenant_id}/1")
    assert prefix.startswith("hoc.local/")
    assert theirs == f"{prefix}/{other.tenant_id}/1"
    assert len(prefix.removeprefix("hoc.local/")) == 16


def test_entries_stand_in_the_order_of_their_facts(world: LogWorld, owner: sa.Connection) -> None:
    world.facts(4)
    world.sequence()
    world.facts(4)
    world.sequence()
    rows = world.rows(owner, "SELECT idx, fact_id FROM log_entries WHERE tenant_id = :t ORDER BY idx")
    assert [row["fact_id"] for row in rows] == sorted(row["fact_id"] for row in rows)


def test_a_backlog_is_worked_off_in_batches(
    make_spine: Callable[..., Spine], new_database: Callable[..., str], tmp_path: Path
) -> None:
    write_new_key(tmp_path / "log-key.pem")
    world = LogWorld(make_spine, new_database(), tmp_path, log_batch=3)
    world.facts(10)
    sequencer = LogSequencer(world.spine)
    first = sequencer.run_round()
    assert first.more
    assert world.status().size == 3
    rest = sequencer.drain()
    assert world.status().pending == 0
    # The operator's log grows in the same rounds.
    assert first.taken + rest.taken > world.status().size >= 10


def test_a_round_with_nothing_to_do_writes_nothing(world: LogWorld, owner: sa.Connection) -> None:
    world.facts(2)
    world.sequence()
    sequencer = LogSequencer(world.spine)
    sequencer.run_round()
    statements: list[str] = []
    statement_counter(world.spine.transactions.engine, statements.append)
    done = sequencer.run_round()
    assert (done.taken, done.signed, done.more) == (0, 0, False)
    assert [text for text in statements if text.startswith(("INSERT", "UPDATE", "DELETE"))] == []


def test_facts_queued_again_are_not_sequenced_again(world: LogWorld, owner: sa.Connection) -> None:
    world.facts(3)
    world.sequence()
    size = world.status().size
    copied = (
        "INSERT INTO log_pending SELECT tenant_id, fact_id, created_at FROM log_leaves WHERE tenant_id = :t"
    )
    owner.execute(sa.text(copied), {"t": world.tenant_id})
    world.sequence()
    assert (world.status().size, world.status().pending) == (size, 0)
    world.check(owner)


def test_trees_cross_the_width_of_a_tile(world: LogWorld, owner: sa.Connection) -> None:
    world.facts(3)
    world.sequence()
    for count in (248, 3, 2, 1, 40, 310):
        world.repeat_leaves(count)
        world.sequence()
        world.check(owner)
    assert world.check(owner) > 600
    levels = world.rows(owner, "SELECT level, width FROM log_tiles WHERE tenant_id = :t AND level > 0")
    assert levels == [{"level": 1, "width": 2}]


# Races


def test_one_sequencer_works_while_it_holds_the_lease(world: LogWorld) -> None:
    first, second = LogSequencer(world.spine), LogSequencer(world.another_spine())
    world.facts(1)
    assert first.run_round().taken
    world.facts(1)
    assert second.run_round().held
    assert second.run_round().taken == 0
    assert first.run_round().taken
    first.release()
    world.facts(1)
    assert second.run_round().taken


@pytest.mark.usefixtures("alone")
def test_the_lease_of_a_dead_sequencer_runs_out(world: LogWorld, owner: sa.Connection) -> None:
    LogSequencer(world.spine).run_round()
    second = LogSequencer(world.another_spine())
    world.facts(1)
    assert second.run_round().held
    owner.execute(
        sa.text("UPDATE worker_leases SET expires_at = :past WHERE name = 'log.sequencer'"),
        {"past": "2020-01-01T00:00:00.000000Z"},
    )
    assert second.run_round().taken
    (lease,) = world.rows(owner, "SELECT holder, token FROM worker_leases")
    assert lease["token"] == 2


def test_a_sequencer_whose_head_moved_takes_its_work_back(world: LogWorld, owner: sa.Connection) -> None:
    world.facts(2)
    head = "UPDATE log_heads SET state = 'HALTED' WHERE tenant_id = :t"
    transactions = world.spine.transactions

    def integrate_late() -> None:
        with transactions.write(world.tenant_id, role="hoc_maintenance") as connection:
            real = connection.execute

            def execute(statement: Any, parameters: Any = None) -> Any:
                text = str(statement)
                if text.startswith("UPDATE log_heads"):
                    # What another sequencer, or an operator, committed in the meantime.
                    real(sa.text(head), {"t": world.tenant_id})
                return real(statement, parameters)

            late = _Connection(connection, execute)
            sequence.integrate(
                late, tenant_id=world.tenant_id, limit=100, now=world.spine.services.clock.now()
            )

    with pytest.raises(ForkRefusedError):
        integrate_late()
    assert world.rows(owner, "SELECT 1 FROM log_entries WHERE tenant_id = :t") == []
    assert world.status().state == "ACTIVE"
    world.sequence()
    assert world.check(owner) >= 2


class _Connection:
    """A connection whose statements pass through a function of the test."""

    def __init__(self, connection: Any, execute: Callable[..., Any]) -> None:
        self.dialect_name = connection.dialect_name
        self.execute = execute

    def scalars(self, statement: Any, parameters: Any = None) -> Any:
        return self.execute(statement, parameters).scalars()


def test_two_sequencers_and_four_writers_neither_fork_nor_lose_a_fact(
    make_spine: Callable[..., Spine], new_database: Callable[..., str], tmp_path: Path
) -> None:
    write_new_key(tmp_path / "log-key.pem")
    world = LogWorld(make_spine, new_database(), tmp_path, log_batch=7, pool_size=6)
    other = world.another_spine()
    writing = threading.Event()
    failures: list[BaseException] = []

    def write() -> None:
        try:
            for _ in range(12):
                start_run(world.tenant)
        except Exception as error:  # noqa: BLE001 - a thread's failure is the test's
            failures.append(error)

    def sequence_on(spine: Spine) -> None:
        # Without the lease between them: each takes it from the other after every round.
        try:
            while not writing.is_set():
                sequencer = LogSequencer(spine)
                sequencer.run_round()
                sequencer.release()
        except Exception as error:  # noqa: BLE001 - a thread's failure is the test's
            failures.append(error)

    writers = [threading.Thread(target=write) for _ in range(4)]
    sequencers = [threading.Thread(target=sequence_on, args=(spine,)) for spine in (world.spine, other)]
    for thread in (*writers, *sequencers):
        thread.start()
    for thread in writers:
        thread.join()
    writing.set()
    for thread in sequencers:
        thread.join()
    assert failures == []
    world.sequence()
    engine = sa.create_engine(world.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        assert world.check(connection) >= 48
        assert world.rows(connection, "SELECT 1 FROM log_pending WHERE tenant_id = :t") == []
    engine.dispose()
    assert world.status().state == "ACTIVE"


def test_two_that_work_on_one_head_at_once_do_not_wait_for_each_other(world: LogWorld) -> None:
    world.facts(2)
    if world.spine.transactions.dialect_name == "sqlite":
        return  # one writer at a time: the second one is not even let in
    now = world.spine.services.clock.now()
    other = world.another_spine()
    with world.spine.transactions.write(world.tenant_id, role="hoc_maintenance") as first:
        taken = sequence.integrate(first, tenant_id=world.tenant_id, limit=100, now=now)
        with other.transactions.write(world.tenant_id, role="hoc_maintenance") as second:
            assert sequence.integrate(second, tenant_id=world.tenant_id, limit=100, now=now).taken == 0
    assert taken.taken > 0


# Crashes


class PowerCut(BaseException):
    """The process is gone at this statement or file."""


@pytest.mark.usefixtures("alone")
def test_a_crash_at_any_statement_leaves_no_gap_and_no_duplicate(
    world: LogWorld, owner: sa.Connection
) -> None:
    world.facts(3)
    world.sequence()
    for step in itertools.count():
        world.facts(1)
        dying = world.another_spine()
        left = [step]

        def cut(_statement: str, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise PowerCut

        statement_counter(dying.transactions.engine, cut)
        try:
            LogSequencer(dying).drain()
        except PowerCut:
            # With a process its connections end, and with them what they held.
            gc.collect(1)
        else:
            break
        owner.execute(sa.text("DELETE FROM worker_leases"))
        world.check(owner)
        world.sequence()
        assert world.check(owner) == world.status().signed_size
        assert world.status().pending == 0
    assert step > 20
    assert world.status().state == "ACTIVE"


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("call", ["os.fsync", "os.open", "Path.replace"])
def test_a_crash_at_any_file_leaves_what_the_next_one_confirms(
    world: LogWorld, owner: sa.Connection, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    world.facts(2)
    world.sequence()
    before = world.status()
    for nth in range(3 if call == "os.open" else 1):
        world.facts(1)
        with monkeypatch.context() as patch:
            _cut_file_call(patch, call, nth)
            with pytest.raises(PowerCut):
                world.sequence()
        owner.execute(sa.text("DELETE FROM worker_leases"))
        # The tree is committed, the checkpoint is not.
        assert world.status().size > before.size
        assert world.status().signed_size == before.signed_size
        world.sequence()
        before = world.status()
        assert before.signed_size == before.size == world.check(owner)
        assert note.parse_checkpoint(note.parse_note(kept(world)).text).size == before.size


def _cut_file_call(patch: pytest.MonkeyPatch, call: str, nth: int) -> None:
    """Cut the power at a call on the checkpoint files; everything else works on."""
    target, name = (os, call.removeprefix("os.")) if call.startswith("os.") else (Path, "replace")
    real = getattr(target, name)
    calls: list[object] = []

    def cut(*arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        if len(calls) > nth:
            raise PowerCut
        return real(*arguments, **named)

    patch.setattr(target, name, cut)


def kept(world: LogWorld) -> str:
    """Return the newest checkpoint of the directory."""
    return (world.checkpoints / world.tenant_id / "1" / "latest").read_text(encoding="utf-8")


@pytest.mark.usefixtures("alone")
def test_a_crash_after_the_file_and_before_its_row_is_confirmed_by_the_next(
    world: LogWorld, owner: sa.Connection
) -> None:
    world.facts(2)
    dying = world.another_spine()

    def cut(statement: str) -> None:
        if statement.startswith("INSERT INTO log_checkpoints"):
            raise PowerCut

    statement_counter(dying.transactions.engine, cut)
    with pytest.raises(PowerCut):
        LogSequencer(dying).drain()
    owner.execute(sa.text("DELETE FROM worker_leases"))
    everyone = owner.execute(sa.text("SELECT count(*) FROM log_checkpoints")).scalar_one()
    assert everyone == 0
    ahead = {path: path.read_text() for path in world.checkpoints.glob("*/1/latest")}
    assert len(ahead) == 1
    world.sequence()
    assert world.status().signed_size == world.check(owner)
    # Ed25519 makes the same note of the same head: the file says what it said.
    assert {path: path.read_text() for path in ahead} == ahead


# Keys


def test_a_missing_key_is_made_for_an_embedded_database_only(
    make_spine: Callable[..., Spine], new_database: Callable[..., str], tmp_path: Path, dialect: str
) -> None:
    world = LogWorld(make_spine, new_database(), tmp_path)
    world.facts(1)
    world.sequence()
    status = world.status()
    assert status.size > 0
    if dialect == "sqlite":
        assert stat.S_IMODE(world.key_file.stat().st_mode) == 0o600
        assert (status.signed_size, len(status.vkeys)) == (status.size, 1)
    else:
        assert not world.key_file.exists()
        assert (status.signed_size, status.vkeys) == (0, [])
        assert world.tenant.dispatch("log.checkpoint").error_code == "NO_SIGNING_KEY"


def test_the_key_of_an_embedded_database_is_beside_it_and_stays(
    make_spine: Callable[..., Spine], new_database: Callable[..., str], tmp_path: Path, dialect: str
) -> None:
    url = new_database()
    world = LogWorld(make_spine, url, tmp_path, log_key_file=None, checkpoint_dir=None)
    world.facts(1)
    world.sequence()
    if dialect == "postgresql":
        assert world.status().signed_size == 0
        return
    file = Path(f"{url.removeprefix('sqlite:///')}-log-key.pem")
    made = file.read_bytes()
    folder = Path(f"{url.removeprefix('sqlite:///')}-checkpoints") / world.tenant_id / "1"
    assert {path.name for path in folder.iterdir()} == {"latest", "history"}
    world.facts(1)
    LogSequencer(world.another_spine()).drain()
    assert file.read_bytes() == made
    assert len((folder / "history").read_text().splitlines()) == 2


def test_a_key_file_is_never_replaced(tmp_path: Path) -> None:
    file = tmp_path / "keys" / "log.pem"
    assert write_new_key(file)
    made = file.read_bytes()
    assert not write_new_key(file)
    assert file.read_bytes() == made
    assert [path.name for path in file.parent.iterdir()] == ["log.pem"]


# The background service


@pytest.mark.usefixtures("alone")
def test_the_service_sequences_by_itself_and_stops(world: LogWorld, owner: sa.Connection) -> None:
    loop = LogSequencerLoop(world.another_spine(log_interval_ms=10))
    world.facts(2)
    done = threading.Event()
    spine = loop._spine
    statement_counter(
        spine.transactions.engine,
        lambda text: done.set() if text.startswith("INSERT INTO log_checkpoints") else None,
    )
    loop.start()
    try:
        assert done.wait(30)
    finally:
        loop.stop()
    assert not loop._thread.is_alive()
    world.sequence()
    assert world.check(owner) >= 2


def test_a_spine_that_was_not_started_sequences_nothing(world: LogWorld) -> None:
    world.facts(1)
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("hoc-log")] == []
    assert world.status().pending > 0


@pytest.mark.parametrize(("mode", "count"), [("inline", 1), ("external", 0), ("off", 0)])
def test_the_setting_says_whether_a_server_sequences(world: LogWorld, mode: str, count: int) -> None:
    services = world.another_spine(log_sequencer=mode).background
    assert sum(isinstance(service, LogSequencerLoop) for service in services) == count


def test_the_operators_deeds_are_sequenced_too(world: LogWorld, owner: sa.Connection) -> None:
    world.spine.dispatch("ops.degraded.enter", operator_context(), {"reason": "drill"}).unwrap()
    world.sequence()
    (head,) = world.rows(owner, "SELECT size, signed_size FROM log_heads WHERE tenant_id = '_system'")
    assert head["size"] == head["signed_size"] > 0
