"""The first step of a coroutine, taken by a plain function: many have their result with it, and need not be awaited."""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from contextvars import Context
from types import CoroutineType, FrameType
from typing import cast

__all__ = ["Begun", "take_step"]


class Begun:
    """A coroutine that has taken its first step, in the task that now awaits this: it goes on from there.

    Args:
        coroutine: It.
        trap: What it gave to Trio, which has not got it yet.
    """

    __slots__ = ("_coroutine", "_trap", "send", "throw")

    def __init__(self, coroutine: CoroutineType[object, object, object], trap: object) -> None:
        self._coroutine = coroutine
        self._trap: object = trap
        self.send = coroutine.send
        self.throw = coroutine.throw

    def __await__(self) -> Generator[object, object, object]:
        # It has all of a generator that Python asks for.
        return self  # type: ignore[return-value]  # pyright: ignore[reportReturnType]

    def __next__(self) -> object:
        """The first thing that is asked for; from then on Trio sends."""
        return self._trap

    @property
    def cr_frame(self) -> FrameType | None:
        """The coroutine's: who looks for the place where a task waits looks for it here."""
        return self._coroutine.cr_frame

    @property
    def cr_await(self) -> object:
        """The coroutine's, as `cr_frame`."""
        return self._coroutine.cr_await


def take_step(context: Context, awaitable: Awaitable[object]) -> object:
    """Let *awaitable* take its first step in *context*: its result, or a `Begun` to be awaited in that context.

    Raises:
        BaseException: What it raised.
    """
    coroutine = awaitable if isinstance(awaitable, CoroutineType) else _coroutine_of(awaitable)
    try:
        trap = context.run(coroutine.send, None)
    except StopIteration as stop:
        return stop.value
    return Begun(coroutine, trap)


def _coroutine_of(awaitable: Awaitable[object]) -> CoroutineType[object, object, object]:
    async def wait() -> object:
        return await awaitable

    return cast("CoroutineType[object, object, object]", wait())
