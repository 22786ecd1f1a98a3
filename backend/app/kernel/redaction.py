"""Kernel: rdx-1, the redaction of secrets and personal numbers before anything is judged, hashed or stored.

Idempotent, and linear in the length of the text: no pattern can start twice inside the run of characters
that it scans. The prefix patterns are held off by a preceding letter only, and take in every letter and
digit that follows. So a match that becomes a marker never uncovers a match of an earlier pattern, and one
pass in the fixed order is final.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

VERSION = "rdx-1"
REDACTED = "<REDACTED>"
_KEY = "<REDACTED_KEY>"
_EMAIL = "<REDACTED_EMAIL>"
_BEARER = "Bearer <REDACTED>"
_AWS_KEY = "<REDACTED_AWS_KEY>"
_GITHUB_MARK = "<REDACTED_GITHUB_TOKEN>"
_SLACK_MARK = "<REDACTED_SLACK_TOKEN>"
_CARD = "<REDACTED_CARD>"
_SSN = "<REDACTED_SSN>"

SECRET_NAMES = frozenset(
    {"password", "passwd", "secret", "token", "apikey", "authorization", "cookie", "setcookie", "creditcard"}
    | {"cardnumber", "cvv", "ssn", "privatekey", "accesskey", "clientsecret"}
)
SECRET_ENDINGS = ("_token", "_secret", "_password")

# A private key whose end was cut off is redacted to the end of the text: that also keeps the scan linear.
_PEM = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:.*?-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|.*)",
    re.DOTALL,
)
_API_KEY = re.compile(r"(?<![A-Za-z])(?:hoc_[A-Za-z0-9_-]{16,}|sk-[A-Za-z0-9_-]{20,})")
# Addresses that run into one another (`a@b.org.c@d.org`) are one match: the rest would be found next time.
_MAIL = re.compile(r"(?<![\w.%+-])[\w.%+-]+@[\w.-]+\.[^\W\d_]{2,}(?:[\w.%+-]*@[\w.-]+\.[^\W\d_]{2,})*")
_AUTHORIZATION = re.compile(r"(?<![A-Za-z])(?:(?:[Bb]earer|BEARER)[ \t]+)+[A-Za-z0-9._~+/=-]+")
_AWS = re.compile(r"(?<![A-Za-z])AKIA[A-Z0-9]{16}[A-Za-z0-9]*")
_GITHUB = re.compile(r"(?<![A-Za-z])(?:ghp_|gho_|github_pat_)[A-Za-z0-9_]{10,}")
_SLACK = re.compile(r"(?<![A-Za-z])xox[abprs]-[A-Za-z0-9-]{10,}")
# Digits with single spaces or hyphens between: one match is one whole run, however long.
_DIGITS = re.compile(r"[0-9](?:[ -]?[0-9]){8,}")
_SOCIAL = re.compile(r"(?<![0-9])(?!000|666|9)[0-9]{3}-[0-9]{2}-[0-9]{4}(?![0-9])")
# 19 digits with a space or hyphen between any two.
_LONGEST_CARD = 37
# A card number with the two or three digits of its expiry month or check value behind it.
_CARD_WITH_TAIL = re.compile(r"(.*[0-9])([ -][0-9]{2,3})")


def redact_text(text: str) -> tuple[str, int]:
    """Return the text without secrets and personal numbers, and how many were taken out."""
    total = 0
    for mark, pattern, replacement in _MARKED:
        if mark in text:
            text, count = pattern.subn(replacement, text)
            total += count
    if _DIGITS.search(text):
        text, count = _redact_numbers(text)
        total += count
    return text, total


def redact_json(value: Any) -> tuple[Any, int]:
    """Return a JSON value redacted by key names and in every string, and how many places changed.

    Numbers are redacted by key name only, so ids and nanosecond times survive. A key that itself holds a
    secret is redacted like any string; keys that fall together get a number, in the order of the old keys.
    """
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, dict):
        return _redact_object(value)
    if isinstance(value, list | tuple):
        pairs = [redact_json(item) for item in value]
        return [item for item, _ in pairs], sum(count for _, count in pairs)
    return value, 0


@lru_cache(maxsize=4096)
def is_secret_name(key: str) -> bool:
    """Tell whether a value under this key is a secret by the key's name alone."""
    lowered = key.lower()
    return lowered.replace("-", "").replace("_", "") in SECRET_NAMES or lowered.endswith(SECRET_ENDINGS)


def _redact_object(members: dict[str, Any]) -> tuple[dict[str, Any], int]:
    total = 0
    result: dict[str, Any] = {}
    renamed: list[tuple[str, str]] = []
    for key, value in members.items():
        # The common key: no pattern finds itself in an identifier of fewer than 14 characters.
        plain = len(key) < 14 and key.isidentifier()
        name, in_key = (key, 0) if plain else redact_text(key)
        if in_key:
            total += in_key
            renamed.append((key, name))
            continue
        result[key], count = _redact_member(key, value)
        total += count
    for key, name in sorted(renamed):
        unique, number = name, 2
        while unique in result:
            unique, number = f"{name} ({number})", number + 1
        result[unique], count = _redact_member(key, members[key])
        total += count
    return result, total


def _redact_member(key: str, value: Any) -> tuple[Any, int]:
    if is_secret_name(key):
        return REDACTED, int(value != REDACTED)
    return redact_json(value)


def _redact_numbers(text: str) -> tuple[str, int]:
    text, cards = _redact_cards(text)
    text, socials = _SOCIAL.subn(_SSN, text)
    if socials:
        # A social security number taken out of a run of digits may leave a card number standing alone.
        text, more = _redact_cards(text)
        cards += more
    return text, cards + socials


def _redact_cards(text: str) -> tuple[str, int]:
    count = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal count
        run = match.group()
        if _is_card(run):
            count += 1
            return _CARD
        tail = _CARD_WITH_TAIL.fullmatch(run) if len(run) <= _LONGEST_CARD + 4 else None
        if tail and _is_card(tail[1]):
            count += 1
            return _CARD + tail[2]
        return run

    return _DIGITS.sub(replace, text), count


def _is_card(run: str) -> bool:
    if len(run) > _LONGEST_CARD:
        return False
    digits = [int(character) for character in run if character not in " -"]
    if not 13 <= len(digits) <= 19:
        return False
    doubled = (digit * 2 - 9 if digit > 4 else digit * 2 for digit in digits[-2::-2])
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


_MARKED = (
    ("PRIVATE KEY", _PEM, _KEY),
    ("hoc_", _API_KEY, _KEY),
    ("sk-", _API_KEY, _KEY),
    ("@", _MAIL, _EMAIL),
    ("earer", _AUTHORIZATION, _BEARER),
    ("BEARER", _AUTHORIZATION, _BEARER),
    ("AKIA", _AWS, _AWS_KEY),
    ("gh", _GITHUB, _GITHUB_MARK),
    ("github_pat_", _GITHUB, _GITHUB_MARK),
    ("xox", _SLACK, _SLACK_MARK),
)
