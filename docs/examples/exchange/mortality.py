"""Death in one process: from one moment on, nothing that a node does reaches anybody.

A process that is killed says no farewell: its lease stays until it expires. Nodes on ``memory://`` share one process,
so this plug-in stands between a node and the memory backend, and `Mortality.die` cuts the connection for good. What
the node's teardown sends afterwards, deregistration included, is lost as a dead process's would be.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import attrs
import trio

from aegis_backends.memory import open_memory
from aegis_core.backend import (
    Backend,
    BackendAddress,
    Capabilities,
    Entry,
    Feed,
    Inbound,
    Store,
    Transaction,
    Transport,
)
from aegis_core.hookspecs import BackendRegistrar, hookimpl

CONFIG = {"plugins": {"disabled": ["aegis_backends.memory"]}}
"""Goes with the plug-in, which offers ``memory://`` instead of the built-in one."""


class Mortality:
    """A plug-in for one node on ``memory://``; `die` is its death."""

    def __init__(self) -> None:
        self.dead = False

    def __repr__(self) -> str:
        """Show whether the node is dead."""
        return f"<Mortality: {'dead' if self.dead else 'alive'}>"

    def die(self) -> None:
        """Cut the node off: what it says from now on reaches nobody, and nobody answers it."""
        self.dead = True

    async def pass_on(self) -> None:
        """Return at once while the node lives; for a dead one wait until its task is cancelled."""
        if self.dead:
            await trio.sleep_forever()

    @hookimpl
    def aegis_register_backends(self, register: BackendRegistrar) -> None:
        """Offer the memory backend through a connection that can be cut."""
        register("memory", self._open)

    @asynccontextmanager
    async def _open(self, address: BackendAddress) -> AsyncIterator[Backend]:
        async with open_memory(address) as backend:
            store = None if backend.store is None else _MortalStore(backend.store, self)
            transports = tuple(_MortalTransport(transport, self) for transport in backend.transports)
            yield attrs.evolve(backend, store=store, transports=transports)


@attrs.frozen
class _MortalStore:
    _store: Store
    _mortality: Mortality

    @property
    def capabilities(self) -> Capabilities:
        return self._store.capabilities

    def watch(self) -> AbstractAsyncContextManager[Feed]:
        return self._store.watch()  # What the dead hear harms nobody.

    async def commit(self, transaction: Transaction) -> tuple[int, ...]:
        await self._mortality.pass_on()
        return await self._store.commit(transaction)

    async def sync(self) -> int:
        await self._mortality.pass_on()
        return await self._store.sync()

    async def get(self, key: str) -> Entry | None:
        await self._mortality.pass_on()
        return await self._store.get(key)


@attrs.frozen
class _MortalTransport:
    _transport: Transport
    _mortality: Mortality

    @property
    def scheme(self) -> str:
        return self._transport.scheme

    @property
    def max_payload(self) -> int:
        return self._transport.max_payload

    def endpoint(self, instance_id: str, tag: str) -> str:
        return self._transport.endpoint(instance_id, tag)

    def listen(
        self, instance_id: str, tag: str, receive: Callable[[Inbound], None]
    ) -> AbstractAsyncContextManager[str]:
        def hear(request: Inbound) -> None:
            receive(_MortalRequest(request, self._mortality))

        return self._transport.listen(instance_id, tag, hear)

    async def request(self, endpoint: str, payload: bytes, *, timeout: float) -> bytes:
        await self._mortality.pass_on()
        return await self._transport.request(endpoint, payload, timeout=timeout)


@attrs.frozen
class _MortalRequest:
    _request: Inbound
    _mortality: Mortality

    @property
    def payload(self) -> bytes:
        return self._request.payload

    def respond(self, payload: bytes) -> None:
        if not self._mortality.dead:
            self._request.respond(payload)
