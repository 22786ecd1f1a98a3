"""L5 rule: how a text is cut into passages, how terms are written down, how a text is put together."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

PASSAGE_CODE_POINTS = 500
OVERLAP_CODE_POINTS = 50
CUT_WINDOW_CODE_POINTS = 50

Tokenizer = Callable[[str], list[str]]

_LAST_SPACE = re.compile(r"\s(?=\S*\Z)")


@dataclass(frozen=True, slots=True)
class Passage:
    """One passage: its place in the text in code points, its text and its terms with repetitions."""

    passage_no: int
    start: int
    end: int
    text: str
    terms: tuple[str, ...]


def passage_bounds(text: str) -> list[tuple[int, int]]:
    """Return the [start, end) code point bounds of the passages; none for an empty text.

    A passage has at most 500 code points and overlaps the one before by 50. Where more text follows it ends
    before the last white space of its final 50 code points, or at 500 when there is none.
    """
    bounds: list[tuple[int, int]] = []
    start, length = 0, len(text)
    while start < length:
        end = min(start + PASSAGE_CODE_POINTS, length)
        if end < length:
            tail_at = end - CUT_WINDOW_CODE_POINTS
            space = _LAST_SPACE.search(text[tail_at:end])
            if space is not None:
                end = tail_at + space.start()
        bounds.append((start, end))
        if end == length:
            break
        start = end - OVERLAP_CODE_POINTS
    return bounds


def cut_passages(text: str, tokenizer: Tokenizer) -> list[Passage]:
    """Return the passages of a text in order; `tokenizer` gives the terms of a passage with repetitions."""
    passages = []
    for passage_no, (start, end) in enumerate(passage_bounds(text)):
        part = text[start:end]
        passages.append(Passage(passage_no, start, end, part, tuple(tokenizer(part))))
    return passages


# A plane says the same words again and again.
@lru_cache(maxsize=65_536)
def encode_term(term: str) -> str:
    """Return a term in letters and digits of ASCII, so that no search engine reads more into it."""
    return f"a{term}" if term.isascii() and term.isalnum() else f"x{term.encode().hex()}"


def encode_terms(terms: Iterable[str]) -> str:
    """Return a passage's terms as stored: encoded, with repetitions, each between blanks of its own.

    So a plain count of ` term ` in the text is the term's frequency, even where it stands twice in a row.
    """
    stored = "  ".join(map(encode_term, terms))
    return f" {stored} " if stored else ""


def decode_term(encoded: str) -> str:
    """Return the term that `encode_term` wrote."""
    return encoded[1:] if encoded[0] == "a" else bytes.fromhex(encoded[1:]).decode()


def stored_term_counts(stored: Iterable[str]) -> Counter[str]:
    """Return in how many of these passages, given by their stored terms, each term occurs."""
    counts: Counter[str] = Counter()
    for terms in stored:
        counts.update(set(terms.split()))
    return Counter({decode_term(encoded): count for encoded, count in counts.items()})


def term_counts(passages: Iterable[Passage]) -> Counter[str]:
    """Return in how many of these passages each term occurs."""
    counts: Counter[str] = Counter()
    for passage in passages:
        counts.update(set(passage.terms))
    return counts


def join_passages(rows: Iterable[Mapping[str, object]]) -> str:
    """Return the whole text of one document from its passages in order, overlaps taken once."""
    parts: list[str] = []
    reached = 0
    for row in rows:
        start, end, text = row["start_char"], row["end_char"], row["text"]
        assert isinstance(start, int) and isinstance(end, int) and isinstance(text, str)  # noqa: PT018, S101
        parts.append(text[reached - start :])
        reached = end
    return "".join(parts)
