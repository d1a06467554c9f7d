"""What a node tells its backend of what it serves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock

from aegis_backends.memory import open_memory
from aegis_core.backend import Backend, BackendAddress
from aegis_core.errors import CallTimeout, InvalidRequest, RemoteError
from aegis_core.hookspecs import BackendRegistrar, hookimpl
from aegis_core.node.call import Call
from aegis_core.node.node import open_node
from aegis_core.node.service import Service
from aegis_core.served import MethodStatistics, Served


class Watched:
    """A memory backend with tools of its own, which see what is served."""

    def __init__(self) -> None:
        self.seen: list[Served] = []
        self.all: list[Served] = []

    @hookimpl
    def aegis_register_backends(self, register: BackendRegistrar) -> None:
        """Offer ``watched://``."""
        register("watched", self.open)

    @asynccontextmanager
    async def open(self, address: BackendAddress) -> AsyncIterator[Backend]:
        """The backend."""
        async with open_memory(address) as backend:
            yield attrs.evolve(backend, announce=self.announce)

    @contextmanager
    def announce(self, served: Served) -> Iterator[None]:
        """See *served* within the block."""
        self.seen.append(served)
        self.all.append(served)
        yield
        self.seen.remove(served)


def shop() -> Service:
    """A service whose methods succeed, fail and dawdle."""
    service = Service("shop", version="1.0.0")

    @service.method
    async def sell(call: Call, price: int) -> int:
        await trio.sleep(price)
        if price == 3:
            raise ValueError("sold out")
        return price

    @service.method
    async def close(call: Call) -> None:
        return

    return service


async def test_backend_sees_an_instance_while_it_is_served(autojump_clock: MockClock) -> None:
    """With the record of its registration; also one that is not registered; none that was left."""
    watched = Watched()
    async with open_node("watched://", plugins=[watched]) as node:
        async with node.serve(shop()) as instance:
            (served,) = watched.seen
            assert served.instance.instance_id == instance.instance_id
            assert served.instance.endpoints
            assert set(served.statistics) == {"sell", "close"}
            async with node.serve(shop(), instance_id="unregistered", register=False):
                assert [each.instance.instance_id for each in watched.seen] == [instance.instance_id, "unregistered"]
            assert watched.seen == [served]
        assert watched.seen == []


async def test_statistics_count_what_was_answered(autojump_clock: MockClock) -> None:
    """By method, with the time from arrival to answer; what names no method counts for none."""
    watched = Watched()
    async with open_node("watched://", plugins=[watched]) as node, node.serve(shop()):
        (served,) = watched.seen
        for price in (1, 2):
            await node.call("shop", "sell", {"price": price})
        assert attrs.astuple(served.statistics["sell"]) == (2, 0, "", pytest.approx(3.0))
        with pytest.raises(RemoteError):
            await node.call("shop", "sell", {"price": 3})
        assert served.statistics["sell"].last_error.endswith("sold out")
        with pytest.raises(CallTimeout):
            await node.call("shop", "sell", {"price": 100}, timeout=4.0)
        with pytest.raises(InvalidRequest):
            await node.call("shop", "steal")
        await trio.sleep(1)
        sell = served.statistics["sell"]
        assert (sell.requests, sell.errors, sell.seconds) == (4, 2, pytest.approx(10.0, abs=0.1))
        assert sell.last_error.startswith("TIMEOUT: shop.sell")
        assert attrs.astuple(served.statistics["close"]) == attrs.astuple(MethodStatistics())
