"""Keys of the logs through a rotation, new epochs, and the log of the system that tells of all others."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from app.db.metadata import metadata
from app.domains.logs.engines import note
from app.domains.logs.engines.keys import FormerKey, KeyRing, read_ring
from app.domains.logs.engines.note import NoteError, SigningKey, new_key
from app.hoc_spine.coordinators.log_files import write_new_key
from app.hoc_spine.key_rotation import KeyRotation
from app.hoc_spine.log_verifier import LogVerifier
from app.hoc_spine.maintenance import Maintenance
from app.hoc_spine.sequencer import LogSequencer
from app.hoc_spine.spine import Spine
from app.kernel.canonical_json import loads
from app.kernel.context import Actor, RequestContext
from app.kernel.errors import HocError
from tests.factories.bundles import load_verifier
from tests.factories.logs import LogWorld
from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant, make_tenant
from tests.factories.worlds import start_run, step, without_triggers

OPERATOR = Actor("HUMAN", "operator")
SYSTEM = "_system"
verifier = load_verifier()


@pytest.fixture
def world(make_spine: Callable[..., Spine], new_database: Callable[..., str], tmp_path: Path) -> LogWorld:
    write_new_key(tmp_path / "log-key.pem")
    made = LogWorld(make_spine, new_database(), tmp_path)
    made.facts(3)
    made.sequence()
    return made


def rotate(world: LogWorld, new: SigningKey, *, compromised: bool = False, wait_seconds: float = 20) -> Any:
    rotation = KeyRotation(world.spine, actor=OPERATOR, wait_seconds=wait_seconds)
    file = world.key_file.with_name("new.pem")
    file.write_bytes(new.pem())
    return rotation.rotate(file, reason="the yearly change", compromised=compromised)


def statements(world: LogWorld, type_name: str, tenant_id: str) -> list[dict[str, Any]]:
    query = "SELECT statement FROM log_leaves WHERE tenant_id = :o AND type = :y ORDER BY fact_id"
    with world.connect() as connection:
        return [loads(row["statement"]) for row in world.rows(connection, query, o=tenant_id, y=type_name)]


def signed_by(world: LogWorld, *keys: SigningKey) -> list[bool]:
    """Tell of each key whether the newest checkpoint has a valid signature of it."""
    read = note.parse_note(world.tenant.call("log.checkpoint").content)
    return [note.signature_holds(read, note.parse_vkey(key.vkey(world.origin))) is True for key in keys]


def verdict(world: LogWorld, run_id: str, key: SigningKey) -> str:
    """Return what the verifier file says of a run's bundle to somebody who trusts one key."""
    made = world.tenant.call("runs.bundle", {"run_id": run_id})
    options = verifier.Options(keys=(verifier.parse_vkey(key.vkey(world.origin)),), strict=True)
    report = verifier.verify_bundle(io.BytesIO(made.content.path.read_bytes()), options)
    assert report.verdict == "VERIFIED" or report.failures
    return str(report.verdict)


def settle(world: LogWorld, clock: SteerableClock) -> None:
    """Sequence, and wait: what was signed minutes before an anchor may be told again by the next one."""
    world.sequence()
    clock.advance(minutes=10)


def end_run(tenant: Tenant) -> str:
    run_id = start_run(tenant)
    tenant.call("traces.steps.append", {"run_id": run_id, "steps": [step(0)]})
    tenant.call("runs.complete", {"run_id": run_id, "status": "succeeded", "expected_steps": 1})
    return run_id


class Backup:
    """A copy of every row; a restore puts back just those."""

    def __init__(self, world: LogWorld) -> None:
        self._world = world
        with world.connect() as connection:
            for table in metadata.sorted_tables:
                connection.execute(sa.text(f"CREATE TABLE kept_{table.name} AS SELECT * FROM {table.name}"))

    def restore(self) -> None:
        statements = [f"DELETE FROM {table.name}" for table in metadata.sorted_tables]
        for table in metadata.sorted_tables:
            names = ", ".join(f'"{column.name}"' for column in table.columns if column.computed is None)
            statements.append(f"INSERT INTO {table.name} ({names}) SELECT {names} FROM kept_{table.name}")
            statements.append(f"DROP TABLE kept_{table.name}")
        with self._world.connect() as connection:
            without_triggers(connection, *statements)


