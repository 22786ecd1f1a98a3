"""L2 HTTP: entity tags of row versions, If-Match and If-None-Match (RFC 9110 section 13.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from app.kernel.context import Precondition
from app.kernel.errors import ErrorKind, HocError

# One element of a list: a weak or strong tag. etagc is %x21 / %x23-7E / obs-text.
_ELEMENT = re.compile(r'[ \t]*((?:W/)?"[\x21\x23-\x7e\x80-\xff]*")[ \t]*(?:,|$)')
_VERSION = re.compile(r'"v(0|[1-9][0-9]{0,18})"')


def etag_of(version: int) -> str:
    """Return the strong tag of a row version."""
    return f'"v{version}"'


def read_if_match(fields: Sequence[str]) -> Precondition | None:
    """Return the If-Match condition of the request, None when absent; refuse what is no list of tags.

    A weak tag and a tag of another form match no version. Repeated fields are one list.
    """
    if not fields:
        return None
    tags = _tags(fields, "If-Match")
    if tags is None:
        return Precondition(versions=None)
    matches = (_VERSION.fullmatch(tag) for tag in tags)
    return Precondition(versions=frozenset(int(match[1]) for match in matches if match))


def read_if_none_match(fields: Sequence[str]) -> frozenset[str] | None:
    """Return the tags of If-None-Match without weakness marks, `{"*"}` for the star, None when absent."""
    if not fields:
        return None
    tags = _tags(fields, "If-None-Match")
    # If-None-Match compares weakly, so the mark does not count (RFC 9110 section 13.1.2).
    return frozenset(("*",)) if tags is None else frozenset(tag.removeprefix("W/") for tag in tags)


def _tags(fields: Sequence[str], header: str) -> list[str] | None:
    text = ",".join(fields)
    if text.strip(" \t") == "*":
        return None
    tags: list[str] = []
    position = 0
    while position < len(text):
        match = _ELEMENT.match(text, position)
        if match is None:
            raise _invalid(header)
        tags.append(match[1])
        position = match.end()
    if not tags or text.rstrip(" \t").endswith(","):
        raise _invalid(header)
    return tags


def _invalid(header: str) -> HocError:
    return HocError(
        ErrorKind.MALFORMED,
        "INVALID_PRECONDITION",
        f'{header} takes `*` or a list of quoted entity tags such as "v7".',
    )
