"""Database: the register of governed tables: which rows are facts, and which columns they hash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Literal

import sqlalchemy as sa

from app.db.types import Timestamp
from app.kernel.canonical_json import RawJson, dumps, dumps_object, is_text_of, loads
from app.kernel.clock import format_time
from app.kernel.clock import is_text_of as is_text_of_time
from app.kernel.hashing import sha256_hex

Mode = Literal["APPEND", "HEAD", "EVENTED", "AUDITED", "CHAINED"]
# The envelope of a statement speaks for these columns.
STANDING = frozenset({"tenant_id", "fact_id", "version", "created_at", "updated_at"})
PROTECTED_SET = ("protected_salt", "erased_fact_id")
_AS_THEY_ARE = frozenset((str, int, bool, type(None)))


@dataclass(frozen=True, eq=False)
class Governed:
    """How one table's rows enter the log."""

    table: sa.Table
    mode: Mode
    types: tuple[str, ...]
    protected: tuple[str, ...]
    digests: tuple[str, ...]
    json: frozenset[str]
    unhashed: Mapping[str, str]
    bodies: Mapping[str, tuple[str, ...]]
    joined: Mapping[str, tuple[str, ...]]
    entity: str
    image: str | None = None
    operated: bool = False

    def members(self, type_name: str) -> tuple[str, ...]:
        """The member set of a type's body: its own list, or the hashed columns, and what joins them."""
        return (*self.bodies.get(type_name, self.hashed), *self.joined.get(type_name, ()))

    @cached_property
    def key(self) -> tuple[str, ...]:
        """The primary key without tenant_id."""
        return tuple(column.name for column in self.table.primary_key if column.name != "tenant_id")

    @cached_property
    def hashed(self) -> tuple[str, ...]:
        """Every column that stands in the statement body under its own name."""
        out = STANDING.union(PROTECTED_SET, self.protected, self.unhashed)
        return tuple(column.name for column in self.table.columns if column.name not in out)

    @cached_property
    def hashed_names(self) -> frozenset[str]:
        """The hashed columns as a set."""
        return frozenset(self.hashed)

    @cached_property
    def compared(self) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        """The hashed columns that stand in statements as they are, those that hold times, and the others."""
        rest = tuple(name for name in self.hashed if name in self.json or name in self.digests)
        times = tuple(
            name
            for name in self.hashed
            if name not in rest and isinstance(self.table.c[name].type, Timestamp)
        )
        return tuple(name for name in self.hashed if name not in (*rest, *times)), times, rest


GOVERNED: dict[str, Governed] = {}
FACT_TABLES: dict[str, Governed] = {}
# Facts without a row (mode LOG): the members of their bodies, by type.
LOG_FACTS: dict[str, tuple[str, ...]] = {}
EXEMPT: dict[str, str] = {}


def govern(
    table: sa.Table,
    mode: Mode,
    *,
    types: tuple[str, ...] = (),
    protected: tuple[str, ...] = (),
    digests: tuple[str, ...] = (),
    json_columns: tuple[str, ...] = (),
    unhashed: Mapping[str, str] | None = None,
    bodies: Mapping[str, tuple[str, ...]] | None = None,
    joined: Mapping[str, tuple[str, ...]] | None = None,
    entity: str | None = None,
    image: str | None = None,
    operated: bool = False,
) -> None:
    """Register a table's rows as facts of these types; each unhashed column states class and reason.

    `bodies` are the member lists of types that do not carry the whole row, `joined` names the members
    that a type adds to its columns (`trace`, `closure`). `entity` is what the audit ledger calls a row, the
    table's name in the singular when left out; `image` names the member of its after_state that holds the
    row, which otherwise is the state itself. `operated`: the operator changes these rows too, and those
    changes stand in the system's own ledger.
    """
    entry = Governed(
        table,
        mode,
        types,
        protected,
        digests,
        frozenset(json_columns),
        dict(unhashed or {}),
        dict(bodies or {}),
        dict(joined or {}),
        entity or _singular(table.name).upper(),
        image,
        operated,
    )
    GOVERNED[table.name] = entry
    for name in types:
        FACT_TABLES[name] = entry


def log_fact(type_name: str, members: tuple[str, ...]) -> None:
    """Register a type of facts without a row (mode LOG) and the members of its body."""
    LOG_FACTS[type_name] = members


def _singular(name: str) -> str:
    return f"{name[:-3]}y" if name.endswith("ies") else name.removesuffix("s")


def exempt(table: sa.Table, reason: str) -> None:
    """Register a tenant table as not governed, with the reason."""
    EXEMPT[table.name] = reason


