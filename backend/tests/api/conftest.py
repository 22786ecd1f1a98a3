"""Fixtures of the API tests: the application over probe operations, on the real spine and database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.api.asgi_client import AsgiClient
from tests.api.probes import GATE, OPERATIONS, probe_routes

if TYPE_CHECKING:
    from app.api.worker_pool import DispatchPool
    from app.hoc_spine.spine import Spine
    from tests.factories.tenants import Tenant


def with_probes(spine: Spine) -> Spine:
    """Return a spine on the same database and services whose registry knows the probes too."""
    from app.hoc_spine.operation_registry import OperationRegistry
    from app.hoc_spine.spine import Spine

    registry = OperationRegistry()
    for operation in (*spine.registry, *OPERATIONS):
        registry.register(operation)
    registry.freeze()
    return Spine(
        registry=registry,
        transactions=spine.transactions,
        ports=spine._ports,
        services=spine.services,
        audit_store=spine.audit_store,
        pipeline=spine.pipeline,
    )


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
