"""Registry: every operation has one name, one handler, one scope; afterwards nothing changes."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from app.bootstrap import HANDLERS
from app.hoc_spine.operation_registry import OperationRegistry, OperationResult
from app.kernel.errors import ErrorKind, HocError
from app.kernel.inputs import Input
from tests.factories.operations import Echo, probe


def nothing(_ctx: Any, _payload: Any) -> Echo:
    return Echo()


def test_an_operation_is_found_by_its_name() -> None:
    registry = OperationRegistry()
    operation = probe(nothing)
    registry.register(operation)
    assert registry.get("probe.do") is operation
    assert (len(registry), list(registry)) == (1, [operation])


def test_a_name_is_given_once() -> None:
    registry = OperationRegistry()
    registry.register(probe(nothing))
    with pytest.raises(RuntimeError, match="registered already"):
        registry.register(probe(nothing))


def test_nothing_is_added_after_the_freeze() -> None:
    registry = OperationRegistry()
    assert not registry.is_frozen
    registry.freeze()
    assert registry.is_frozen
    with pytest.raises(RuntimeError, match="frozen"):
        registry.register(probe(nothing))


def test_a_handler_is_callable() -> None:
    with pytest.raises(TypeError, match="not callable"):
        OperationRegistry().register(probe("nothing"))  # type: ignore[arg-type]


@pytest.mark.parametrize("scope", [None, "", "runs", "runs:*", "*", "runs:delete"])
def test_an_operation_of_tenants_has_one_exact_scope(scope: str | None) -> None:
    with pytest.raises(TypeError, match="scope"):
        OperationRegistry().register(probe(nothing, scope=scope))


@pytest.mark.parametrize("door", ["operator", "worker"])
def test_no_other_operation_has_a_scope(door: Any) -> None:
    with pytest.raises(TypeError, match="scope"):
        OperationRegistry().register(probe(nothing, door=door))
    OperationRegistry().register(probe(nothing, door=door, scope=None))


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(HocError) as caught:
        OperationRegistry().get("probe.do")
    assert (caught.value.kind, caught.value.code) == (ErrorKind.NOT_FOUND, "UNKNOWN_OPERATION")


def test_an_operation_never_changes() -> None:
    with pytest.raises(FrozenInstanceError):
        probe(nothing).scope = "*"  # type: ignore[misc]


def test_every_operation_of_the_product_is_registered() -> None:
    registry = OperationRegistry()
    for module in HANDLERS:
        assert module.OPERATIONS, f"{module.__name__} is listed and has none"
        for operation in module.OPERATIONS:
            registry.register(operation)
            assert issubclass(operation.input, Input)
    assert len(registry) == sum(len(module.OPERATIONS) for module in HANDLERS)


def test_a_result_gives_its_data_or_raises_its_refusal() -> None:
    done = OperationResult(True, Echo(value=1), None, "probe.do", 1.0, True)
    assert (done.unwrap().value, done.error_code) == (1, None)
    refusal = HocError(ErrorKind.CONFLICT, "NO", "No.")
    refused = OperationResult(False, None, refusal, "probe.do", 1.0, False)
    assert refused.error_code == "NO"
    with pytest.raises(HocError) as caught:
        refused.unwrap()
    assert caught.value is refusal
