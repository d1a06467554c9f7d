"""What `tests.benchmarks.parts.commands` has for programs on Trio, for peers whose loop is asyncio's."""

from __future__ import annotations

import asyncio  # noqa: TID251 - the peers' loop, in processes of their own
import time
from collections.abc import Awaitable, Callable, Mapping

from tests.benchmarks.parts.commands import Act, Commands, Taken, in_turn

__all__ = ["obey", "rounds"]


async def obey(commands: Commands, acts: Mapping[str, Act]) -> None:
    """Carry out what *commands* say until they end."""
    while (command := await asyncio.to_thread(commands.read)) is not None:
        await commands.carry_out(command, acts)


async def rounds(count: int, together: int, operation: Callable[[], Awaitable[object]]) -> Taken:
    """Carry out *operation* *count* times, *together* of them at once."""
    return await (in_turn(count, operation) if together == 1 else _at_once(count, together, operation))


async def _at_once(count: int, together: int, operation: Callable[[], Awaitable[object]]) -> Taken:
    taken = Taken()

    async def work() -> None:
        for _ in range(max(1, count // together)):
            began = time.perf_counter()
            await operation()
            taken.seconds.append(time.perf_counter() - began)

    with taken.all():
        await asyncio.gather(*(work() for _ in range(together)))
    return taken
