"""Docs: the `hoc` command: what each sub-command does, prints and refuses, and how it ends (0, 1, 2)."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import sqlalchemy as sa
import typer
from typer.testing import CliRunner

from app.bootstrap import build_spine
from app.cli.program import cli
from app.db.migrations import head_revision
from app.hoc_spine.spine import Spine
from app.settings import Settings
from tests.docs.programs import hoc, serving
from tests.factories.tenants import Tenant

RUNNER = CliRunner()


class Hoc:
    """The command in this process, on one database."""

    def __init__(self, url: str) -> None:
        self.url = url

    def run(self, *arguments: str, code: int = 0, **settings: str) -> Any:
        """Run `hoc` and return its result; assert the exit code."""
        ended = RUNNER.invoke(cli, arguments, env={"HOC_DATABASE_URL": self.url, **settings})
        assert ended.exit_code == code, (arguments, ended.output, ended.exception)
        return ended

    def json(self, *arguments: str) -> Any:
        """Run `hoc` with `--json` and return what it printed."""
        return json.loads(self.run(*arguments, "--json").stdout)

    def refused(self, *arguments: str, **settings: str) -> str:
        """Run `hoc`, which must refuse, and return what it said; nothing goes to standard output."""
        ended = self.run(*arguments, code=1, **settings)
        assert ended.stdout == ""
        return str(ended.stderr)


@pytest.fixture
def command(database_url: str) -> Hoc:
    """The command on the worker's database."""
    return Hoc(database_url)


@pytest.fixture
def tenant_id(command: Hoc) -> str:
    """A tenant made by the command."""
    name = f"cli-{uuid4().hex}"
    command.run("tenants", "create", "--tenant-id", name)
    return name


@pytest.fixture
def own_spine(database_url: str) -> Iterator[Spine]:
    """A spine of the test's own, with the host's clock."""
    built = build_spine(Settings(database_url=database_url))
    yield built
    built.close()


# --- tenants ------------------------------------------------------------------------------------------


def test_a_tenant_is_created_listed_suspended_and_activated(command: Hoc) -> None:
    name = f"cli-{uuid4().hex}"
    made = command.json("tenants", "create", "--tenant-id", name, "--name", "Acme", "--plan", "pro")
    assert (made["tenant_id"], made["name"], made["plan"], made["status"]) == (name, "Acme", "PRO", "ACTIVE")
    listed = {tenant["tenant_id"]: tenant for tenant in command.json("tenants", "list")}
    assert listed[name] == made
    for verb, status in (("suspend", "SUSPENDED"), ("activate", "ACTIVE")):
        changed = command.json("tenants", verb, "--tenant-id", name, "--reason", "a test")
        assert changed["status"] == status


def test_without_json_a_person_reads_names_and_values(command: Hoc, tenant_id: str) -> None:
    shown = command.run("tenants", "suspend", "--tenant-id", tenant_id, "--reason", "a test").stdout
    assert re.search(rf"^tenant_id +{tenant_id}$", shown, re.MULTILINE)
    assert re.search(r"^status +SUSPENDED$", shown, re.MULTILINE)
    table = command.run("tenants", "list", COLUMNS="200").stdout
    assert re.search(r"^ *tenant_id +name +plan +status *$", table, re.MULTILINE)
    assert re.search(rf"^ *{tenant_id} +{tenant_id} +FREE +SUSPENDED *$", table, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("create", "--tenant-id", "{tenant_id}"), "TENANT_EXISTS"),
        (("create", "--tenant-id", "default"), "TENANT_ID_RESERVED"),
        (("create", "--tenant-id", "no spaces"), "INVALID_INPUT"),
        (("create", "--tenant-id", "new", "--plan", "GOLD"), "INVALID_INPUT"),
        (("suspend", "--tenant-id", "nobody", "--reason", "x"), "TENANT_NOT_FOUND"),
        (("activate", "--tenant-id", "nobody", "--reason", "x"), "TENANT_NOT_FOUND"),
        (("suspend", "--tenant-id", "{tenant_id}", "--reason", " "), "INVALID_INPUT"),
    ],
)
def test_a_refusal_is_a_code_on_standard_error(
    command: Hoc, tenant_id: str, arguments: tuple[str, ...], code: str
) -> None:
    said = command.refused("tenants", *(word.format(tenant_id=tenant_id) for word in arguments))
    assert said.splitlines()[-1].startswith(f"{code}: ")
    if code == "INVALID_INPUT":
        assert re.match(r"  /(tenant_id|plan|reason): \S", said)


# --- keys ---------------------------------------------------------------------------------------------


