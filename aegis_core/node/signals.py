"""Ending a program politely: the first signal asks, the second insists.

A process has one handler for a signal. So there is one here, too, for all who wait: it is set with the first of them and
taken back with the last, in whatever order they come and go, and a signal is told to every one of them.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Sequence

import attrs
import trio

from aegis_core.errors import InvalidRequest
from aegis_core.models import Shown

__all__ = ["wait_signals"]

_log = logging.getLogger("aegis.instance")


@attrs.define(eq=False, repr=False)
class _Listener(Shown):
    """Somebody who waits for signals: asked by the first, and then pressed, once, by the second."""

    insist: Callable[[], None]
    asked: trio.Event = attrs.field(factory=trio.Event)
    pressed: trio.Event = attrs.field(factory=trio.Event)

    def hear(self, number: int) -> None:
        """A signal came."""
        if not self.asked.is_set():
            self.asked.set()
        elif not self.pressed.is_set():
            self.pressed.set()
            _log.warning("second signal %s: not draining any longer", signal.Signals(number).name)
            self.insist()


class _Ear:
    """The handler of one signal while anybody waits for it."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._token = trio.lowlevel.current_trio_token()
        self.listeners: dict[_Listener, None] = {}
        try:
            self._before = signal.signal(number, self._handle)
        except OSError:
            raise InvalidRequest.at("$.signals", f"{signal.Signals(number).name} cannot be caught") from None

    def close(self) -> None:
        """Leave the signal to whoever had it before; what was not set from Python cannot be, and the default takes its place."""
        signal.signal(self._number, signal.SIG_DFL if self._before is None else self._before)

    def _handle(self, _number: int, _frame: object) -> None:
        # In the middle of anything, therefore not there and then.
        self._token.run_sync_soon(self._tell)

    def _tell(self) -> None:
        if not self.listeners:  # all have left since it came: it is what it would have been without them
            signal.raise_signal(self._number)
        for listener in tuple(self.listeners):
            listener.hear(self._number)


_ears: dict[int, _Ear] = {}


def _listen(listener: _Listener, numbers: Sequence[int]) -> None:
    for number in numbers:
        ear = _ears.get(number)
        if ear is None:
            ear = _ears[number] = _Ear(number)
        ear.listeners[listener] = None


def _leave(listener: _Listener, numbers: Sequence[int]) -> None:
    for number in numbers:
        ear = _ears.get(number)
        if ear is None:  # it came to none of these: one before could not be caught
            continue
        ear.listeners.pop(listener, None)
        if not ear.listeners:
            del _ears[number]
            ear.close()


async def wait_signals(nursery: trio.Nursery, signals: Sequence[signal.Signals], insist: Callable[[], None]) -> None:
    """Wait for one of *signals* (SIGINT and SIGTERM when there are none); call *insist* at the next one.

    Only from the main thread, as Python's signals are. The signals stay caught until the second came or *nursery* ends;
    cancelled, they are not caught any more.

    Raises:
        InvalidRequest: One of them cannot be caught; then none is.
        ValueError: It is not the main thread.
    """
    wanted = tuple(dict.fromkeys(signals)) or (signal.SIGINT, signal.SIGTERM)
    listener = _Listener(insist)
    given_up = trio.CancelScope()

    async def stay(task_status: trio.TaskStatus[None]) -> None:
        try:
            _listen(listener, wanted)
            with given_up:
                task_status.started()
                await listener.pressed.wait()
        finally:
            _leave(listener, wanted)

    await nursery.start(stay)
    try:
        await listener.asked.wait()
    except trio.Cancelled:
        given_up.cancel()
        raise
