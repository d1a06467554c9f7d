"""One sleeping task for any number of deadlines."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import trio

__all__ = ["Alarm"]


class Alarm:
    """Calls *ring* once the earliest time that it was set to has come.

    Its owner keeps the deadlines (in a heap, stale ones included) and sets the alarm only when a deadline is earlier
    than all before: a renewal or an answer in time costs the alarm nothing, it finds out when it wakes. While
    nothing is to come it sleeps without a deadline, so that it never makes a mock clock jump.

    Args:
        sleep_until: Waits for a time of the deadlines' clock.
        ring: Deals with all that is due, synchronously, and returns the time of the next (`math.inf` for none).
    """

    def __init__(self, sleep_until: Callable[[float], Awaitable[object]], ring: Callable[[], float]) -> None:
        self._sleep_until = sleep_until
        self._ring = ring
        self._at = math.inf
        self._sleep = trio.CancelScope()

    def __repr__(self) -> str:
        return f"<Alarm at {self._at}>"

    def set(self, at: float) -> None:
        """Ring at *at*, if that is earlier than what is set."""
        if at < self._at:
            self._at = at
            self._sleep.cancel()

    async def run(self) -> None:
        """Sleep and ring until cancelled."""
        while True:
            with trio.CancelScope() as self._sleep:
                if self._at == math.inf:
                    await trio.sleep_forever()
                await self._sleep_until(self._at)
            if not self._sleep.cancelled_caught:
                self._at = self._ring()