def parsed(text: str) -> note.Checkpoint:
    return note.parse_checkpoint(note.parse_note(text).text)


def test_another_key_takes_over_and_each_log_says_so_first(world: LogWorld, clock: SteerableClock) -> None:
    other = make_tenant(world.spine)
    before, old, new = end_run(world.tenant), world.key, new_key(b"\x01" * 32)
    world.sequence()
    another_process = world.another_spine()
    file = world.key_file.with_name("new.pem")
    for make in (lambda: None, lambda: file.write_bytes(b"no key")):
        make()
        assert "KEY_UNREADABLE" in world.hoc("log", "rotate-key", str(file), "--reason", "x", code=1)
    file.write_bytes(new.pem())
    done = world.hoc("log", "rotate-key", str(file), "--reason", "the yearly change", "--json")
    assert json.loads(done) == {"logs": 3, "halted": []}

    for tenant_id in (world.tenant_id, other.tenant_id, SYSTEM):
        (said,) = statements(world, "log.key", tenant_id)
        origin = f"hoc.test/{tenant_id}/1"
        assert said["body"] == {
            "old_vkey": old.vkey(origin),
            "new_vkey": new.vkey(origin),
            "compromised": False,
            "reason": "the yearly change",
        }
        assert (said["table"], said["key"], said["run"]) == (None, None, None)
    (entry,) = world.tenant.call("logs.audit_list", {"event_type": "LogKeyRotated"}).items
    assert (entry.entity_type, entry.entity_id, entry.actor_id) == ("LOG", world.tenant_id, "operator")
    # The old key has signed over the record, alone.
    assert signed_by(world, old, new) == [True, False]
    assert world.key_file.stat().st_mode & 0o777 == 0o600

    # From now on both sign, in every process, and whoever trusts one of them can verify.
    run_id = end_run(world.tenant)
    LogSequencer(another_process).drain()
    assert signed_by(world, old, new) == [True, True]
    assert [verdict(world, one, key) for one in (before, run_id) for key in (old, new)] == ["VERIFIED"] * 4
    keys = world.tenant.call("log.keys").items
    assert [(key.vkey, key.state) for key in keys] == [
        (new.vkey(world.origin), "CURRENT"),
        (old.vkey(world.origin), "OVERLAPPING"),
    ]

    # A month later the new one signs alone; the log goes on, and all of it is verified.
    clock.advance(days=31)
    end_run(world.tenant)
    world.sequence()
    assert signed_by(world, old, new) == [False, True]
    assert [key.state for key in world.tenant.call("log.keys").items] == ["CURRENT", "RETIRED"]
    assert world.status().vkeys == [new.vkey(world.origin)]
    for tenant_id in (world.tenant_id, SYSTEM):
        report = LogVerifier(world.spine).verify_all(tenant_id)
        assert (report.status, report.failures) == ("VERIFIED", [])
    assert world.tenant.call("runs.proof", {"run_id": run_id}).log.status == "INCLUDED"


def test_a_compromised_key_signs_no_more_and_what_it_signed_is_still_continued(world: LogWorld) -> None:
    first, second, third = world.key, new_key(b"\x01" * 32), new_key(b"\x02" * 32)
    rotate(world, second)
    rotate(world, third, compromised=True)
    run_id = end_run(world.tenant)
    world.sequence()
    assert signed_by(world, first, second, third) == [False, False, True]
    assert (world.status().state, verdict(world, run_id, third)) == ("ACTIVE", "VERIFIED")
    assert verdict(world, run_id, second) == "FAILED"
    assert b"PRIVATE" not in world.key_file.read_bytes().split(b"-----END PRIVATE KEY-----", 1)[1]
    states = [key.state for key in world.tenant.call("log.keys").items]
    assert states == ["CURRENT", "RETIRED", "RETIRED"]


