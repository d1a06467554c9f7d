"""A store of which a test says what its watch tells."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import attrs
import trio

from aegis_core.backend import Capabilities, Change, Entry, Resync, Synced, Transaction

__all__ = ["Item", "ToldFeed", "ToldStore"]

Item = Change | Synced | Resync


@attrs.define(eq=False)
class ToldFeed:
    """A feed that tells what a test says."""

    told: trio.MemoryReceiveChannel[list[Item]]

    async def receive(self) -> Sequence[Item]:
        """The next batch."""
        return await self.told.receive()


class ToldStore:
    """A store of which a test says what it tells, and where its barrier is."""

    capabilities = Capabilities()

    def __init__(self) -> None:
        self.tell, self._told = trio.open_memory_channel[list[Item]](100)
        self.barrier = 0

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[ToldFeed]:
        """The one feed."""
        await trio.lowlevel.checkpoint()
        yield ToldFeed(self._told)

    async def commit(self, transaction: Transaction) -> tuple[int, ...]:
        """Not asked here."""
        raise NotImplementedError

    async def sync(self) -> int:
        """The barrier."""
        await trio.lowlevel.checkpoint()
        return self.barrier

    async def get(self, key: str) -> Entry | None:
        """Not asked here."""
        raise NotImplementedError
