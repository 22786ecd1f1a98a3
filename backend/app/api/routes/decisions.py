"""L2 HTTP: routes of decision records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.api.routing import OperationRoutes


def _emitted(data: Mapping[str, Any]) -> int:
    return 201 if data.get("result") == "RECORDED" else 200


routes = OperationRoutes("decisions", prefix="/decisions")
routes.add("POST", "", "decisions.emit", status=_emitted, statuses=(200, 201))
routes.add("GET", "", "decisions.list")
routes.add("GET", "/{decision_id}", "decisions.get")
