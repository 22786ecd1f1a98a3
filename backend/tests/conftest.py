"""Test harness: real servers, both dialects, one migrated database per worker, a fresh tenant per test."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import redis
import sqlalchemy as sa
from hypothesis.internal.conjecture import providers

from tests.factories.databases import DIALECTS, Databases, Dialect
from tests.factories.environment import Addresses, Environment, redis_database_of
from tests.factories.steering import SteerableClock, SteerableIds

if TYPE_CHECKING:
    from starlette.testclient import TestClient

    from app.hoc_spine.spine import Spine
    from tests.factories.tenants import Tenant

OPERATOR_TOKEN = "the-operator-of-the-tests"
SPINE_SETTINGS: dict[str, Any] = {
    "operator_token": OPERATOR_TOKEN,
    # Tests of the limits set their own; in the others a busy minute must not be refused.
    "rate_limit_anonymous_rpm": 1_000_000,
    # Nothing sequences the shared database; tests of the log have databases of their own.
    "log_sequencer": "off",
}
_ENVIRONMENT = pytest.StashKey[Environment]()
# Files with a test of many seconds. They go first: where one starts last, the other processes wait for it.
LONG = {
    "test_chain.py",
    "test_cli.py",
    "test_demo.py",
    "test_durability.py",
    "test_log_verification.py",
    "test_log_watch.py",
    "test_readme.py",
    "test_repository_durability.py",
    "test_repository_history.py",
    "test_repository_stateful.py",
    "test_tamper_matrix.py",
    "test_verifier.py",
}

hypothesis.settings.register_profile("hoc", deadline=None, derandomize=True, database=None, print_blob=True)
hypothesis.settings.load_profile("hoc")
# Each process would parse every module of the product and of the tests for constants to try.
providers.is_local_module_file = lambda file: False


def pytest_configure(config: pytest.Config) -> None:
    """Shut out the settings of the caller's shell; prepare the servers, which start at the first need."""
    for name in list(os.environ):
        if (name.startswith("HOC_") and not name.startswith("HOC_TEST_")) or name.lower().endswith("_proxy"):
            del os.environ[name]
    # Code that takes the host's zone for UTC shows at once.
    os.environ["TZ"] = "Asia/Kathmandu"
    time.tzset()
    if not _is_worker(config):
        config.stash[_ENVIRONMENT] = Environment()
        # A cancelled run ends like an interrupted one: fixtures and servers are cleared away.
        signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect no garbage while modules and tests are made, nearly all of which stay."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files with long tests first."""
    items.sort(key=lambda item: item.path.name not in LONG)


def pytest_collection_finish() -> None:
    """Take what was imported and collected out of the garbage collector's way; it stays to the end."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell each xdist worker where the servers of the run are."""
    node.workerinput["hoc"] = node.config.stash[_ENVIRONMENT].addresses().as_values()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the servers, whatever became of the tests."""
    # One look for leaks is enough; pytest takes ten over half a million objects, a second each.
    gc.collect()
    gc.freeze()
    environment = config.stash.get(_ENVIRONMENT, None)
    if environment is not None:
        environment.stop()


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


@pytest.fixture(scope="session")
def addresses(pytestconfig: pytest.Config) -> Addresses:
    """Where the servers and templates of this run are."""
    if _is_worker(pytestconfig):
        return Addresses.of(pytestconfig.workerinput["hoc"])
    return pytestconfig.stash[_ENVIRONMENT].addresses()


@pytest.fixture(scope="session")
def worker_name(pytestconfig: pytest.Config) -> str:
    """`gw0`, `gw1` ... under xdist, `main` without it."""
    return pytestconfig.workerinput["workerid"] if _is_worker(pytestconfig) else "main"


@pytest.fixture(scope="session")
def databases(addresses: Addresses, worker_name: str) -> Iterator[Databases]:
    """The databases of this worker; dropped when it ends."""
    made = Databases(addresses.templates, worker_name)
    yield made
    made.close()


@pytest.fixture(scope="session", params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    """Each dialect in turn: a test that asks for it, or for anything made from it, runs on both."""
    return request.param


@pytest.fixture(scope="session")
def database_url(databases: Databases, dialect: Dialect) -> str:
    """The worker's shared database, at head. Tests keep apart by tenant, never by rollback."""
    return databases.shared(dialect)


@pytest.fixture
def new_database(databases: Databases, dialect: Dialect) -> Callable[..., str]:
    """Make databases of a test's own: `new_database()` at head, `new_database(migrated=False)` empty."""

    def make(*, migrated: bool = True) -> str:
        return databases.new(dialect, migrated=migrated)

    return make


