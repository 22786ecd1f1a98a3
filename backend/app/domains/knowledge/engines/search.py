"""L5 rule: search in a plane: which terms are looked up, how passages score, and which documents answer.

Everything is integer arithmetic on numbers that both dialects store alike, so the order is equal on both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.db.connection import DriverConnection
from app.domains.knowledge.drivers import plane_documents, plane_passages, plane_terms
from app.domains.knowledge.engines.passages import between_blanks, encode_term, frequencies, join_passages

MAX_TERMS = 8
MAX_CANDIDATES = 1000
PASSAGES_PER_DOCUMENT = 3


@dataclass(frozen=True, slots=True)
class PlaneFacts:
    """What a search needs to know of the plane: which generation it serves, and its totals."""

    plane_id: str
    generation: int
    passage_count: int
    token_total: int


@dataclass(frozen=True, slots=True)
class Term:
    """One term that is looked up: as the tokenizer wrote it, in how many passages it occurs, its weight."""

    text: str
    passage_frequency: int
    idf: int


@dataclass(frozen=True, slots=True)
class Hit:
    """One document that answers: its score and its best passages, best first."""

    artifact_id: str
    score: int
    passage_nos: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ranking:
    """The documents that answer, best first, and whether candidates were left out."""

    hits: tuple[Hit, ...]
    capped: bool


def choose_terms(known: Mapping[str, int], wanted: Sequence[str], *, match_all: bool) -> list[str]:
    """Return the terms to look up, rarest first; none means an empty answer.

    `any` keeps the rarest terms, at most 8, while their passage frequencies sum to 1000 at most, but at least
    one; terms that the plane does not know are dropped. `all` needs every term.
    """
    ordered = sorted(
        (term for term in wanted if known.get(term, 0) > 0), key=lambda term: (known[term], term)
    )
    if match_all:
        return ordered if len(ordered) == len(wanted) else []
    kept: list[str] = []
    total = 0
    for term in ordered[:MAX_TERMS]:
        total += known[term]
        if kept and total > MAX_CANDIDATES:
            break
        kept.append(term)
    return kept


def inverse_frequency(passages: int, frequency: int) -> int:
    """Return `floor(1000 * ln(1 + (N - df + 0.5) / (df + 0.5)))`."""
    # The counts are exact, but a stale total must never make the logarithm's argument negative.
    rest = max(0, passages - frequency)
    return math.floor(1000 * math.log(1 + (rest + 0.5) / (frequency + 0.5)))


def passage_score(idfs: Sequence[int], counts: Sequence[int], *, length: int, average: int) -> int:
    """Return the integer BM25 score of a passage of `length` terms."""
    score = 0
    for idf, count in zip(idfs, counts, strict=True):
        if count:
            weight = 22_000 * count * average // (10 * count * average + 3 * average + 9 * length)
            score += idf * weight // 1000
    return score


def rank(
    terms: Sequence[Term], candidates: Iterable[Mapping[str, Any]], plane: PlaneFacts, *, limit: int
) -> tuple[Hit, ...]:
    """Return the best documents: by score of their best passage descending, then artifact id."""
    average = max(1, plane.token_total // max(1, plane.passage_count))
    encoded = [between_blanks(encode_term(term.text)) for term in terms]
    idfs = [term.idf for term in terms]
    found: dict[str, list[tuple[int, int]]] = {}
    for row in candidates:
        counts = frequencies(row["terms"], encoded)
        score = passage_score(idfs, counts, length=row["term_total"], average=average)
        found.setdefault(row["artifact_id"], []).append((-score, row["passage_no"]))
    best = sorted((min(passages)[0], artifact_id) for artifact_id, passages in found.items())[:limit]
    return tuple(
        Hit(artifact_id, -negative, tuple(no for _, no in sorted(found[artifact_id])[:PASSAGES_PER_DOCUMENT]))
        for negative, artifact_id in best
    )


def facts_of(plane: Mapping[str, Any]) -> PlaneFacts:
    """Return what a search needs of a registry row."""
    return PlaneFacts(plane["plane_id"], plane["generation"], plane["passage_count"], plane["token_total"])


def find_documents(
    connection: DriverConnection,
    *,
    tenant_id: str,
    plane: Mapping[str, Any],
    wanted: Sequence[str],
    match_all: bool,
    limit: int,
) -> Ranking:
    """Return the best documents for the wanted terms, in two statements (none when no term is known)."""
    facts = facts_of(plane)
    known = plane_terms.list_frequencies(
        connection, tenant_id=tenant_id, plane_id=facts.plane_id, terms=wanted
    )
    chosen = choose_terms(known, wanted, match_all=match_all)
    if not chosen:
        return Ranking((), capped=False)
    rows = plane_passages.list_candidates(
        connection,
        tenant_id=tenant_id,
        plane_id=facts.plane_id,
        generation=facts.generation,
        terms=[encode_term(term) for term in chosen],
        match_all=match_all,
        limit=MAX_CANDIDATES + 1,
    )
    terms = [Term(term, known[term], inverse_frequency(facts.passage_count, known[term])) for term in chosen]
    return Ranking(rank(terms, rows[:MAX_CANDIDATES], facts, limit=limit), capped=len(rows) > MAX_CANDIDATES)


def read_hits(
    connection: DriverConnection, *, tenant_id: str, plane: Mapping[str, Any], hits: Sequence[Hit]
) -> list[dict[str, Any]]:
    """Return the answering documents with the text of their best passages, in order, in one statement."""
    if not hits:
        return []
    rows = plane_passages.list_texts(
        connection,
        tenant_id=tenant_id,
        plane_id=plane["plane_id"],
        generation=plane["generation"],
        passages_wanted=[(hit.artifact_id, no) for hit in hits for no in hit.passage_nos],
    )
    by_key = {(row["artifact_id"], row["passage_no"]): row for row in rows}
    documents = []
    for hit in hits:
        found = [by_key[hit.artifact_id, no] for no in hit.passage_nos if (hit.artifact_id, no) in by_key]
        if found:
            passages = [_passage(row) for row in found]
            documents.append({**_reference(found[0]), "score": hit.score, "passages": passages})
    return documents


def read_documents(
    connection: DriverConnection,
    *,
    tenant_id: str,
    plane: Mapping[str, Any],
    artifact_ids: Sequence[str],
    max_documents: int,
    max_bytes: int,
) -> tuple[list[dict[str, Any]], set[str], bool]:
    """Return the served documents with their whole text in the asked order, the ids not served, and a flag.

    The flag tells that documents were left out: those beyond `max_documents`, and from the first on that
    would pass `max_bytes`, so that their text is never read. Two statements.
    """
    references = plane_documents.list_pins(
        connection,
        tenant_id=tenant_id,
        plane_id=plane["plane_id"],
        generation=plane["generation"],
        artifact_ids=artifact_ids,
    )
    served = [references[artifact_id] for artifact_id in artifact_ids if artifact_id in references]
    kept: list[Mapping[str, Any]] = []
    size = 0
    for row in served[:max_documents]:
        size += row["size_bytes"]
        if size > max_bytes:
            break
        kept.append(row)
    rows = plane_passages.list_all_texts(
        connection,
        tenant_id=tenant_id,
        plane_id=plane["plane_id"],
        keys=[(row["artifact_id"], row["gen_from"]) for row in kept],
    )
    parts: dict[str, list[Mapping[str, Any]]] = {}
    for part in rows:
        parts.setdefault(part["artifact_id"], []).append(part)
    documents = [
        {**_reference(row), "text": join_passages(parts.get(row["artifact_id"], ()))} for row in kept
    ]
    return documents, set(artifact_ids) - set(references), len(kept) < len(served)


def list_documents(
    connection: DriverConnection, *, tenant_id: str, plane: Mapping[str, Any], after: str | None, limit: int
) -> list[dict[str, Any]]:
    """Return references to served documents by artifact id, without text, in one statement."""
    rows = plane_documents.list_served(
        connection,
        tenant_id=tenant_id,
        plane_id=plane["plane_id"],
        generation=plane["generation"],
        after=after,
        limit=limit,
    )
    return [_reference(row) for row in rows]


def _reference(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "artifact_id": row["artifact_id"],
        "revision": row["revision"],
        "digest": row["content_digest"],
        "revision_digest": row["revision_digest"],
        "name": row["name"],
        "media_type": row["media_type"],
    }


def _passage(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "passage_no": row["passage_no"],
        "start": row["start_char"],
        "end": row["end_char"],
        "text": row["text"],
    }
