"""A node's own clock, which a test can make fast, slow, wrong, or stop."""

from __future__ import annotations

import math
from typing import Final

import trio

from aegis_core.backend import Clock

__all__ = ["ElapsedClock", "NodeClock"]

# Seconds that a sleeper waits at least when it was woken a rounding error too early: else time would stand still.
_STEP = 1e-9


_AFTER_ALL: Final = 1e12
"""What the clock of a dead node shows: later than all that anybody there ever waited for, and still a number."""

_MOST_SLEEPS: Final = 100
_PAUSE: Final = 0.01
"""Who sleeps again and again on a clock whose time is over tries something again and again, in a block whose limit is on
Trio's clock. Where that is a virtual one it only goes on when all wait."""


class ElapsedClock:
    """Trio's clock as the port has it, and nothing else: what it shows follows from a run alone."""

    def __repr__(self) -> str:
        return "<ElapsedClock>"

    def now(self) -> float:
        """Seconds."""
        return trio.current_time()

    def trio_time(self, at: float) -> float:
        """*at*."""
        return at

    async def sleep_until(self, at: float) -> None:
        """Wait until `now` is at least *at*; a checkpoint in any case."""
        await trio.sleep_until(at)


class NodeClock:
    """*base*, seen through what is wrong with it. Without faults it is *base* exactly; it never goes back.

    Sleepers notice every change: a clock that is made to jump ahead wakes those whose time has come by that.
    """

    def __init__(self, base: Clock) -> None:
        self._base = base
        # This clock's time is `_own` + `_rate` for each second of the base clock since `_then`.
        self._own = self._then = 0.0
        self._rate = 1.0
        self._floor = -math.inf
        self._is_stopped = False
        self._over = False
        self._sleeps_left = _MOST_SLEEPS
        self._moved = trio.Event()

    def __repr__(self) -> str:
        state = "over" if self._over else "stopped" if self._is_stopped else f"rate {self._rate:g}"
        return f"<NodeClock {state}>"

    # --- The port ---

    def now(self) -> float:
        """Seconds. Stands still until it is right again after it was set back.

        While the clock is stopped, too, it is the time: nobody reads the clock of a process that is really stopped, and whoever
        does so here, because his task runs all the same, must not believe anything for longer than it is true.
        """
        return _AFTER_ALL if self._over else max(self._floor, self._reading())

    def trio_time(self, at: float) -> float:
        """When it is *at* by this clock if nothing changes, whether or not it is stopped meanwhile; now if its time is over."""
        if self._over:
            return trio.current_time()
        return self._base.trio_time(self._then + (at - self._own) / self._rate)

    async def sleep_until(self, at: float) -> None:
        """Wait until `now` is at least *at* and the clock is not stopped, whatever happens to it meanwhile.

        If its time is over: hardly a wait.
        """
        while not self._over and (self._is_stopped or self.now() < at):
            deadline = math.inf
            if not self._is_stopped:
                deadline = max(self.trio_time(at), trio.current_time() + _STEP)
            with trio.move_on_at(deadline):
                await self._moved.wait()
        if self._over:
            self._floor = max(self._floor, at)
            self._sleeps_left -= 1
            if self._sleeps_left < 0:
                await trio.sleep(_PAUSE)
                return
        await trio.lowlevel.checkpoint()

    # --- What goes wrong with it ---

    def set_rate(self, rate: float) -> None:
        """Run *rate* times as fast as the base clock from now on."""
        if rate != self._rate:
            self._own, self._then = self._reading(), self._base.now()
            self._rate = rate
            self._move()

    def jump(self, seconds: float) -> None:
        """Be *seconds* ahead of what it was; by less than nothing, stand still until that time has come again."""
        self._floor = max(self._floor, self._reading())
        self._own += seconds
        self._move()

    def stop(self) -> None:
        """Wake nobody until `resume`, while time goes on."""
        self._is_stopped = True

    def resume(self) -> None:
        """Go on: wake those whose time has come."""
        self._is_stopped = False
        self._move()

    def end(self) -> None:
        """All of its time has passed: nobody sleeps on it any more, and every deadline is over."""
        self._over = True
        self.resume()

    def _reading(self) -> float:
        return self._own + (self._base.now() - self._then) * self._rate

    def _move(self) -> None:
        self._moved.set()
        self._moved = trio.Event()
