"""Probe operations and routes: small verbs through which the tests see what HTTP made of a request."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import Field

from app.api.routing import OperationRoutes, Route
from app.hoc_spine.operation_registry import Operation, OperationRegistry
from app.hoc_spine.spine import Spine
from app.kernel.canonical_json import RawJson, dumps
from app.kernel.errors import ErrorKind, HocError
from app.kernel.inputs import AwareTime, Identifier, Input, ListInput, Output, Text
from app.kernel.pages import Page

VERSION = 7


class Colour(StrEnum):
    """A closed set."""

    RED = "RED"
    BLUE = "BLUE"


class NameThing(Input):
    """Name one thing."""

    thing_id: Identifier


class NameRevision(Input):
    """Name one revision of a thing."""

    thing_id: Identifier
    revision: int = Field(ge=1)


class FindThings(ListInput):
    """Filter things."""

    colour: Colour | None = None
    size: int | None = None
    weight: float | None = None
    live: bool | None = None
    since: AwareTime | None = None
    tags: list[Text] | None = None
    origin: Text | None = Field(None, alias="from")


class MakeThing(Input):
    """Make a thing."""

    thing_id: Identifier
    text: Text = Field(min_length=1, max_length=64)
    data: Any = None


class ChangeThing(Input):
    """Change a thing."""

    thing_id: Identifier
    text: Text | None = None


class Echo(Input):
    """Send a value back."""

    data: Any = None


class Upload(Input):
    """Take content."""

    thing_id: Identifier
    content: bytes
    media_type: Text | None = None
    policy: Colour | None = None


class Nothing(Input):
    """Need nothing."""


class Thing(Output):
    """A thing."""

    thing_id: str
    version: int = VERSION
    text: str | None = None
    made_at: datetime | None = None
    data: Any = None


class Seen(Output):
    """What the operation was given."""

    seen: dict[str, Any]


class Content(Output):
    """Stored bytes."""

    content: bytes | None
    media_type: str | None
    version: int = VERSION


class Gate:
    """Lets a test hold an operation in its thread and see it finish."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.release = threading.Event()
        self.finished = threading.Event()

    def reset(self) -> None:
        """Close the gate again."""
        for event in (self.entered, self.release, self.finished):
            event.clear()


GATE = Gate()


def _require_thing(thing_id: str) -> None:
    if thing_id.startswith("unknown"):
        raise HocError(ErrorKind.NOT_FOUND, "THING_NOT_FOUND", f"Nobody ever made {thing_id}.")


def _get(ctx: Any, model: NameThing) -> Thing:
    _require_thing(model.thing_id)
    return Thing(thing_id=model.thing_id, made_at=ctx.now)


def _revision(_: Any, model: NameRevision) -> Seen:
    _require_thing(model.thing_id)
    return Seen(seen={"revision": model.revision})


def _list(_: Any, model: FindThings) -> Page[Seen]:
    seen = model.model_dump(mode="json", by_alias=True, exclude_none=True)
    return Page(items=[Seen(seen=seen)], next_cursor=None if model.cursor else "next+page")


def _make(ctx: Any, model: MakeThing) -> Thing:
    if model.thing_id == "taken":
        raise HocError(ErrorKind.CONFLICT, "DUPLICATE_ID", "The id is taken.")
    return Thing(thing_id=model.thing_id, text=model.text, data=RawJson(dumps(model.data)), made_at=ctx.now)


def _change(ctx: Any, model: ChangeThing) -> Thing:
    _require_thing(model.thing_id)
    ctx.require_version(VERSION)
    return Thing(thing_id=model.thing_id, version=VERSION + 1, text=model.text)


def _context(ctx: Any, _: Nothing) -> Seen:
    request = ctx.request
    return Seen(
        seen={
            "tenant_id": request.tenant_id,
            "actor": request.actor.id,
            "run_id": request.run_id,
            "traceparent": request.traceparent,
            "request_id": request.request_id,
            "idempotency_key": request.idempotency_key,
            "door": request.door,
        }
    )


def _echo(_: Any, model: Echo) -> Thing:
    return Thing(thing_id="echo", data=RawJson(dumps(model.data)))


