"""A nursery for what works behind a block, of which the block's user is told nothing but crashes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

__all__ = ["open_background"]


@asynccontextmanager
async def open_background() -> AsyncIterator[trio.Nursery]:
    """Tasks that end with the block. What the block raises leaves it as itself, never wrapped in a group.

    Raises:
        Exception: What a task raised, as itself; the block was cancelled.
    """
    body: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            except BaseException as exc:  # noqa: BLE001, ASYNC103 - raised again below
                body = exc
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        _, crashes = group.split(trio.Cancelled)
        if crashes is None:
            raise
        body = crashes
        while isinstance(body, BaseExceptionGroup):
            body = body.exceptions[0]
    if body is not None:
        raise body
