"""L2 HTTP: the JSON schemas of operation models as the OpenAPI document carries them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from pydantic import TypeAdapter

from app.api.openapi_parts import Json
from app.hoc_spine.operation_registry import Operation

PREFIX: Final = "#/components/schemas/"


class Schemas:
    """The input and output schemas of operations, with the definitions that they share."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        # One call for all models, so that one name means one schema throughout the document.
        wanted: list[tuple[Any, Any, TypeAdapter[Any]]] = []
        for operation in {operation.name: operation for operation in operations}.values():
            wanted.append((f"{operation.name}:input", "validation", TypeAdapter(operation.input)))
            wanted.append((f"{operation.name}:output", "serialization", TypeAdapter(operation.output)))
        found, shared = TypeAdapter.json_schemas(wanted, by_alias=True, ref_template=PREFIX + "{model}")
        self._found: Mapping[Any, Json] = {key: _untitled(schema) for key, schema in found.items()}
        self.definitions: Json = _untitled(shared.get("$defs", {}))

    def input(self, operation: Operation) -> Json:
        """Return the schema of an operation's input, perhaps a reference."""
        return self._found[(f"{operation.name}:input", "validation")]

    def output(self, operation: Operation) -> Json:
        """Return the schema of an operation's output, perhaps a reference."""
        return self._found[(f"{operation.name}:output", "serialization")]

    def resolved(self, schema: Json) -> Json:
        """Return what a reference leads to, or the schema itself."""
        reference = schema.get("$ref")
        return schema if reference is None else self.definitions[str(reference).removeprefix(PREFIX)]

    def reachable(self, paths: Json) -> Json:
        """Return the definitions that the paths refer to, directly or through one another."""
        waiting = list(_references(paths))
        kept: Json = {}
        while waiting:
            name = waiting.pop().removeprefix(PREFIX)
            if name not in kept and name in self.definitions:
                kept[name] = self.definitions[name]
                waiting.extend(_references(kept[name]))
        return kept


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, member in node.items():
            if key == "$ref" and isinstance(member, str):
                yield member
            else:
                yield from _references(member)
    elif isinstance(node, list):
        for item in node:
            yield from _references(item)


def _untitled(node: Any) -> Any:
    # A title made from the member's own name says nothing; a member that is called title is no text.
    if isinstance(node, dict):
        return {
            key: _untitled(member)
            for key, member in node.items()
            if not (key == "title" and isinstance(member, str))
        }
    return [_untitled(item) for item in node] if isinstance(node, list) else node