def test_a_rotation_that_was_cut_off_is_done_again_and_recorded_once(world: LogWorld) -> None:
    old, new, kept = world.key, new_key(b"\x01" * 32), world.key_file.read_bytes()
    busy = LogSequencer(world.another_spine())
    busy.run_round()
    with pytest.raises(HocError, match="KEY_NOT_COVERED"):
        rotate(world, new, wait_seconds=0)
    assert world.key_file.read_bytes() == kept
    busy.release()
    for known in (old, new):
        if known is old:
            rotate(world, new)
        with pytest.raises(HocError, match="KEY_KNOWN"):
            rotate(world, known)
    assert len(statements(world, "log.key", world.tenant_id)) == 1
    assert len(world.tenant.call("logs.audit_list", {"event_type": "LogKeyRotated"}).items) == 1


def test_what_does_not_fit_is_refused_and_recorded_nowhere(world: LogWorld) -> None:
    context = RequestContext(tenant_id=world.tenant_id, actor=OPERATOR, request_id="req_1", door="worker")
    for operation, payload in (
        ("log.rotate_key", {"public_key": "00", "reason": "x"}),
        ("log.note_epoch", {"old_origin": "a", "new_origin": "b", "reason": "x"}),
        ("log.note_archive", {"archive_id": "a", "epoch": 1, "path": "x"}),
        ("ops.log.open_epoch", {"reason": " "}),
    ):
        assert world.spine.dispatch(operation, context, payload).error_code == "INVALID_INPUT"
    assert (
        statements(world, "log.key", world.tenant_id) == statements(world, "log.epoch", world.tenant_id) == []
    )


def test_a_halted_log_is_named_and_stops_no_rotation(world: LogWorld) -> None:
    other = make_tenant(world.spine)
    with world.connect() as connection:
        connection.execute(
            sa.text("UPDATE log_heads SET state = 'HALTED' WHERE tenant_id = :t"), {"t": other.tenant_id}
        )
    assert rotate(world, new_key(b"\x01" * 32)).halted == (other.tenant_id,)


def test_a_ring_is_read_back_from_its_file(clock: SteerableClock) -> None:
    now = clock.freeze()
    keys = [new_key(bytes([number]) * 32) for number in range(3)]
    until = clock.advance(days=30)
    ring = KeyRing(keys[0]).rotated(keys[1], until=until)
    assert read_ring(ring.pem()).pem() == ring.pem()
    for moment, signing in ((now, [1, 0]), (until, [1])):
        found = read_ring(ring.pem()).signers(moment)
        assert [key.public for key in found] == [keys[number].public for number in signing]
    last = ring.rotated(keys[2], until=None)
    assert read_ring(last.pem()).former == (FormerKey(keys[1].public), FormerKey(keys[0].public))
    for damaged in (b"", b"no key", last.pem()[:200], last.pem().replace(b"PRIVATE KEY", b"PUBLIC KEY")):
        with pytest.raises(NoteError):
            read_ring(damaged)
    with pytest.raises(NoteError, match="no time"):
        read_ring(ring.pem().replace(b"Signs-Until: 2", b"Signs-Until: x"))


def test_one_checkpoint_of_the_system_commits_to_the_heads_of_all_logs(
    world: LogWorld, clock: SteerableClock
) -> None:
    other = make_tenant(world.spine)
    start_run(other)
    settle(world, clock)
    maintenance = Maintenance(world.spine)
    assert maintenance.run_round().logs_anchored == 2
    anchors = statements(world, "log.anchor", SYSTEM)
    assert [one["body"] for one in anchors] == [
        {"origin": f"hoc.test/{tenant.tenant_id}/1", "size": signed.size, "root": signed.root}
        for tenant in sorted((world.tenant, other), key=lambda tenant: tenant.tenant_id)
        for signed in tenant.call("log.checkpoints.list").items[:1]
    ]
    world.facts(1)
    world.sequence()
    assert maintenance.run_round().logs_anchored == 0

    clock.advance(hours=1)
    world.facts(1)
    settle(world, clock)
    assert maintenance.run_round().logs_anchored == 1
    (signed, *_) = world.tenant.call("log.checkpoints.list").items
    newest = statements(world, "log.anchor", SYSTEM)[-1]["body"]
    assert (newest["size"], newest["root"]) == (signed.size, signed.root)
    clock.advance(hours=2)
    assert maintenance.run_round().logs_anchored == 0
    world.sequence()
    report = LogVerifier(world.spine).verify_all(SYSTEM)
    assert (report.status, report.failures) == ("VERIFIED", [])


