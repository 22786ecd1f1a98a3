"""L2 HTTP: from the data of an operation's result to bodies and headers."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode

from app.api.answers import Answer
from app.api.routing import API_ROOT
from app.kernel.canonical_json import RawJson, loads

_TEMPLATE: Final = re.compile(r"\{([a-z_][a-z0-9_.]*)\}")
_MEDIA_TYPE: Final = re.compile(r"[\x20-\x7e]{1,255}")
_KEPT_ON_304: Final = frozenset(("etag", "cache-control", "x-content-type-options"))


def pick(data: Any, dotted: str) -> Any:
    """Return the member under a dotted path of a model, mapping or canonical text; None without one."""
    for name in dotted.split("."):
        if isinstance(data, RawJson):
            data = loads(data)
        data = data.get(name) if isinstance(data, Mapping) else getattr(data, name, None)
    return data


class Members:
    """The members of a result, as attributes and by `get`; one that is not there is None."""

    __slots__ = ("_data",)

    def __init__(self, data: Any) -> None:
        self._data = data

    def __getattr__(self, name: str) -> Any:
        """Return a member."""
        return pick(self._data, name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return a member, or the default where there is none."""
        value = pick(self._data, name)
        return default if value is None else value


def fill(template: str, data: Any) -> str:
    """Return the location below the API root that a template and a result name."""
    return API_ROOT + _TEMPLATE.sub(lambda match: quote(str(pick(data, match[1])), safe=""), template)


def next_link(path: str, query: bytes, cursor: str) -> str:
    """Return the Link to the next page: the same list and filter from the cursor on."""
    pairs = [
        (name, text)
        for name, text in parse_qsl(query.decode("ascii"), keep_blank_values=True)
        if name != "cursor"
    ]
    return f'<{path}?{urlencode([*pairs, ("cursor", cursor)])}>; rel="next"'


def bytes_answer(data: Any, headers: list[tuple[str, str]]) -> Answer:
    """Return stored content as it was stored; 204 where there is none."""
    content = pick(data, "content")
    if content is None:
        return Answer(204, headers, b"")
    raw = content if isinstance(content, bytes) else str(content).encode()
    media_type = str(pick(data, "media_type") or "application/octet-stream")
    if not _MEDIA_TYPE.fullmatch(media_type):
        media_type = "application/octet-stream"
    digest = b64encode(sha256(raw).digest()).decode("ascii")
    return Answer(
        200,
        [
            ("content-type", media_type),
            ("content-digest", f"sha-256=:{digest}:"),
            # Stored content is somebody's input: it is saved, never rendered under this origin.
            ("content-disposition", "attachment"),
            *headers,
        ],
        raw,
    )


def file_answer(data: Any, headers: list[tuple[str, str]]) -> Answer:
    """Return a file that the operation made, with the digests that name it."""
    raw = bytes.fromhex(str(pick(data, "content_digest")).removeprefix("sha256:"))
    digest = b64encode(raw).decode("ascii")
    named: list[tuple[str, str]] = []
    if (snapshot := pick(data, "snapshot_digest")) is not None:
        named.append(("snapshot-digest", str(snapshot)))
    disposition = "attachment"
    if (name := pick(data, "file_name")) is not None:
        disposition += f'; filename="{name}"'
    return Answer(
        200,
        [
            ("content-type", str(pick(data, "media_type"))),
            ("content-digest", f"sha-256=:{digest}:"),
            *named,
            ("content-disposition", disposition),
            *headers,
        ],
        b"",
        file=pick(data, "content"),
    )


def not_modified(answer: Answer, tags: frozenset[str]) -> Answer:
    """Return 304 when the answer's entity tag is among the given ones, else the answer."""
    etag = dict(answer.headers).get("etag")
    if etag is None or ("*" not in tags and etag not in tags):
        return answer
    return Answer(304, [line for line in answer.headers if line[0] in _KEPT_ON_304], b"")
