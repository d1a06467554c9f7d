"""Ctrl-C while a test runs on Trio.

Trio raises it in one task: in the one that runs, or, while the loop or the library is at work, in the main task, whose test
reads as if it had been cancelled. `Interrupts` notes where tasks waited then, which is what one asks who presses it.

The other tasks are cancelled, at their next checkpoint. In a simulation several nodes run the same program: if that has
a loop without a checkpoint, the next node enters it, and so on. A run that was interrupted `is_pending` until it is over,
so that it can be interrupted again.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from aegis_pytest.state_dump import where_tasks_wait

__all__ = ["Interrupts", "find_interrupt", "interrupt_main_thread"]


Handler = Callable[[int, FrameType | None], object]


class Interrupts:
    """What is known of those of one Trio run, before which it is made.

    Attributes:
        tasks: Where its tasks waited at the first, as lines; empty before.
    """

    def __init__(self) -> None:
        self.tasks: list[str] = []
        self._outside = signal.getsignal(signal.SIGINT)
        self._handler: Handler | None = None

    @property
    def is_pending(self) -> bool:
        """Whether there was one."""
        return bool(self.tasks)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """In the block, within the Trio run, they are noted, and then raised as without it."""
        before = signal.getsignal(signal.SIGINT)
        if not callable(before) or threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, frame: FrameType | None) -> None:
            if not self.tasks:
                self.tasks = where_tasks_wait()
            before(number, frame)

        self._handler = note
        signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            self._put_back(before)

    def close(self) -> None:
        """Let go of the run, which is over: of one that broke down, the block of `noted` was not left."""
        self._put_back(self._outside)

    def _put_back(self, before: signal.Handlers | Handler | int | None) -> None:
        # Else a test left its own there.
        if self._handler is not None and signal.getsignal(signal.SIGINT) is self._handler:
            signal.signal(signal.SIGINT, before)
        self._handler = None


def interrupt_main_thread() -> None:
    """Do what Ctrl-C does; where the system can, also to what waits in a system call."""
    if sys.platform == "win32":
        _thread.interrupt_main()
    else:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def find_interrupt(*raised: BaseException | None, in_contexts: bool) -> KeyboardInterrupt | None:
    """The first `KeyboardInterrupt` that is one of *raised*, or in a group of them; *in_contexts*: or the context of one."""
    seen: set[int] = set()
    waiting = [exc for exc in raised if exc is not None]
    while waiting:
        exc = waiting.pop(0)
        if isinstance(exc, KeyboardInterrupt):
            return exc
        if id(exc) in seen:  # contexts may go round in a circle
            continue
        seen.add(id(exc))
        waiting += exc.exceptions if isinstance(exc, BaseExceptionGroup) else ()
        if in_contexts:
            waiting += [it for it in (exc.__cause__, exc.__context__) if it is not None]
    return None
