"""What a log refuses: history that was changed behind it is found before anything is signed over it."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from app.domains.logs.engines import note
from app.domains.logs.engines.note import Checkpoint
from app.hoc_spine.coordinators.log_files import write_new_key
from app.hoc_spine.coordinators.run_judgement import judge_run, read_proof_facts
from app.hoc_spine.sequencer import LogSequencer
from app.hoc_spine.spine import Spine
from app.hoc_spine.transactions import SpineConnection
from tests.factories.databases import Databases, Dialect
from tests.factories.logs import LogWorld, standing_world
from tests.factories.tampering import taken_back
from tests.factories.worlds import start_run, step, without_triggers

HEX = "ab" * 32


@pytest.fixture(scope="module")
def home(
    databases: Databases, dialect: Dialect, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """A database, and a folder with the key and the checkpoints of its logs; each test has a tenant in it."""
    folder = tmp_path_factory.mktemp("home")
    write_new_key(folder / "log-key.pem")
    return databases.new(dialect), folder


@pytest.fixture
def world(make_spine: Callable[..., Spine], home: tuple[str, Path]) -> LogWorld:
    """A tenant with a signed log of a few facts."""
    made = LogWorld(make_spine, *home)
    made.facts(5)
    made.sequence()
    return made


@pytest.fixture
def owner(world: LogWorld) -> Iterator[sa.Connection]:
    """A connection of the owner to the world's database."""
    engine = sa.create_engine(world.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.fixture(scope="module")
def signed(home: tuple[str, Path]) -> Iterator[LogWorld]:
    """A tenant with a signed log, for tests that leave it as it is."""
    with standing_world(*home) as made:
        yield made


@pytest.fixture
def its_owner(signed: LogWorld) -> Iterator[sa.Connection]:
    """A connection of the owner to the database of `signed`."""
    engine = sa.create_engine(signed.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def latest(world: LogWorld) -> Path:
    return world.checkpoints / world.tenant_id / "1" / "latest"


def tamper(owner: sa.Connection, world: LogWorld, *statements: str, **values: Any) -> None:
    without_triggers(owner, *statements, t=world.tenant_id, **values)


def expect_halt(world: LogWorld, reason: str, name: str = "") -> None:
    """Sequence; the log halts for this reason, nothing is signed, and what comes queues on."""
    signed = world.status().signed_size
    checkpoint = latest(world).read_text() if latest(world).exists() else None
    done = world.sequence()
    status = world.status()
    assert (status.state, status.halted_reason, done.halted) == ("HALTED", reason, 1), name
    assert status.signed_size == signed
    assert (latest(world).read_text() if latest(world).exists() else None) == checkpoint
    world.facts(2)
    again = world.sequence()
    assert (world.status().size, again.halted) == (status.size, 0)
    assert world.status().pending > status.pending


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE log_leaves SET statement = replace(statement, 'fct_', 'fcx_') WHERE {waits}",
        f"UPDATE log_leaves SET leaf_hash = '{HEX}' WHERE {{waits}}",
        "DELETE FROM log_leaves WHERE {waits}",
    ],
)
def test_an_edited_or_missing_leaf_halts_the_log_and_nothing_is_integrated(
    world: LogWorld, owner: sa.Connection, change: str
) -> None:
    world.facts(3)
    size = world.status().size
    one = "SELECT min(fact_id) FROM log_pending WHERE tenant_id = :t"
    tamper(owner, world, change.format(waits=f"tenant_id = :t AND fact_id = ({one})"))
    expect_halt(world, "LEAF_MISMATCH")
    assert world.status().size == size


def test_a_flipped_byte_of_a_tile_is_inconsistent(world: LogWorld, owner: sa.Connection) -> None:
    (tile,) = world.rows(owner, "SELECT hashes FROM log_tiles WHERE tenant_id = :t")
    flipped = bytes([tile["hashes"][0] ^ 1]) + bytes(tile["hashes"])[1:]
    tamper(owner, world, "UPDATE log_tiles SET hashes = :h WHERE tenant_id = :t", h=flipped)
    world.facts(1)
    expect_halt(world, "INCONSISTENT")


def test_a_missing_tile_is_inconsistent(world: LogWorld, owner: sa.Connection) -> None:
    tamper(owner, world, "DELETE FROM log_tiles WHERE tenant_id = :t")
    world.facts(1)
    expect_halt(world, "INCONSISTENT")


