"""L2 HTTP: from a path to its route in time that does not grow with the number of routes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
_PARAMETER = re.compile(r"\{([a-z_][a-z0-9_]*)\}")
_REST = re.compile(r"\{([a-z_][a-z0-9_]*)\*\}")


class _Node(Generic[T]):
    __slots__ = ("fixed", "mixed", "parameter", "rest", "value")

    def __init__(self) -> None:
        self.fixed: dict[str, _Node[T]] = {}
        self.mixed: list[tuple[re.Pattern[str], _Node[T]]] = []
        self.parameter: _Node[T] | None = None
        self.rest: _Node[T] | None = None
        self.value: T | None = None


class PathTable(Generic[T]):
    """A tree of path segments; a fixed segment wins over one with a suffix, that over a bare parameter.

    A last parameter `{name*}` takes one segment or more, and yields to everything else.

    Parameters are returned by position, so two templates may name the same place differently.
    """

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()

    def put(self, template: str, value: T) -> None:
        """Enter a value under a path template; raise ValueError for a template that is already there."""
        node = self._root
        for segment in _segments(template):
            node = _child(node, segment)
        if node.value is not None:
            raise ValueError(f"two routes share the path {template}")
        node.value = value

    def find(self, path: str) -> tuple[T, tuple[str, ...]] | None:
        """Return the value for a path and its parameters in path order, or None."""
        if not path.startswith("/"):
            return None
        return _find(self._root, tuple(path.split("/")[1:]), 0)


def _segments(template: str) -> Iterator[str]:
    return iter(template.split("/")[1:])


def _child(node: _Node[T], segment: str) -> _Node[T]:
    if "{" not in segment:
        return node.fixed.setdefault(segment, _Node())
    if _REST.fullmatch(segment):
        if node.rest is None:
            node.rest = _Node()
        return node.rest
    if _PARAMETER.fullmatch(segment):
        if node.parameter is None:
            node.parameter = _Node()
        return node.parameter
    parts = _PARAMETER.split(segment)
    pattern = "".join("([^/]+?)" if index % 2 else re.escape(part) for index, part in enumerate(parts))
    for known, child in node.mixed:
        if known.pattern == pattern:
            return child
    child = _Node[T]()
    node.mixed.append((re.compile(pattern, re.DOTALL), child))
    return child


def _find(node: _Node[T], segments: tuple[str, ...], index: int) -> tuple[T, tuple[str, ...]] | None:
    if index == len(segments):
        return None if node.value is None else (node.value, ())
    segment = segments[index]
    if (child := node.fixed.get(segment)) is not None and (found := _find(child, segments, index + 1)):
        return found
    if not segment:
        return None
    for pattern, child in node.mixed:
        if (match := pattern.fullmatch(segment)) and (found := _find(child, segments, index + 1)):
            return found[0], (*match.groups(), *found[1])
    if node.parameter is not None and (found := _find(node.parameter, segments, index + 1)):
        return found[0], (segment, *found[1])
    if node.rest is not None and node.rest.value is not None and all(segments[index:]):
        return node.rest.value, ("/".join(segments[index:]),)
    return None
