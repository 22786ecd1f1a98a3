"""L5 rule: what a text holds of personal data and sensitive subjects; counts only, never the matched text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from typing import Final

from app.domains.knowledge.models.vocabulary import (
    SensitivityLevel,
)

PII_TYPES: Final = (
    "email",
    "phone",
    "ssn",
    "credit_card",
    "ip_address",
    "date_of_birth",
    "name",
    "address",
    "password",
    "api_key",
)
RESTRICTING_TYPES: Final = frozenset({"ssn", "credit_card", "password", "api_key"})
CONFIDENTIAL_DETECTIONS: Final = 5
CATEGORY_KEYWORDS: Final = 3

# A text has a category when it holds at least three different words of the category's list.
CATEGORIES: Final[dict[str, frozenset[str]]] = {
    "financial": frozenset(
        """account accounting amortization asset audit balance bank banking bond budget capital
        cash collateral credit creditor currency debit debt deposit depreciation dividend
        earnings equity expense finance financial fiscal forecast fund hedge income interest
        invest investment investor invoice iban ledger lender lending liability liquidity loan
        margin mortgage overdraft payable payment payroll pension portfolio premium principal
        profit receivable refund remittance revenue salary securities shareholder solvency stock
        tax transaction treasury valuation wage wire yield""".split()  # noqa: SIM905
    ),
    "healthcare": frozenset(
        """allergy ambulance anamnesis anesthesia antibiotic biopsy cancer cardiac cardiology
        chemotherapy clinic clinical comorbidity contraindication diabetes diagnosis diagnostic
        disease doctor dosage dose emergency epidemiology health healthcare hipaa hospital
        hospitalization hypertension icd illness immunization infection inpatient insulin
        laboratory medical medication medicine neurology nurse oncology outpatient pathology
        patient patients pediatric pharmacy physician prescription prognosis psychiatric
        radiology rehabilitation surgeon surgery symptom symptoms syndrome therapy treatment
        tumor vaccination vaccine ward""".split()  # noqa: SIM905
    ),
    "legal": frozenset(
        """affidavit agreement amendment appeal appellant arbitration attorney bailiff breach
        clause complaint compliance confidentiality contract contractual copyright counsel court
        covenant damages defendant deposition disclosure enforcement estoppel gdpr
        indemnification indemnify indemnity injunction jurisdiction jury lawsuit lawyer legal
        legislation liability license licensee licensor litigation negligence notary obligation
        patent plaintiff pleading privilege prosecution provision regulation remedy settlement
        statute statutory subpoena termination testimony tort trademark tribunal verdict
        warranty whereas witness""".split()  # noqa: SIM905
    ),
    "personal": frozenset(
        """address age anniversary birth birthday birthplace child children citizenship daughter
        divorce divorced dob email ethnicity family father firstname gender hobby home husband
        identity lastname maiden marital marriage married mother nationality nickname passport
        personal phone photo private profile race religion residence residency resident sibling
        signature single sister son spouse surname wedding widow widower wife""".split()  # noqa: SIM905
    ),
}

_LABEL_END = r"""["']?[ \t]{0,3}[:=][ \t]{0,3}["']?"""
# The word before is never part of a label: `hostname:` is no `name:`.
_LABEL_START = r"(?<![A-Za-z0-9])"

_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9])"
)
# Patterns begin with a class of characters, by which the search skips ahead, and look behind it afterwards.
_SSN = re.compile(r"(\d(?<![\d-]\d)\d{2})-(\d{2})-(\d{4})(?![\d-])")
# A card number as printed: 4-4-4-4 (and up to three digits more), 4-6-5, 4-6-4, or in one piece. Looked at
# from every start, because the number before it may look like its first group.
_CARD = re.compile(
    r"(?<![\w+.])(?=(?:(\d{4}([ -])\d{4}\2\d{4}\2\d{1,4})(\2\d{1,3})?"
    r"|(\d{4}([ -])\d{6}\5\d{4,5})|(\d{13,19}))(?!\w))"
)
_IPV4 = re.compile(r"\d(?<![\w.]\d)\d{0,2}\.(?:\d{1,3}\.){2}\d{1,3}(?!\w|\.\d)")
_IPV6 = re.compile(r"[0-9A-Fa-f:](?<![\w:].)[0-9A-Fa-f:]{5,38}(?![\w:])")
_PHONE = re.compile(
    r"""(?<![\w+.-])(?:
        \+\d{1,3}[ .()/-]{0,3}\d(?:[ .()/-]{0,2}\d){8,13}  # international
      | (?:1[ .-])?\(?\d{3}\)?[ .-]?\d{3}[ .-]?\d{4}  # North America
      | 0\d{1,5}[ /-]{1,3}\d(?:[ -]?\d){4,12}  # trunk prefix, area code apart
    )(?![\w-]|\.\d)""",
    re.VERBOSE,
)
_DATE_OF_BIRTH = re.compile(
    _LABEL_START
    + r"(?:dob|d\.o\.b\.?|date[ _-]?of[ _-]?birth|birth[ _-]?date|birthday)"
    + _LABEL_END
    + r"(?:\d{1,4}[./-]\d{1,2}[./-]\d{1,4}|\d{1,2}\.? {1,2}[A-Za-z]{3,9}\.? {1,2}\d{4}"
    + r"|[A-Za-z]{3,9}\.? {1,2}\d{1,2},? {1,2}\d{4})",
    re.IGNORECASE,
)
_WORD = r"[A-ZÀ-ÖØ-Þ][^\W\d_]{0,30}\.?(?:['\u2019-][^\W\d_]{1,30})?"
_NAME = re.compile(
    _LABEL_START
    + r"(?:"
    + r"(?i:(?:full|first|last|patient|customer)[ _-]?name|surname|patient)"
    + _LABEL_END
    + _WORD
    + r"|(?i:name)"
    + _LABEL_END
    + _WORD
    + r",? {1,2}"
    + _WORD
    + r")"
)
_ADDRESS = re.compile(
    _LABEL_START
    + r"(?:home[ _-]?address|street[ _-]?address|postal[ _-]?address|address|street)"
    + _LABEL_END
    + r"(?=[^\n]{0,60}\d)(?=[^\n]{0,60}[^\W\d_]{3})(?![A-Za-z]{2,10}://)(?!\d{1,3}\.\d{1,3}\.)(?![^\s@]{1,64}@)[^\W_]",
    re.IGNORECASE,
)
_PASSWORD = re.compile(
    _LABEL_START + r"(?:password|passwd|passphrase|pwd)" + _LABEL_END + r"(?![<{*$\[(])[^\s\"']{4,128}",
    re.IGNORECASE,
)
_API_KEY = re.compile(
    r"""(?<![A-Za-z0-9])(?:
        AKIA[0-9A-Z]{16} | ASIA[0-9A-Z]{16}
      | AIza[0-9A-Za-z_-]{35}
      | gh[opsur]_[A-Za-z0-9]{30,255} | github_pat_[A-Za-z0-9_]{30,255}
      | glpat-[A-Za-z0-9_-]{20,64}
      | xox[abprs]-[A-Za-z0-9-]{10,250}
      | [rs]k_(?:live|test)_[A-Za-z0-9]{16,250}
      | sk-[A-Za-z0-9_-]{20,250}
      | hf_[A-Za-z0-9]{30,64} | npm_[A-Za-z0-9]{36} | SG\.[A-Za-z0-9_-]{16,64}\.[A-Za-z0-9_-]{16,64}
      | hoc_[A-Za-z0-9_-]{20,128}
    )(?![A-Za-z0-9]) | -----BEGIN[ ](?:[A-Z]{2,12}[ ]){0,2}PRIVATE[ ]KEY-----""",
    re.VERBOSE,
)
_LABELLED_KEY = re.compile(
    _LABEL_START
    + r"(?:api[ _-]?key|api[ _-]?token|access[ _-]?key|access[ _-]?token|auth[ _-]?token|client[ _-]?secret"
    + r"|secret[ _-]?key|secret|token)"
    + _LABEL_END
    + r"(?:bearer )?[A-Za-z0-9_/+=.-]{16,512}(?![A-Za-z0-9_/+=.-])",
    re.IGNORECASE,
)
_WORDS = re.compile(r"[a-z]+")
_CARD_DIGITS = range(13, 20)


