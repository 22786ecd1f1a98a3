"""Kernel: scopes, preconditions and trace ids of a request."""

from __future__ import annotations

import pytest

from app.kernel.context import Actor, Precondition, RequestContext, has_scope


@pytest.mark.parametrize(
    ("held", "wanted", "granted"),
    [
        ({"runs:read"}, "runs:read", True),
        ({"runs:*"}, "runs:admin", True),
        ({"*"}, "keys:admin", True),
        (set(), "runs:read", False),
        ({"runs:write"}, "runs:read", False),
        ({"runs:admin"}, "runs:write", False),
        ({"run:*"}, "runs:read", False),
        ({"*:read"}, "runs:read", False),
        ({"runs"}, "runs:read", False),
        ({"runs:read:x"}, "runs:read", False),
        ({"**"}, "runs:read", False),
        ({""}, "runs:read", False),
    ],
)
def test_scopes_match_exactly_by_area_or_whole(held: set[str], wanted: str, granted: bool) -> None:
    assert has_scope(frozenset(held), wanted) is granted


def test_a_precondition_accepts_its_versions_or_any() -> None:
    assert Precondition(frozenset({1, 3})).accepts(3)
    assert not Precondition(frozenset({1, 3})).accepts(2)
    assert not Precondition(frozenset()).accepts(1)
    assert Precondition(None).accepts(2)


def test_trace_and_span_come_from_the_traceparent() -> None:
    context = RequestContext("t", Actor("AGENT", "a"), "req", traceparent=f"00-{'ab' * 16}-{'cd' * 8}-01")
    assert (context.trace_id, context.span_id) == ("ab" * 16, "cd" * 8)
    without = RequestContext("t", Actor("AGENT", "a"), "req")
    assert (without.trace_id, without.span_id) == (None, None)
