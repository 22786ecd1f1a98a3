"""Policies: read the text of a condition: which names it uses and where, and how much work it may ask for.

The CEL library parses and evaluates; it tells neither where a name stands nor how deep comprehensions
nest. This reader walks the tokens for just that. It is told only texts that the library has parsed, and
its names are compared with the library's, so a disagreement refuses the condition.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from app.domains.policies.errors import InvalidConditionError

MACROS = frozenset({"all", "exists", "exists_one", "existsOne", "filter", "map"})
_TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n]*)
    |(?P<string>(?:[rR][bB]?|[bB][rR])(?:'{3}[\s\S]*?'{3}|"{3}[\s\S]*?"{3}|'[^'\n]*'|"[^"\n]*")
      |[bB]?(?:'{3}(?:\\[\s\S]|[^\\])*?'{3}|"{3}(?:\\[\s\S]|[^\\])*?"{3}
      |'(?:\\.|[^\\'\n])*'|"(?:\\.|[^\\"\n])*"))
    |(?P<number>0[xX][0-9a-fA-F]+[uU]?|(?:[0-9]+\.[0-9]+|\.[0-9]+|[0-9]+)(?:[eE][+-]?[0-9]+)?[uU]?)
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<sign>&&|\|\||[=!<>]=|[-+*/%<>!?:.,()\[\]{}])""",
    re.VERBOSE,
)
_LITERALS = frozenset({"true", "false", "null"})
_CLOSING = {")": "(", "]": "[", "}": "{"}


@dataclass(frozen=True, slots=True)
class Token:
    """One token and its offset in the text."""

    kind: str
    text: str
    offset: int


@dataclass(frozen=True, slots=True)
class Use:
    """A name at a place; `of` is the name that a member is selected from."""

    name: str
    offset: int
    of: str | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """A call at a place; `method` tells `x.f()` from `f()`, `arguments` are its tokens."""

    name: str
    offset: int
    method: bool
    depth: int
    arguments: tuple[Token, ...]


@dataclass(slots=True)
class Reading:
    """What a condition's text uses; depth counts comprehensions inside one another."""

    free: list[Use] = field(default_factory=list)
    bound: set[str] = field(default_factory=set)
    binders: list[Use] = field(default_factory=list)
    members: list[Use] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    depth: int = 0
    deepest_offset: int = 0
    tokens: int = 0
    additions: int = 0
    commas: int = 0


@dataclass(slots=True)
class _Frame:
    bracket: str
    macro: bool = False
    binder: str | None = None


def position(text: str, offset: int) -> dict[str, int]:
    """Return line and column of an offset, both from 1."""
    return {"line": text.count("\n", 0, offset) + 1, "column": offset - text.rfind("\n", 0, offset)}


def tokens_of(text: str) -> list[Token]:
    """Return the tokens of a condition; refuse a character that CEL does not know."""
    found: list[Token] = []
    offset = 0
    while offset < len(text):
        match = _TOKEN.match(text, offset)
        if match is None:
            raise InvalidConditionError("unexpected character", **position(text, offset))
        if match.lastgroup != "skip":
            found.append(Token(str(match.lastgroup), match.group(), offset))
        offset = match.end()
    return found


def read(text: str) -> Reading:
    """Return the names, calls and measures of a condition that the library has parsed."""
    tokens = tokens_of(text)
    reading = Reading(tokens=len(tokens))
    frames: list[_Frame] = []
    for index, token in enumerate(tokens):
        if token.kind == "sign":
            _read_sign(token, tokens, index, frames, reading)
        elif token.kind == "name" and token.text != "in":
            _read_name(text, tokens, index, frames, reading)
    return reading


def _read_sign(token: Token, tokens: list[Token], index: int, frames: list[_Frame], reading: Reading) -> None:
    if token.text in "([{":
        macro = token.text == "(" and _is_macro_call(tokens, index)
        frames.append(_Frame(token.text, macro=macro))
        depth = sum(frame.macro for frame in frames)
        if depth > reading.depth:
            reading.depth, reading.deepest_offset = depth, tokens[index - 1].offset
    elif token.text in _CLOSING:
        if frames:
            frames.pop()
    elif token.text == "+":
        reading.additions += 1
    elif token.text == ",":
        reading.commas += 1


def _read_name(text: str, tokens: list[Token], index: int, frames: list[_Frame], reading: Reading) -> None:
    token = tokens[index]
    before, after = _sign(tokens, index - 1), _sign(tokens, index + 1)
    if before == ".":
        if not _ends_operand(tokens, index - 2):
            raise InvalidConditionError("a name does not begin with a dot", **position(text, token.offset))
        if after == "(":
            reading.calls.append(_call(tokens, index, frames, method=True))
        elif tokens[index - 2].kind == "name" and _sign(tokens, index - 3) != ".":
            reading.members.append(Use(token.text, token.offset, of=tokens[index - 2].text))
    elif after == "(":
        reading.calls.append(_call(tokens, index, frames, method=False))
    elif after == "{":
        raise InvalidConditionError("message values are not supported", **position(text, token.offset))
    elif token.text in _LITERALS:
        return
    elif before == "(" and after == "," and frames[-1].macro:
        frames[-1].binder = token.text
        reading.binders.append(Use(token.text, token.offset))
    elif any(frame.binder == token.text for frame in frames):
        reading.bound.add(token.text)
    else:
        reading.free.append(Use(token.text, token.offset))


def _call(tokens: list[Token], index: int, frames: list[_Frame], *, method: bool) -> Call:
    level, end = 0, index + 1
    while end < len(tokens):
        level += {"(": 1, ")": -1}.get(_sign(tokens, end), 0)
        if level == 0:
            break
        end += 1
    depth = sum(frame.macro for frame in frames)
    name = tokens[index]
    return Call(name.text, name.offset, method, depth, tuple(tokens[index + 2 : end]))


def _is_macro_call(tokens: list[Token], index: int) -> bool:
    return (
        index >= 2
        and tokens[index - 1].kind == "name"
        and tokens[index - 1].text in MACROS
        and _sign(tokens, index - 2) == "."
    )


def _ends_operand(tokens: list[Token], index: int) -> bool:
    if index < 0:
        return False
    token = tokens[index]
    if token.kind == "sign":
        return token.text in (")", "]", "}")
    return token.text != "in" or token.kind != "name"


def _sign(tokens: list[Token], index: int) -> str:
    if 0 <= index < len(tokens) and tokens[index].kind == "sign":
        return tokens[index].text
    return ""
