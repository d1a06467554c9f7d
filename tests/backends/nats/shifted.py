"""A clock that a test sets ahead: a computer that slept, say."""

from __future__ import annotations

import attrs
import trio

__all__ = ["ShiftedClock"]


@attrs.define(eq=False)
class ShiftedClock:
    """Trio's time, and `ahead` more seconds."""

    ahead: float = 0.0

    def now(self) -> float:
        """Monotonic seconds."""
        return trio.current_time() + self.ahead

    def trio_time(self, at: float) -> float:
        """The time *at* on Trio's clock."""
        return at - self.ahead

    async def sleep_until(self, at: float) -> None:
        """Wait until `now` is *at*."""
        await trio.sleep_until(self.trio_time(at))
