"""A nursery for what works behind a block, of which the block's user is told nothing but crashes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

__all__ = ["open_background"]


class _Background:
    """The nursery of the tasks, in a task and a shielded scope of its own."""

    def __init__(self) -> None:
        self.nursery: trio.Nursery
        self.opened = trio.Event()
        self._scope = trio.CancelScope(shield=True)

    async def run(self) -> None:
        with self._scope:
            async with trio.open_nursery() as self.nursery:
                self.opened.set()
                await trio.sleep_forever()

    def __enter__(self) -> None:
        """Nothing: `run` begins it."""

    # An interrupt must not come between the end of the block and that of the tasks: nothing else would end them.
    @trio.lowlevel.enable_ki_protection
    def __exit__(self, *_: object) -> None:
        self._scope.cancel()


@asynccontextmanager
async def open_background() -> AsyncIterator[trio.Nursery]:
    """Tasks that end with the block. What the block raises leaves it as itself, never wrapped in a group.

    A cancellation from outside is the block's alone, and the tasks go on until it is left: what the block does on its way
    out, in a scope that is shielded, finds them at work.

    Raises:
        Exception: What a task raised, as itself; the block was cancelled.
    """
    body: BaseException | None = None
    background = _Background()
    try:
        async with trio.open_nursery() as around:
            with background:
                around.start_soon(background.run)
                try:
                    await background.opened.wait()
                    yield background.nursery
                except BaseException as exc:  # noqa: BLE001, ASYNC103 - raised again below
                    body = exc
    except BaseExceptionGroup as group:
        _, crashes = group.split(trio.Cancelled)
        if crashes is None:
            raise
        body = crashes
        while isinstance(body, BaseExceptionGroup):
            body = body.exceptions[0]
    if body is not None:
        raise body
