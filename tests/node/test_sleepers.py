"""Sleeping until a time of a clock that may jump past it."""

from __future__ import annotations

import attrs
import trio
from trio.testing import MockClock

from aegis_core.node.sleepers import Sleepers


@attrs.define
class JumpingClock:
    """Trio's clock, ahead by so much; a sleep that has begun does not notice that it jumped."""

    ahead: float = 0.0

    def now(self) -> float:
        """Seconds."""
        return trio.current_time() + self.ahead

    def trio_time(self, at: float) -> float:
        """*at* on Trio's clock."""
        return at - self.ahead

    async def sleep_until(self, at: float) -> None:
        """Sleep as if the clock would not jump."""
        await trio.sleep_until(self.trio_time(at))


async def sleep(sleepers: Sleepers, at: float, woken: dict[float, float]) -> None:
    """Sleep until *at*, and note when and whether that was cut short."""
    with trio.CancelScope() as scope:
        await sleepers.sleep_until(at, scope)
    woken[at] = -trio.current_time() if scope.cancelled_caught else trio.current_time()


async def test_who_oversleeps_is_woken(autojump_clock: MockClock) -> None:
    """Within a second after the clock jumped; all others sleep on."""
    clock, began = JumpingClock(), trio.current_time()
    sleepers = Sleepers(clock)
    woken: dict[float, float] = {}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleepers.run)
        await trio.sleep(10.0)
        for at in (began + 12.5, began + 100.0, began + 200.0):
            nursery.start_soon(sleep, sleepers, at, woken)
        await trio.sleep(5.2)
        assert woken == {began + 12.5: began + 12.5}
        assert repr(sleepers) == "<Sleepers: 2>"
        clock.ahead = 90.0
        await trio.sleep(1.0)
        assert list(woken) == [began + 12.5, began + 100.0]
        assert -woken[began + 100.0] <= began + 16.2
        nursery.cancel_scope.cancel()
    assert repr(sleepers) == "<Sleepers: 0>"


async def test_nobody_is_looked_for_while_nobody_sleeps(autojump_clock: MockClock) -> None:
    """The task that looks sleeps, too, and goes on with the next who comes."""
    clock, began = JumpingClock(), trio.current_time()
    sleepers = Sleepers(clock)
    woken: dict[float, float] = {}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleepers.run)
        await sleep(sleepers, began + 1.5, woken)
        await trio.sleep(1000.0)
        nursery.start_soon(sleep, sleepers, began + 2000.0, woken)
        await trio.sleep(0.5)
        clock.ahead = 1000.0
        await trio.sleep(1.0)
        assert list(woken) == [began + 1.5, began + 2000.0]
        nursery.cancel_scope.cancel()
