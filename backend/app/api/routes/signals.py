"""L2 HTTP: routes of signals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.api.routing import OperationRoutes


def _emitted(data: Mapping[str, Any]) -> int:
    return 200 if data.get("seen") else 201


routes = OperationRoutes("signals", prefix="/signals")
routes.add("POST", "", "activity.discovery.emit_signal", status=_emitted, statuses=(200, 201), etag=True)
routes.add("GET", "", "activity.discovery.get_signals")
routes.add("POST", "/{signal_id}/acknowledge", "activity.signals.acknowledge", etag=True)
routes.add("POST", "/{signal_id}/suppress", "activity.signals.suppress", etag=True)
routes.add("POST", "/{signal_id}/escalate", "activity.signals.escalate", etag=True)