@pytest.fixture
def redis_url(addresses: Addresses, worker_name: str) -> str:
    """The worker's own Redis database, empty."""
    url = redis_database_of(addresses, worker_name)
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture(scope="session")
def session_clock() -> SteerableClock:
    """The clock in the worker's spines; tests use `clock`, which is put right after each of them."""
    return SteerableClock()


@pytest.fixture(scope="session")
def session_ids() -> SteerableIds:
    """The id factory in the worker's spines; tests use `ids`."""
    return SteerableIds()


@pytest.fixture
def clock(session_clock: SteerableClock) -> Iterator[SteerableClock]:
    """The spine's clock: `freeze(moment)`, `advance(minutes=5)`."""
    yield session_clock
    session_clock.reset()


@pytest.fixture
def ids(session_ids: SteerableIds) -> Iterator[SteerableIds]:
    """The spine's id factory: `give("run_1")` puts an id in line."""
    yield session_ids
    session_ids.reset()


def _build(clock: SteerableClock, ids: SteerableIds, **settings: Any) -> Spine:
    # Imported here: a unit test runs without the rest of the application.
    from app.bootstrap import build_spine
    from app.settings import Settings

    # The databases here are copies of one that was made by the migrations; start-up has tests of its own.
    return build_spine(Settings(**(SPINE_SETTINGS | settings)), clock=clock, ids=ids, verify_schema=False)


def _share_statements(engine: sa.Engine, other: sa.Engine) -> None:
    """Let another engine use what one has compiled: to compile anew for each is a tenth of the suite."""
    if other.dialect.name == engine.dialect.name:
        other.dialect, other._compiled_cache = engine.dialect, engine._compiled_cache


@pytest.fixture(scope="session")
def spine(database_url: str, session_clock: SteerableClock, session_ids: SteerableIds) -> Iterator[Spine]:
    """The worker's spine on its shared database, without background services."""
    built = _build(session_clock, session_ids, database_url=database_url)
    # SQLAlchemy completes what it knows of a dialect at the first connection; `make_spine` shares it.
    built.transactions.engine.connect().close()
    yield built
    built.close()


@pytest.fixture
def make_spine(
    spine: Spine, database_url: str, session_clock: SteerableClock, session_ids: SteerableIds
) -> Iterator[Callable[..., Spine]]:
    """Build further spines: `make_spine(pool_size=2)`, `make_spine(database_url=new_database())`."""
    with ExitStack() as stack:

        def make(**settings: Any) -> Spine:
            built = _build(session_clock, session_ids, **({"database_url": database_url} | settings))
            _share_statements(spine.transactions.engine, built.transactions.engine)
            stack.callback(built.close)
            return built

        yield make


@pytest.fixture
def new_tenant(spine: Spine) -> Callable[..., Tenant]:
    """Make tenants: `new_tenant(plan="FREE")`. Each has an id that no other test has seen."""
    from tests.factories.tenants import make_tenant

    def make(**members: Any) -> Tenant:
        return make_tenant(spine, **members)

    return make


@pytest.fixture
def tenant(new_tenant: Callable[..., Tenant]) -> Tenant:
    """A tenant of the test's own: ACTIVE, ENTERPRISE, empty."""
    return new_tenant()


@pytest.fixture
def other_tenant(new_tenant: Callable[..., Tenant]) -> Tenant:
    """A second tenant, which must see nothing of the first."""
    return new_tenant()


@pytest.fixture(scope="session")
def session_client(spine: Spine) -> Iterator[TestClient]:
    """The one client of the application over the worker's spine; tests use `client`."""
    from starlette.testclient import TestClient

    from app.main import create_app

    with TestClient(create_app(spine), raise_server_exceptions=False) as http:
        yield http


@pytest.fixture
def client(session_client: TestClient) -> Iterator[TestClient]:
    """An HTTP client of the application over the spine; a bug of the server answers 500, as outside."""
    headers = session_client.headers.copy()
    yield session_client
    session_client.headers = headers


@pytest.fixture
def operator_headers() -> dict[str, str]:
    """The headers of the operator, whose token the worker's spine knows."""
    return {"Authorization": f"Bearer {OPERATOR_TOKEN}"}


@pytest.fixture(scope="session")
def owner_engine(database_url: str) -> Iterator[sa.Engine]:
    """The owner's engine, without a pool: each connection is a new one."""
    engine = sa.create_engine(database_url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    yield engine
    engine.dispose()


@pytest.fixture
def second_connection(owner_engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection of the owner, past the spine: it sees what was committed, and nothing else."""
    with owner_engine.connect() as connection:
        yield connection
