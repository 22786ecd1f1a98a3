"""L5 search for secrets in plane configurations: what looks like one is refused, never stored."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

CREDENTIAL_KEY = "credential_ref"
_ENV_REF = re.compile(r"env://[A-Za-z_][A-Za-z0-9_]{0,127}")
_SEALED_REF = re.compile(r"encrypted://v1\.[0-9a-f]{8}\.[A-Za-z0-9_-]{39,8192}")
# These begin at a fixed mark and end within bounds: a search of 64 KiB stays linear whatever the text.
_USERINFO = re.compile(r"(?<=[A-Za-z0-9+.-])://[^/?#\s]*@")
_PEM = re.compile(r"-----BEGIN [A-Z0-9 ]{1,40}-----")
_KNOWN_KEYS = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"hoc_[A-Za-z0-9_-]{16,}|sk-[A-Za-z0-9_-]{16,}|(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,}"
    r"|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{16,}|glpat-[A-Za-z0-9_-]{16,}"
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,}|xapp-[A-Za-z0-9-]{10,}|(?:AKIA|ASIA)[A-Z0-9]{16}"
    r"|AIza[A-Za-z0-9_-]{30,}|npm_[A-Za-z0-9]{30,}|pypi-[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{30,}"
    r"|SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}"
    r"|eyJ[A-Za-z0-9_-]{10,8192}\.eyJ[A-Za-z0-9_-]{10,8192}\.[A-Za-z0-9_-]{10,}"
    r")"
)
_SECRET_WORDS = frozenset(
    {
        "password",
        "passwd",
        "passphrase",
        "pwd",
        "secret",
        "secrets",
        "token",
        "apikey",
        "authorization",
        "cookie",
    }
    | {"credential", "credentials", "privatekey", "accesskey", "secretkey", "clientsecret", "bearer"}
)
_SECRET_PAIRS = frozenset(
    {("api", "key"), ("access", "key"), ("private", "key"), ("secret", "key"), ("auth", "key")}
)
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


def find_secrets(config: dict[str, Any]) -> list[str]:
    """Return the JSON pointers of members that look like a secret: by name, by prefix, by form."""
    return [pointer for pointer, key, value in _walk(config, "", "") if _is_secret(key, value)]


def find_credential_refs(config: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return pointer and value of every credential_ref, at any depth."""
    return [(pointer, value) for pointer, key, value in _walk(config, "", "") if key == CREDENTIAL_KEY]


def is_credential_ref(value: object) -> bool:
    """Tell whether a value is a reference to a credential and no credential."""
    return isinstance(value, str) and bool(_ENV_REF.fullmatch(value) or _SEALED_REF.fullmatch(value))


def mask_credentials(value: Any) -> Any:
    """Return a configuration whose sealed credentials are masked, for answers."""
    if isinstance(value, dict):
        return {key: mask_credentials(item) for key, item in value.items()}
    if isinstance(value, list):
        return [mask_credentials(item) for item in value]
    if isinstance(value, str) and value.startswith("encrypted://"):
        return "encrypted://***"
    return value


def _is_secret(key: str, value: Any) -> bool:
    if key == CREDENTIAL_KEY:
        return False
    if key and _names_secret(key) and value not in (None, "", False):
        return True
    return isinstance(value, str) and bool(
        _USERINFO.search(value) or _PEM.search(value) or _KNOWN_KEYS.search(value)
    )


def _names_secret(key: str) -> bool:
    words = tuple(word.lower() for word in _WORDS.findall(key))
    if not words:
        return False
    return "".join(words) in _SECRET_WORDS or words[-1] in _SECRET_WORDS or words[-2:] in _SECRET_PAIRS


def _walk(value: Any, pointer: str, key: str) -> Iterator[tuple[str, str, Any]]:
    if pointer:
        yield pointer, key, value
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _walk(item, f"{pointer}/{escape(name)}", name)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _walk(item, f"{pointer}/{index}", "")


def escape(name: str) -> str:
    """Return a member name as a segment of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")
