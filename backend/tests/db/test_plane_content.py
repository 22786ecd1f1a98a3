"""Plane content on the database: visibility by generation, exact terms, the scan's totals, and search."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from app.bootstrap import build_spine
from app.connectors.values import Caps, ConnectorFailedError, ConnectorRefusedError, ConnectorResult
from app.domains.knowledge.engines import classification, ingest, search
from app.domains.knowledge.engines.ingest import Pin, index_document
from app.domains.knowledge.engines.passages import encode_term
from app.domains.knowledge.engines.scan import CATEGORIES
from app.domains.repository.engines.tokenizer import query_tokens, token_occurrences
from app.hoc_spine.spine import Spine
from app.hoc_spine.transactions import statement_counter
from app.kernel.hashing import digest_of
from app.settings import Settings
from tests.factories.databases import DIALECTS, Databases
from tests.factories.planes import index_plane, register_plane
from tests.factories.steering import SteerableClock, SteerableIds
from tests.factories.tenants import Tenant, make_tenant

NOW = datetime(2026, 5, 6, tzinfo=UTC)
CAPS = Caps(max_documents=100, max_response_bytes=5 * 1024 * 1024)
WORDS = [f"word{n}" for n in range(300)] + ["größe", "naïve", "東京都", "emoji😀", "x1y2", "ΣΊΣΥΦΟΣ"]


def corpus(documents: int, *, seed: int = 7) -> dict[str, str]:
    """Return texts by name, Zipf distributed, the same on each call."""
    draw = random.Random(seed)
    weights = [1 / (rank + 1) for rank in range(len(WORDS))]
    return {
        f"doc-{n:03}": " ".join(draw.choices(WORDS, weights, k=draw.randint(0, 250)))
        for n in range(documents)
    }


def fill(
    spine: Spine,
    tenant: Tenant,
    plane_id: str,
    texts: dict[str, str],
    *,
    generation: int = 1,
    settle: bool = True,
) -> dict[str, Any]:
    """Write documents straight into a generation of a plane, put it in place, and return the plane's row."""
    documents = []
    for name, text in texts.items():
        digest = digest_of(text.encode())
        pin = Pin(f"art-{name}", 1, digest, digest, name, "text/plain", len(text.encode()))
        documents.append(index_document(pin, text, tokenizer=token_occurrences))
    keys: dict[str, Any] = {"tenant_id": tenant.tenant_id, "plane_id": plane_id}
    with spine.transactions.write(tenant.tenant_id) as connection:
        ingest.write_batch(connection, **keys, generation=generation, documents=documents, now=NOW)
        if settle:
            found = ingest.settle_generation(connection, **keys, generation=generation)
            values = {
                "generation": found.generation,
                "document_count": found.document_count,
                "passage_count": found.passage_count,
                "token_total": found.token_total,
            }
            ingest.set_statistics(connection, **keys, values=values)
    return row_of(spine, tenant, plane_id)


def row_of(spine: Spine, tenant: Tenant, plane_id: str) -> dict[str, Any]:
    names = ("plane_id", "generation", "document_count", "passage_count", "token_total")
    plane = tenant.call("knowledge.planes.get", {"plane_id": plane_id})
    return {name: getattr(plane, name) for name in names}


def ask(
    spine: Spine,
    tenant: Tenant,
    plane: dict[str, Any],
    action: str,
    *,
    caps: Caps = CAPS,
    deadline: float | None = None,
    **payload: Any,
) -> ConnectorResult:
    """Execute the repository connector in a read unit, as mediated retrieval does."""
    with spine.transactions.read(tenant.tenant_id) as connection:
        return spine.services.connectors["repository"].execute(
            connection,
            tenant_id=tenant.tenant_id,
            plane=plane,
            action=action,
            payload=payload,
            config={},
            caps=caps,
            deadline=time.monotonic() + 30 if deadline is None else deadline,
        )


