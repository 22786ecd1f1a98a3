"""Connectors: credential references, resolved at use: `env://` variables and `encrypted://` seals."""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from app.connectors.values import ConnectorFailedError
from app.kernel.errors import ErrorKind, HocError

LABEL: Final = b"hoc-credential-v1"
KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_ENV: Final = "env://"
_SEALED: Final = "encrypted://v1."


class Credentials:
    """Seals secrets for a tenant and resolves references; nothing of a secret is logged or kept here."""

    def __init__(
        self,
        *,
        key: str | None,
        old_keys: Sequence[str],
        environment: Mapping[str, str],
        env_allow: Sequence[str],
    ) -> None:
        """Take the master keys as base64; raise ValueError when one does not hold 32 bytes."""
        self._newest = None if key is None else _master_key(key)
        masters = [*([] if self._newest is None else [self._newest]), *map(_master_key, old_keys)]
        self._masters = {_key_id(master): master for master in masters}
        self._environment = environment
        self._env_allow = frozenset(env_allow)

    def seal(self, secret: str, *, tenant_id: str) -> str:
        """Return the reference of a sealed secret; refuse CREDENTIAL_KEY_MISSING."""
        if self._newest is None:
            raise HocError(
                ErrorKind.UNAVAILABLE, "CREDENTIAL_KEY_MISSING", "This server has no key to seal credentials."
            )
        nonce, kid = secrets.token_bytes(_NONCE_BYTES), _key_id(self._newest)
        sealed = _cipher(self._newest, tenant_id).encrypt(nonce, secret.encode(), _bound_to(tenant_id))
        return f"{_SEALED}{kid}.{base64.urlsafe_b64encode(nonce + sealed).decode().rstrip('=')}"

    def resolve(self, reference: str, *, tenant_id: str) -> str:
        """Return the secret behind a reference; raise CREDENTIAL_UNAVAILABLE, whatever the cause."""
        if reference.startswith(_ENV):
            return self._from_environment(reference.removeprefix(_ENV), tenant_id)
        if reference.startswith(_SEALED):
            return self._opened(reference.removeprefix(_SEALED), tenant_id)
        raise _unavailable("the reference has no known form")

    def _from_environment(self, name: str, tenant_id: str) -> str:
        if not {f"{tenant_id}/{name}", f"*/{name}"} & self._env_allow:
            raise _unavailable("the tenant may not use this variable")
        value = self._environment.get(name)
        if not value:
            raise _unavailable("the variable is not set")
        return value

    def _opened(self, rest: str, tenant_id: str) -> str:
        kid, _, text = rest.partition(".")
        master = self._masters.get(kid)
        if master is None:
            raise _unavailable("no key of this server opens the seal")
        try:
            sealed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            opened = _cipher(master, tenant_id).decrypt(
                sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _bound_to(tenant_id)
            )
            return opened.decode()
        except (InvalidTag, ValueError) as error:
            raise _unavailable("the seal does not open for this tenant") from error


def _master_key(text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError(f"a credential key is the base64 form of {KEY_BYTES} bytes")
    return key


def _key_id(master: bytes) -> str:
    return hashlib.sha256(master).hexdigest()[:8]


def _cipher(master: bytes, tenant_id: str) -> AESGCM:
    derived = HKDF(SHA256(), KEY_BYTES, salt=LABEL, info=tenant_id.encode()).derive(master)
    return AESGCM(derived)


def _bound_to(tenant_id: str) -> bytes:
    return LABEL + b"\n" + tenant_id.encode()


def _unavailable(detail: str) -> ConnectorFailedError:
    return ConnectorFailedError("CREDENTIAL_UNAVAILABLE", detail, lasting=True)
