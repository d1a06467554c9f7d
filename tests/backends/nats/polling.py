"""Waiting for what nothing tells: states of other processes, and of peers that a test made up."""

from __future__ import annotations

from collections.abc import Callable

import trio


async def until(condition: Callable[[], object], *, within: float = 60.0) -> None:
    """Look every 2 ms whether *condition* holds; fails after *within* seconds."""
    with trio.fail_after(within):
        while True:
            if condition():
                return
            await trio.sleep(0.002)
