"""One life of one node, as the network around it sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import trio

from aegis_core.backend import Delete, Store, Transaction
from aegis_core.names import InstanceKey, parse_key
from aegis_pytest.cable import Cable
from aegis_pytest.faults.clock import NodeClock

__all__ = ["Member"]


class Member:
    """Whether a node runs, is stopped, or dead; what waits for it while it is stopped; what it has registered.

    Args:
        name: The node's name.
        store: The store without faults, None where there is none.
        clock: The node's clock, which stops and ends with it.
        cable: What connects it to its servers, None where there is none.
    """

    def __init__(self, name: str, store: Store | None, clock: NodeClock, cable: Cable | None) -> None:
        self.name: Final = name
        self.store: Final = store
        self.clock: Final = clock
        self.cable: Final = cable
        self.is_dead = False
        self.is_stopped = False
        self.instances: dict[str, str] = {}
        self._waiting: list[Callable[[], None]] = []
        self._scopes: dict[trio.CancelScope, None] = {}

    def __repr__(self) -> str:
        return f"<Member {self.name!r}: {'dead' if self.is_dead else 'stopped' if self.is_stopped else 'running'}>"

    def stop(self) -> None:
        """Neither hear nor say anything until `resume`."""
        self.is_stopped = True
        self.clock.stop()

    def resume(self) -> None:
        """Go on, with what has waited first."""
        self.is_stopped = False
        self.clock.resume()
        waiting, self._waiting = self._waiting, []
        for act in waiting:
            act()

    def kill(self) -> None:
        """Neither hear nor say anything ever again; whoever waits in a port of this node is woken."""
        self.is_dead = True
        self._waiting.clear()
        self.clock.end()
        for scope in tuple(self._scopes):
            scope.cancel()

    def when_running(self, act: Callable[[], None]) -> None:
        """Call *act* now, or when the node goes on; never, if it is dead by then."""
        if self.is_dead:
            return
        if self.is_stopped:
            self._waiting.append(act)
        else:
            act()

    @contextmanager
    def living(self) -> Iterator[trio.CancelScope]:
        """A cancel scope that death cancels."""
        with trio.CancelScope() as scope:
            if self.is_dead:
                scope.cancel()
            self._scopes[scope] = None
            try:
                yield scope
            finally:
                del self._scopes[scope]

    def note(self, transaction: Transaction) -> None:
        """Remember which registrations *transaction* writes and removes."""
        for op in transaction.operations:
            key = parse_key(op.key)
            if isinstance(key, InstanceKey):
                if isinstance(op, Delete):
                    self.instances.pop(key.instance_id, None)
                else:
                    self.instances[key.instance_id] = op.key
