"""Kills the command of ``aegis claim`` when the lease is over and nobody else has: a program of its own.

``aegis claim`` may be killed, stopped by Ctrl-Z, or stuck, and can act on none of these. So this process, which needs
nothing of the library, stands by: each line on its standard input names a process group and until when it may run, on the
machine's monotonic clock. When that time has come without a later one, or the input ends without the word "done", it kills
the group.
"""

from __future__ import annotations

import math
import os
import select
import signal
import sys
import time
from contextlib import suppress
from typing import Final

__all__ = ["DONE", "guard", "notice"]

DONE: Final = b"done\n"
"""What dismisses the guard."""

_AT_ONCE: Final = 65536


def notice(group: int, remaining: float) -> bytes:
    """What to tell the guard: process group *group* may run for *remaining* seconds from now."""
    return b"%d %r\n" % (group, time.monotonic() + remaining)


def guard(source: int) -> None:
    """Read notices from the file descriptor *source* until dismissed, or until there is a reason to kill."""
    group, until, unread = 0, math.inf, b""
    while True:
        patience = None if until == math.inf else max(0.0, until - time.monotonic())
        ready, _, _ = select.select([source], [], [], patience)
        received = os.read(source, _AT_ONCE) if ready else b""
        if not received:
            _kill(group)
            return
        *lines, unread = (unread + received).split(b"\n")
        if b"done" in lines:
            return
        if lines:
            group_text, until_text = lines[-1].split()
            group, until = int(group_text), float(until_text)


def _kill(group: int) -> None:
    if group:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    guard(sys.stdin.fileno())