def rewrite(owner: sa.Connection, world: LogWorld) -> None:
    """Rewrite the first leaf, its tile, and the root of the head: a whole other history of the same size."""
    from app.kernel import merkle

    (tile,) = world.rows(owner, "SELECT hashes FROM log_tiles WHERE tenant_id = :t")
    hashes = bytes.fromhex(HEX) + bytes(tile["hashes"])[32:]
    root = merkle.root([hashes[at : at + 32] for at in range(0, len(hashes), 32)]).hex()
    tamper(
        owner,
        world,
        "UPDATE log_tiles SET hashes = :h WHERE tenant_id = :t",
        "UPDATE log_heads SET root = :r WHERE tenant_id = :t",
        h=hashes,
        r=root,
    )


def test_a_rewritten_history_that_grows_is_inconsistent(world: LogWorld, owner: sa.Connection) -> None:
    rewrite(owner, world)
    world.facts(1)
    expect_halt(world, "INCONSISTENT")


def test_a_rewritten_history_of_the_same_size_has_another_root(world: LogWorld, owner: sa.Connection) -> None:
    rewrite(owner, world)
    tamper(owner, world, "UPDATE log_heads SET signed_size = size - 1 WHERE tenant_id = :t")
    expect_halt(world, "ROOT_MISMATCH")


def rewind(owner: sa.Connection, world: LogWorld, size: int) -> None:
    """Take the database back to an earlier size, consistently, as a restored backup would be."""
    from app.kernel import merkle

    (tile,) = world.rows(owner, "SELECT hashes FROM log_tiles WHERE tenant_id = :t")
    hashes = bytes(tile["hashes"])[: 32 * size]
    root = merkle.root([hashes[at : at + 32] for at in range(0, len(hashes), 32)]).hex()
    tamper(
        owner,
        world,
        "DELETE FROM log_leaves WHERE tenant_id = :t AND fact_id IN"
        " (SELECT fact_id FROM log_entries WHERE tenant_id = :t AND idx >= :n)",
        "DELETE FROM log_entries WHERE tenant_id = :t AND idx >= :n",
        "DELETE FROM log_checkpoints WHERE tenant_id = :t",
        "UPDATE log_tiles SET width = :n, hashes = :h WHERE tenant_id = :t",
        "UPDATE log_heads SET size = :n, signed_size = :n - 1, root = :r WHERE tenant_id = :t",
        n=size,
        h=hashes,
        r=root,
    )


def test_a_database_older_than_the_checkpoint_directory_is_rolled_back(
    world: LogWorld, owner: sa.Connection
) -> None:
    rewind(owner, world, world.status().size - 2)
    expect_halt(world, "ROLLED_BACK")


def test_a_database_that_grew_again_after_a_rollback_is_inconsistent_with_the_directory(
    world: LogWorld, owner: sa.Connection
) -> None:
    size = world.status().size
    rewind(owner, world, size - 2)
    world.facts(5)
    expect_halt(world, "INCONSISTENT")
    assert world.status().size > size


def test_a_head_below_its_own_checkpoint_is_rolled_back(world: LogWorld, owner: sa.Connection) -> None:
    rows = world.rows(owner, "SELECT note, root, key_ids FROM log_checkpoints WHERE tenant_id = :t")
    size = world.status().size
    shutil.rmtree(world.checkpoints / world.tenant_id)
    rewind(owner, world, size - 2)
    copy = (
        "INSERT INTO log_checkpoints (tenant_id, epoch, size, root, note, key_ids, signed_at)"
        " VALUES (:t, 1, :n, :root, :note, :key_ids, '2026-01-01T00:00:00.000000Z')"
    )
    owner.execute(sa.text(copy), {"t": world.tenant_id, "n": size, **rows[-1]})
    world.facts(1)
    expect_halt(world, "ROLLED_BACK")


def test_without_a_directory_the_database_alone_is_what_a_head_continues(
    world: LogWorld, owner: sa.Connection
) -> None:
    shutil.rmtree(world.checkpoints / world.tenant_id)
    world.facts(1)
    world.sequence()
    assert world.status().state == "ACTIVE"
    assert world.status().signed_size == world.check(owner)


