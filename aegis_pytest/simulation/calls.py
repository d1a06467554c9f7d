"""What the nodes of an application call, by name or bound: of calls to a service that nobody serves, no transport hears."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from traceback import walk_stack
from typing import Final
from weakref import WeakKeyDictionary

import trio

from aegis_core import AegisError, Node, RemoteError
from aegis_pytest.state_dump import is_users, tell_line

__all__ = ["Calls"]

_MOST_IN_VAIN: Final = 1000
"""Failures of the same call of a task, each of which begins in the very moment in which what was called before has ended: it has no pause."""

_QUICK: Final = 20.0
"""Seconds within which so many come only by a loop that waits for nothing but the network, and at worst asks a store that is
10 ms away: most drawn latencies are less. Where calls take longer, by the network or up to a time limit of their own, that is a
pause in itself, and there are too few of them to make a run long."""

_What = tuple[str, str, str | None]


class _Row:
    """What a task calls without a pause, and in vain: since when, and how often each call has failed."""

    def __init__(self) -> None:
        self.ended = 0.0
        self._failed: dict[_What, tuple[float, int]] = {}

    def count(self, what: _What, began: float) -> int:
        """Note that *what*, which *began* then, has failed; how often it has, in a short time."""
        self.ended = trio.current_time()
        since, count = self._failed.get(what, (began, 0))
        if self.ended - since > _QUICK:
            since, count = began, 0
        self._failed[what] = since, count + 1
        return count + 1


class Calls:
    """Notes what is called through nodes, and sees that nobody makes the same call for ever without a pause.

    While messages take time, time goes on with each call, if only for moments: a run would take minutes to get to its end.
    A call that has come to its handler is none in vain, whatever it ends in.

    Args:
        stop: Called with what is wrong.

    Attributes:
        services: That were called.
    """

    def __init__(self, stop: Callable[[str], None]) -> None:
        self.services: set[str] = set()
        self._stop = stop
        self._is_told = False
        self._rows: WeakKeyDictionary[trio.lowlevel.Task, _Row] = WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"<Calls of {', '.join(sorted(self.services)) or 'nothing'}>"

    def watch(self, node: Node) -> None:
        """Note the calls of *node* from now on."""
        attributes = vars(node.client)
        begin: Callable[..., Awaitable[object]] = attributes["_begin"]  # where calls by name and bound methods meet

        @wraps(begin)
        async def noted(
            service: str, method: str, params: Mapping[str, object] | None, resource_id: str | None, *rest: object
        ) -> object:
            self.services.add(service)
            task, began = trio.lowlevel.current_task(), trio.current_time()
            row = self._rows.pop(task, None)
            try:
                return await begin(service, method, params, resource_id, *rest)
            except RemoteError:
                raise
            except AegisError as exc:
                if row is None or row.ended != began:
                    row = _Row()
                self._rows[task] = row
                if row.count((service, method, resource_id), began) == _MOST_IN_VAIN and not self._is_told:
                    self._is_told = True
                    self._tell(service, exc)
                raise

        attributes["_begin"] = noted

    def _tell(self, service: str, exc: AegisError) -> None:
        frames = list(walk_stack(sys._getframe(2)))
        caller, line = next((it for it in frames if is_users(it[0].f_code.co_filename)), frames[0])
        self._stop(
            f"tasks go round in circles: {_MOST_IN_VAIN} calls of {service}, one after the other without a pause, have failed; "
            f"whoever tries again must sleep before\n"
            f"  {tell_line(caller.f_code.co_filename, line)}\n"
            f"  the last failed by {type(exc).__name__}: {exc}"
        )
