"""Passages: where a text is cut, what its terms look like in the index, and that nothing of it is lost."""

from __future__ import annotations

import itertools

import hypothesis.strategies as st
from hypothesis import given

from app.domains.knowledge.engines.passages import (
    OVERLAP_CODE_POINTS,
    PASSAGE_CODE_POINTS,
    cut_passages,
    decode_term,
    encode_term,
    encode_terms,
    join_passages,
    passage_bounds,
    stored_term_counts,
    term_counts,
)
from app.domains.repository.engines.tokenizer import token_occurrences, tokenize

WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu "


def test_an_empty_text_has_no_passage() -> None:
    assert passage_bounds("") == []


def test_a_text_of_exactly_one_passage_is_not_cut() -> None:
    assert passage_bounds("x" * PASSAGE_CODE_POINTS) == [(0, PASSAGE_CODE_POINTS)]


def test_a_text_without_white_space_is_cut_hard_at_500_and_overlaps_by_50() -> None:
    assert passage_bounds("x" * 501) == [(0, 500), (450, 501)]


def test_a_passage_ends_before_the_last_white_space_of_its_final_50() -> None:
    text = "x" * 460 + " " + "y" * 20 + "\n" + "z" * 300
    assert passage_bounds(text) == [(0, 481), (431, len(text))]


def test_white_space_before_the_final_50_does_not_cut() -> None:
    text = "x" * 449 + " " + "y" * 300
    assert passage_bounds(text)[0] == (0, 500)


def test_white_space_that_is_the_first_of_the_final_50_cuts() -> None:
    text = "x" * 450 + " " + "y" * 300
    assert passage_bounds(text)[0] == (0, 450)


def test_offsets_count_code_points_and_not_bytes() -> None:
    text = "\N{GRINNING FACE}" * 600
    assert passage_bounds(text) == [(0, 500), (450, 600)]


@given(st.text(max_size=3000) | st.integers(1, 200).map(lambda n: WORDS * n))
def test_the_passages_of_a_text_put_together_are_the_text(text: str) -> None:
    passages = cut_passages(text, token_occurrences)
    rows = [{"start_char": p.start, "end_char": p.end, "text": p.text} for p in passages]
    assert join_passages(rows) == text
    assert [p.passage_no for p in passages] == list(range(len(passages)))
    for before, after in itertools.pairwise(passages):
        assert after.start == before.end - OVERLAP_CODE_POINTS
    assert all(p.end - p.start <= PASSAGE_CODE_POINTS for p in passages)


@given(st.lists(st.text(min_size=1, max_size=20).flatmap(lambda t: st.sampled_from(tokenize(t) or ["x"]))))
def test_terms_survive_their_stored_form(terms: list[str]) -> None:
    stored = encode_terms(terms)
    assert [decode_term(part) for part in stored.split()] == terms
    assert all(part.isascii() and part.isalnum() for part in stored.split())


def test_a_term_that_looks_like_an_encoded_one_is_not_confused_with_it() -> None:
    assert encode_term("ä") == "xc3a4"
    assert encode_term("xc3a4") == "axc3a4"


def test_a_term_counts_once_for_each_passage_that_holds_it() -> None:
    passages = cut_passages("alpha alpha " + "x" * 600 + " beta alpha", token_occurrences)
    assert len(passages) == 2
    counts = term_counts(passages)
    assert (counts["alpha"], counts["beta"]) == (2, 1)
    assert stored_term_counts(encode_terms(passage.terms) for passage in passages) == counts


@given(st.text(alphabet="aZ09 _-.éßΣİ\u0301ﬁ½\u200d\n", max_size=40))
def test_words_are_the_same_whether_or_not_unspaced_script_follows(text: str) -> None:
    assert [*token_occurrences(text), "東"] == token_occurrences(f"{text} 東")
