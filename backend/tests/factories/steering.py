"""Test clock and ids: the real ones until a test steers them."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime, timedelta

from app.kernel.ids import Uuid7Ids


class SteerableClock:
    """The host's clock, which a test may freeze, set and advance."""

    def __init__(self) -> None:
        self._frozen: datetime | None = None
        self._ahead = timedelta(0)

    def now(self) -> datetime:
        """Return the frozen moment, or the host's time moved ahead as far as the test has advanced it."""
        return self._frozen if self._frozen is not None else datetime.now(UTC) + self._ahead

    def freeze(self, moment: datetime | None = None) -> datetime:
        """Stand still, at `moment` or now, and return that moment."""
        self._frozen = moment if moment is not None else self.now()
        return self._frozen

    def advance(
        self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0
    ) -> datetime:
        """Move forward, frozen or running, and return the new moment."""
        step = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        if self._frozen is not None:
            self._frozen += step
        else:
            self._ahead += step
        return self.now()

    def reset(self) -> None:
        """Follow the host again."""
        self._frozen = None
        self._ahead = timedelta(0)


class SteerableIds:
    """Real identifiers, but those a test has put in line come first."""

    def __init__(self) -> None:
        self._factory = Uuid7Ids()
        self._next: deque[str] = deque()

    def new(self, prefix: str) -> str:
        """Return the next identifier in line, or a new one."""
        return self._next.popleft() if self._next else self._factory.new(prefix)

    def give(self, *identifiers: str) -> None:
        """Put identifiers in line; they are given out whole, whatever the prefix."""
        self._next.extend(identifiers)

    def reset(self) -> None:
        """Forget the line."""
        self._next.clear()
