"""Ending a program politely: the first signal asks, the second insists."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Sequence

import trio

__all__ = ["wait_signals"]

_log = logging.getLogger("aegis.instance")


async def wait_signals(nursery: trio.Nursery, signals: Sequence[signal.Signals], insist: Callable[[], None]) -> None:
    """Wait for one of *signals* (SIGINT and SIGTERM when there are none); call *insist* at the next one.

    Only from the main thread, as Python's signals are. The signals stay caught until the second came or *nursery* ends;
    cancelled, they are not caught any more.
    """
    listening = trio.CancelScope()
    wanted = tuple(signals) or (signal.SIGINT, signal.SIGTERM)
    first = trio.Event()

    async def listen(task_status: trio.TaskStatus[None]) -> None:
        with listening, trio.open_signal_receiver(*wanted) as received:
            task_status.started()
            async for number in received:
                if first.is_set():
                    name = signal.Signals(number).name
                    _log.warning("second signal %s: not draining any longer", name)
                    insist()
                    return
                first.set()

    await nursery.start(listen)
    try:
        await first.wait()
    except trio.Cancelled:
        listening.cancel()
        raise