@dataclass(frozen=True, slots=True)
class Scan:
    """What one text holds: detections by type (none, no entry), categories in order, and its level."""

    pii_counts: dict[str, int]
    categories: tuple[str, ...]
    level: SensitivityLevel


def scan_text(text: str) -> Scan:
    """Return the scan of a whole text; the patterns are bounded, so the time is linear in its length."""
    counts = count_pii(text)
    categories = find_categories(text)
    return Scan(counts, categories, decide_level(counts, categories))


def decide_level(pii_counts: dict[str, int], categories: tuple[str, ...]) -> SensitivityLevel:
    """Return the level that detections and categories ask for."""
    found = sum(pii_counts.values())
    if any(pii_counts.get(kind) for kind in RESTRICTING_TYPES):
        return SensitivityLevel.RESTRICTED
    if found >= CONFIDENTIAL_DETECTIONS or (categories and found):
        return SensitivityLevel.CONFIDENTIAL
    return SensitivityLevel.INTERNAL


def find_categories(text: str) -> tuple[str, ...]:
    """Return the categories of which the text holds at least three different keywords, in order."""
    words = set(_WORDS.findall(text.lower()))
    return tuple(name for name, listed in CATEGORIES.items() if len(words & listed) >= CATEGORY_KEYWORDS)


