"""L5 rule: the one tokenizer of text search and plane ingest, the same on every backend."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

MAX_TOKEN_CODE_POINTS = 64

# Letters and digits as `str.isalnum` sees them; `_` belongs to a run and splits it at once.
_RUN = re.compile(r"[^\W_]+")
_ASCII_RUN = re.compile(r"[a-z0-9]+")

# Scripts written without spaces: Han, Kana, Hangul. Their runs are indexed by character and by pair.
_UNSPACED = re.compile(
    "["
    "\u1100-\u11ff\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3038-\u303b"
    "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3131-\u318e\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97c\uac00-\ud7fb\uf900-\ufaff\uff66-\uffdc"
    "\U0001aff0-\U0001b16f\U00020000-\U0003ffff"
    "]+"
)


def normalize(text: str) -> str:
    """Return the text as the tokenizer reads it: NFKC, casefold, NFKC."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _pieces(text: str) -> Iterator[tuple[bool, str]]:
    """Yield (unspaced, piece) for every maximal piece of one script in a normalized text, in order."""
    for run in _RUN.finditer(text):
        word = run.group()
        if word.isascii():
            yield False, word
            continue
        start = 0
        for match in _UNSPACED.finditer(word):
            if match.start() > start:
                yield False, word[start : match.start()]
            yield True, match.group()
            start = match.end()
        if start < len(word):
            yield False, word[start:]


def _occurrences(text: str, *, query: bool) -> list[str]:
    if text.isascii():
        words = _ASCII_RUN.findall(text.lower())
        # One look at the longest spares a cut of each.
        if not words or len(max(words, key=len)) <= MAX_TOKEN_CODE_POINTS:
            return words
        return [word[:MAX_TOKEN_CODE_POINTS] for word in words]
    text = normalize(text)
    if _UNSPACED.search(text) is None:
        return [word[:MAX_TOKEN_CODE_POINTS] for word in _RUN.findall(text)]
    found: list[str] = []
    for unspaced, piece in _pieces(text):
        if not unspaced:
            found.append(piece[:MAX_TOKEN_CODE_POINTS])
            continue
        if not query or len(piece) == 1:
            found.extend(piece)
        found.extend(piece[at : at + 2] for at in range(len(piece) - 1))
    return found


def token_occurrences(text: str) -> list[str]:
    """Return every index token with repetitions, in order of appearance (for term frequencies)."""
    return _occurrences(text, query=False)


def tokenize(text: str) -> list[str]:
    """Return the distinct index tokens in order of appearance."""
    return list(dict.fromkeys(_occurrences(text, query=False)))


def query_tokens(text: str) -> list[str]:
    """Return the distinct tokens a query asks for: an unspaced run by its pairs, or its one character."""
    return list(dict.fromkeys(_occurrences(text, query=True)))
