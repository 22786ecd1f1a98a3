"""Toolchain: the pinned requirements, the gate runner and the test servers keep their promises."""

from __future__ import annotations

import importlib.util
import os
import re
import select
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import redis
import sqlalchemy as sa

from tests.factories.databases import Databases
from tests.factories.environment import Addresses, redis_database_of

REPOSITORY = Path(__file__).resolve().parents[3]
REQUIREMENTS = REPOSITORY / "requirements"
PIN = re.compile(
    r"^(?P<name>[a-z0-9][a-z0-9._-]*)==(?P<version>\S+)(?: ; (?P<marker>[^\\]+))? \\$", re.MULTILINE
)


def pins(name: str) -> dict[tuple[str, str | None], str]:
    text = (REQUIREMENTS / name).read_text()
    return {(pin["name"], pin["marker"]): pin["version"] for pin in PIN.finditer(text)}


@pytest.mark.parametrize("name", ["runtime.txt", "dev.txt"])
def test_every_requirement_is_pinned_with_hashes_and_names_no_place(name: str) -> None:
    for line in (REQUIREMENTS / name).read_text().splitlines():
        assert PIN.match(line) or re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?|#.*", line), line
        assert "/" not in line, f"a path or a host: {line}"
        assert not re.search(r"index|find-links", line), line
    assert len(pins(name)) > 30


def test_the_development_requirements_hold_the_runtime_at_the_same_versions() -> None:
    assert pins("runtime.txt").items() <= pins("dev.txt").items()


def test_every_direct_dependency_of_the_runtime_is_imported_by_the_product() -> None:
    # Named by what imports them: uvicorn loads uvloop and httptools, and pip needs setuptools once.
    unimported = {"uvloop", "httptools", "setuptools"}
    modules = {
        "psycopg[binary]": "psycopg",
        "prometheus-client": "prometheus_client",
        "common-expression-language": "cel",
        "opentelemetry-proto": "opentelemetry.proto",
        "googleapis-common-protos": "google.rpc",
    }
    source = "\n".join(
        path.read_text() for path in (REPOSITORY / "backend").rglob("*.py") if "tests" not in path.parts
    )
    lines = (REQUIREMENTS / "runtime.in").read_text().splitlines()
    names = {re.split(r"[><=]", line)[0] for line in lines if line and not line.startswith("#")}
    unused = []
    for name in names - unimported:
        module = re.escape(modules.get(name, name.replace("-", "_")))
        if not re.search(rf"^\s*(import|from) {module}\b", source, re.MULTILINE):
            unused.append(name)
    assert unused == []


def test_the_example_environment_names_every_setting_with_its_default() -> None:
    from app.settings import Settings

    text = (REPOSITORY / ".env.example").read_text()
    shown = dict(re.findall(r"^#?(HOC_[A-Z0-9_]+)=(.*)$", text, re.MULTILINE)[::-1])
    composed = {"HOC_PORT"}
    fields = {f"HOC_{name.upper()}": field for name, field in Settings.model_fields.items()}
    assert shown.keys() - composed == fields.keys()
    for name, field in fields.items():
        default = field.default
        if isinstance(default, bool | int | str):
            assert shown[name] == (str(default).lower() if isinstance(default, bool) else str(default)), name


def check_all() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_all", REPOSITORY / "backend/scripts/ci/check_all.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_all"] = module
    spec.loader.exec_module(module)
    return module


def test_the_gate_runner_reports_a_failing_check_with_its_output(capsys: pytest.CaptureFixture[str]) -> None:
    runner = check_all()
    good = runner.Check("good", (sys.executable, "-c", "print('CLEAN')"))
    bad = runner.Check("bad", (sys.executable, "-c", "print('a.py:1: X-1 wrong'); raise SystemExit(2)"))
    codes = {outcome.check.name: outcome.code for outcome in runner.run_all([good, bad], jobs=2)}
    assert codes == {"good": 0, "bad": 2}
    shown = capsys.readouterr().out
    assert re.search(r"^ok .*good +CLEAN$", shown, re.MULTILINE)
    assert re.search(r"^FAILED .*bad +a.py:1: X-1 wrong$", shown, re.MULTILINE)


def test_the_gate_runner_names_every_gate_script_there_is() -> None:
    runner = check_all()
    assert runner.unlisted_gates() == []
    assert [gate for gate in runner.GATES if not (REPOSITORY / "backend/scripts" / gate).is_file()] == []


def test_each_request_for_a_database_gives_another_one(databases: Databases, dialect: str) -> None:
    first, second = databases.new(dialect), databases.new(dialect)
    assert len({first, second, databases.shared(dialect)}) == 3
    assert databases.shared(dialect) == databases.shared(dialect)
    counts = []
    for url in (first, second):
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE mine (n integer)")
            counts.append(connection.exec_driver_sql("SELECT count(*) FROM alembic_version").scalar_one())
    assert counts == [1, 1]


def test_an_empty_database_has_no_table(databases: Databases, dialect: str) -> None:
    engine = sa.create_engine(databases.new(dialect, migrated=False), poolclass=sa.NullPool)
    with engine.connect() as connection:
        assert sa.inspect(connection).get_table_names() == []


def test_the_second_connection_sees_only_what_was_committed(
    database_url: str, second_connection: sa.Connection
) -> None:
    engine = sa.create_engine(database_url, poolclass=sa.NullPool)
    changed = sa.text("UPDATE system_state SET degraded_by = :who")
    seen = sa.text("SELECT degraded_by FROM system_state")
    with engine.connect() as connection:
        connection.execute(changed, {"who": "nobody yet"})
        assert second_connection.execute(seen).scalar_one() != "nobody yet"
        connection.rollback()


def test_each_worker_has_a_redis_database_of_its_own(addresses: Addresses, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as mine:
        mine.set("hoc:seen", 1)
    with redis.Redis.from_url(redis_database_of(addresses, "gw60")) as other:
        assert other.get("hoc:seen") is None


KILLED = """
import sys
from tests.factories.servers import PostgresServer, RedisServer, make_directory
directory = make_directory()
postgres, redis = PostgresServer(directory), RedisServer(directory)
postgres.start(), redis.start()
print(directory, postgres.pid, redis.pid, flush=True)
sys.stdin.readline()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_a_killed_run_leaves_no_server_behind() -> None:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "backend")}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", KILLED], stdin=pipe, stdout=pipe, env=environment, text=True
    ) as run:
        assert run.stdout is not None
        directory, *pids = run.stdout.readline().split()
        servers = [os.pidfd_open(int(pid)) for pid in pids]
        run.kill()
    for server in servers:
        # A process descriptor is readable once its process has ended.
        assert select.select([server], [], [], 30)[0]
        os.close(server)
    shutil.rmtree(directory)