def test_after_a_restore_a_new_epoch_takes_in_what_is_left_and_says_what_came_before(world: LogWorld) -> None:
    kept = end_run(world.tenant)
    world.sequence()
    backup = Backup(world)
    lost = end_run(world.tenant)
    world.sequence()
    (newest, *_) = world.tenant.call("log.checkpoints.list").items
    backup.restore()
    assert world.tenant.dispatch("runs.get", {"run_id": lost}).error_code == "RUN_NOT_FOUND"
    world.facts(1)
    world.sequence()
    assert (world.status().state, world.status().halted_reason) == ("HALTED", "ROLLED_BACK")
    assert LogVerifier(world.spine).verify_all(world.tenant_id).status == "FAILED"

    old_origin, new_origin = world.origin, f"hoc.test/{world.tenant_id}/2"
    named = ("--tenant-id", world.tenant_id, "--reason", "restored")
    opened = json.loads(world.hoc("log", "new-epoch", *named, "--json"))
    assert (opened["old_origin"], opened["origin"], opened["epoch"]) == (old_origin, new_origin, 2)
    assert parsed(opened["old_checkpoint"]).root.hex() == newest.root
    for tenant_id in (world.tenant_id, SYSTEM):
        (said,) = statements(world, "log.epoch", tenant_id)
        assert said["body"] == {
            "old_origin": old_origin,
            "new_origin": new_origin,
            "old_checkpoint": opened["old_checkpoint"],
            "reason": "restored",
        }
    world.sequence()
    status = world.status()
    assert (status.origin, status.state, status.pending) == (new_origin, "ACTIVE", 0)
    with world.connect() as connection:
        query = "SELECT fact_id FROM log_leaves WHERE tenant_id = :t ORDER BY fact_id"
        leaves = [row["fact_id"] for row in world.rows(connection, query)]
        query = "SELECT fact_id, idx FROM log_entries WHERE tenant_id = :t AND epoch = 2 ORDER BY idx"
        entries = [row["fact_id"] for row in world.rows(connection, query)]
    assert entries == [opened["fact_id"], *(fact for fact in leaves if fact != opened["fact_id"])]
    assert status.size == len(entries) == status.signed_size

    # Everything that is left is proved under the new origin, by self-verification too; the old one is closed.
    report = LogVerifier(world.spine).verify_all(world.tenant_id)
    assert (report.status, report.failures) == ("VERIFIED", [])
    assert world.tenant.call("log.integrity").status == "VERIFIED"
    assert world.tenant.call("runs.proof", {"run_id": kept}).log.origin == new_origin
    made = world.tenant.call("runs.bundle", {"run_id": kept})
    options = verifier.Options(keys=(verifier.parse_vkey(world.key.vkey(new_origin)),), strict=True)
    report = verifier.verify_bundle(io.BytesIO(made.content.path.read_bytes()), options)
    assert report.verdict == "VERIFIED", report.failures
    world.facts(2)
    world.sequence()
    assert world.status().size > status.size
    with world.connect() as connection, pytest.raises(sa.exc.DBAPIError, match="final"):
        connection.execute(
            sa.text("UPDATE log_heads SET state = 'ACTIVE' WHERE tenant_id = :t AND epoch = 1"),
            {"t": world.tenant_id},
        )
