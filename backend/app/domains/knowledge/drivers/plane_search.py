"""L6 SQL of a search in a plane: its candidates, their integer scores, and the text of the best.

One statement, equal on both dialects: every number in it is an integer and no operand is negative, so `/`
means the same. `terms` holds each term between blanks of its own, so that what replacing one takes away,
measured in its own length, is how often it occurs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa

from app.db.connection import Dialect, DriverConnection, Row
from app.db.hot import HotStatement
from app.db.liveness import is_live
from app.db.types import BigInt
from app.domains.knowledge.tables import plane_documents as documents
from app.domains.knowledge.tables import plane_passages as passages

# The search index of SQLite and its rows, made by the migration and kept by triggers.
_fts = sa.table("plane_passages_fts", sa.column("rowid"), sa.column("plane_passages_fts"))
_fts_rows = sa.table(
    "plane_passages_fts_rows",
    *(sa.column(name) for name in ("search_no", "tenant_id", "plane_id", "artifact_id", "gen_from")),
    sa.column("passage_no"),
)
_ALL = 2**31 - 1
_TENANT = sa.bindparam("tenant", type_=sa.Text)
_PLANE = sa.bindparam("plane", type_=sa.Text)
_GENERATION = sa.bindparam("generation", type_=sa.Integer)
_MOST = sa.bindparam("most", type_=sa.Integer)
_AVERAGE = sa.bindparam("average", type_=BigInt)
# Written out, a constant costs neither a parameter nor its reading for each passage.
_ZERO, _THREE, _NINE, _TEN, _THOUSAND, _MOST_WEIGHT = (
    sa.literal_column("0", BigInt),
    sa.literal_column("3", BigInt),
    sa.literal_column("9", BigInt),
    sa.literal_column("10", BigInt),
    sa.literal_column("1000", BigInt),
    sa.literal_column("22000", BigInt),
)
_VISIBLE = sa.and_(
    passages.c.tenant_id == _TENANT,
    passages.c.plane_id == _PLANE,
    passages.c.gen_from <= _GENERATION,
    sa.or_(passages.c.gen_to.is_(None), passages.c.gen_to > _GENERATION),
)
_SAME_DOCUMENT = sa.and_(
    documents.c.tenant_id == _TENANT,
    documents.c.plane_id == _PLANE,
    documents.c.artifact_id == passages.c.artifact_id,
    documents.c.gen_from == passages.c.gen_from,
)
_SHOWN = (
    *(passages.c[name] for name in ("passage_no", "start_char", "end_char", "text")),
    *(documents.c[name] for name in ("revision", "revision_digest", "content_digest", "name", "media_type")),
)


@dataclass(frozen=True, slots=True)
class Term:
    """One term that is looked up, as it is stored, and its weight."""

    stored: str
    idf: int


def list_best(
    connection: DriverConnection,
    terms: Sequence[Term],
    *,
    tenant_id: str,
    plane_id: str,
    generation: int,
    match_all: bool,
    average: int,
    candidates: int | None,
    documents_wanted: int,
    passages_each: int,
) -> Sequence[Row]:
    """Return the best passages of the best documents that hold any or all of the terms, best first.

    Each with its document's reference, score and liveness, and with `found`: how many candidates there were,
    at most one more than the `candidates` that were scored, which are the first in key order; None for all.
    """
    keys = [plane_id + term.stored for term in terms]
    given: dict[str, Any] = {
        "tenant": tenant_id,
        "plane": plane_id,
        "generation": generation,
        "average": average,
        "most": None if candidates is None else candidates + 1,
        "scored": _ALL if candidates is None else candidates,
        "documents": documents_wanted,
        "each": passages_each,
    }
    for place, term in enumerate(terms):
        given[f"word_{place}"], given[f"idf_{place}"] = f" {term.stored} ", term.idf
    if connection.dialect_name == "sqlite":
        # Each key is one quoted word of letters, digits and `._:-`; nothing of the caller's is syntax here.
        given |= {"most": -1 if candidates is None else candidates + 1}
        given["match"] = (" AND " if match_all else " OR ").join([f'"{key}"' for key in keys])
    else:
        given |= {"keys": " ".join(keys), "every": match_all}
    return connection.hot(_statement(len(terms)), given)


@cache
def _statement(terms: int) -> HotStatement:
    return HotStatement(_best("postgresql", terms), sqlite=_best("sqlite", terms))


def _best(dialect_name: Dialect, terms: int) -> sa.Select[Any]:
    scored = _scored(dialect_name, terms)
    found = sa.select(sa.func.max(scored.c.place, type_=sa.Integer)).scalar_subquery()
    among = scored.c.place <= sa.bindparam("scored", type_=sa.Integer)
    score = sa.func.max(scored.c.score).label("score")
    best = (
        sa.select(scored.c.artifact_id, score)
        .where(among)
        .group_by(scored.c.artifact_id)
        .order_by(score.desc(), _bytewise(dialect_name, scored.c.artifact_id))
        # Seen by its planner, the number would make PostgreSQL plan each search anew, which costs as much.
        .limit(sa.select(sa.bindparam("documents", type_=sa.Integer)).scalar_subquery())
        .cte("best")
    )
    nth = sa.func.row_number().over(
        partition_by=scored.c.artifact_id, order_by=(scored.c.score.desc(), scored.c.passage_no)
    )
    chosen = (
        sa.select(scored.c.artifact_id, scored.c.passage_no, best.c.score, nth.label("nth"))
        .join(best, best.c.artifact_id == scored.c.artifact_id)
        .where(among)
        .cte("chosen")
    )
    its_text = sa.and_(
        _VISIBLE,
        passages.c.artifact_id == chosen.c.artifact_id,
        passages.c.passage_no == chosen.c.passage_no,
    )
    columns: Sequence[sa.ColumnElement[Any]] = _SHOWN
    source: sa.FromClause = sa.join(chosen, passages, its_text).join(documents, _SAME_DOCUMENT)
    if dialect_name == "postgresql":
        # Taken for many, they would be found by reading every document of the plane.
        each = (
            sa.select(*_SHOWN)
            .join_from(passages, documents, _SAME_DOCUMENT)
            .where(its_text)
            .correlate(chosen)
            .limit(sa.literal_column("1"))
            .lateral("shown")
        )
        columns, source = tuple(each.c), sa.join(chosen, each, sa.true())
    return (
        sa.select(
            chosen.c.artifact_id,
            chosen.c.score,
            found.label("found"),
            is_live(tenant_id=_TENANT, artifact_id=chosen.c.artifact_id).label("live"),
            *columns,
        )
        .select_from(source)
        .where(chosen.c.nth <= sa.bindparam("each", type_=sa.Integer))
        .order_by(chosen.c.score.desc(), _bytewise(dialect_name, chosen.c.artifact_id), chosen.c.nth)
    )


def _scored(dialect_name: Dialect, terms: int) -> sa.CTE:
    """Return the candidates with their BM25 score: the sum over the terms of `idf * w / 1000`."""
    found = _candidates(dialect_name)
    length = sa.func.length if dialect_name == "sqlite" else sa.func.octet_length
    counted = (
        sa.select(
            *(found.c[name] for name in ("artifact_id", "passage_no", "place")),
            (_THREE * _AVERAGE + _NINE * found.c.term_total).label("rest"),
            *(
                _times(length, found.c.terms, sa.bindparam(f"word_{place}", type_=sa.Text)).label(
                    f"count_{place}"
                )
                for place in range(terms)
            ),
        )
        # Merged into the score, which names each count twice, it would be counted twice.
        .cte("counted")
        .prefix_with("MATERIALIZED")
    )
    score: Any = _ZERO
    for place in range(terms):
        count = counted.c[f"count_{place}"]
        weight = _MOST_WEIGHT * count // (_TEN * count + counted.c.rest)
        score += sa.bindparam(f"idf_{place}", type_=BigInt) * weight // _THOUSAND
    names = ("artifact_id", "passage_no", "place")
    return sa.select(*(counted.c[name] for name in names), score.label("score")).cte("scored")


def _times(length: Any, terms: sa.ColumnElement[str], word: sa.BindParameter[str]) -> sa.ColumnElement[int]:
    left = sa.func.replace(terms, word, sa.literal_column("''"))
    taken = length(terms, type_=BigInt) - length(left, type_=BigInt)
    counted: sa.ColumnElement[int] = taken // length(word, type_=BigInt) * _AVERAGE
    return counted


def _candidates(dialect_name: Dialect) -> sa.FromClause:
    """Return id, passage_no, term_total and terms of the candidates, and their place in key order."""
    if dialect_name == "postgresql":
        # The function is the one door to the index: row security keeps every other query from using it.
        return (
            sa.func.plane_passage_candidates(
                _TENANT,
                _PLANE,
                _GENERATION,
                sa.func.string_to_array(sa.bindparam("keys", type_=sa.Text), sa.literal_column("' '")),
                sa.bindparam("every", type_=sa.Boolean),
                _MOST,
            )
            .table_valued("artifact_id", "passage_no", "term_total", "terms", with_ordinality="place")
            .render_derived("found")
        )
    row = sa.and_(
        *(
            passages.c[name] == _fts_rows.c[name]
            for name in ("tenant_id", "plane_id", "artifact_id", "gen_from", "passage_no")
        )
    )
    order = (passages.c.artifact_id, passages.c.passage_no)
    return (
        sa.select(
            *order,
            passages.c.term_total,
            passages.c.terms,
            sa.func.row_number().over(order_by=order).label("place"),
        )
        .select_from(_fts.join(_fts_rows, _fts_rows.c.search_no == _fts.c.rowid).join(passages, row))
        .where(_fts.c.plane_passages_fts.op("MATCH")(sa.bindparam("match", type_=sa.Text)), _VISIBLE)
        .order_by(*order)
        .limit(_MOST)
        .subquery("found")
    )


def _bytewise(dialect_name: Dialect, column: sa.ColumnElement[str]) -> sa.ColumnElement[Any]:
    return column if dialect_name == "sqlite" else sa.collate(column, "C")
