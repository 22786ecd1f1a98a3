"""Unit: rdx-1 takes secrets and personal numbers out of texts and JSON values, once and for all."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.kernel.redaction import is_secret_name, redact_json, redact_text

PEM = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMIIEow\n-----END RSA PRIVATE KEY-----"
HEX = "0123456789abcdef" * 4

FRAGMENTS = [
    "4111111111111111",
    "4111 1111 1111 1111",
    "378282246310005",
    "123-45-6789",
    "000-12-3456",
    "sk-" + "a1" * 12,
    "hoc_" + HEX,
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_" + "z9" * 18,
    "xoxb-123456789012-abcdef",
    "Bearer ",
    "bearer abc",
    "bob@example.com",
    "@",
    ".",
    "x",
    "-",
    " ",
    "1",
    "12",
    "_",
    "é",
    "a.b",
    ".org",
    PEM,
    "-----BEGIN PRIVATE KEY-----",
    "github_pat_" + "Q" * 22,
    "gho_" + "k" * 36,
    "AKIA",
    "sk-",
    "hoc_",
    "<REDACTED>",
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"key: {PEM} end", "key: <REDACTED_KEY> end"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNz", "<REDACTED_KEY>"),
        ("use hoc_" + "aB3" * 14 + " now", "use <REDACTED_KEY> now"),
        ("OPENAI=sk-proj-" + "a1" * 20, "OPENAI=<REDACTED_KEY>"),
        ("mail bob.b+x@example.co.uk.", "mail <REDACTED_EMAIL>."),
        ("müller@bücher.example", "<REDACTED_EMAIL>"),
        ("a@b.org.c@d.org", "<REDACTED_EMAIL>"),
        ("Authorization: Bearer eyJhbGciOi.J9-_~+/=", "Authorization: Bearer <REDACTED>"),
        ("authorization: bearer  abc", "authorization: Bearer <REDACTED>"),
        ("Bearer Bearer abc", "Bearer <REDACTED>"),
        ("id AKIAIOSFODNN7EXAMPLE", "id <REDACTED_AWS_KEY>"),
        ("ghp_" + "a" * 36, "<REDACTED_GITHUB_TOKEN>"),
        ("gho_" + "a" * 36, "<REDACTED_GITHUB_TOKEN>"),
        ("github_pat_11ABCDEFG0_" + "a" * 59, "<REDACTED_GITHUB_TOKEN>"),
        ("xoxb-123456789012-abcdef", "<REDACTED_SLACK_TOKEN>"),
        ("card 4111 1111 1111 1111", "card <REDACTED_CARD>"),
        ("card 4111-1111-1111-1111!", "card <REDACTED_CARD>!"),
        ("amex 378282246310005", "amex <REDACTED_CARD>"),
        ("4111111111111111 12/27", "<REDACTED_CARD> 12/27"),
        ("4222222222222", "<REDACTED_CARD>"),
        ("ssn 123-45-6789", "ssn <REDACTED_SSN>"),
        ("123-45-6789 4111 1111 1111 1111", "<REDACTED_SSN> <REDACTED_CARD>"),
    ],
)
def test_a_secret_becomes_its_marker(text: str, expected: str) -> None:
    redacted, count = redact_text(text)
    assert redacted == expected
    assert count >= 1


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",
        "41111111111111111111",
        "1 4111 1111 1111 1111 1111 1111",
        "4111  1111  1111  1111",
        "000-12-3456",
        "666-12-3456",
        "900-12-3456",
        "123-45-67890",
        "task-management-system-overview-page",
        "sk-tooshort",
        "hoc_ab12cd34",
        "user@localhost",
        "a bearing",
        "ships AKIA and ghp_ and xoxb-",
        "2026-11-20T10:32:37.000000Z",
        "snap_0a1b2c",
        "",
        "<REDACTED> <REDACTED_CARD> Bearer <REDACTED>",
    ],
)
def test_harmless_text_survives_unchanged(text: str) -> None:
    assert redact_text(text) == (text, 0)


@pytest.mark.parametrize(
    "key",
    [
        "password",
        "PassWord",
        "api_key",
        "api-key",
        "apiKey",
        "API_KEY",
        "Set-Cookie",
        "Authorization",
        "client_secret",
        "credit-card",
        "card_number",
        "CVV",
        "ssn",
        "private_key",
        "access_token",
        "x_secret",
        "db_password",
        "accessKey",
        "token",
        "cookie",
        "passwd",
        "secret",
    ],
)
def test_a_value_under_a_secret_name_is_redacted_whole(key: str) -> None:
    for value in ("x", 5, None, True, ["a"], {"b": 1}):
        assert redact_json({key: value}) == ({key: "<REDACTED>"}, 1)


@pytest.mark.parametrize(
    "key", ["tokens", "max_tokens", "total_tokens", "tokenizer", "secretary", "author", "key"]
)
def test_a_name_that_only_resembles_a_secret_keeps_its_value(key: str) -> None:
    assert not is_secret_name(key)
    assert redact_json({key: 4096}) == ({key: 4096}, 0)


def test_numbers_are_redacted_by_key_name_only() -> None:
    value = {"at_ns": 1700000000000000000, "id": 4111111111111111, "cvv": 123, "f": 1e16}
    assert redact_json(value) == (
        {"at_ns": 1700000000000000000, "id": 4111111111111111, "cvv": "<REDACTED>", "f": 1e16},
        1,
    )


def test_every_string_at_every_depth_is_counted() -> None:
    value = {"a": ["bob@example.com", {"b": "x 123-45-6789 and 4111111111111111"}], "token": {"deep": "gone"}}
    redacted, count = redact_json(value)
    assert redacted == {
        "a": ["<REDACTED_EMAIL>", {"b": "x <REDACTED_SSN> and <REDACTED_CARD>"}],
        "token": "<REDACTED>",
    }
    assert count == 4


def test_a_secret_in_a_key_is_redacted_without_losing_members() -> None:
    value = {"z@example.com": 1, "a@example.com": 2, "<REDACTED_EMAIL>": 3}
    expected = {"<REDACTED_EMAIL>": 3, "<REDACTED_EMAIL> (2)": 2, "<REDACTED_EMAIL> (3)": 1}
    assert redact_json(value) == (expected, 2)
    assert redact_json(dict(reversed(value.items()))) == (expected, 2)
    assert redact_json(expected) == (expected, 0)


def test_the_input_value_is_left_alone() -> None:
    value = {"password": "x", "list": ["bob@example.com"]}
    redact_json(value)
    assert value == {"password": "x", "list": ["bob@example.com"]}


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=7).map("".join))
def test_redaction_of_adjoining_secrets_is_idempotent(text: str) -> None:
    once, _ = redact_text(text)
    assert redact_text(once) == (once, 0)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from(FRAGMENTS)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*FRAGMENTS, "password", "tokens"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(JSON_VALUES)
def test_redaction_of_json_is_idempotent(value: object) -> None:
    once, _ = redact_json(value)
    assert redact_json(once) == (once, 0)


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        "a@",
        "a@b.",
        "@b.c",
        "-----BEGIN PRIVATE KEY-----",
        "-----BEGIN ",
        "-----END ",
        "sk-",
        "hoc_",
        "Bearer ",
        "Bearer\t",
        "1",
        "1 ",
        "12-",
        "123-45-",
        "AKIA",
        "ghp_",
        "xoxb-",
        ".",
        "%+",
        "aé",
        "4111111111111111 ",
        "gh",
        "github_pat_",
        "a@b.co.",
    ],
)
def test_no_text_costs_more_than_linear_time(unit: str) -> None:
    """Compare the processor time of a text with one eight times as long: quadratic growth shows as 64."""

    def cost(size: int) -> float:
        # The words in front wake every pattern; without them most texts would be let through unread.
        text = "@ PRIVATE KEY hoc_ sk- Bearer BEARER AKIA gh github_pat_ xox " + unit * (size // len(unit))
        best = 60.0
        for _ in range(4):
            start = time.thread_time()
            redact_text(text)
            best = min(best, time.thread_time() - start)
        return best

    assert cost(64_000) < 40 * cost(8_000) + 0.005