def test_an_earlier_checkpoint_that_does_not_open_stops_the_signing(
    world: LogWorld, owner: sa.Connection
) -> None:
    for where in ("directory", "database"):
        for name, bad in bad_checkpoints(world).items():
            text = latest(world).read_text()
            if where == "directory":
                latest(world).write_text(bad)
            else:
                notes = world.rows(owner, "SELECT size, note FROM log_checkpoints WHERE tenant_id = :t")
                tamper(owner, world, "UPDATE log_checkpoints SET note = :n WHERE tenant_id = :t", n=bad)
            world.facts(1)
            expect_halt(world, "BAD_SIGNATURE", name)
            latest(world).write_text(text)
            for row in notes if where == "database" else ():
                put_back = "UPDATE log_checkpoints SET note = :note WHERE tenant_id = :t AND size = :size"
                tamper(owner, world, put_back, **row)
            go_on = "UPDATE log_heads SET state = 'ACTIVE', halted_reason = NULL WHERE tenant_id = :t"
            tamper(owner, world, go_on)
            world.sequence()
            assert world.status().signed_size == world.status().size, name


def bad_checkpoints(world: LogWorld) -> dict[str, str]:
    """Return notes that do not open, in the place of the latest checkpoint."""
    text = latest(world).read_text()
    checkpoint = note.parse_checkpoint(note.parse_note(text).text)
    other = Checkpoint("hoc.test/other/1", checkpoint.size, checkpoint.root)
    return {
        "other key": note.sign(checkpoint.text(), name=world.origin, key=note.new_key(bytes(32))),
        "other origin": note.sign(other.text(), name=world.origin, key=world.key),
        "no note": "nonsense",
        "bad signature": text[:-10] + base64.b64encode(bytes(7)).decode()[:9] + "\n",
        "extension": note.sign(checkpoint.text() + "more\n", name=world.origin, key=world.key),
    }


def test_a_replaced_key_signs_nothing_over_the_old_keys_history(
    make_spine: Callable[..., Spine], new_database: Callable[..., str], tmp_path: Path
) -> None:
    write_new_key(tmp_path / "log-key.pem")
    world = LogWorld(make_spine, new_database(), tmp_path)
    world.facts(1)
    world.sequence()
    world.key_file.unlink()
    write_new_key(world.key_file)
    world.facts(1)
    done = LogSequencer(world.another_spine()).drain()
    # The operator's own log was signed with the old key too.
    assert done.halted >= 1
    assert (world.status().state, world.status().halted_reason) == ("HALTED", "BAD_SIGNATURE")


def test_a_halted_log_leaves_the_logs_of_others_alone(world: LogWorld, owner: sa.Connection) -> None:
    from tests.factories.tenants import make_tenant

    tamper(owner, world, "DELETE FROM log_tiles WHERE tenant_id = :t")
    other = make_tenant(world.spine)
    world.facts(1)
    start_run(other)
    world.sequence()
    assert world.status().state == "HALTED"
    status = other.call("log.status")
    assert (status.state, status.pending, status.signed_size) == ("ACTIVE", 0, status.size)


def test_the_checkpoint_directory_keeps_every_checkpoint(world: LogWorld) -> None:
    from app.kernel.canonical_json import loads

    world.facts(1)
    world.sequence()
    lines = [loads(line) for line in (latest(world).parent / "history").read_text().splitlines()]
    sizes = [note.parse_checkpoint(note.parse_note(line["note"]).text).size for line in lines]
    assert sizes == sorted(set(sizes))
    assert len(sizes) == 2
    assert lines[-1]["note"] == latest(world).read_text()
    assert sorted(path.name for path in latest(world).parent.iterdir()) == ["history", "latest"]


def test_a_history_that_a_crash_has_cut_goes_on_with_a_line_of_its_own(world: LogWorld) -> None:
    history = latest(world).parent / "history"
    whole = history.read_text()
    history.write_text(whole[:-7])
    world.facts(1)
    world.sequence()
    lines = history.read_text().splitlines()
    assert lines[0] == whole[:-7]
    assert lines[1].startswith("{")


def test_checkpoints_wait_for_their_interval(
    make_spine: Callable[..., Spine], new_database: Callable[..., str], tmp_path: Path, clock: Any
) -> None:
    write_new_key(tmp_path / "log-key.pem")
    world = LogWorld(make_spine, new_database(), tmp_path, checkpoint_interval_ms=60_000)
    sequencer = LogSequencer(world.spine)
    world.facts(1)
    sequencer.run_round()
    first = world.status()
    assert first.signed_size == first.size
    world.facts(1)
    sequencer.run_round()
    assert world.status().signed_size == first.size < world.status().size
    clock.advance(minutes=2)
    sequencer.run_round()
    assert world.status().signed_size == world.status().size


# Triggers