def make_key(command: Hoc, tenant_id: str, *more: str) -> dict[str, str]:
    """Make a key and return what was printed: its id and its secret, nothing else."""
    made: dict[str, str] = json.loads(command.run("keys", "create", "--tenant-id", tenant_id, *more).stdout)
    assert made.keys() == {"key_id", "api_key"}
    return made


def works(spine: Spine, api_key: str) -> bool:
    """Tell whether a key opens the door now."""
    spine.authenticator._cache.clear()
    return not hasattr(spine.authenticate(api_key), "reason")


def test_a_key_is_printed_once_works_and_carries_what_was_asked(
    command: Hoc, tenant_id: str, own_spine: Spine
) -> None:
    made = make_key(
        command, tenant_id,
        "--scope", "runs:read", "--scope", "runs:write", "--actor-type", "agent", "--actor-id", "bot-1",
        "--name", "nightly", "--expires-at", "2099-01-01T00:00:00+0000",
    )  # fmt: skip
    assert works(own_spine, made["api_key"])
    (shown,) = command.json("keys", "list", "--tenant-id", tenant_id)
    assert shown["key_id"] == made["key_id"]
    assert (shown["scopes"], shown["actor_type"], shown["actor_id"]) == (
        ["runs:read", "runs:write"],
        "AGENT",
        "bot-1",
    )
    assert (shown["name"], shown["expires_at"]) == ("nightly", "2099-01-01T00:00:00.000000Z")
    assert "api_key" not in shown
    assert made["api_key"] not in command.run("keys", "list", "--tenant-id", tenant_id).output


def test_a_role_is_expanded_into_scopes(command: Hoc, tenant_id: str) -> None:
    make_key(command, tenant_id, "--role", "viewer")
    (shown,) = command.json("keys", "list", "--tenant-id", tenant_id)
    assert shown["role"] == "VIEWER"
    assert "runs:read" in shown["scopes"]
    assert not any(scope.endswith(":write") for scope in shown["scopes"])


def test_a_key_without_scope_or_role_may_do_nothing(command: Hoc, tenant_id: str) -> None:
    make_key(command, tenant_id)
    (shown,) = command.json("keys", "list", "--tenant-id", tenant_id)
    assert shown["scopes"] == []


def test_a_key_is_frozen_unfrozen_and_revoked(command: Hoc, tenant_id: str, own_spine: Spine) -> None:
    made = make_key(command, tenant_id, "--role", "MEMBER")
    key = ("--tenant-id", tenant_id, "--key-id", made["key_id"], "--reason", "a test")
    for verb, status in (("freeze", "FROZEN"), ("unfreeze", "ACTIVE"), ("revoke", "REVOKED")):
        assert command.json("keys", verb, *key)["status"] == status
        assert works(own_spine, made["api_key"]) == (status == "ACTIVE")
    assert command.refused("keys", "unfreeze", *key).startswith("KEY_REVOKED: ")


def test_a_listed_key_is_one_line_with_its_whole_id(command: Hoc, tenant_id: str) -> None:
    made = json.loads(command.run("keys", "create", "--tenant-id", tenant_id, "--name", "n" * 200).stdout)
    head, line = command.run("keys", "list", "--tenant-id", tenant_id).stdout.splitlines()
    assert head.split() == ["key_id", "name", "status", "prefix", "actor_id"]
    assert line.split()[:2] == [made["key_id"], "n" * 200]


def test_a_key_of_another_tenant_is_not_found(command: Hoc, tenant_id: str, tenant: Tenant) -> None:
    made = make_key(command, tenant_id)
    for verb in ("freeze", "unfreeze", "revoke"):
        foreign = ("--tenant-id", tenant.tenant_id, "--key-id", made["key_id"], "--reason", "a test")
        assert command.refused("keys", verb, *foreign).startswith("KEY_NOT_FOUND: ")


def test_what_the_operator_does_is_in_the_ledger(
    command: Hoc, tenant_id: str, second_connection: sa.Connection
) -> None:
    command.run("tenants", "suspend", "--tenant-id", tenant_id, "--reason", "unpaid")
    entries = sa.text(
        "SELECT event_type, actor_id, action_reason FROM audit_ledger"
        " WHERE tenant_id = '_system' AND entity_id = :tenant_id ORDER BY entry_id"
    )
    assert second_connection.execute(entries, {"tenant_id": tenant_id}).all() == [
        ("TenantCreated", "operator", None),
        ("TenantSuspended", "operator", "unpaid"),
    ]


# --- maintenance --------------------------------------------------------------------------------------


