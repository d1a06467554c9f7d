"""Two stores and a network in one process, joined by everybody who opens it under the same name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from aegis_backends.memory.bus import MemoryBus
from aegis_backends.memory.store import CAPABILITIES, MemoryStore, StoreState
from aegis_backends.memory.transport import MemoryTransport
from aegis_core.backend import Backend, BackendAddress, Capabilities, Clock, Store, TrioClock
from aegis_core.config import check_parameters

__all__ = ["DEFAULT_NAME", "MemoryCluster", "open_memory"]

DEFAULT_NAME = "default"
"""The cluster that ``memory://`` means."""

# Per Trio run, so that neither tests nor threads with runs of their own ever meet.
_clusters: trio.lowlevel.RunVar[dict[str, MemoryCluster]] = trio.lowlevel.RunVar("aegis memory clusters")


class MemoryCluster:
    """What nodes of one process share: the registry's store, that of messages, a transport and a bus.

    Its alarms (TTLs, timeouts of requests) run in a system task of Trio, because they belong to all openers
    and to none: the first opener starts it, the last one to leave ends it, and in between anybody may leave.

    Args:
        name: Its name, which its endpoints carry.
        clock: What the stores measure TTLs by; Trio's own clock if None.
        first_revision: The revision of the first operation; see `StoreState`. Give one where runs must be repeatable.
        capabilities: The limits of the stores.
    """

    def __init__(
        self,
        name: str = DEFAULT_NAME,
        *,
        clock: Clock | None = None,
        first_revision: int | None = None,
        capabilities: Capabilities = CAPABILITIES,
    ) -> None:
        self._name = name
        self._state = StoreState(clock or TrioClock(), first_revision=first_revision, capabilities=capabilities)
        # Of messages nothing is decided by revision, so that these need not be beyond those of another store.
        self._messages = StoreState(clock or TrioClock(), first_revision=1, capabilities=capabilities)
        self._transport = MemoryTransport(name)
        self._bus = MemoryBus()
        self._users = 0
        self._alarms = trio.CancelScope()

    def __repr__(self) -> str:
        return f"<MemoryCluster {self._name!r} of {self._users} users>"

    @property
    def users(self) -> int:
        """How many have it open."""
        return self._users

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Backend]:
        """A backend on this cluster, with a store handle of its own."""
        store = MemoryStore(self._state)
        # Counted before the first checkpoint, lest another opener's departure ends the cluster meanwhile.
        self._users += 1
        if self._users == 1:
            self._alarms = trio.CancelScope()
            trio.lowlevel.spawn_system_task(self._run_alarms, self._alarms)
        try:
            await trio.lowlevel.checkpoint()
            yield Backend(store=store, transports=(self._transport,), bus=self._bus, open_messages=self._open_messages)
        finally:
            store.close()
            self._users -= 1
            if not self._users:
                self._state.retire()
                self._alarms.cancel()

    @asynccontextmanager
    async def _open_messages(self) -> AsyncIterator[Store]:
        store = MemoryStore(self._messages)
        try:
            await trio.lowlevel.checkpoint()
            yield store
        finally:
            store.close()

    async def _run_alarms(self, scope: trio.CancelScope) -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._state.alarm.run)
                nursery.start_soon(self._messages.alarm.run)
                nursery.start_soon(self._transport.alarm.run)


@asynccontextmanager
async def open_memory(address: BackendAddress) -> AsyncIterator[Backend]:
    """Open ``memory://name``: join the cluster of that name in this Trio run, which ends with its last user.

    Raises:
        ConfigError: The URL has a parameter; this backend knows none.
    """
    check_parameters(address)
    name = address.location.strip("/") or DEFAULT_NAME
    try:
        clusters = _clusters.get()
    except LookupError:
        clusters = {}
        _clusters.set(clusters)
    cluster = clusters.get(name) or MemoryCluster(name)
    clusters[name] = cluster
    try:
        async with cluster.open() as backend:
            yield backend
    finally:
        if not cluster.users and clusters.get(name) is cluster:
            del clusters[name]
