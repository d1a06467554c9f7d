"""What guards the command of ``aegis claim``: a program of its own, which needs nothing of the library.

``aegis claim`` may be killed, stopped by Ctrl-Z, or stuck, and can act on none of these. So a process stands by (`guard`):
each line on its standard input names a process group and until when it may run, on the machine's monotonic clock. When
that time has come without a later one, or the input ends without the word "done", it kills the group.

And lest ``aegis claim`` be killed when the command runs already and the guard has not heard of it, the command begins
behind a gate (`pass_gate`), which opens when the guard has been told.

Signals that ask for an end are often sent to all processes of a service at once. They are for the command, which
``aegis claim`` passes them on to: the guard stays until both are done.
"""

from __future__ import annotations

import math
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

__all__ = ["DONE", "OPEN", "READY", "guard", "notice", "pass_gate"]

DONE: Final = b"done\n"
"""What dismisses the guard."""

OPEN: Final = b"open\n"
"""What opens the gate."""

READY: Final = b"ready\n"
"""What the guard says when no signal can keep it from its duty but SIGKILL."""

_ASKING: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
_AT_ONCE: Final = 65536
_IGNORED_BY_PYTHON: Final = (signal.SIGPIPE, signal.SIGXFSZ)


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


def pass_gate(source: int, command: Sequence[str]) -> int:
    """Become *command* once the file descriptor *source* says so.

    Returns:
        1 if it ends without having said so; the exit status that a shell has for a command that cannot be executed.
    """
    opened = os.read(source, len(OPEN))
    os.close(source)
    if not opened:
        return 1
    for number in _IGNORED_BY_PYTHON:
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], [*command])  # noqa: S606 - it is what the user typed, word by word
    except OSError as exc:
        print(f"aegis: {command[0]} cannot be started: {exc.strerror}", file=sys.stderr)
        return 127 if isinstance(exc, FileNotFoundError) else 126


if __name__ == "__main__":
    if len(sys.argv) == 1:
        for asking in _ASKING:
            signal.signal(asking, signal.SIG_IGN)
        os.write(sys.stdout.fileno(), READY)
        guard(sys.stdin.fileno())
    else:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        sys.exit(pass_gate(int(sys.argv[1]), sys.argv[2:]))
