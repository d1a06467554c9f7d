"""What the nodes of an application call, by name: of calls to a service that nobody serves, no transport hears."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Final, cast
from weakref import WeakKeyDictionary

import trio

from aegis_core import AegisError, Node
from aegis_pytest.state_dump import tell_line

__all__ = ["Calls"]

_MOST_IN_VAIN: Final = 1000
"""Calls of a task that fail, each of which begins in the very moment in which the one before has failed: it has no pause."""


class Calls:
    """Notes what is called through nodes, and sees that nobody tries again for ever without a pause.

    While messages take time, time goes on with each call, if only for moments: a run would take minutes to get to its end.

    Args:
        stop: Called with what is wrong.

    Attributes:
        services: That were called.
    """

    def __init__(self, stop: Callable[[str], None]) -> None:
        self.services: set[str] = set()
        self._stop = stop
        self._is_told = False
        # By task: when its last call failed, and how many there were in a row.
        self._failed: WeakKeyDictionary[trio.lowlevel.Task, tuple[float, int]] = WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"<Calls of {', '.join(sorted(self.services)) or 'nothing'}>"

    def watch(self, node: Node) -> None:
        """Note the calls of *node* from now on."""
        call = cast(Callable[..., Awaitable[object]], node.call)

        @wraps(call)
        async def noted(service: str, *args: object, **kwargs: object) -> object:
            self.services.add(service)
            task, began = trio.lowlevel.current_task(), trio.current_time()
            ended, count = self._failed.pop(task, (began, 0))
            try:
                return await call(service, *args, **kwargs)
            except AegisError as exc:
                count = count + 1 if ended == began else 1
                self._failed[task] = trio.current_time(), count
                if count == _MOST_IN_VAIN and not self._is_told:
                    self._is_told = True
                    self._tell(service, exc)
                raise

        vars(node)["call"] = noted

    def _tell(self, service: str, exc: AegisError) -> None:
        caller = sys._getframe(2)
        self._stop(
            f"tasks go round in circles: {_MOST_IN_VAIN} calls of {service}, one after the other without a pause, have failed; "
            f"whoever tries again must sleep before\n"
            f"  {tell_line(caller.f_code.co_filename, caller.f_lineno)}\n"
            f"  the last failed by {type(exc).__name__}: {exc}"
        )
