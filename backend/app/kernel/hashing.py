"""Kernel: every hash formula of the product in one place (SHA-256; tags end in a line feed)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

from app.kernel.canonical_json import dumps


def sha256_hex(data: bytes) -> str:
    """Return 64 lowercase hex digits."""
    return hashlib.sha256(data).hexdigest()


def text_hash(text: str) -> str:
    """Return the hash of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of(data: bytes) -> str:
    """Return the repository's digest form, `sha256:` and 64 hex digits."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def tagged(tag: str, *parts: bytes) -> bytes:
    """Return H(tag LF || parts), 32 raw bytes; each part has a fixed length or is canonical."""
    hasher = hashlib.sha256(tag.encode() + b"\n")
    for part in parts:
        hasher.update(part)
    return hasher.digest()


def keyed_digest(key: bytes, text: str) -> str:
    """Return the hex HMAC-SHA-256 of a text under a tenant's digest key."""
    return hmac.digest(key, text.encode(), "sha256").hex()


def protected_commit(salt_hex: str, members: Mapping[str, Any]) -> str:
    """Return the commitment `c1:<hex>` to protected members under a 32-byte salt."""
    return "c1:" + tagged("hoc/commit/1", bytes.fromhex(salt_hex), dumps(dict(members)).encode()).hex()


def leaf_hash(statement: str) -> str:
    """Return the RFC 6962 leaf hash of a statement, H(0x00 || statement)."""
    return hashlib.sha256(b"\x00" + statement.encode()).hexdigest()