OF_ENTRY = " FROM log_entries WHERE tenant_id = :t AND idx = 0"


FORBIDDEN = [
    "UPDATE log_heads SET size = size - 1, signed_size = size - 1 WHERE tenant_id = :t",
    "UPDATE log_heads SET signed_size = signed_size - 1 WHERE tenant_id = :t",
    "UPDATE log_heads SET origin = 'x' WHERE tenant_id = :t",
    "UPDATE log_heads SET epoch = 2 WHERE tenant_id = :t",
    "UPDATE log_heads SET signed_size = size + 1 WHERE tenant_id = :t",
    "UPDATE log_heads SET state = 'OTHER' WHERE tenant_id = :t",
    "DELETE FROM log_heads WHERE tenant_id = :t",
    "UPDATE log_entries SET fact_id = 'fct_x' WHERE tenant_id = :t AND idx = 0",
    "DELETE FROM log_entries WHERE tenant_id = :t AND idx = 0",
    "INSERT INTO log_entries SELECT tenant_id, epoch, idx, 'fct_x', integrated_at" + OF_ENTRY,
    "INSERT INTO log_entries SELECT tenant_id, epoch, 999, fact_id, integrated_at" + OF_ENTRY,
    "UPDATE log_tiles SET width = width - 1, hashes = substr(hashes, 33) WHERE tenant_id = :t",
    "UPDATE log_tiles SET width = 1, hashes = substr(hashes, 1, 32) WHERE tenant_id = :t",
    "UPDATE log_tiles SET hashes = :zeros WHERE tenant_id = :t",
    "UPDATE log_tiles SET width = width + 1 WHERE tenant_id = :t",
    "UPDATE log_tiles SET tile_no = 5 WHERE tenant_id = :t",
    "DELETE FROM log_tiles WHERE tenant_id = :t",
    "UPDATE log_checkpoints SET note = 'x' WHERE tenant_id = :t",
    "DELETE FROM log_checkpoints WHERE tenant_id = :t",
]


def test_the_database_itself_refuses_to_change_the_log(signed: LogWorld, its_owner: sa.Connection) -> None:
    world, owner = signed, its_owner
    (tile,) = world.rows(owner, "SELECT width FROM log_tiles WHERE tenant_id = :t")
    for statement in FORBIDDEN:
        zeros = {"zeros": bytes(32 * tile["width"])} if ":zeros" in statement else {}
        with pytest.raises(sa.exc.DBAPIError):
            owner.execute(sa.text(statement), {"t": world.tenant_id, **zeros})
    world.check(owner)


def test_a_closed_log_is_final(world: LogWorld, owner: sa.Connection) -> None:
    close = sa.text("UPDATE log_heads SET state = 'CLOSED' WHERE tenant_id = :t")
    owner.execute(close, {"t": world.tenant_id})
    with pytest.raises(sa.exc.DBAPIError):
        owner.execute(
            sa.text("UPDATE log_heads SET state = 'ACTIVE' WHERE tenant_id = :t"), {"t": world.tenant_id}
        )
    world.facts(1)
    world.sequence()
    assert world.status().pending > 0


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_the_application_reads_the_tree_and_does_not_write_it(
    signed: LogWorld, its_owner: sa.Connection
) -> None:
    world, owner = signed, its_owner
    owner.exec_driver_sql("SET ROLE hoc_app")
    owner.execute(sa.text("SELECT set_config('hoc.tenant_id', :t, false)"), {"t": world.tenant_id})
    for table in ("log_heads", "log_entries", "log_tiles", "log_checkpoints"):
        assert owner.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar_one() > 0
        for statement in (
            f"UPDATE {table} SET epoch = 1",
            f"INSERT INTO {table} SELECT * FROM {table}",
            f"DELETE FROM {table}",
        ):
            with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
                owner.execute(sa.text(statement))


# The proof of a run


def ended_run(world: LogWorld) -> str:
    """Play a run to its end and return its id."""
    run_id = start_run(world.tenant)
    steps = [step(index) for index in range(3)]
    world.tenant.call("traces.steps.append", {"run_id": run_id, "steps": steps})
    world.tenant.call("runs.complete", {"run_id": run_id, "status": "succeeded"})
    return run_id


