"""Long sleeps on a node's clock, which end in time even if that clock jumps: the machine was suspended.

Trio's sleeps do not count the time for which a machine was suspended, and clocks of tests jump. So somebody has to look
again and again; one task does for all, since a task each that woke so often would cost a node with a thousand instances a
twentieth of a processor.
"""

from __future__ import annotations

from typing import Final

import trio

from aegis_core.backend import Clock

__all__ = ["Sleepers"]

_LOOK_EVERY: Final = 1.0
"""Seconds after which a jump of the clock is noticed at the latest."""


class Sleepers:
    """Those who sleep on *clock*."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._asleep: dict[trio.CancelScope, float] = {}
        self._somebody = trio.Event()

    def __repr__(self) -> str:
        return f"<Sleepers: {len(self._asleep)}>"

    async def sleep_until(self, at: float, scope: trio.CancelScope) -> None:
        """Sleep until *at* of the node's clock; *scope*, in which that happens, is cancelled where the clock jumped past it."""
        self._asleep[scope] = at
        self._somebody.set()
        try:
            await self._clock.sleep_until(at)
        finally:
            del self._asleep[scope]

    async def run(self) -> None:
        """Wake those who oversleep, for ever."""
        clock = self._clock
        while True:
            if not self._asleep:
                self._somebody = trio.Event()
                await self._somebody.wait()
            await clock.sleep_until(clock.now() + _LOOK_EVERY)
            now = clock.now()
            for scope, at in self._asleep.items():
                if at <= now:
                    scope.cancel()