def test_maintenance_works_off_due_jobs_and_ends_overdue_runs(new_database: Callable[..., str]) -> None:
    command = Hoc(new_database())
    assert command.json("maintenance", "run") == {
        "plane_jobs": 0,
        "runs_expired": 0,
        "events_delivered": 0,
    }
    built = build_spine(Settings(database_url=command.url))
    try:
        command.run("tenants", "create", "--tenant-id", "acme")
        acme = Tenant(built, "acme")
        plane = {"plane_type": "docs", "plane_name": "p", "connector_type": "repository", "connector_id": "r"}
        plane_id = acme.call("knowledge.planes.register", plane).plane_id
        acme.call("knowledge.planes.transition", {"plane_id": plane_id, "action": "verify_knowledge_plane"})
        assert command.json("maintenance", "run") == {
            "plane_jobs": 1,
            "runs_expired": 0,
            "events_delivered": 0,
        }
        assert acme.call("knowledge.planes.get", {"plane_id": plane_id}).lifecycle_state == "VERIFIED"
    finally:
        built.close()
    assert re.search(r"^plane_jobs +0$", command.run("maintenance", "run").stdout, re.MULTILINE)


# --- migrate, doctor, and databases that cannot serve ---------------------------------------------------

# Everything that needs a database, with arguments that would do.
NEEDING = (
    ("tenants", "list"),
    ("tenants", "create", "--tenant-id", "acme"),
    ("keys", "list", "--tenant-id", "acme"),
    ("keys", "create", "--tenant-id", "acme"),
    ("maintenance", "run"),
    ("serve", "--port", "1"),
)


def test_migrate_makes_the_schema_and_a_second_time_changes_nothing(new_database: Callable[..., str]) -> None:
    command = Hoc(new_database(migrated=False))
    for _ in range(2):
        assert command.run("migrate").stdout == f"schema at {head_revision()}\n"
    assert command.json("doctor") == {
        "database": sa.make_url(command.url).render_as_string(),
        "head": head_revision(),
        "schema": "ok",
        "mend": None,
        "counters": "ok",
    }


def test_migrate_makes_the_folder_of_a_sqlite_file(tmp_path: Path) -> None:
    command = Hoc(f"sqlite:///{tmp_path}/deep/down/hoc.db")
    command.run("migrate")
    assert (tmp_path / "deep/down/hoc.db").is_file()


def test_an_empty_database_is_refused_with_the_command_that_mends_it(
    new_database: Callable[..., str],
) -> None:
    command = Hoc(new_database(migrated=False))
    for arguments in NEEDING:
        said = command.refused(*arguments)
        assert said.startswith("SCHEMA_MISSING: "), arguments
        assert "Run `hoc migrate`." in said, arguments


def test_an_old_schema_is_refused_with_the_command_that_mends_it(new_database: Callable[..., str]) -> None:
    command = Hoc(new_database())
    stamp(command.url, "0001")
    for arguments in NEEDING:
        said = command.refused(*arguments)
        assert said.startswith("SCHEMA_OUTDATED: "), arguments
        assert "Run `hoc migrate`." in said, arguments


