"""Kernel: identifiers, `<prefix>_<uuid7 hex>` from an injected factory."""

from __future__ import annotations

import os
import threading
import time
from typing import Protocol

ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$"


class IdFactory(Protocol):
    """Makes identifiers that sort by the time they were made."""

    def new(self, prefix: str) -> str: ...


class Uuid7Ids:
    """UUID version 7 (RFC 9562), monotonic within one process: the counter fills rand_a."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last_ms = 0
        self._sequence = 0

    def new(self, prefix: str) -> str:
        """Return `<prefix>_` and 32 hex digits."""
        with self._lock:
            now_ms = time.time_ns() // 1_000_000
            if now_ms > self._last_ms:
                self._last_ms, self._sequence = now_ms, 0
            else:
                self._sequence += 1
                if self._sequence > 0xFFF:
                    self._last_ms, self._sequence = self._last_ms + 1, 0
            milliseconds, sequence = self._last_ms, self._sequence
        tail = int.from_bytes(os.urandom(8), "big") & 0x3FFF_FFFF_FFFF_FFFF
        value = (milliseconds << 80) | (0x7 << 76) | (sequence << 64) | (0b10 << 62) | tail
        return f"{prefix}_{value:032x}"
