"""Connectors: the placeholders of SQL templates; everything else of a template passes through as it is."""

from __future__ import annotations

import re

# Quoted text and names, comments and casts hold no placeholder.
_TOKENS = re.compile(
    r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/|::|:([A-Za-z_][A-Za-z0-9_]*)|%", re.DOTALL
)


def to_psycopg(sql: str) -> str:
    """Return a template with `%(name)s` for each `:name`, and every other percent sign doubled."""

    def rewrite(match: re.Match[str]) -> str:
        name = match.group(1)
        return match.group().replace("%", "%%") if name is None else f"%({name})s"

    return _TOKENS.sub(rewrite, sql)
