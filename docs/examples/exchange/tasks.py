"""Instances as tasks of this process, each with a node of its own: on ``memory://``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import attrs
import trio

from exchange.life import Life, Member, Plan
from exchange.mortality import CONFIG, Mortality

LAST_BREATH = 0.02
"""Seconds that a dying instance goes on to execute orders without being able to answer them."""


class Tasks:
    """Starts instances as tasks.

    Args:
        nursery: Where they run.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    async def start(self, plan: Plan, *, died: Callable[[], None]) -> Member:
        """Start an instance; returns when it is ready. Nobody else can kill a task, so *died* is never called."""
        task = _Task(Life(plan), Mortality(), trio.CancelScope(), trio.Event())
        await self._nursery.start(task.run)
        return task


@attrs.frozen
class _Task:
    _life: Life
    _mortality: Mortality
    _scope: trio.CancelScope
    _ended: trio.Event
    place: str = ""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with self._scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(partial(self._life.run, config=CONFIG, plugins=[self._mortality]))
                task_status.started()
        self._ended.set()

    async def settle(self) -> None:
        self._life.settle()
        await trio.lowlevel.checkpoint()

    async def transfer(self, symbols: Sequence[str], target: str) -> Sequence[str]:
        return await self._life.transfer(symbols, target)

    async def leave(self) -> None:
        self._life.leave()
        await self._ended.wait()

    async def kill(self) -> None:
        # In the worst moment: what it just executed is written, but not answered.
        self._mortality.die()
        await trio.sleep(LAST_BREATH)
        self._scope.cancel()
