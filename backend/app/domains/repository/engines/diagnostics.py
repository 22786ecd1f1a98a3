"""L5 rules of diagnostics: the remarks of a run or step in canonical text, in the order given."""

from __future__ import annotations

from collections.abc import Sequence

from app.domains.repository.engines import documents
from app.domains.repository.errors import too_large
from app.domains.repository.models.runs import Diagnostic
from app.kernel.canonical_json import dumps
from app.kernel.clock import format_time

MAX_DIAGNOSTICS_BYTES = 1024 * 1024


def read_diagnostics(diagnostics: Sequence[Diagnostic]) -> str:
    """Return the canonical text of a list of remarks; refuse INVALID_METADATA and TOO_LARGE."""
    texts = [_text(item, index) for index, item in enumerate(diagnostics)]
    text = "[" + ",".join(texts) + "]"
    size = len(text.encode())
    if size > MAX_DIAGNOSTICS_BYTES:
        raise too_large(MAX_DIAGNOSTICS_BYTES, size, "The text of all diagnostics")
    return text


def _text(item: Diagnostic, index: int) -> str:
    # Any JSON value may be said; the checks of a document hold for it inside one.
    data = documents.read_document({"data": item.data}, field=f"diagnostics/{index}").value["data"]
    return dumps(
        {
            "level": item.level,
            "code": item.code,
            "message": item.message,
            "at": format_time(item.at),
            "step_id": item.step_id,
            "data": data,
        }
    )
