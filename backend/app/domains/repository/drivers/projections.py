"""L6 SQL of what serves queries: the metadata projection and the token index, of live heads only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from app.db.connection import DriverConnection
from app.db.dialect import among, insert
from app.domains.repository.tables import artifact_metadata, artifact_search

_M, _S = artifact_metadata.c, artifact_search.c


def insert_metadata(
    connection: DriverConnection, *, tenant_id: str, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Insert projection rows."""
    connection.execute(
        insert(connection, artifact_metadata), [{"tenant_id": tenant_id, **row} for row in rows]
    )


def delete_metadata(connection: DriverConnection, *, tenant_id: str, artifact_ids: Sequence[str]) -> None:
    """Remove the projection of artifacts."""
    connection.execute(
        sa.delete(artifact_metadata).where(_M.tenant_id == tenant_id, _M.artifact_id.in_(artifact_ids))
    )


def _replacing(statement: Any) -> sa.Executable:
    replaced: sa.Executable = statement.on_conflict_do_update(
        index_elements=[_S.tenant_id, _S.artifact_id],
        set_={name: statement.excluded[name] for name in ("token_count", "truncated", "tokens")},
    )
    return replaced


# The number is the row id of the full-text index; one writer at a time makes the count safe.
_NEXT = sa.func.coalesce(sa.func.max(_S.search_no), 0) + 1
_NUMBER = sa.select(_NEXT).scalar_subquery()
_NUMBERED = sqlite.insert(artifact_search).values(search_no=_NUMBER)  # gate: SCOPE-001 - of all tenants
_INSERT_ON_SQLITE = _replacing(_NUMBERED)
_TOKENS = sa.func.string_to_array(sa.bindparam("token_text", type_=sa.Text), " ")
_INSERT_ON_POSTGRESQL = _replacing(
    postgresql.insert(artifact_search).values(tokens=sa.func.array_to_tsvector(_TOKENS))
)


def insert_search(connection: DriverConnection, *, tenant_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert index entries; each row holds artifact_id, tokens joined by spaces, token_count, truncated.

    An entry that is there already is replaced.
    """
    if connection.dialect_name == "sqlite":
        statement = _INSERT_ON_SQLITE
        parameters = [{**row, "tokens": _sqlite_tokens(tenant_id, row["tokens"])} for row in rows]
    else:
        statement = _INSERT_ON_POSTGRESQL
        parameters = [
            {
                **{name: value for name, value in row.items() if name != "tokens"},
                "token_text": f"{_tenant_lexeme(tenant_id)} {row['tokens']}".rstrip(),
            }
            for row in rows
        ]
    connection.execute(statement, [{"tenant_id": tenant_id, **row} for row in parameters])


def delete_search(connection: DriverConnection, *, tenant_id: str, artifact_ids: Sequence[str]) -> None:
    """Remove index entries."""
    connection.execute(
        sa.delete(artifact_search).where(_S.tenant_id == tenant_id, _S.artifact_id.in_(artifact_ids))
    )


def _tenant_lexeme(tenant_id: str) -> str:
    """Return the lexeme of a tenant on PostgreSQL; no token of ours holds an `@`."""
    return f"@{tenant_id}"


def _sqlite_token(token: str) -> str:
    return f"a{token}" if token.isascii() else f"x{token.encode().hex()}"


def _sqlite_tokens(tenant_id: str, tokens: str) -> str:
    """Return what FTS5 sees: the tenant as `t` + hex, each token as `a` + token or `x` + hex."""
    if tokens.isascii():
        body = f"a{tokens.replace(' ', ' a')}" if tokens else ""
    else:
        body = " ".join(map(_sqlite_token, tokens.split(" ")))
    return f"t{tenant_id.encode().hex()} {body}"


# The expression names the tenant; the plain column would only tempt the planner to begin with all its rows.
# Of the two indexes on the number, the one named here holds the id too: rows full of tokens stay unread.
_SQLITE_MATCH = sa.text(
    "SELECT s.artifact_id FROM artifact_search_fts JOIN artifact_search AS s"
    " INDEXED BY ix_artifact_search_found ON s.search_no = artifact_search_fts.rowid"
    " WHERE artifact_search_fts MATCH :words AND coalesce(s.tenant_id, '') = :tenant"
)


def matching_ids(
    connection: DriverConnection, *, tenant_id: str, tokens: Sequence[str]
) -> sa.Select[tuple[str]]:
    """Return the query for the artifacts in which all tokens occur; the tenant is part of the match."""
    if connection.dialect_name == "sqlite":
        words = _sqlite_tokens(tenant_id, " ".join(tokens)).split(" ")
        expression = " AND ".join(f'"{word}"' for word in words)
        matched = _SQLITE_MATCH.bindparams(words=expression, tenant=tenant_id).columns(
            sa.column("artifact_id", sa.Text)
        )
        return sa.select(matched.subquery("matched").c.artifact_id)
    lexemes = [_tenant_lexeme(tenant_id), *tokens]
    query = " & ".join("'" + lexeme.replace("\\", "\\\\").replace("'", "''") + "'" for lexeme in lexemes)
    # Row security hides an index from an operator that is not leakproof, as `@@` is; the function, which
    # matches within the tenant of the session alone, runs outside of it.
    found = sa.func.repository_search(sa.cast(query, postgresql.TSQUERY)).table_valued("artifact_id")
    return sa.select(found.c.artifact_id)


def list_entries(
    connection: DriverConnection, *, tenant_id: str, artifact_ids: Sequence[str]
) -> dict[str, tuple[int, bool, frozenset[str]]]:
    """Return count, truncation and indexed words of these artifacts, in the form of `indexed_words`."""
    sqlite = connection.dialect_name == "sqlite"
    words = _S.tokens if sqlite else sa.func.tsvector_to_array(_S.tokens)
    statement = sa.select(_S.artifact_id, _S.token_count, _S.truncated, words.label("words")).where(
        _S.tenant_id == tenant_id, among(connection, _S.artifact_id, artifact_ids)
    )
    return {
        row.artifact_id: (
            row.token_count,
            row.truncated,
            frozenset(row.words.split(" ") if sqlite else row.words) - {""},
        )
        for row in connection.execute(statement)
    }


def indexed_words(connection: DriverConnection, *, tenant_id: str, tokens: str) -> frozenset[str]:
    """Return the words under which tokens, joined by spaces, are indexed."""
    if connection.dialect_name == "sqlite":
        return frozenset(_sqlite_tokens(tenant_id, tokens).split(" ")) - {""}
    return frozenset([_tenant_lexeme(tenant_id), *tokens.split(" ")]) - {""}
