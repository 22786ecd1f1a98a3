"""Search rules: which terms are looked up, and how much each weighs."""

from __future__ import annotations

import math

from app.domains.knowledge.engines.search import choose_terms, inverse_frequency


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
