"""What connects one node of a test's cluster to the servers of its backend: a relay for each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from aegis_core.backend import Backend
from aegis_pytest.harness import Harness
from aegis_pytest.relay import Relay

__all__ = ["Cable", "open_by_cable"]


class Cable:
    """The relays of one life of one node. Made by `open_by_cable`.

    Args:
        ports: The servers'.
        carries_calls: Whether calls go by it, too.
    """

    def __init__(self, ports: Sequence[int], *, carries_calls: bool) -> None:
        self.carries_calls = carries_calls
        self._relays = [Relay(port) for port in ports]
        self._scope = trio.CancelScope()

    def __repr__(self) -> str:
        return f"<Cable of {self._relays}>"

    @property
    def ports(self) -> list[int]:
        """Where the node finds the servers, once it runs."""
        return [relay.port for relay in self._relays]

    @property
    def is_cut(self) -> bool:
        """Whether nothing passes."""
        return any(relay.is_cut for relay in self._relays)

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Relay until `stop`."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                for relay in self._relays:
                    await nursery.start(relay.run)
                task_status.started()

    def stop(self) -> None:
        """End it."""
        self._scope.cancel()

    def be(self, *, cut: bool, delay: float, reset: bool) -> None:
        """Be in that state from now on.

        Args:
            cut: Let nothing pass.
            delay: Seconds that everything takes, in either direction.
            reset: Reset the connections that there are, and each that is made.
        """
        for relay in self._relays:
            relay.delay = delay
            if reset and not relay.refuses:
                relay.reset()
            relay.refuses = reset
            if cut:
                relay.cut()
            else:
                relay.heal()


@asynccontextmanager
async def open_by_cable(harness: Harness, nursery: trio.Nursery) -> AsyncIterator[tuple[Backend, Cable | None]]:
    """One node's own connection to *harness*, and the cable that it goes by, which runs in *nursery*; None without one."""
    if not harness.ports:
        async with harness.open_peer() as backend:
            yield backend, None
        return
    cable = Cable(harness.ports, carries_calls=harness.carries_calls)
    await nursery.start(cable.run)
    try:
        async with harness.open_peer_by(cable.ports) as backend:
            yield backend, cable
    finally:
        cable.stop()
