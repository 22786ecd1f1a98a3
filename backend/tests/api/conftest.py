"""Fixtures of the API tests: the application over probe operations, on the real spine and database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.api.asgi_client import AsgiClient
from tests.api.probes import GATE, probe_routes, with_probes
from tests.factories.databases import DIALECTS

if TYPE_CHECKING:
    from app.api.worker_pool import DispatchPool
    from app.hoc_spine.spine import Spine
    from tests.api.product_server import ProductServer
    from tests.factories.databases import Databases, Dialect
    from tests.factories.tenants import Tenant


@pytest.fixture
def make_app(spine: Spine) -> Iterator[Callable[..., Any]]:
    """Build applications over the probes: `make_app()`, `make_app(make_spine(pool_size=1))`."""
    from app.api.application import build_application
    from app.api.worker_pool import DispatchPool

    pools: list[DispatchPool] = []

    def make(over: Spine | None = None, **pool: Any) -> Any:
        probed = with_probes(over or spine)
        pools.append(DispatchPool(probed.services.settings.pool_size, **pool))
        return build_application(probed, pool=pools[-1], routes=probe_routes())

    yield make
    GATE.release.set()
    for pool in pools:
        pool.close()
    GATE.reset()


@pytest.fixture
def http(make_app: Callable[..., Any], tenant: Tenant) -> AsgiClient:
    """A client with a key of the tenant that may do everything."""
    return AsgiClient(make_app(), headers=tenant.headers())


@pytest.fixture
def stranger(make_app: Callable[..., Any]) -> AsgiClient:
    """A client without a credential."""
    return AsgiClient(make_app())


@pytest.fixture(scope="module")
def product(
    databases: Databases, dialect: Dialect, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ProductServer]:
    """The whole product on a database of the module's own: its switches and tenants are thrown about."""
    from tests.api.product_server import serve_product

    with serve_product(databases.new(dialect), tmp_path_factory.mktemp("product")) as server:
        yield server


@pytest.fixture(scope="module")
def products(
    databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ProductServer, ...]]:
    """The whole product on both dialects at once: what costs much to make is sent to each."""
    from tests.api.product_server import serve_product

    with ExitStack() as stack:
        yield tuple(
            stack.enter_context(serve_product(databases.new(dialect), tmp_path_factory.mktemp(dialect)))
            for dialect in DIALECTS
        )
