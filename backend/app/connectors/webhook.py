"""Connectors: the one address that events are delivered to, each signed as Standard Webhooks says."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Final

import httpx

from app.kernel.clock import Clock

TIMEOUT_SECONDS: Final = 10.0


class WebhookSink:
    """Posts CloudEvents in structured mode; every 2xx is an arrival, anything else is not."""

    def __init__(self, url: str, secret: str, *, clock: Clock) -> None:
        self._url = url
        self._secret = secret.encode()
        self._clock = clock
        self._http = httpx.Client(timeout=TIMEOUT_SECONDS, follow_redirects=False, trust_env=False)

    def deliver(self, event_id: str, body: str) -> str | None:
        """Send one event and return why it has not arrived, None when it has."""
        stamp = str(int(self._clock.now().timestamp()))
        headers = {
            "content-type": "application/cloudevents+json",
            "webhook-id": event_id,
            "webhook-timestamp": stamp,
            "webhook-signature": f"v1,{self._sign(f'{event_id}.{stamp}.{body}')}",
        }
        try:
            reply = self._http.post(self._url, content=body.encode(), headers=headers)
        except httpx.HTTPError as error:
            return type(error).__name__
        return None if reply.is_success else f"HTTP {reply.status_code}"

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def _sign(self, text: str) -> str:
        return base64.b64encode(hmac.digest(self._secret, text.encode(), hashlib.sha256)).decode()
