"""L5 rule: search in a plane: which terms are looked up, and which documents answer.

Everything is integer arithmetic on numbers that both dialects store alike, so the order is equal on both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.db.connection import DriverConnection
from app.domains.knowledge.drivers import plane_documents, plane_passages, plane_search, plane_terms
from app.domains.knowledge.engines.passages import encode_term, join_passages

MAX_TERMS = 8
MAX_CANDIDATES = 1000
PASSAGES_PER_DOCUMENT = 3


@dataclass(frozen=True, slots=True)
class Answer:
    """The documents that answer, best first, and whether candidates were left out.

    A document holds its reference, score and best passages, and `live`: whether it may still be shown.
    """

    documents: tuple[dict[str, Any], ...]
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


def find_documents(
    connection: DriverConnection,
    *,
    tenant_id: str,
    plane: Mapping[str, Any],
    wanted: Sequence[str],
    match_all: bool,
    limit: int,
) -> Answer:
    """Return the best documents for the wanted terms, in two statements (one when no term is known).

    A passage scores by BM25 in integers: the sum over the terms of `idf * w // 1000`, where
    `w = 22000 * count * average // (10 * count * average + 3 * average + 9 * length)`. A document scores as
    its best passage; the order is by score descending, then artifact id.
    """
    keys: dict[str, Any] = {"tenant_id": tenant_id, "plane_id": plane["plane_id"]}
    known = plane_terms.list_frequencies(connection, **keys, terms=wanted)
    chosen = choose_terms(known, wanted, match_all=match_all)
    if not chosen:
        return Answer((), capped=False)
    passages = plane["passage_count"]
    # As many passages at most as its rarest term has, or as all terms have together.
    bound = known[chosen[0]] if match_all else sum(known[term] for term in chosen)
    cut = bound > MAX_CANDIDATES
    rows = plane_search.list_best(
        connection,
        [plane_search.Term(encode_term(term), inverse_frequency(passages, known[term])) for term in chosen],
        **keys,
        generation=plane["generation"],
        match_all=match_all,
        average=max(1, plane["token_total"] // max(1, passages)),
        candidates=MAX_CANDIDATES if cut else None,
        documents_wanted=limit,
        passages_each=PASSAGES_PER_DOCUMENT,
    )
    documents: dict[str, dict[str, Any]] = {}
    for row in rows:
        document = documents.get(row["artifact_id"])
        if document is None:
            document = {**_reference(row), "score": row["score"], "live": row["live"], "passages": []}
            documents[row["artifact_id"]] = document
        document["passages"].append(_passage(row))
    return Answer(tuple(documents.values()), capped=cut and bool(rows) and rows[0]["found"] > MAX_CANDIDATES)


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
