"""L5 rules of single values: ids, names, media types, content."""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from app.domains.repository.errors import invalid_id, invalid_input, invalid_name, too_large
from app.kernel.hashing import digest_of
from app.kernel.ids import ID_PATTERN

MAX_NAME_CODE_POINTS = 255
REDACTED_PREFIX = "redacted:"
TEXT_MEDIA_TYPE = "text/plain; charset=utf-8"
BINARY_MEDIA_TYPE = "application/octet-stream"

_ID = re.compile(ID_PATTERN.removesuffix("$") + r"\Z")
_FORBIDDEN_CATEGORIES = frozenset(("Cc", "Cs", "Zl", "Zp"))
# Invisible marks that make two names look alike; the joiners U+200C and U+200D stay legal (emoji, Persian).
_FORBIDDEN_POINTS = frozenset(
    [0x061C, 0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F), 0x2060, *range(0x2066, 0x206A), 0xFEFF]
)
_PART = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_MEDIA_TYPE = re.compile(rf"({_PART}/{_PART})([ \t]*;[\t -~]*)?")
_TEXTUAL = frozenset(
    ("application/json", "application/xml", "application/yaml", "application/x-yaml", "application/x-ndjson")
)


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes with their digest; `data` null is an artifact without content."""

    data: bytes | None
    digest: str | None
    size: int | None
    is_text: bool


CHUNK = 500
T = TypeVar("T")
NO_CONTENT = Content(None, None, None, False)


def chunks(items: Sequence[T], size: int = CHUNK) -> Iterator[Sequence[T]]:
    """Yield the items in runs of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def groups(items: Sequence[T], size: Callable[[T], int], budget: int) -> Iterator[list[T]]:
    """Yield the items in runs whose sizes sum to the budget at most, but at least one item."""
    group: list[T] = []
    total = 0
    for item in items:
        weight = size(item)
        if group and total + weight > budget:
            yield group
            group, total = [], 0
        group.append(item)
        total += weight
    if group:
        yield group


def is_id(identifier: str) -> bool:
    """Tell whether anything can bear this id; what cannot is not looked up."""
    return _ID.match(identifier) is not None


def check_id(identifier: str) -> str:
    """Return a caller's id; refuse INVALID_ID."""
    if not is_id(identifier):
        raise invalid_id("An id has 1 to 128 letters, digits and . _ : - and begins with a letter or digit.")
    return identifier


def check_name(name: str) -> str:
    """Return the key under which a name is unique, its NFC form; refuse INVALID_NAME."""
    if not 1 <= len(name) <= MAX_NAME_CODE_POINTS:
        raise invalid_name(f"A name has 1 to {MAX_NAME_CODE_POINTS} code points.")
    if name != name.strip():
        raise invalid_name("A name neither begins nor ends with white space.")
    if name.startswith(REDACTED_PREFIX):
        raise invalid_name(f"A name does not begin with {REDACTED_PREFIX}")
    if name.isascii() and name.isprintable():
        return name
    for character in name:
        if ord(character) in _FORBIDDEN_POINTS or unicodedata.category(character) in _FORBIDDEN_CATEGORIES:
            raise invalid_name(f"A name does not hold U+{ord(character):04X}.")
    return unicodedata.normalize("NFC", name)


def check_media_type(media_type: str) -> str:
    """Return type/subtype in lower case with the parameters kept; refuse INVALID_INPUT."""
    match = _MEDIA_TYPE.fullmatch(media_type.strip())
    if match is None or len(media_type) > 255:
        raise invalid_input(
            "A media type is type/subtype with parameters, at most 255 characters.", "media_type"
        )
    return match[1].lower() + (match[2] or "").rstrip()


def default_media_type(content: Content) -> str | None:
    """Return the media type of content that came without one."""
    if content.data is None:
        return None
    return TEXT_MEDIA_TYPE if content.is_text else BINARY_MEDIA_TYPE


def is_textual(media_type: str | None) -> bool:
    """Tell whether content of this media type is searched: text, JSON, XML, YAML and their `+` forms."""
    if media_type is None:
        return False
    kind = media_type.partition(";")[0].strip()
    return kind.startswith("text/") or kind in _TEXTUAL or kind.endswith(("+json", "+xml", "+yaml"))


def read_content(
    *, text: str | None = None, base64_text: str | None = None, data: bytes | None = None, limit: int
) -> Content:
    """Return the one content that is given; refuse two forms at once, bad base64, and TOO_LARGE."""
    if sum(form is not None for form in (text, base64_text, data)) > 1:
        raise invalid_input("Give content as text or as base64, not both.", "content_base64")
    is_text = text is not None
    if text is not None:
        try:
            data = text.encode()
        except UnicodeEncodeError:
            raise invalid_input("Text with a lone surrogate has no UTF-8 form.", "content") from None
    elif base64_text is not None:
        try:
            data = base64.b64decode(base64_text, validate=True)
        except (binascii.Error, ValueError):
            raise invalid_input("The text is not base64.", "content_base64") from None
    if data is None:
        return NO_CONTENT
    if len(data) > limit:
        raise too_large(limit, len(data), "The content")
    return Content(data, digest_of(data), len(data), is_text)
