"""Search rules: which terms are looked up, integer BM25, and the order of the answer."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from app.domains.knowledge.engines.passages import encode_terms
from app.domains.knowledge.engines.search import (
    PlaneFacts,
    Term,
    choose_terms,
    inverse_frequency,
    passage_score,
    rank,
)

PLANE = PlaneFacts("kp_1", 1, passage_count=10, token_total=1000)


def candidate(artifact_id: str, passage_no: int, *terms: str, length: int | None = None) -> dict[str, Any]:
    total = len(terms) if length is None else length
    return {
        "artifact_id": artifact_id,
        "passage_no": passage_no,
        "term_total": total,
        "terms": encode_terms(terms),
    }


def test_any_drops_unknown_terms_and_takes_the_rarest_first() -> None:
    known = {"a": 5, "b": 2, "c": 2}
    assert choose_terms(known, ["a", "zz", "c", "b"], match_all=False) == ["b", "c", "a"]


def test_any_keeps_at_most_eight_terms() -> None:
    known = {f"t{n}": n for n in range(1, 20)}
    chosen = choose_terms(known, list(known), match_all=False)
    assert chosen == [f"t{n}" for n in range(1, 9)]


def test_any_keeps_terms_while_their_frequencies_sum_to_a_thousand() -> None:
    assert choose_terms({"a": 400, "b": 600, "c": 1}, ["a", "b", "c"], match_all=False) == ["c", "a"]
    assert choose_terms({"a": 400, "b": 600}, ["a", "b"], match_all=False) == ["a", "b"]


def test_any_keeps_one_term_even_when_it_is_everywhere() -> None:
    assert choose_terms({"a": 5000, "b": 6000}, ["b", "a"], match_all=False) == ["a"]


def test_all_needs_every_term() -> None:
    assert choose_terms({"a": 1, "b": 9}, ["b", "a"], match_all=True) == ["a", "b"]
    assert choose_terms({"a": 1}, ["a", "b"], match_all=True) == []


def test_no_known_term_is_an_empty_answer() -> None:
    assert choose_terms({}, ["a"], match_all=False) == []


def test_the_inverse_frequency_is_the_floor_of_a_thousand_logarithms() -> None:
    assert inverse_frequency(10, 1) == math.floor(1000 * math.log(1 + 9.5 / 1.5))
    assert inverse_frequency(1, 1) == math.floor(1000 * math.log(1 + 0.5 / 1.5))


def test_a_frequency_above_a_stale_total_still_has_a_weight() -> None:
    assert inverse_frequency(3, 7) > 0


def test_the_score_is_the_formula_in_integers() -> None:
    weight = 22_000 * 2 * 100 // (10 * 2 * 100 + 3 * 100 + 9 * 80)
    assert passage_score([1500], [2], length=80, average=100) == 1500 * weight // 1000


@given(st.integers(1, 50), st.integers(1, 500), st.integers(1, 500))
def test_more_occurrences_never_score_less(count: int, length: int, average: int) -> None:
    less = passage_score([1000], [count], length=length, average=average)
    assert passage_score([1000], [count + 1], length=length, average=average) >= less


def test_a_document_scores_as_its_best_passage_and_ties_go_by_id() -> None:
    terms = [Term("x", 3, 1000)]
    rows = [
        candidate("b", 0, "x", length=100),
        candidate("a", 4, "x", length=100),
        candidate("c", 0, "x", length=100),
        candidate("c", 1, "x", "x", length=100),
    ]
    hits = rank(terms, rows, PLANE, limit=10)
    assert [hit.artifact_id for hit in hits] == ["c", "a", "b"]
    assert hits[0].passage_nos == (1, 0)
    assert hits[1].score == hits[2].score


def test_a_document_shows_at_most_three_passages_best_first() -> None:
    rows = [candidate("a", no, *("x" for _ in range(no)), length=50) for no in range(1, 6)]
    (hit,) = rank([Term("x", 5, 1000)], rows, PLANE, limit=10)
    assert hit.passage_nos == (5, 4, 3)


def test_the_limit_cuts_after_the_order() -> None:
    rows = [candidate(name, 0, "x", length=10) for name in "dcba"]
    assert [hit.artifact_id for hit in rank([Term("x", 4, 9)], rows, PLANE, limit=2)] == ["a", "b"]


def test_a_plane_without_passages_divides_by_one() -> None:
    empty = PlaneFacts("kp_1", 1, passage_count=0, token_total=0)
    assert rank([Term("x", 1, 1000)], [candidate("a", 0, "x")], empty, limit=1)[0].score > 0