def body_of(entry: Governed, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the statement body of a row: each hashed column in its hashed form."""
    return {name: _hashed_form(entry, name, row[name]) for name in entry.hashed}


def key_of(entry: Governed, row: Mapping[str, Any]) -> list[Any]:
    """Return the primary key values without tenant_id."""
    return [_plain(entry.table.c[name], row[name]) for name in entry.key]


def ref_key_of(entry: Governed) -> sa.ColumnElement[str]:
    """Return the text of a row's key as its leaves have it; ids are of characters that JSON leaves alone."""
    parts: list[sa.ColumnElement[Any]] = []
    for name in entry.key:
        column = entry.table.c[name]
        text = sa.cast(column, sa.Text)
        parts.append(text if isinstance(column.type, sa.Integer) else '"' + text + '"')
    whole = parts[0]
    for part in parts[1:]:
        whole = whole + "," + part
    return "[" + whole + "]"


def row_image(table: sa.Table | str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the audit image of a row: every column but tenant_id and what is protected or a measure."""
    entry = GOVERNED[table if isinstance(table, str) else table.name]
    hidden = {"tenant_id", "fact_id", *entry.protected, *PROTECTED_SET} | {
        name for name, reason in entry.unhashed.items() if reason.startswith("TELEMETRY")
    }
    image = {
        c.name: _hashed_form(entry, c.name, row[c.name]) for c in entry.table.columns if c.name not in hidden
    }
    return {name: loads(value) if isinstance(value, RawJson) else value for name, value in image.items()}


def _hashed_form(entry: Governed, name: str, value: Any) -> Any:
    if value is None:
        return None
    if name in entry.digests:
        data = value.encode() if isinstance(value, str) else bytes(value)
        return {"sha256": sha256_hex(data), "len": len(data)}
    if name in entry.json:
        return RawJson(value)
    return _plain(entry.table.c[name], value)


def _plain(column: sa.Column[Any], value: Any) -> Any:
    if isinstance(value, datetime):
        return format_time(value)
    if isinstance(column.type, Timestamp):
        raise TypeError(f"{column} holds a time, not {type(value).__name__}")
    if isinstance(column.type, sa.Boolean):
        return bool(value)
    if isinstance(column.type, sa.Integer):
        return int(value)
    if isinstance(value, str):
        return str(value)
    raise TypeError(f"{column} has no hashed form for {type(value).__name__}")


def difference(entry: Governed, row: Mapping[str, Any], name: str, stated: Any) -> bool:
    """Tell whether a column of a row is not as a statement says; a value that has no hashed form is not."""
    value = row[name]
    # Most columns stand in statements as they are, and a proof compares thousands of them.
    if (
        type(value) is type(stated)
        and type(value) in _AS_THEY_ARE
        and not (name in entry.json or name in entry.digests)
    ):
        return bool(value != stated)
    try:
        if name in entry.json and name not in entry.digests and isinstance(value, str):
            return not is_text_of(value, stated)
        held = _hashed_form(entry, name, value)
    except (TypeError, ValueError):
        return True
    # In Python True equals 1; in a statement they are two values.
    return type(held) is not type(stated) or bool(held != stated)


def differences(entry: Governed, row: Mapping[str, Any], body: Mapping[str, Any]) -> list[str]:
    """Return the hashed columns of a row that are not as a statement's body says, which names all of them."""
    exact, times, rest = entry.compared
    held, said = [row[name] for name in exact], [body[name] for name in exact]
    # In Python True equals 1; in a statement they are two values.
    alike = held == said and list(map(type, held)) == list(map(type, said))
    if not (alike and all(_is_time(row[name], body[name]) for name in times)):
        rest = entry.hashed
    return [name for name in rest if difference(entry, row, name, body[name])]


def _is_time(value: Any, stated: Any) -> bool:
    return stated is None if value is None else is_text_of_time(stated, value)


def column_default(entry: Governed, name: str) -> Any:
    """Return what a column holds in rows from before it existed: its server default, else null."""
    column = entry.table.c[name]
    given = column.server_default
    if not isinstance(given, sa.DefaultClause):
        return None
    text = str(given.arg).strip("'")
    if isinstance(column.type, sa.Boolean):
        return text.lower() in ("true", "1")
    return int(text) if isinstance(column.type, sa.Integer) else text


def statement_text(members: Mapping[str, Any], body: Mapping[str, Any]) -> str:
    """Return a statement's canonical text; JSON columns of the body are spliced in as stored."""
    return dumps_object({**members, "body": RawJson(dumps_object(body))})


def statement_types() -> dict[str, list[str]]:
    """Return the body member set of every registered fact type, for the committed register."""
    of_rows = {name: entry.members(name) for name, entry in FACT_TABLES.items()}
    return {name: sorted(members) for name, members in sorted((of_rows | LOG_FACTS).items())}


def statement_types_text() -> str:
    """Return the register as it is committed."""
    lines = ",\n".join(f"  {dumps(name)}: {dumps(members)}" for name, members in statement_types().items())
    return f"{{\n{lines}\n}}\n"
