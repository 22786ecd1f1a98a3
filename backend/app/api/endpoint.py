"""L2 HTTP: one route at work: read the request, dispatch its one operation, shape the answer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Final

from pydantic import BaseModel

from app.api.answers import Answer
from app.api.arguments import Argument, arguments_of, invalid_query, read_query
from app.api.bodies import read_json_object
from app.api.body_faults import document_refusal
from app.api.deps import Doorkeeper, operator_context, read_run_id, tenant_context
from app.api.errors import field_of
from app.api.exchange import Exchange
from app.api.preconditions import etag_of, read_if_none_match
from app.api.results import Members, bytes_answer, file_answer, fill, next_link, not_modified, pick
from app.api.routing import Route
from app.hoc_spine.authentication import Credential
from app.hoc_spine.operation_registry import Operation, OperationRegistry, OperationResult
from app.hoc_spine.payload import LaxPayload
from app.hoc_spine.spine import Spine
from app.kernel.context import RequestContext
from app.kernel.errors import ErrorKind, HocError
from app.kernel.files import LocalFile

BODY_METHODS: Final = frozenset(("POST", "PUT", "PATCH"))
_NOSNIFF: Final = ("x-content-type-options", "nosniff")


@dataclass(slots=True)
class Call:
    """One request to one endpoint: its path values, query string, body and, once proven, its caller."""

    exchange: Exchange
    path_values: tuple[str, ...]
    query_string: bytes
    body: bytes = b""
    file: LocalFile | None = None
    admitted: bool = False
    credential: Credential | None = None


class Endpoint:
    """Serve one route; `serve` runs whole in a pool thread, nothing of it on the event loop."""

    def __init__(self, route: Route, *, spine: Spine, door: Doorkeeper) -> None:
        self.route = route
        self.operation = operation = operation_of(route, spine.registry)
        self._spine = spine
        self._door = door
        self.takes_body = route.method in BODY_METHODS
        self.max_body_bytes = _body_limit(route, spine)
        names = tuple(field.alias or name for name, field in operation.input.model_fields.items())
        self.query_names = query_names(route, names)
        if unknown := {*route.path_parameters, *self.query_names}.difference(names):
            raise RuntimeError(f"{operation.name} takes no {', '.join(sorted(unknown))}")
        self._has_media_type = "media_type" in names
        self._writes = operation.mode == "write"

    # The schema of an input takes a millisecond to make, so each route makes it with its first request.
    @cached_property
    def _path(self) -> dict[str, Argument]:
        return arguments_of(_input_schema(self.operation.input), self.route.path_parameters)

    @cached_property
    def _query(self) -> dict[str, Argument]:
        return arguments_of(_input_schema(self.operation.input), self.query_names)

    def admit(self, call: Call) -> None:
        """Prove the caller and charge its quotas, once per request."""
        if call.admitted:
            return
        if self.route.operator:
            self._door.admit_operator(call.exchange)
        else:
            call.credential = self._door.admit_tenant(call.exchange)
        call.admitted = True

    def serve(self, call: Call) -> Answer:
        """Return the answer of one request; raise HocError for every refusal."""
        self.admit(call)
        exchange = call.exchange
        context = self._context(call)
        not_modified_tags = read_if_none_match(exchange.headers.every(b"if-none-match"))
        payload = self._payload(call)
        result = self._spine.dispatch(self.operation.name, context, payload)
        if result.replayed:
            exchange.answer_headers.append(("idempotent-replay", "true"))
        if not result.success:
            raise self._refusal(result, if_none_match=not_modified_tags)
        answer = self._answer(call, result)
        if self.route.method == "GET" and not_modified_tags is not None:
            return not_modified(answer, not_modified_tags)
        return answer

    def refusal(self, _exchange: Exchange, problem: Answer) -> Answer:
        """Return a refusal of this route in the form that its callers read: the problem as it is."""
        return problem

    def _context(self, call: Call) -> RequestContext:
        if call.credential is None:
            return operator_context(call.exchange)
        run_id = read_run_id(call.exchange, writes=self._writes)
        return tenant_context(call.credential, call.exchange, run_id=run_id)

    def _payload(self, call: Call) -> dict[str, Any]:
        members: dict[str, Any] = read_query(call.query_string, self._query)
        if self.takes_body:
            members.update(self._body_members(call))
        for name, text in zip(self.route.path_parameters, call.path_values, strict=True):
            try:
                members[name] = self._path[name].convert(text)
            except ValueError:
                raise not_found(missing_code(self.route, name)) from None
        # Raw content is no JSON value, so strict JSON reading cannot take it.
        return LaxPayload(members) if self.route.raw_body else members

    def _body_members(self, call: Call) -> dict[str, Any]:
        if self.route.raw_body:
            members: dict[str, Any] = {"content": call.body if call.file is None else call.file}
            media_type = call.exchange.headers.single(b"content-type")
            if self._has_media_type and media_type:
                members["media_type"] = media_type
            return members
        members = self._read_object(call)
        if self.route.body_member is not None:
            if not call.body:
                # An absent body replaces nothing; only an object that was written as `{}` empties.
                raise _unfit([{"pointer": "", "code": "missing", "detail": "is needed here"}])
            return {self.route.body_member: members}
        # A name that the path or the query sets has one place; in the body it is an unknown member.
        taken = [name for name in (*self._path, *self._query) if name in members]
        if taken:
            detail = "is not a member of this body"
            raise _unfit(
                [{"pointer": f"/{name}", "code": "extra_forbidden", "detail": detail} for name in taken]
            )
        return members

    def _read_object(self, call: Call) -> dict[str, Any]:
        try:
            return read_json_object(call.body, call.exchange.headers)
        except HocError as error:
            if error.code != "MALFORMED_JSON" or not self.route.documents:
                raise
            whole = self.route.documents[0] if self.route.body_member is not None else None
            raise document_refusal(call.body, self.route.documents, whole=whole) or error from None

    def _refusal(self, result: OperationResult, *, if_none_match: frozenset[str] | None) -> HocError:
        error = result.error
        if error is None:
            return HocError(ErrorKind.INTERNAL, "INTERNAL_ERROR", "")
        if error.code == "INVALID_INPUT":
            return self._invalid_input(error)
        if error.kind is ErrorKind.NOT_FOUND:
            return not_found(error.code)
        if error.code == "DUPLICATE_ID" and if_none_match == frozenset(("*",)):
            # RFC 9110 section 13.1.2: the star asks for creation only.
            return HocError(
                ErrorKind.PRECONDITION_FAILED, "VERSION_MISMATCH", error.detail, extra=error.extra
            )
        return error

    def _invalid_input(self, error: HocError) -> HocError:
        fields = [field_of(item) for item in error.errors]
        for name in self.route.path_parameters:
            if name in fields:
                return not_found(missing_code(self.route, name))
        if not self.takes_body or any(name in self._query for name in fields):
            return invalid_query([_as_parameter(item) for item in error.errors])
        return error

    def _answer(self, call: Call, result: OperationResult) -> Answer:
        route = self.route
        data = result.data
        headers: list[tuple[str, str]] = [_NOSNIFF]
        if route.etag:
            version = pick(data, "version" if route.etag is True else route.etag)
            if version is not None:
                headers.append(("etag", etag_of(int(version))))
        standing = "private, no-cache" if route.etag and not self._writes else "no-store"
        headers.append(("cache-control", route.cache_control or standing))
        if route.response == "bytes" or (
            route.response == "text_or_json" and pick(data, "content") is not None
        ):
            return bytes_answer(data, headers)
        if route.response == "file":
            return file_answer(data, headers)
        if route.location is not None:
            headers.append(("location", fill(route.location, data)))
        if route.method == "GET" and (cursor := pick(data, "next_cursor")):
            headers.append(("link", next_link(call.exchange.instance, call.query_string, str(cursor))))
        return Answer.json(self._status(result), data, headers=headers)

    def _status(self, result: OperationResult) -> int:
        status = self.route.status
        return status(Members(result.data)) if callable(status) else status


@cache
def _input_schema(model: type[BaseModel]) -> dict[str, Any]:
    # Making a schema takes milliseconds; one process may build its application more than once.
    return model.model_json_schema(by_alias=True)


def operation_of(route: Route, registry: OperationRegistry) -> Operation:
    """Return the operation of a route; RuntimeError when there is none or it has another door."""
    try:
        operation = registry.get(route.operation)
    except HocError as error:
        raise RuntimeError(f"{route.method} {route.path}: {error.detail}") from error
    if operation.door != ("operator" if route.operator else "tenant"):
        raise RuntimeError(
            f"{route.method} {route.path}: {operation.name} is behind the {operation.door} door"
        )
    return operation


def not_found(code: str) -> HocError:
    """Return a 404 that says nothing beyond its code: foreign, unknown and impossible ids look alike."""
    noun = code.removesuffix("_NOT_FOUND").replace("_", " ").lower()
    return HocError(ErrorKind.NOT_FOUND, code, f"There is no such {noun}.")


def missing_code(route: Route, name: str) -> str:
    """Return the 404 code of a path parameter: `<NOUN>_NOT_FOUND`, of its name or the segment before."""
    if name in route.missing:
        return route.missing[name]
    noun = name.removesuffix("_id")
    if name == "id":
        before = route.path.split("{id}", 1)[0].rstrip("/").rsplit("/", 1)[1].replace("-", "_")
        noun = before[:-3] + "y" if before.endswith("ies") else before.removesuffix("s")
    return f"{noun.upper()}_NOT_FOUND"


def query_names(route: Route, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the input fields that a route takes from its query string."""
    if route.query is not None:
        return route.query
    if route.method in BODY_METHODS and not route.raw_body:
        return ()
    elsewhere = {*route.path_parameters, *(("content", "media_type") if route.raw_body else ())}
    return tuple(name for name in names if name not in elsewhere)


def _unfit(errors: list[dict[str, Any]]) -> HocError:
    return HocError(
        ErrorKind.INVALID, "INVALID_INPUT", "The body does not fit this operation.", errors=errors
    )


def _as_parameter(item: dict[str, Any]) -> dict[str, Any]:
    name = field_of(item)
    shaped = {"code": str(item.get("code", item.get("type", "invalid_value"))), "detail": "is not valid"}
    detail = item.get("detail", item.get("msg"))
    if detail:
        shaped["detail"] = str(detail)
    return shaped if name is None else {"parameter": name, **shaped}


def _body_limit(route: Route, spine: Spine) -> int:
    if isinstance(route.max_body_bytes, str):
        return int(getattr(spine.services.settings, route.max_body_bytes))
    return route.max_body_bytes or spine.services.settings.max_body_bytes