def _fail(_: Any, model: Nothing) -> Thing:
    raise RuntimeError("the secret is swordfish")


def _busy(_: Any, model: Nothing) -> Thing:
    raise HocError(ErrorKind.UNAVAILABLE, "BUSY", "Somebody holds it.", retry_after=3)


def _hold(_: Any, model: Nothing) -> Thing:
    GATE.entered.set()
    GATE.release.wait(20)
    GATE.finished.set()
    return Thing(thing_id="held")


def _content(_: Any, model: NameThing) -> Content:
    _require_thing(model.thing_id)
    if model.thing_id == "empty":
        return Content(content=None, media_type=None)
    return Content(
        content=b"\x00\xffbytes", media_type="text/html\r\nx: y" if model.thing_id == "evil" else "text/html"
    )


def _upload(_: Any, model: Upload) -> Seen:
    return Seen(seen={"size": len(model.content), "media_type": model.media_type, "policy": model.policy})


def _operation(name: str, mode: str, input_model: Any, output: Any, handler: Any, **more: Any) -> Operation:
    more.setdefault("scope", f"signals:{mode}")
    more.setdefault("no_audit", "A probe changes nothing.")
    return Operation(
        f"probe.{name}", "probe", mode, input=input_model, output=output, handler=handler, **more
    )  # type: ignore[arg-type]


OPERATIONS = (
    _operation("things.get", "read", NameThing, Thing, _get),
    _operation("things.revision", "read", NameRevision, Seen, _revision),
    _operation("things.list", "read", FindThings, Page[Seen], _list),
    _operation("things.make", "write", MakeThing, Thing, _make, creates=True),
    _operation("things.change", "write", ChangeThing, Thing, _change),
    _operation("things.remove", "write", ChangeThing, Thing, _change),
    _operation("context", "write", Nothing, Seen, _context),
    _operation("echo", "read", Echo, Thing, _echo),
    _operation("fail", "read", Nothing, Thing, _fail),
    _operation("busy", "read", Nothing, Thing, _busy),
    _operation("hold", "write", Nothing, Thing, _hold),
    _operation("content.get", "read", NameThing, Content, _content),
    _operation("content.put", "write", Upload, Seen, _upload),
    _operation("operator", "read", Nothing, Seen, _context, scope=None, door="operator"),
)


def probe_routes() -> Sequence[Route]:
    """Return one route for each probe."""
    routes = OperationRoutes("probe", prefix="/probe")
    routes.add("GET", "/things/{thing_id}", "probe.things.get", etag=True)
    routes.add("GET", "/things/{thing_id}/revisions/{revision}", "probe.things.revision")
    routes.add("GET", "/things", "probe.things.list")
    routes.add(
        "POST", "/things", "probe.things.make", status=201, etag=True, location="/probe/things/{thing_id}"
    )
    routes.add(
        "PATCH",
        "/things/{thing_id}",
        "probe.things.change",
        etag=True,
        status=lambda data: 202 if data.get("text") == "later" else 200,
    )
    routes.add("DELETE", "/things/{thing_id}", "probe.things.remove")
    routes.add("POST", "/context", "probe.context")
    routes.add("POST", "/echo", "probe.echo")
    routes.add("GET", "/fail", "probe.fail")
    routes.add("GET", "/busy", "probe.busy")
    routes.add("POST", "/hold", "probe.hold")
    routes.add(
        "GET",
        "/things/{thing_id}/content",
        "probe.content.get",
        response="bytes",
        etag=True,
        statuses=(200, 204),
    )
    routes.add("PUT", "/things/{thing_id}/content", "probe.content.put", raw_body=True, max_body_bytes=2048)
    routes.add("GET", "/operator", "probe.operator", operator=True)
    return tuple(routes)


def with_probes(spine: Spine) -> Spine:
    """Return a spine on the same database and services whose registry knows the probes too."""
    registry = OperationRegistry()
    for operation in (*spine.registry, *OPERATIONS):
        registry.register(operation)
    registry.freeze()
    return Spine(
        registry=registry,
        transactions=spine.transactions,
        ports=spine.executor.ports,
        services=spine.services,
        audit_store=spine.audit_store,
        pipeline=spine.pipeline,
    )