def count_pii(text: str) -> dict[str, int]:
    """Return the number of detections by type; one place in the text counts for one type only."""
    taken: list[tuple[int, int]] = []
    counts: dict[str, int] = {}
    lowered = text.lower()
    for kind, may_match, find in _FINDERS:
        if not may_match(lowered):
            continue
        spans = [span for span in find(text) if not _overlaps(span, taken)]
        if spans:
            counts[kind] = counts.get(kind, 0) + len(spans)
            taken = sorted([*taken, *spans])
    return {kind: counts[kind] for kind in PII_TYPES if kind in counts}


def _overlaps(span: tuple[int, int], taken: list[tuple[int, int]]) -> bool:
    low, high = 0, len(taken)
    while low < high:
        middle = (low + high) // 2
        if taken[middle][1] <= span[0]:
            low = middle + 1
        else:
            high = middle
    return low < len(taken) and taken[low][0] < span[1]


Finder = Callable[[str], Iterator[tuple[int, int]]]
Hint = Callable[[str], bool]


def _matches(pattern: re.Pattern[str]) -> Finder:
    def find(text: str) -> Iterator[tuple[int, int]]:
        for match in pattern.finditer(text):
            yield match.span()

    return find


def _find_ssn(text: str) -> Iterator[tuple[int, int]]:
    for match in _SSN.finditer(text):
        area, group, serial = match.groups()
        if area not in {"000", "666"} and area[0] != "9" and group != "00" and serial != "0000":
            yield match.span()


def _find_ip(text: str) -> Iterator[tuple[int, int]]:
    for match in _IPV4.finditer(text) if text.count(".") >= 3 else ():
        if all(int(part) <= 255 for part in match.group().split(".")):
            yield match.span()
    if "::" not in text and text.count(":") < 7:
        return
    for match in _IPV6.finditer(text):
        candidate = match.group()
        # Three groups at least: `a::b` is far more often a name in a program than an address.
        if len([part for part in candidate.split(":") if part]) >= 3 and _is_ipv6(candidate):
            yield match.span()


def _is_ipv6(candidate: str) -> bool:
    try:
        IPv6Address(candidate)
    except AddressValueError:
        return False
    return True


def _find_phone(text: str) -> Iterator[tuple[int, int]]:
    for match in _PHONE.finditer(text):
        digits = sum(character.isdigit() for character in match.group())
        if 10 <= digits <= 15:
            yield match.span()


def _find_card(text: str) -> Iterator[tuple[int, int]]:
    reached = 0
    for match in _CARD.finditer(text):
        start = match.start()
        if start < reached:
            continue
        printed = match.group(1) or match.group(4) or match.group(6)
        for number in (printed + (match.group(3) or ""), printed):
            digits = number.replace(" ", "").replace("-", "")
            if len(digits) in _CARD_DIGITS and luhn(digits):
                reached = start + len(number)
                yield start, reached
                break


def luhn(digits: str) -> bool:
    """Tell whether a string of digits carries a valid Luhn check digit; all equal digits never do."""
    total = 0
    for position, character in enumerate(reversed(digits)):
        value = int(character)
        if position % 2:
            value = value * 2 - 9 * (value > 4)
        total += value
    return total % 10 == 0 and len(set(digits)) > 1


def _holds(*words: str) -> Hint:
    return lambda lowered: any(word in lowered for word in words)


def _labelled(*words: str) -> Hint:
    patterns = [re.compile(word + _LABEL_END) for word in words]
    return lambda lowered: any(pattern.search(lowered) for pattern in patterns)


def _shows(pattern: str) -> Hint:
    compiled = re.compile(pattern)
    return lambda lowered: compiled.search(lowered) is not None


_KEY_HINTS = (
    "akia", "asia", "aiza", "gho_", "ghp_", "ghs_", "ghu_", "ghr_", "github_pat_", "glpat-", "xox", "k_live_",
    "k_test_", "sk-", "hf_", "npm_", "sg.", "hoc_", "-----begin",
)  # fmt: skip
_NUMBER = r"\d[\d .()/-]{8,}\d"
# The order decides which type owns a place that two of them could claim. A text whose lower case does not
# meet the hint cannot match, and to see that is cheap: it spares most texts most of the patterns.
_FINDERS: Final[tuple[tuple[str, Hint, Finder], ...]] = (
    ("api_key", _holds(*_KEY_HINTS), _matches(_API_KEY)),
    ("password", _holds("passw", "passphrase", "pwd"), _matches(_PASSWORD)),
    ("api_key", _labelled("key", "token", "secret"), _matches(_LABELLED_KEY)),
    ("email", _holds("@"), _matches(_EMAIL)),
    ("credit_card", _shows(_NUMBER), _find_card),
    ("ssn", _shows(r"\d-\d\d-\d"), _find_ssn),
    ("ip_address", _holds(".", ":"), _find_ip),
    ("date_of_birth", _holds("dob", "d.o.b", "birth"), _matches(_DATE_OF_BIRTH)),
    ("phone", _shows(_NUMBER), _find_phone),
    ("address", _labelled("address", "street"), _matches(_ADDRESS)),
    ("name", _labelled("name", "patient"), _matches(_NAME)),
)
