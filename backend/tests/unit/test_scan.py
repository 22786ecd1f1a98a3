"""Scan: each kind of personal data is found where it stands, and what only looks like it is not."""

from __future__ import annotations

import time

import pytest

from app.domains.knowledge.engines.scan import (
    CATEGORIES,
    PII_TYPES,
    count_pii,
    find_categories,
    luhn,
    scan_text,
)
from app.domains.knowledge.models.vocabulary import (
    SensitivityLevel,
)

FOUND = [
    ("email", "write to jane.doe+x@mail.example.co.uk today"),
    ("phone", "call 555-123-4567"),
    ("phone", "call (555) 123-4567."),
    ("phone", "call 5551234567"),
    ("phone", "call +49 170 1234567"),
    ("phone", "Tel. 0711/12345678"),
    ("ssn", "her number is 123-45-6789."),
    ("credit_card", "4111111111111111"),
    ("credit_card", "4111 1111 1111 1111"),
    ("credit_card", "5500-0000-0000-0004,"),
    ("credit_card", "amex 3782 822463 10005"),
    ("credit_card", "no 1234 4111 1111 1111 1111"),
    ("credit_card", "4111 1111 1111 1111 123"),
    ("ip_address", "from 10.0.0.255 on"),
    ("ip_address", "from 2001:db8::1:2 on"),
    ("date_of_birth", "DOB: 1990-01-31"),
    ("date_of_birth", "date of birth = 31.1.1990"),
    ("date_of_birth", "Birthday: 3 March 1990"),
    ("name", "Name: Jane Doe"),
    ("name", '"full_name": "Jane"'),
    ("name", "patient: Smith, John"),
    ("address", "Address: 12 Main Street"),
    ("password", "password=hunter22"),
    ("password", '"passwd" : "s3cret!"'),
    ("api_key", "api_key: abcdef0123456789"),
    ("api_key", "Authorization token=Bearer abcdef0123456789"),
    ("api_key", "AKIAIOSFODNN7EXAMPLE"),
    ("api_key", "ghp_" + "a1" * 18),
    ("api_key", "sk-" + "a1" * 16),
    ("api_key", "-----BEGIN RSA PRIVATE KEY-----"),
]
NOT_FOUND = [
    "not an address: jane.doe@localhost",
    "a date 2024-01-31 10:30:00 and 2024-01-31T10:30:00Z",
    "version 1.2.3 and 1.2.3.4.5",
    "999.1.1.1",
    "std::vector a::b 10:30:00",
    "000-12-3456 666-12-3456 901-12-3456 123-00-4567 123-45-0000",
    "1234-45-6789-1",
    "4111111111111112",
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "hostname: Web Server",
    "name: backend",
    "name: a b",
    "address: 127.0.0.1 is local"[:9],
    "password: <your password>",
    "password:\n  type: string",
    "api_key: short",
    "tokens = 12",
    "filename: Jane Doe",
]


@pytest.mark.parametrize(("kind", "text"), FOUND)
def test_each_kind_is_found_once(kind: str, text: str) -> None:
    assert count_pii(text) == {kind: 1}


@pytest.mark.parametrize("text", NOT_FOUND)
def test_what_only_looks_like_personal_data_is_not_found(text: str) -> None:
    assert count_pii(text) == {}


def test_one_place_counts_for_one_kind_only() -> None:
    assert count_pii("api_key=sk-abcdefghijklmnopqrstuvwx") == {"api_key": 1}
    assert count_pii("password: jane@example.com") == {"password": 1}


def test_every_detection_is_counted() -> None:
    text = "a@example.com, b@example.com; 123-45-6789 and 234-56-7890"
    assert count_pii(text) == {"email": 2, "ssn": 2}


def test_a_long_text_is_scanned_to_its_end() -> None:
    assert count_pii("word " * 200_000 + "123-45-6789") == {"ssn": 1}


def test_the_scan_holds_no_text() -> None:
    scan = scan_text("password=hunter22 and jane@example.com")
    assert "hunter22" not in repr(scan)
    assert "jane" not in repr(scan)
    assert set(scan.pii_counts) <= set(PII_TYPES)


@pytest.mark.parametrize(
    "text",
    [
        "1" * 300_000 + "x",
        "1 " * 150_000,
        "a@" * 150_000,
        "a." * 150_000 + "@",
        "@" + "a." * 150_000,
        "name: " * 50_000,
        "address: 1" * 30_000,
        "password=" * 33_000,
        ":" * 300_000,
        "1:" * 150_000,
        "+1 " * 100_000,
        "sk-" * 100_000,
        "0 1 2 " * 50_000,
    ],
)
def test_a_hostile_text_takes_linear_time(text: str) -> None:
    started = time.process_time()
    scan_text(text)
    # A hundred times what it takes; a quadratic pattern would need minutes.
    assert time.process_time() - started < 20


def test_luhn_accepts_a_valid_number_and_refuses_a_changed_digit() -> None:
    assert luhn("79927398713")
    assert not luhn("79927398710")
    assert not luhn("0" * 16)


@pytest.mark.parametrize("category", sorted(CATEGORIES))
def test_three_different_keywords_make_a_category(category: str) -> None:
    words = sorted(CATEGORIES[category] - set().union(*(CATEGORIES[c] for c in CATEGORIES if c != category)))
    assert find_categories(" ".join(words[:2] * 5)) == ()
    assert find_categories(" ".join(words[:3]).upper()) == (category,)


def test_a_keyword_inside_a_word_is_none() -> None:
    assert find_categories("bankers taxonomy stockings loaner fundamental") == ()


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("nothing of note", SensitivityLevel.INTERNAL),
        ("one a@example.com", SensitivityLevel.INTERNAL),
        ("123-45-6789", SensitivityLevel.RESTRICTED),
        ("4111111111111111", SensitivityLevel.RESTRICTED),
        ("password=hunter22", SensitivityLevel.RESTRICTED),
        ("api_key=abcdef0123456789", SensitivityLevel.RESTRICTED),
        (" ".join(f"p{n}@example.com" for n in range(4)), SensitivityLevel.INTERNAL),
        (" ".join(f"p{n}@example.com" for n in range(5)), SensitivityLevel.CONFIDENTIAL),
        ("invoice payment revenue", SensitivityLevel.INTERNAL),
        ("invoice payment revenue a@example.com", SensitivityLevel.CONFIDENTIAL),
    ],
)
def test_the_level_of_a_text(text: str, level: SensitivityLevel) -> None:
    assert scan_text(text).level is level
