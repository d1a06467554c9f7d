"""The bus and the store of messages of a node that is stopped, dead, or cut off."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from aegis_backends.memory import MemoryCluster
from aegis_core.backend import ABSENT, Backend, Message, Put, StoreUnavailable, Transaction, TransportUnavailable
from aegis_core.models import Outcome
from aegis_pytest.faults.plane import FaultPlane


def texts(heard: list[Message]) -> list[bytes]:
    """The payloads of *heard*."""
    return [message.payload for message in heard]


async def test_stopped_node_hears_and_speaks_when_it_goes_on(autojump_clock: MockClock) -> None:
    """What comes in or goes out meanwhile waits, in order."""
    plane = FaultPlane()
    async with MemoryCluster("faulty").open() as backend:
        bus, whole = plane.attach("a", backend).bus, backend.bus
        assert bus is not None
        assert whole is not None
        assert bus.max_payload == whole.max_payload
        here: list[Message] = []
        there: list[Message] = []
        async with bus.subscribe("to.a", here.append), whole.subscribe("from.a", there.append):
            member = plane.member("a")
            assert member is not None
            member.stop()
            for payload in (b"1", b"2"):
                whole.publish("to.a", payload)
                bus.publish("from.a", payload)
            assert here == there == []
            member.resume()
            assert texts(here) == texts(there) == [b"1", b"2"]


async def test_dead_node_neither_hears_nor_speaks(autojump_clock: MockClock) -> None:
    """What is sent to it is lost, and it can send nothing, to anybody or to the store of messages."""
    plane = FaultPlane()
    async with MemoryCluster("faulty").open() as backend:
        faulty = plane.attach("a", backend)
        assert faulty.bus is not None
        assert backend.bus is not None
        assert faulty.open_messages is not None
        heard: list[Message] = []
        put = Transaction("t", (Put("messages.a", b"1", ABSENT, ttl=10.0),))
        async with faulty.bus.subscribe("to.a", heard.append), faulty.open_messages() as messages:
            plane.kill("a")
            backend.bus.publish("to.a", b"lost")
            with pytest.raises(TransportUnavailable) as caught:
                faulty.bus.publish("from.a", b"never")
            assert caught.value.outcome is Outcome.NOT_SENT
            with pytest.raises(StoreUnavailable):
                await messages.commit(put)
        assert heard == []


async def test_living_node_reaches_the_messages_that_all_share(autojump_clock: MockClock) -> None:
    """Its store of messages is the cluster's."""
    plane = FaultPlane()
    async with MemoryCluster("faulty").open() as backend:
        faulty = plane.attach("a", backend)
        assert faulty.open_messages is not None
        assert backend.open_messages is not None
        async with faulty.open_messages() as messages, backend.open_messages() as others:
            with trio.fail_after(60):
                await messages.commit(Transaction("t", (Put("messages.a", b"1", ABSENT, ttl=10.0),)))
                entry = await others.get("messages.a")
        assert entry is not None
        assert entry.value == b"1"


async def test_backend_without_bus_has_none_behind_faults(autojump_clock: MockClock) -> None:
    """Nothing is offered that is not there."""
    async with MemoryCluster("faulty").open() as backend:
        bare = Backend(store=backend.store, transports=backend.transports)
        faulty = FaultPlane().attach("a", bare)
        assert faulty.bus is None
        assert faulty.open_messages is None
        assert "FaultyBus of 'b'" in repr(FaultPlane().attach("b", backend).bus)
        assert repr(backend.bus) == "<MemoryBus with 0 subscriptions>"
