"""A relay passes bytes on, late, or not, or breaks off; and what faults do to the cable of a node."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.lowlevel
import trio.testing

from aegis_backends.memory import MemoryCluster
from aegis_pytest.cable import Cable, open_by_cable
from aegis_pytest.faults import FaultPlane, Faults
from aegis_pytest.http import HttpHarness
from aegis_pytest.memory import MemoryHarness
from aegis_pytest.nats import NatsHarness
from aegis_pytest.relay import Relay

PATIENCE = 60.0


@attrs.frozen
class Line:
    """A relay to a server that echoes."""

    relay: Relay
    nursery: trio.Nursery

    async def connect(self) -> trio.SocketStream:
        """A connection by way of the relay."""
        return await trio.open_tcp_stream("127.0.0.1", self.relay.port)


async def echo(stream: trio.SocketStream) -> None:
    """Answer all that comes."""
    try:
        async for chunk in stream:
            await stream.send_all(chunk)
    except trio.BrokenResourceError:
        pass


@asynccontextmanager
async def echoing() -> AsyncIterator[int]:
    """A server; its port."""
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        await nursery.start(trio.serve_listeners, echo, [listener])
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def relayed() -> AsyncIterator[Line]:
    """A relay that runs."""
    async with echoing() as port, trio.open_nursery() as nursery:
        relay = Relay(port)
        await nursery.start(relay.run)
        yield Line(relay, nursery)
        nursery.cancel_scope.cancel()


async def ask(stream: trio.SocketStream, data: bytes) -> bytes:
    """Send *data* and take as much back."""
    await stream.send_all(data)
    answer = b""
    while len(answer) < len(data):
        chunk = await stream.receive_some()
        assert chunk, "it ended"
        answer += chunk
    return answer


async def test_bytes_pass_in_both_directions() -> None:
    """As many as there are, and the end of it, too."""
    async with relayed() as line:
        async with await line.connect() as stream:
            data = bytes(range(256)) * 2000
            received = bytearray()

            async def receive() -> None:
                async for chunk in stream:
                    received.extend(chunk)
                    if len(received) >= len(data):
                        return

            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                await stream.send_all(data)
            assert bytes(received) == data
            await stream.send_eof()
            assert await stream.receive_some() == b""
        assert "whole" in repr(line.relay)


async def test_cut_relay_is_silent_and_ends_old_connections_when_healed() -> None:
    """New ones wait, and are served then."""
    async with relayed() as line, await line.connect() as old:
        assert await ask(old, b"1") == b"1"
        line.relay.cut()
        line.relay.cut()
        assert line.relay.is_cut
        assert "cut" in repr(line.relay)
        await old.send_all(b"2")
        async with await line.connect() as new:
            await new.send_all(b"3")
            with trio.move_on_after(0.1) as silence:
                await new.receive_some()
            assert silence.cancelled_caught
            line.relay.heal()
            line.relay.heal()
            assert await new.receive_some() == b"3"
            assert await old.receive_some() == b""


async def test_slow_relay_hands_on_in_order_and_late() -> None:
    """Both ways; what was slow stays so when the relay is quick again."""
    async with relayed() as line, await line.connect() as stream:
        line.relay.delay = 0.1
        began = trio.current_time()
        assert await ask(stream, b"1") == b"1"
        assert trio.current_time() - began > 0.19
        await stream.send_all(b"2")
        await trio.sleep(0.05)
        line.relay.delay = 0
        await stream.send_all(b"3")
        assert await ask(stream, b"") + await stream.receive_some(1) + await stream.receive_some(1) == b"23"


async def test_reset_breaks_connections_off() -> None:
    """Those that there are; those that are made while it refuses; and none later."""
    async with relayed() as line:
        async with await line.connect() as stream:
            assert await ask(stream, b"1") == b"1"
            line.relay.reset()
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
        line.relay.refuses = True
        assert "refusing" in repr(line.relay)
        with pytest.raises((trio.BrokenResourceError, OSError)):
            async with await line.connect() as stream:
                await ask(stream, b"1")
        line.relay.refuses = False
        async with await line.connect() as stream:
            assert await ask(stream, b"1") == b"1"


async def test_connection_that_ends_can_be_reset() -> None:
    """It closes one side after the other, and may be reset, or have been, at any moment of that."""
    async with relayed() as line, await line.connect() as stream:
        assert await ask(stream, b"there") == b"there"
        for _ in range(50):
            line.relay.reset()
            await trio.lowlevel.checkpoint()
        with trio.fail_after(PATIENCE), pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()


async def test_server_that_is_not_there_ends_the_connection() -> None:
    """As if it had closed it."""
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        relay = Relay(listener.socket.getsockname()[1])
        await listener.aclose()
        await nursery.start(relay.run)
        with trio.fail_after(PATIENCE):
            async with await trio.open_tcp_stream("127.0.0.1", relay.port) as stream:
                assert await stream.receive_some() == b""
        nursery.cancel_scope.cancel()


# --- The cable of a node ---


@asynccontextmanager
async def scene(*, carries_calls: bool) -> AsyncIterator[tuple[FaultPlane, Faults, Cable]]:
    """Three nodes, of which a has a cable."""
    plane, cable = FaultPlane(), Cable([1], carries_calls=carries_calls)
    async with MemoryCluster().open() as backend, trio.open_nursery() as nursery:
        await nursery.start(cable.run)
        plane.attach("a", backend, cable)
        for name in "bc":
            plane.attach(name, backend)
        yield plane, Faults(plane), cable
        assert "cut" not in repr(cable)
        cable.stop()


async def test_cable_of_calls_is_cut_where_all_is_cut() -> None:
    """Then the ports leave it to the cable; what is cut in part is cut in the ports."""
    async with scene(carries_calls=True) as (plane, faults, cable):
        with faults.partition({"a"}, {"store", "b"}):
            assert (cable.is_cut, plane.is_cut("a", "store"), plane.is_cut("a", "c")) == (False, True, False)
            with faults.partition({"a", "b"}, {"c"}):
                assert (cable.is_cut, plane.is_cut("a", "store"), plane.is_cut("a", "b")) == (True, False, False)
                assert plane.is_cut("b", "c")
            assert not cable.is_cut
            plane.kill("c")
            assert cable.is_cut
        with faults.partition({"a"}):
            assert cable.is_cut
        assert not cable.is_cut


async def test_cable_without_calls_is_cut_where_the_store_is() -> None:
    """Calls are cut in the ports."""
    async with scene(carries_calls=False) as (plane, faults, cable):
        with faults.partition({"a"}, {"store"}):
            assert (cable.is_cut, plane.is_cut("a", "store"), plane.is_cut("a", "b")) == (True, False, False)
        with faults.partition({"a"}, {"b"}):
            assert (cable.is_cut, plane.is_cut("a", "store"), plane.is_cut("a", "b")) == (False, False, True)


async def test_delay_is_the_cables_or_the_ports() -> None:
    """Never both."""
    ways = [("a", "store"), ("a", "b"), ("b", "c")]
    async with scene(carries_calls=True) as (plane, faults, cable):
        with faults.slow("a", 0.5), faults.slow(("a", "store"), 0.25), faults.slow(("a", "b"), 0.125):
            assert [plane.delay(*way) for way in ways] == [0.25, 0.125, 0.0]
            assert "0.5 s" in repr(cable)
    async with scene(carries_calls=False) as (plane, faults, cable):
        with faults.slow("a", 0.5), faults.slow(("a", "store"), 0.25), faults.slow(("a", "b"), 0.125):
            assert [plane.delay(*way) for way in ways] == [0.0, 0.625, 0.0]
            assert "0.75 s" in repr(cable)
        with faults.slow("b", 0.5):
            assert [plane.delay(*way) for way in ways] == [0.0, 0.5, 0.5]
            assert plane.delay("b", "store") == 0.5


async def test_reset_is_the_cables() -> None:
    """A node without one cannot have it."""
    async with scene(carries_calls=True) as (_, faults, cable):
        with faults.reset("a"):
            assert "refusing" in repr(cable)
        with pytest.raises(pytest.UsageError, match="node 'b' has no connections"), faults.reset("b"):
            pass


async def test_nodes_reach_servers_of_the_test_s_own_by_cable() -> None:
    """A cluster of somebody's they do not, for a client may find a way around the relays; and memory has no servers."""
    assert NatsHarness("nats://127.0.0.1:4222?storage=memory", alone=True).ports == (4222,)
    assert NatsHarness("nats://127.0.0.1:4222").ports == ()
    http = HttpHarness("memory://routers")
    async with http.open_backend():
        assert len(http.ports) == 2
    memory = MemoryHarness()
    with pytest.raises(NotImplementedError, match="by way of relays"):
        memory.open_peer_by([4222])
    async with (
        memory.open_backend(),
        trio.open_nursery() as nursery,
        open_by_cable(memory, nursery) as (backend, cable),
    ):
        assert cable is None
        assert backend.store is not None
