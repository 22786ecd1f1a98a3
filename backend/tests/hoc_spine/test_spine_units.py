"""A unit of several dispatches: one transaction, each dispatch in a savepoint, records after its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from app.hoc_spine.spine import Spine
from app.kernel.errors import HocError
from tests.factories.tenants import Tenant, operator_context

CREATE = "repository.collections.create"


def names(tenant: Tenant) -> list[str]:
    """Return the names of the tenant's collections."""
    return [item.name for item in tenant.call("repository.collections.list").items]


def records(spine: Spine, tenant: Tenant) -> list[tuple[str, str]]:
    """Return outcome and operation of the tenant's dispatch records of writes, oldest first."""
    found = spine.audit_store.get_dispatch_records(tenant_id=tenant.tenant_id, limit=100)
    shown = [record if isinstance(record, dict) else record.to_dict() for record in found]
    return [(r["outcome"], r["operation"]) for r in reversed(shown) if r["operation"] == CREATE]


def test_dispatches_of_a_unit_commit_together(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    count = sa.text("SELECT count(*) FROM collections WHERE tenant_id = :t")
    with spine.unit(tenant.context()) as unit:
        assert unit.dispatch(CREATE, {"name": "a"}).success
        assert not unit.dispatch(CREATE, {"name": "b"}).committed
        assert records(spine, tenant) == []
        assert second_connection.execute(count, {"t": tenant.tenant_id}).scalar_one() == 0
    assert second_connection.execute(count, {"t": tenant.tenant_id}).scalar_one() == 2
    assert records(spine, tenant) == [("COMMITTED", CREATE)] * 2


def test_a_refusal_takes_back_its_own_work_alone(spine: Spine, tenant: Tenant) -> None:
    with spine.unit(tenant.context()) as unit:
        unit.dispatch(CREATE, {"name": "a"})
        assert unit.dispatch(CREATE, {"name": "a"}).error_code == "DUPLICATE_NAME"
        assert unit.dispatch(CREATE, {"name": 7}).error_code == "INVALID_INPUT"
        assert unit.dispatch("no.such.operation", {}).error_code == "UNKNOWN_OPERATION"
        assert unit.dispatch(CREATE, {"name": "b"}).success
    assert names(tenant) == ["a", "b"]


def test_an_exception_takes_everything_back(spine: Spine, tenant: Tenant) -> None:
    def give_up() -> None:
        with spine.unit(tenant.context()) as unit:
            assert unit.dispatch(CREATE, {"name": "a"}).success
            raise KeyError

    with pytest.raises(KeyError):
        give_up()
    assert names(tenant) == []
    assert records(spine, tenant) == [("ROLLED_BACK", CREATE)]


def test_a_bug_is_a_result_and_spoils_nothing(spine: Spine, tenant: Tenant) -> None:
    no_mapping: Any = 7
    with spine.unit(tenant.context()) as unit:
        assert unit.dispatch(CREATE, no_mapping).error_code == "HANDLER_EXCEPTION:TypeError"
        assert unit.dispatch(CREATE, {"name": "a"}).success
    assert names(tenant) == ["a"]


def test_a_unit_asks_for_scope_door_and_standing(
    spine: Spine, tenant: Tenant, new_tenant: Callable[..., Tenant]
) -> None:
    with spine.unit(tenant.context(scopes=("repository:read",))) as unit:
        assert unit.dispatch("repository.collections.list", {}).success
        assert unit.dispatch(CREATE, {"name": "a"}).error_code == "INSUFFICIENT_SCOPE"
        assert unit.dispatch("ops.tenants.list", {}).error_code == "INSUFFICIENT_SCOPE"
    operate = {"tenant_id": tenant.tenant_id, "reason": "a test"}
    spine.dispatch("ops.tenants.suspend", operator_context(), operate).unwrap()
    with spine.unit(tenant.context()) as unit:
        assert unit.dispatch(CREATE, {"name": "a"}).error_code == "TENANT_INACTIVE"


def test_a_run_that_is_not_there_opens_no_unit(spine: Spine, tenant: Tenant) -> None:
    with pytest.raises(HocError) as refused, spine.unit(tenant.context(run_id="nowhere")):
        pass
    assert refused.value.code == "RUN_NOT_FOUND"


def test_an_inner_block_goes_back_alone(spine: Spine, tenant: Tenant) -> None:
    def give_up(unit: Any) -> None:
        with unit.inner():
            unit.dispatch(CREATE, {"name": "b"})
            raise KeyError

    with spine.unit(tenant.context()) as unit:
        unit.dispatch(CREATE, {"name": "a"})
        with pytest.raises(KeyError):
            give_up(unit)
    assert names(tenant) == ["a"]
