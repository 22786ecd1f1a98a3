"""L2 HTTP: the declarative route table; one row dispatches exactly one operation."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

API_ROOT = "/api/v1"
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
StatusRule = int | Callable[[Any], int]
ETagRule = bool | str
_PARAMETER = re.compile(r"\{([a-z_][a-z0-9_]*)\*?\}")


@dataclass(frozen=True, slots=True)
class Route:
    """Describe one method of one path and the single operation it dispatches.

    `spool_body` is a raw body that goes to the operation as a file on disk, `response="file"` an answer that
    comes from one; `response="text_or_json"` is text where the result has `content`. `cache_control` replaces
    the header that a route of its kind has. A last path parameter `{name*}` takes the rest of the path.
    """

    method: Method
    path: str
    operation: str
    tag: str
    status: StatusRule = 200
    statuses: tuple[int, ...] = (200,)
    etag: ETagRule = False
    location: str | None = None
    raw_body: bool = False
    spool_body: bool = False
    body_member: str | None = None
    documents: tuple[str, ...] = ()
    response: Literal["json", "bytes", "file", "text_or_json"] = "json"
    cache_control: str | None = None
    operator: bool = False
    query: tuple[str, ...] | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    max_body_bytes: int | str | None = None
    refusals: tuple[int, ...] = ()
    protocol: Literal["json", "otlp"] = "json"

    @property
    def path_parameters(self) -> tuple[str, ...]:
        """Return the names of the path parameters, in path order."""
        return tuple(_PARAMETER.findall(self.path))

    @property
    def template(self) -> str:
        """Return the path as documents write it; `{name*}`, the rest of a path, is a parameter there."""
        return self.path.replace("*}", "}")


class OperationRoutes:
    """Collect the routes of one domain under a common prefix."""

    def __init__(self, tag: str, *, prefix: str, root: str = API_ROOT, operator: bool = False) -> None:
        self.tag = tag
        self.prefix = root + prefix
        self.operator = operator
        self._routes: list[Route] = []

    def __iter__(self) -> Iterator[Route]:
        """Yield the routes in the order in which they were declared."""
        return iter(self._routes)

    def add(
        self,
        method: Method,
        path: str,
        operation: str,
        *,
        status: StatusRule = 200,
        statuses: Sequence[int] | None = None,
        etag: ETagRule = False,
        location: str | None = None,
        raw_body: bool = False,
        spool_body: bool = False,
        body_member: str | None = None,
        documents: Sequence[str] = (),
        response: Literal["json", "bytes", "file", "text_or_json"] = "json",
        cache_control: str | None = None,
        operator: bool | None = None,
        query: Sequence[str] | None = None,
        missing: Mapping[str, str] | None = None,
        max_body_bytes: int | str | None = None,
        refusals: Sequence[int] = (),
        protocol: Literal["json", "otlp"] = "json",
    ) -> None:
        """Declare one route.

        `status` is the success status or a function of the result's members; `statuses` names the possible
        ones when it is a function (default 200, 201, 202). `etag` is True for `data.version`, or a dotted
        path to the version. `location` is a template below the API root, filled from the result.
        `body_member` names the input field whose value is the whole JSON body. `documents` names the members
        that are JSON objects of the caller's own: what is not strict JSON inside one of them is
        INVALID_METADATA. `query` names the input fields that a POST, PUT or PATCH takes from the query string
        instead of the body. `missing` maps a path parameter to its 404 code where that is not
        `<NOUN>_NOT_FOUND` of the parameter's name. `max_body_bytes` is a number or the name of a setting.
        `refusals` documents statuses beyond those of every route of its kind (502, 504). `protocol` is what
        bodies and answers are in.
        """
        self._routes.append(
            Route(
                method,
                self.prefix + path,
                operation,
                self.tag,
                status=status,
                statuses=_possible(status, statuses),
                etag=etag,
                location=location,
                raw_body=raw_body or spool_body,
                spool_body=spool_body,
                body_member=body_member,
                documents=tuple(documents),
                response=response,
                cache_control=cache_control,
                operator=self.operator if operator is None else operator,
                query=None if query is None else tuple(query),
                missing=dict(missing or {}),
                max_body_bytes=max_body_bytes,
                refusals=tuple(refusals),
                protocol=protocol,
            )
        )


def _possible(status: StatusRule, statuses: Sequence[int] | None) -> tuple[int, ...]:
    return tuple(sorted(statuses or ((200, 201, 202) if callable(status) else (status,))))