def find(
    spine: Spine, tenant: Tenant, plane: dict[str, Any], text: str, *, match: str = "any", limit: int = 50
) -> search.Answer:
    with spine.transactions.read(tenant.tenant_id) as connection:
        answer: search.Answer = search.find_documents(
            connection,
            tenant_id=tenant.tenant_id,
            plane=plane,
            wanted=query_tokens(text),
            match_all=match == "all",
            limit=limit,
        )
        return answer


def found(answer: search.Answer) -> list[str]:
    """Return the ids of the documents that answer, in their order."""
    return [document["artifact_id"] for document in answer.documents]


def ranked(answer: search.Answer) -> list[tuple[str, int, tuple[int, ...]]]:
    """Return each document that answers with its score and its passages, in their order."""
    return [
        (hit["artifact_id"], hit["score"], tuple(part["passage_no"] for part in hit["passages"]))
        for hit in answer.documents
    ]


def expected_ranking(
    plane: dict[str, Any], weights: dict[str, int], rows: Sequence[Any], *, limit: int
) -> list[tuple[str, int, tuple[int, ...]]]:
    """Return what `ranked` shows of these candidate rows: the same formula, written once more."""
    average = max(1, plane["token_total"] // max(1, plane["passage_count"]))
    scores: dict[str, list[tuple[int, int]]] = {}
    for row in rows:
        counts = Counter(row["terms"].split())
        score = 0
        for term, idf in weights.items():
            count, length = counts[encode_term(term)], row["term_total"]
            weight = 22_000 * count * average // (10 * count * average + 3 * average + 9 * length)
            score += idf * weight // 1000
        scores.setdefault(row["artifact_id"], []).append((-score, row["passage_no"]))
    best = sorted((min(passages)[0], artifact_id) for artifact_id, passages in scores.items())
    return [
        (artifact_id, -negative, tuple(no for _, no in sorted(scores[artifact_id])[:3]))
        for negative, artifact_id in best[:limit]
    ]


@pytest.fixture
def plane_id(tenant: Tenant) -> str:
    return register_plane(tenant)


@pytest.fixture
def repository_plane(spine: Spine, tenant: Tenant) -> Callable[[dict[str, str]], dict[str, Any]]:
    """Index real artifacts (id `art-<name>`) and return the plane's row."""

    def make(texts: dict[str, str]) -> dict[str, Any]:
        tenant.call("repository.collections.create", {"id": "col-x", "name": "x"})
        items = [
            {
                "id": f"art-{name}",
                "name": name,
                "artifact_type": "note",
                "content": text,
                "media_type": "text/plain; charset=utf-8",
            }
            for name, text in texts.items()
        ]
        tenant.call("repository.artifacts.create_bulk", {"items": items, "collection_id": "col-x"})
        plane_id = register_plane(tenant, owned_collection="col-x")
        index_plane(spine, tenant, plane_id)
        return row_of(spine, tenant, plane_id)

    return make


def test_nothing_of_a_generation_is_visible_before_it_is_put_in_place(
    spine: Spine, tenant: Tenant, plane_id: str
) -> None:
    texts = {"a": "alpha beta"}
    plane = fill(spine, tenant, plane_id, texts, settle=False)
    assert found(find(spine, tenant, plane, "alpha")) == []
    assert tenant.call("knowledge.planes.documents", {"plane_id": plane_id}).items == []
    plane = fill(spine, tenant, plane_id, texts)
    assert found(find(spine, tenant, plane, "alpha")) == ["art-a"]


def test_a_document_that_a_generation_holds_is_not_written_twice(
    spine: Spine, tenant: Tenant, plane_id: str
) -> None:
    texts = {"a": "alpha beta"}
    fill(spine, tenant, plane_id, texts, settle=False)
    plane = fill(spine, tenant, plane_id, texts)
    assert (plane["document_count"], plane["passage_count"], plane["token_total"]) == (1, 1, 2)


def test_a_swept_generation_leaves_the_served_one_as_it_was(
    spine: Spine, tenant: Tenant, plane_id: str, second_connection: sa.Connection
) -> None:
    plane = fill(spine, tenant, plane_id, {"a": "alpha beta"})
    fill(spine, tenant, plane_id, {"b": "alpha gamma"}, generation=2, settle=False)
    keys: dict[str, Any] = {"tenant_id": tenant.tenant_id, "plane_id": plane_id}
    with spine.transactions.write(tenant.tenant_id) as connection:
        ingest.sweep_staged(connection, **keys, generation=1)
    assert found(find(spine, tenant, plane, "alpha gamma")) == ["art-a"]
    rows = second_connection.execute(
        sa.text(
            "SELECT term, passage_frequency, staged_change FROM plane_terms WHERE plane_id = :p ORDER BY term"
        ),
        {"p": plane_id},
    ).all()
    assert [tuple(row) for row in rows] == [("alpha", 1, 0), ("beta", 1, 0)]


def test_the_passage_frequencies_are_exact(
    spine: Spine, tenant: Tenant, plane_id: str, second_connection: sa.Connection
) -> None:
    texts = corpus(60)
    plane = fill(spine, tenant, plane_id, texts)
    rows = second_connection.execute(
        sa.text("SELECT text FROM plane_passages WHERE plane_id = :p"), {"p": plane_id}
    ).scalars()
    expected: Counter[str] = Counter()
    total = 0
    for text in rows:
        tokens = token_occurrences(text)
        total += len(tokens)
        expected.update(set(tokens))
    stored = second_connection.execute(
        sa.text("SELECT term, passage_frequency FROM plane_terms WHERE plane_id = :p"), {"p": plane_id}
    ).all()
    assert {row.term: row.passage_frequency for row in stored} == expected
    assert plane["token_total"] == total


def holds(row: Any, term: str) -> bool:
    return encode_term(term) in row["terms"].split()


def test_the_index_finds_what_a_scan_of_all_passages_finds(
    spine: Spine, tenant: Tenant, plane_id: str, second_connection: sa.Connection
) -> None:
    plane = fill(spine, tenant, plane_id, corpus(80))
    everything = second_connection.execute(
        sa.text("SELECT artifact_id, passage_no, term_total, terms FROM plane_passages WHERE plane_id = :p"),
        {"p": plane_id},
    ).mappings().all()  # fmt: skip
    draw = random.Random(3)
    for _ in range(40):
        wanted = draw.sample(WORDS[40:], draw.randint(1, 9))
        tokens = query_tokens(" ".join(wanted))
        for match in ("any", "all"):
            answer = find(spine, tenant, plane, " ".join(wanted), match=match, limit=9)
            frequency = {token: sum(holds(row, token) for row in everything) for token in tokens}
            chosen = search.choose_terms(frequency, tokens, match_all=match == "all")
            test = all if match == "all" else any
            rows = [row for row in everything if chosen and test(holds(row, term) for term in chosen)]
            weights = {
                term: search.inverse_frequency(plane["passage_count"], frequency[term]) for term in chosen
            }
            assert ranked(answer) == expected_ranking(plane, weights, rows, limit=9)


def test_a_document_scores_as_its_best_passage_and_ties_go_by_id(
    spine: Spine, tenant: Tenant, plane_id: str
) -> None:
    filler = " ".join(["filler"] * 65)
    plane = fill(
        spine, tenant, plane_id, {"b": "pump one", "a": "pump two", "c": f"pump pump {filler} pump {filler}"}
    )
    (first, score, passages), *tied = ranked(find(spine, tenant, plane, "pump"))
    assert (first, tied[0][0]) == ("art-a", "art-b")
    assert score == tied[0][1] > tied[1][1]
    assert (passages, tied[1][0], tied[1][2][0]) == ((0,), "art-c", 0)


def test_another_plane_and_another_tenant_with_the_same_words_are_never_met(
    spine: Spine, tenant: Tenant, other_tenant: Tenant, plane_id: str
) -> None:
    other_plane = register_plane(tenant, name="second")
    foreign_plane = register_plane(other_tenant)
    plane = fill(spine, tenant, plane_id, {"mine": "alpha"})
    fill(spine, tenant, other_plane, {"second": "alpha"})
    fill(spine, other_tenant, foreign_plane, {"foreign": "alpha"})
    assert found(find(spine, tenant, plane, "alpha")) == ["art-mine"]
    foreign = row_of(spine, other_tenant, foreign_plane)
    assert found(find(spine, tenant, foreign, "alpha")) == []


def test_the_look_up_function_answers_only_for_the_tenant_of_the_unit(
    spine: Spine, tenant: Tenant, other_tenant: Tenant, plane_id: str
) -> None:
    from app.domains.knowledge.drivers import plane_search

    fill(spine, tenant, plane_id, {"mine": "alpha"})

    def list_best(unit_of: Tenant, asked_for: Tenant) -> Sequence[Any]:
        with spine.transactions.read(unit_of.tenant_id) as connection:
            return plane_search.list_best(
                connection,
                [plane_search.Term("aalpha", 1)],
                tenant_id=asked_for.tenant_id,
                plane_id=plane_id,
                generation=1,
                match_all=False,
                average=1,
                candidates=9,
                documents_wanted=9,
                passages_each=3,
            )

    assert list_best(tenant, tenant)
    if spine.transactions.dialect_name == "postgresql":
        assert not list_best(other_tenant, tenant)
    assert not list_best(other_tenant, other_tenant)


def test_the_index_forgets_deleted_passages(spine: Spine, tenant: Tenant, plane_id: str) -> None:
    plane = fill(spine, tenant, plane_id, {"a": "alpha", "b": "alpha beta"})
    with spine.transactions.write(tenant.tenant_id) as connection:
        assert ingest.forget_artifacts(connection, tenant_id=tenant.tenant_id, artifact_ids=["art-b"]) == 1
    assert found(find(spine, tenant, plane, "alpha beta")) == ["art-a"]
    assert found(find(spine, tenant, plane, "beta")) == []


def test_too_many_candidates_are_cut_in_key_order_and_told(
    spine: Spine, tenant: Tenant, plane_id: str
) -> None:
    plane = fill(spine, tenant, plane_id, {f"{n:04}": "alpha" for n in range(1005)})
    ranking = find(spine, tenant, plane, "alpha", limit=2000)
    assert ranking.capped
    assert found(ranking) == [f"art-{n:04}" for n in range(1000)]


def test_words_that_are_syntax_elsewhere_are_words_here(spine: Spine, tenant: Tenant, plane_id: str) -> None:
    plane = fill(spine, tenant, plane_id, {"a": "alpha and near or not beta", "b": "alpha"})
    for text in ('alpha AND "beta', "NEAR(alpha beta)", "alpha*", "a:alpha OR", "-alpha ^ {x}", "'; --alpha"):
        assert found(find(spine, tenant, plane, text)), text
    assert found(find(spine, tenant, plane, "not beta", match="all")) == ["art-a"]


def questions(count: int) -> list[str]:
    """Return texts to search for, with words that nobody wrote and signs that mean nothing."""
    draw = random.Random(5)
    signs = ["AND", '"', "*", "word1*", "-word2", "nowhere", "WORD3", "(", "ß", "東京"]
    return [
        " ".join([*draw.sample(WORDS, draw.randint(1, 12)), *draw.sample(signs, draw.randint(0, 2))])
        for _ in range(count)
    ]


def test_1000_searches_answer_alike_on_both_dialects(
    databases: Databases, session_clock: SteerableClock, session_ids: SteerableIds
) -> None:
    answers = []
    for name in DIALECTS:
        settings = Settings(database_url=databases.shared(name), log_sequencer="off")
        spine = build_spine(settings, clock=session_clock, ids=session_ids)
        tenant = make_tenant(spine)
        plane = fill(spine, tenant, register_plane(tenant), corpus(60, seed=11))
        answers.append(
            [
                find(spine, tenant, plane, text, match=match, limit=20)
                for text in questions(500)
                for match in ("any", "all")
            ]
        )
        spine.close()
    assert len(answers[0]) == 1000
    assert sum(len(answer.documents) for answer in answers[0]) > 3000
    assert answers[0] == answers[1]


def test_the_scan_is_summed_up_in_one_statement(spine: Spine, tenant: Tenant, plane_id: str) -> None:
    legal = " ".join(sorted(CATEGORIES["legal"])[:5])
    fill(
        spine,
        tenant,
        plane_id,
        {"a": "a@example.com and b@example.com", "b": f"{legal} c@example.com", "c": "12.0.0.1", "d": "none"},
    )
    with spine.transactions.read(tenant.tenant_id) as connection:
        before = connection.statements
        totals = classification.read_totals(
            connection, tenant_id=tenant.tenant_id, plane_id=plane_id, generation=1
        )
        assert connection.statements == before + 1
    assert totals.documents == 4
    assert totals.pii_counts == {"email": 3, "ip_address": 1}
    assert totals.categories == ("legal",)
    assert totals.highest == "confidential"


def test_an_empty_plane_has_no_class_unless_one_is_declared(
    spine: Spine, tenant: Tenant, plane_id: str
) -> None:
    with spine.transactions.read(tenant.tenant_id) as connection:
        totals = classification.read_totals(
            connection, tenant_id=tenant.tenant_id, plane_id=plane_id, generation=0
        )
    none = classification.decide_classification(totals, declared=None, now=NOW)
    declared = classification.decide_classification(totals, declared="restricted", now=NOW)
    assert none is None
    assert declared is not None
    assert declared.sensitivity_level == "restricted"


def test_search_gives_passages_with_their_place_and_the_pinned_revision(
    spine: Spine, tenant: Tenant, repository_plane: Callable[..., dict[str, Any]]
) -> None:
    text = "filler " * 100 + "the pump is broken " + "filler " * 100
    plane = repository_plane({"manual": text, "other": "nothing of use"})
    tenant.call("repository.artifacts.update", {"artifact_id": "art-manual", "content": "the head moved"})
    result = ask(spine, tenant, plane, "search", text="pump", match="all")
    (document,) = result.documents
    assert (document.artifact_id, document.revision, document.digest) == (
        "art-manual",
        1,
        digest_of(text.encode()),
    )
    for part in document.passages:
        assert text[part["start"] : part["end"]] == part["text"]
        assert "pump" in part["text"]
    assert document.citation()["passages"] == [
        [part["passage_no"], part["start"], part["end"]] for part in document.passages
    ]
    assert ask(spine, tenant, plane, "query", text="pump").documents == result.documents


def test_retrieve_gives_the_whole_text_and_names_what_is_missing(
    spine: Spine, tenant: Tenant, repository_plane: Callable[..., dict[str, Any]]
) -> None:
    texts = {"long": "größe 😀 " * 400, "empty": "", "short": "one"}
    plane = repository_plane(texts)
    wanted = ["art-short", "art-none", "art-long", "art-empty", "art-short"]
    result = ask(spine, tenant, plane, "retrieve", artifact_ids=wanted)
    assert [document.artifact_id for document in result.documents] == ["art-short", "art-long", "art-empty"]
    assert [document.text for document in result.documents] == ["one", texts["long"], ""]
    assert result.missing == ("art-none",)
    assert not result.truncated


def test_retrieve_stops_before_the_document_that_would_be_too_much(
    spine: Spine, tenant: Tenant, repository_plane: Callable[..., dict[str, Any]]
) -> None:
    plane = repository_plane({"a": "x" * 900, "b": "y" * 900, "c": "z"})
    caps = Caps(max_documents=20, max_response_bytes=1024)
    ids = ["art-a", "art-b", "art-c"]
    result = ask(spine, tenant, plane, "retrieve", caps=caps, artifact_ids=ids)
    assert [document.artifact_id for document in result.documents] == ["art-a"]
    assert (result.truncated, result.missing) == (True, ())
    tokens = Caps(max_documents=20, max_response_bytes=10_000, max_tokens=225)
    assert len(ask(spine, tenant, plane, "retrieve", caps=tokens, artifact_ids=ids).documents) == 1
    two = Caps(max_documents=2, max_response_bytes=10_000)
    assert len(ask(spine, tenant, plane, "retrieve", caps=two, artifact_ids=ids).documents) == 2


def test_list_pages_through_references_without_text(
    spine: Spine, tenant: Tenant, repository_plane: Callable[..., dict[str, Any]]
) -> None:
    plane = repository_plane({name: name for name in "edcba"})
    first = ask(spine, tenant, plane, "list", limit=3)
    rest = ask(spine, tenant, plane, "list", limit=3, cursor=first.next_cursor)
    ids = [document.artifact_id for document in (*first.documents, *rest.documents)]
    assert ids == [f"art-{name}" for name in "abcde"]
    assert rest.next_cursor is None
    assert all(document.size() == (0, 0) for document in first.documents)
    with pytest.raises(ConnectorRefusedError, match="INVALID_PAYLOAD"):
        ask(spine, tenant, plane, "list", limit=3, cursor="bm9uZQ")


def test_a_deleted_artifact_is_withheld_at_once(
    spine: Spine, tenant: Tenant, repository_plane: Callable[..., dict[str, Any]]
) -> None:
    plane = repository_plane({"gone": "pump", "kept": "pump"})
    tenant.call("repository.artifacts.delete", {"artifact_id": "art-gone"})
    kept = ["art-kept"]
    assert [item.artifact_id for item in ask(spine, tenant, plane, "search", text="pump").documents] == kept
    assert [item.artifact_id for item in ask(spine, tenant, plane, "list").documents] == kept
    result = ask(spine, tenant, plane, "retrieve", artifact_ids=["art-gone", "art-kept"])
    assert [item.artifact_id for item in result.documents] == kept
    assert result.missing == ("art-gone",)


def test_a_search_takes_two_statements_and_a_miss_one(
    spine: Spine, tenant: Tenant, repository_plane: Callable[..., dict[str, Any]]
) -> None:
    plane = repository_plane({"a": "pump valve", "b": "pump"})
    seen: list[str] = []
    statement_counter(spine.transactions.engine, seen.append)
    for expected, action, payload in (
        (2, "search", {"text": "pump valve"}),
        (1, "search", {"text": "unknown"}),
        (3, "retrieve", {"artifact_ids": ["art-a", "art-b"]}),
        (2, "list", {}),
    ):
        seen.clear()
        ask(spine, tenant, plane, action, **payload)
        assert len([text for text in seen if text.startswith(("SELECT", "WITH"))]) == expected, action


@pytest.mark.parametrize(
    ("action", "payload"),
    [
        ("search", {}),
        ("search", {"text": ""}),
        ("search", {"text": "x" * 4097}),
        ("search", {"text": "!?"}),
        ("search", {"text": "x", "limit": 0}),
        ("search", {"text": "x", "limit": 101}),
        ("search", {"text": "x", "limit": True}),
        ("search", {"text": "x", "limit": "5"}),
        ("search", {"text": "x", "match": "some"}),
        ("search", {"text": "x", "connector_url": "http://x"}),
        ("search", {"text": "a\x00b"}),
        ("retrieve", {"artifact_ids": []}),
        ("retrieve", {"artifact_ids": ["a"] * 101}),
        ("retrieve", {"artifact_ids": "a"}),
        ("retrieve", {"artifact_ids": [1]}),
        ("list", {"limit": 1000}),
        ("list", {"cursor": ""}),
    ],
)
def test_a_payload_that_does_not_fit_is_refused_before_anything_is_read(
    spine: Spine, action: str, payload: dict[str, Any]
) -> None:
    with pytest.raises(ConnectorRefusedError, match="INVALID_PAYLOAD"):
        spine.services.connectors["repository"].check(action=action, payload=payload, config={})


def test_an_unknown_action_is_refused(spine: Spine) -> None:
    with pytest.raises(ConnectorRefusedError, match="ACTION_NOT_SUPPORTED"):
        spine.services.connectors["repository"].check(action="drop", payload={}, config={})


def test_a_passed_deadline_stops_before_the_next_statement(
    spine: Spine, tenant: Tenant, plane_id: str
) -> None:
    plane = fill(spine, tenant, plane_id, {"a": "alpha"})
    with pytest.raises(ConnectorFailedError, match="CONNECTOR_TIMEOUT"):
        ask(spine, tenant, plane, "search", text="alpha", deadline=time.monotonic() - 1)