def test_the_proof_of_a_run_follows_its_facts_into_the_log(world: LogWorld) -> None:
    run_id = ended_run(world)
    waiting = world.tenant.call("runs.proof", {"run_id": run_id})
    assert (waiting.log.status, waiting.integrity.verification_status) == ("PENDING", "VERIFIED")
    world.sequence()
    proof = world.tenant.call("runs.proof", {"run_id": run_id})
    status = world.status()
    assert (proof.log.status, proof.log.origin, proof.log.size) == ("INCLUDED", world.origin, status.size)
    checkpoint = note.parse_checkpoint(note.parse_note(latest(world).read_text()).text)
    assert proof.log.root == checkpoint.root.hex()
    assert proof.integrity.verification_status == "VERIFIED"


def test_a_run_of_a_log_that_nobody_signed_is_unsigned(
    make_spine: Callable[..., Spine], new_database: Callable[..., str], tmp_path: Path
) -> None:
    world = LogWorld(make_spine, new_database(), tmp_path, log_sequencer="off")
    run_id = ended_run(world)
    assert world.tenant.call("runs.proof", {"run_id": run_id}).log.status == "UNSIGNED"


ATTACKS = [
    "UPDATE log_tiles SET hashes = :zeros WHERE tenant_id = :t",
    "DELETE FROM log_tiles WHERE tenant_id = :t",
    "DELETE FROM log_entries WHERE tenant_id = :t AND idx = :last",
    "UPDATE log_entries SET fact_id = 'fct_x' WHERE tenant_id = :t AND idx = :last",
    "UPDATE log_entries SET idx = idx + 1000 WHERE tenant_id = :t AND idx = :last",
    "UPDATE log_checkpoints SET root = :hex WHERE tenant_id = :t",
    "UPDATE log_checkpoints SET note = replace(note, 'hoc.test', 'hoc.tost') WHERE tenant_id = :t",
    "UPDATE log_heads SET size = size - 1, signed_size = size - 1 WHERE tenant_id = :t",
]


def test_a_proof_finds_a_log_that_was_changed_behind_it(world: LogWorld, owner: sa.Connection) -> None:
    run_id = ended_run(world)
    world.sequence()
    size = world.status().size
    values: dict[str, Any] = {"zeros": bytes(32 * size), "last": size - 1, "hex": HEX}
    for attack in ATTACKS:
        with taken_back(owner):
            used = {name: value for name, value in values.items() if f":{name}" in attack}
            tamper(owner, world, attack, **used)
            looking = SpineConnection(owner, owner.dialect.name)
            given = {"tenant_id": world.tenant_id, "run_id": run_id, "keys": world.files.keys()}
            facts = read_proof_facts(looking, **given)
            assert facts is not None
            # Tiles are read when they are needed.
            judged = judge_run(facts)
        assert (judged.log.status, judged.failure_code) == ("FAILED", "LOG_MISMATCH"), attack
    assert world.tenant.call("runs.proof", {"run_id": run_id}).log.status == "INCLUDED"


def test_a_fact_rewritten_with_its_hash_is_found_by_the_tree(world: LogWorld, owner: sa.Connection) -> None:
    from app.kernel.hashing import leaf_hash

    run_id = ended_run(world)
    world.sequence()
    query = (
        "SELECT fact_id, statement FROM log_leaves WHERE tenant_id = :t AND run_id = :r AND type = 'audit'"
    )
    found = world.rows(owner, query.replace("AND type = 'audit'", "AND fact_no = 2"), r=run_id)[0]
    forged = found["statement"].replace('"v":1', '"v":2')
    assert forged != found["statement"]
    tamper(
        owner,
        world,
        "UPDATE log_leaves SET statement = :s, leaf_hash = :h WHERE tenant_id = :t AND fact_id = :f",
        s=forged,
        h=leaf_hash(forged),
        f=found["fact_id"],
    )
    assert world.tenant.call("runs.proof", {"run_id": run_id}).log.status == "FAILED"


def test_a_checkpoint_of_another_key_proves_nothing(world: LogWorld, owner: sa.Connection) -> None:
    run_id = ended_run(world)
    world.sequence()
    (row,) = world.rows(
        owner, "SELECT note FROM log_checkpoints WHERE tenant_id = :t ORDER BY size DESC LIMIT 1"
    )
    text = note.parse_note(row["note"]).text
    forged = note.sign(text, name=world.origin, key=note.new_key(bytes(32)))
    tamper(
        owner,
        world,
        "UPDATE log_checkpoints SET note = :n WHERE tenant_id = :t AND size = :size",
        n=forged,
        size=world.status().size,
    )
    assert world.tenant.call("runs.proof", {"run_id": run_id}).log.status == "FAILED"
