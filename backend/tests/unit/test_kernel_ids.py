"""Kernel: identifiers are unique, sort by the time they were made, and fit the one pattern."""

from __future__ import annotations

import re
import threading
import time
from uuid import UUID

from app.kernel.ids import ID_PATTERN, Uuid7Ids


def test_an_id_is_its_prefix_and_a_version_7_uuid_of_now() -> None:
    before = time.time_ns() // 1_000_000
    prefix, _, digits = Uuid7Ids().new("run").partition("_")
    uuid = UUID(digits)
    assert (prefix, uuid.version, uuid.variant) == ("run", 7, "specified in RFC 4122")
    assert before <= uuid.int >> 80 <= time.time_ns() // 1_000_000
    assert re.fullmatch(ID_PATTERN, f"run_{digits}")


def test_ids_rise_even_within_a_millisecond() -> None:
    factory = Uuid7Ids()
    made = [factory.new("x") for _ in range(20_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_threads_never_get_the_same_id() -> None:
    factory = Uuid7Ids()
    made: list[list[str]] = []

    def make() -> None:
        made.append([factory.new("x") for _ in range(2_000)])

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({name for names in made for name in names}) == 8_000
    assert all(names == sorted(names) for names in made)
