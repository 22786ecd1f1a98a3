"""L5 suspension: the overlay that stops every access to a plane at once and moves no state."""

from __future__ import annotations

from app.domains.knowledge.errors import conflict
from app.domains.knowledge.models.vocabulary import (
    KnowledgePlaneLifecycleState,
)


def decide_suspension(
    state: KnowledgePlaneLifecycleState, *, suspended: bool, wanted: bool, halted: bool
) -> bool:
    """Tell whether anything changes; raise PLANE_NOT_ACTIVE to suspend, KILL_SWITCH_ACTIVE to resume.

    A plane that was suspended in service stays so on its way out, and may be resumed there.
    """
    if suspended == wanted:
        return False
    if wanted and state is not KnowledgePlaneLifecycleState.ACTIVE:
        raise conflict("PLANE_NOT_ACTIVE", f"Only an ACTIVE plane is suspended; this one is {state.name}.")
    if not wanted and halted:
        raise conflict("KILL_SWITCH_ACTIVE", "The kill switch is engaged; no plane is resumed.")
    return True
