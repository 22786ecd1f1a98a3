"""L5 rules of the text index: what of an artifact is indexed, and what a query asks for."""

from __future__ import annotations

from dataclasses import dataclass

from app.domains.repository.engines.tokenizer import query_tokens, tokenize
from app.domains.repository.engines.values import is_textual
from app.domains.repository.errors import empty_query, invalid_filter

MAX_INDEXED_BYTES = 1024 * 1024
MAX_TOKEN_BYTES = 512 * 1024
MAX_QUERY_TOKENS = 64


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """The distinct tokens of an artifact, joined by spaces; `truncated` when not all of them fit."""

    tokens: str
    token_count: int
    truncated: bool


def index_entry(name: str, data: bytes | None, media_type: str | None) -> IndexEntry:
    """Return what is indexed of an artifact: its name, and textual content that is strict UTF-8."""
    text, cut_off = _searchable(data, media_type)
    tokens = tokenize(f"{name}\n{text}" if text else name)
    total = sum(map(len, tokens)) if text.isascii() and name.isascii() else _byte_length(tokens)
    if total <= MAX_TOKEN_BYTES:
        return IndexEntry(" ".join(tokens), len(tokens), cut_off)
    kept: list[str] = []
    room = MAX_TOKEN_BYTES
    for token in tokens:
        room -= len(token.encode())
        if room < 0:
            break
        kept.append(token)
    return IndexEntry(" ".join(kept), len(kept), True)


def _byte_length(tokens: list[str]) -> int:
    return sum(len(token.encode()) for token in tokens)


def _searchable(data: bytes | None, media_type: str | None) -> tuple[str, bool]:
    if data is None or not is_textual(media_type):
        return "", False
    try:
        if len(data) <= MAX_INDEXED_BYTES:
            return data.decode(), False
        # All of it must be UTF-8, though only the first part is read.
        data.decode()
    except UnicodeDecodeError:
        return "", False
    return data[:MAX_INDEXED_BYTES].decode(errors="ignore"), True


def check_query(text: str) -> list[str]:
    """Return the tokens that must all occur; refuse EMPTY_QUERY, and INVALID_FILTER above 64."""
    tokens = query_tokens(text)
    if not tokens:
        raise empty_query()
    if len(tokens) > MAX_QUERY_TOKENS:
        raise invalid_filter(f"The text holds more than {MAX_QUERY_TOKENS} distinct words.")
    return tokens
