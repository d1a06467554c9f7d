"""Ctrl-C and SIGTERM: at any moment a clean end, and an exit status that says so.

A command may be interrupted while Python still imports, while Trio runs, and after Trio has ended. In the first and
the last of these there is nothing to clean up, and a KeyboardInterrupt could surface anywhere (in an import, in a
destructor) as a traceback: so the process leaves at once. While Trio runs, the command is cancelled and has its
teardown.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import NoReturn

__all__ = ["leave_at_signals", "run_until_signal"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PATIENCE = 1.0  # seconds
_SHOW_CURSOR = b"\x1b[?25h"


def leave_at_signals() -> None:
    """From now on SIGINT or SIGTERM ends the process at once, with exit status 128 + its number."""
    _handle_signals(_leave)


async def run_until_signal(command: Callable[[], Awaitable[int]]) -> int:
    """Run *command* and cancel it when SIGINT or SIGTERM comes.

    One that comes more than a second after the first ends the process without waiting for the teardown; sooner,
    it is taken for an impatient finger on the key. To be called in the main thread.

    Args:
        command: Returns the exit status.

    Returns:
        128 + the number of the first signal, also when *command* came to its end in spite of it; else what *command*
        returned.
    """
    import trio  # noqa: PLC0415 - this module is imported before the signals are seen to

    scope = trio.CancelScope()
    token = trio.lowlevel.current_trio_token()
    first: tuple[int, float] | None = None

    def receive(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if first is None:
            first = number, time.monotonic()
            token.run_sync_soon(scope.cancel)
        elif time.monotonic() > first[1] + _PATIENCE:
            _leave(number, frame)

    status = 0
    _handle_signals(receive)
    try:
        with scope:
            status = await command()
    finally:
        leave_at_signals()
    return status if first is None else 128 + first[0]


def _handle_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in _SIGNALS:
        signal.signal(number, handler)


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    if sys.stdout is not None and sys.stdout.isatty():
        # A live table hides the cursor. Written past the buffers: the signal may have come in the middle of one.
        os.write(sys.stdout.fileno(), _SHOW_CURSOR)
    os._exit(128 + number)
