"""Job rules: what follows a failed try, and when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from app.domains.knowledge.engines.ingest import (
    decode_text,
    first_batch,
    media_type_of,
    pins_digest,
    within_limits,
)
from app.domains.knowledge.engines.jobs import FailureDecision, decide_failure, retry_delay
from app.domains.knowledge.models.vocabulary import (
    KnowledgePlaneLifecycleState as State,
)
from app.kernel.hashing import text_hash

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def decide(*, attempt: int, state: State = State.INGESTING, retryable: bool = True) -> FailureDecision:
    return decide_failure(
        attempt=attempt, max_attempts=4, state=state, retryable=retryable, spread=0.0, now=NOW
    )


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 30), (2, 60), (3, 120)])
def test_a_retryable_failure_with_tries_left_waits_twice_as_long_each_time(
    attempt: int, seconds: int
) -> None:
    assert decide(attempt=attempt) == FailureDecision(True, NOW + timedelta(seconds=seconds), None)


@pytest.mark.parametrize(("spread", "seconds"), [(-1.0, 24.0), (0.0, 30.0), (0.5, 33.0), (1.0, 36.0)])
def test_the_wait_is_spread_by_a_fifth(spread: float, seconds: float) -> None:
    assert retry_delay(1, spread=spread) == pytest.approx(seconds)


def test_the_wait_never_exceeds_an_hour() -> None:
    assert retry_delay(20, spread=1.0) == 3600


@pytest.mark.parametrize("state", [State.PENDING_VERIFY, State.INGESTING])
def test_used_up_tries_fail_the_plane(state: State) -> None:
    assert decide(attempt=4, state=state) == FailureDecision(False, None, State.FAILED)


@pytest.mark.parametrize(
    ("state", "back"), [(State.PENDING_VERIFY, State.DRAFT), (State.INGESTING, State.VERIFIED)]
)
@pytest.mark.parametrize("attempt", [1, 4])
def test_what_no_try_can_mend_takes_the_retry_edge(state: State, back: State, attempt: int) -> None:
    assert decide(attempt=attempt, state=state, retryable=False) == FailureDecision(False, None, back)


@pytest.mark.parametrize("state", [State.ARCHIVED, State.ACTIVE, State.INDEXED])
@pytest.mark.parametrize("retryable", [True, False])
def test_an_archive_or_refresh_never_moves_the_plane(state: State, retryable: bool) -> None:
    assert decide(attempt=4, state=state, retryable=retryable) == FailureDecision(False, None, None)


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("a.txt", "text/plain; charset=utf-8"),
        ("A.MD", "text/markdown; charset=utf-8"),
        ("dir.x/a.csv", "text/csv; charset=utf-8"),
        ("a.json", "application/json"),
        ("a.html", "text/html; charset=utf-8"),
        ("a.pdf", None),
        ("txt", None),
        ("a.txt.gz", None),
    ],
)
def test_a_file_is_ingested_by_its_suffix(name: str, media_type: str | None) -> None:
    assert media_type_of(name) == media_type


@pytest.mark.parametrize("content", [b"\xff", b"a\x00b", b"\xed\xa0\x80", b"\xc0\xaf"])
def test_what_is_not_strict_text_is_passed_over(content: bytes) -> None:
    assert decode_text(content) is None


def test_text_is_kept_as_it_is() -> None:
    assert decode_text("\ufeffa\r\ne\u0301".encode()) == "\ufeffa\r\ne\u0301"


def test_a_batch_is_a_hundred_documents_or_four_mebibytes_but_at_least_one() -> None:
    assert first_batch([1] * 150) == 100
    assert first_batch([2 * 2**20, 2 * 2**20, 1]) == 2
    assert first_batch([5 * 2**20, 1]) == 1
    assert first_batch([]) == 0


def test_the_limits_are_inclusive() -> None:
    assert within_limits(documents=100_000, text_bytes=100_000_000)
    assert not within_limits(documents=100_001, text_bytes=0)
    assert not within_limits(documents=0, text_bytes=100_000_001)


def test_the_digest_of_the_pins_does_not_depend_on_their_order() -> None:
    pins = [("b", 1, "sha256:b"), ("a", 2, "sha256:a")]
    assert pins_digest(pins) == text_hash('[["a",2,"sha256:a"],["b",1,"sha256:b"]]')
    assert pins_digest(reversed(pins)) == pins_digest(pins)