def stamp(url: str, revision: str) -> None:
    """Say that a database is at another revision than it is."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = :r"), {"r": revision})
    engine.dispose()


def execute(url: str, statement: str) -> None:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text(statement))
    engine.dispose()


def test_a_newer_schema_is_refused_and_never_touched(new_database: Callable[..., str]) -> None:
    command = Hoc(new_database())
    stamp(command.url, "9999")
    for arguments in (*NEEDING, ("migrate",), ("demo",)):
        said = command.refused(*arguments)
        assert said.startswith("SCHEMA_TOO_NEW: "), arguments
        assert "newer release" in said


def test_tables_of_somebody_else_are_refused_and_never_touched(new_database: Callable[..., str]) -> None:
    command = Hoc(new_database(migrated=False))
    execute(command.url, "CREATE TABLE runs (n integer)")
    for arguments in (*NEEDING, ("migrate",)):
        assert command.refused(*arguments).startswith("SCHEMA_FOREIGN: "), arguments


def test_a_stamp_that_lies_is_refused(new_database: Callable[..., str]) -> None:
    command = Hoc(new_database())
    execute(command.url, "DROP TABLE worker_leases")
    for arguments in (*NEEDING, ("migrate",)):
        said = command.refused(*arguments)
        assert said.startswith("SCHEMA_MISMATCH: "), arguments
        assert "worker_leases" in said


def test_the_doctor_says_what_is_wrong_and_how_to_mend_it(new_database: Callable[..., str]) -> None:
    command = Hoc(new_database(migrated=False))
    shown = command.run("doctor", "--json", code=1).stdout
    report = json.loads(shown)
    assert report["schema"] == "SCHEMA_MISSING"
    assert "Run `hoc migrate`." in report["mend"]
    assert re.search(r"^schema +SCHEMA_MISSING$", command.run("doctor", code=1).stdout, re.MULTILINE)


def test_a_database_that_does_not_answer_is_said_so_without_its_password() -> None:
    command = Hoc("postgresql+psycopg://hoc:s3cret@127.0.0.1:1/none")
    for arguments in (*NEEDING, ("migrate",), ("demo",)):
        said = command.refused(*arguments)
        assert said.startswith("UNREACHABLE: ")
        assert "s3cret" not in said
    report = command.run("doctor", code=1).stdout
    assert re.search(r"^schema +UNREACHABLE$", report, re.MULTILINE)
    assert "s3cret" not in report


def test_a_place_where_no_file_can_be_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = Hoc(f"sqlite:///{tmp_path}/file/hoc.db").refused("migrate")
    assert said.startswith("DATABASE_FAILED: ")


# --- usage --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("tenants",),
        ("nonsense",),
        ("tenants", "create"),
        ("tenants", "suspend", "--tenant-id", "acme"),
        ("keys", "create", "--tenant-id", "acme", "--expires-at", "tomorrow"),
        ("keys", "freeze", "--tenant-id", "acme"),
        ("serve", "--workers", "0"),
        ("serve", "--port", "http"),
        ("migrate", "--force"),
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_two(arguments: tuple[str, ...], tmp_path: Path) -> None:
    Hoc(f"sqlite:///{tmp_path}/hoc.db").run(*arguments, code=2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HOC_POOL_SIZE", "many"),
        ("HOC_LOG_FORMAT", "xml"),
        ("HOC_INGEST_ROOTS", "[]"),
        ("HOC_DATABASE_URL", "mysql://hoc:s3cret@localhost/hoc"),
        ("HOC_DATABASE_URL", "nonsense"),
    ],
)
def test_a_wrong_setting_ends_with_two_and_is_named(name: str, value: str, tmp_path: Path) -> None:
    command = Hoc(f"sqlite:///{tmp_path}/hoc.db")
    for arguments in (("migrate",), ("doctor",), ("tenants", "list")):
        said = command.run(*arguments, code=2, **{name: value}).output
        assert said.startswith(f"{name}: ")
        assert "s3cret" not in said


def every_command(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield each command with its words."""
    for name, below in group.commands.items():
        if hasattr(below, "commands"):
            yield from every_command(below, (*path, name))
        else:
            yield (*path, name), below


COMMANDS = dict(every_command(typer.main.get_command(cli)))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_each_command_explains_itself(words: tuple[str, ...]) -> None:
    shown = RUNNER.invoke(cli, (*words, "--help"), env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert shown.exit_code == 0
    assert str(COMMANDS[words].help).splitlines()[0] in re.sub(r"\s+", " ", shown.output)
    for parameter in COMMANDS[words].params:
        assert parameter.help or "--expires-at" in parameter.opts, (words, parameter.name)


# --- as a process -------------------------------------------------------------------------------------


# README's walk does the same on SQLite.
@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_the_server_starts_on_a_migrated_database_and_answers_a_key_of_the_command(
    new_database: Callable[..., str], tmp_path: Path
) -> None:
    command = Hoc(new_database())
    command.run("tenants", "create", "--tenant-id", "acme")
    made = make_key(command, "acme", "--scope", "tenant:read")
    headers = {"Authorization": f"Bearer {made['api_key']}"}
    key_file = str(tmp_path / "log-key.pem")
    command.run("log", "keygen", HOC_LOG_KEY_FILE=key_file)
    with serving(cwd=tmp_path, HOC_DATABASE_URL=command.url, HOC_LOG_KEY_FILE=key_file) as base_url:
        seen = httpx.get(f"{base_url}/api/v1/tenant", headers=headers)
        ready = httpx.get(f"{base_url}/readyz")
    assert (seen.status_code, seen.json()["tenant_id"]) == (200, "acme")
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_a_port_that_is_taken_ends_with_one(new_database: Callable[..., str], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = hoc("serve", "--port", port, cwd=tmp_path, HOC_DATABASE_URL=new_database())
    assert (ended.returncode, "address already in use" in ended.stderr) == (1, True)


def test_the_default_database_is_below_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    migrated = RUNNER.invoke(cli, ["migrate"])
    assert (migrated.exit_code, migrated.stderr) == (0, "")
    assert (tmp_path / "var/hoc.db").is_file()
