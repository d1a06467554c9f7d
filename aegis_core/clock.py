"""The clock that nodes live by outside tests."""

from __future__ import annotations

import time
from typing import Final

import trio

__all__ = ["TrioClock"]

_JITTER: Final = 0.05

if hasattr(time, "CLOCK_BOOTTIME"):
    from time import CLOCK_BOOTTIME, clock_gettime, monotonic

    def _suspended() -> float:
        """Seconds for which the machine was suspended since it started; less when this is interrupted between two reads."""
        return clock_gettime(CLOCK_BOOTTIME) - monotonic()

else:

    def _suspended() -> float:
        """Unknown on this system."""
        return 0.0


class TrioClock:
    """Trio's clock plus the time for which the machine was suspended: the one that nodes use outside tests.

    Trio's own clock stands still while a laptop or a virtual machine sleeps; leases do not. Where the system counts
    suspended time (CLOCK_BOOTTIME), a jump of it ends every belief that rests on this clock.
    """

    def __init__(self) -> None:
        self._start = max(_suspended() for _ in range(3))
        self._slept = 0.0

    def now(self) -> float:
        """Seconds, suspended time included."""
        return trio.current_time() + self._suspended()

    def trio_time(self, at: float) -> float:
        """*at* on Trio's clock, as of now."""
        return at - self._suspended()

    async def sleep_until(self, at: float) -> None:
        """Wait until `now` is at least *at*; a checkpoint in any case."""
        while True:
            await trio.sleep_until(self.trio_time(at))
            if self.now() >= at:
                return

    def _suspended(self) -> float:
        """Seconds of suspension since this clock was made; grows in jumps, so that reading jitter does not move the clock."""
        slept = _suspended() - self._start
        if slept > self._slept + _JITTER:
            self._slept = slept
        return self._slept
