"""Every wait for a server has a way out when that server goes: all that can be waited for, and all ways to go."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from aegis_backends.nats.connection import Connection, ConnectionState, open_connection
from aegis_backends.nats.errors import ConnectionClosed, Disconnected
from aegis_backends.nats.options import ConnectOptions
from tests.backends.nats.scripted import Client, open_scripted

# One round, and it is given up.
OPTIONS = ConnectOptions(
    reconnect_attempts=1,
    connect_attempts=1,
    connect_timeout=20.0,
    backoff=0.01,
    high_water=1000,
    drain_timeout=0.3,
    close_timeout=0.1,  # a mute server does not say that it has read all
)


@attrs.define(eq=False)
class Mute:
    """A server that lets the first client in, then reads and answers no PING any more, and lets nobody else in."""

    clients: list[Client] = attrs.field(factory=list)

    async def script(self, client: Client) -> None:
        """Serve one client."""
        self.clients.append(client)
        if len(self.clients) > 1:
            await client.stream.aclose()
            return
        await client.log_in()
        while True:
            await client._receive()  # PINGs among them, which `receive` would answer


@asynccontextmanager
async def connected(options: ConnectOptions = OPTIONS) -> AsyncIterator[tuple[Mute, Connection]]:
    """A connection to a mute server."""
    server = Mute()
    async with open_scripted(server.script) as url, open_connection([url], options) as connection:
        yield server, connection


# --- What can be waited for --------------------------------------------------------------------


async def request(connection: Connection) -> None:
    """An answer."""
    await connection.request("anybody", timeout=60)


async def flush(connection: Connection) -> None:
    """The server's word that it has dealt with all."""
    await connection.flush(60)


async def receive(connection: Connection) -> None:
    """A message."""
    async with connection.subscribe("news") as news:
        await news.receive()


async def drain_subscription(connection: Connection) -> None:
    """The end of what is on the way."""
    async with connection.subscribe("news") as news:
        await news.drain()
        await connection.wait_state(ConnectionState.CLOSED)


async def subscribe(connection: Connection) -> None:
    """The server's word that it knows of a subscription."""
    async with connection.subscribe("news"):
        await connection.wait_state(ConnectionState.CLOSED)


async def listen(connection: Connection) -> None:
    """The same."""
    async with connection.listen("news", lambda _message: None):
        await connection.wait_state(ConnectionState.CLOSED)


async def wait_connects(connection: Connection) -> None:
    """Another server."""
    await connection.wait_connects(1)


async def wait_state(connection: Connection) -> None:
    """A state that will not be."""
    await connection.wait_state(ConnectionState.CONNECTING)


async def drain(connection: Connection) -> None:
    """The end of everything."""
    await connection.drain()


WAITS = [request, flush, receive, drain_subscription, subscribe, listen, wait_connects, wait_state, drain]


# --- How a server, or a connection, goes -------------------------------------------------------


async def hang_up(server: Mute, _connection: Connection) -> None:
    """The server closes the connection."""
    await server.clients[0].stream.aclose()


async def say_nonsense(server: Mute, _connection: Connection) -> None:
    """What the server says is no NATS."""
    await server.clients[0].stream.send_all(b"HTTP/1.1 500 Oops\r\n\r\n")


async def throw_out(server: Mute, _connection: Connection) -> None:
    """The server says why it closes the connection."""
    await server.clients[0].stream.send_all(b"-ERR 'User Authentication Expired'\r\n")


async def close(_server: Mute, connection: Connection) -> None:
    """Another task of ours closes it."""
    await connection.drain()


WAYS = [hang_up, say_nonsense, throw_out, close]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("wait", WAITS)
async def test_wait_ends_with_what_it_waits_for(
    wait: Callable[[Connection], Awaitable[None]], way: Callable[[Mute, Connection], Awaitable[None]]
) -> None:
    """By an error that says so, or as done, where nothing depends on the server; and nothing stays behind."""
    ended: list[Exception | None] = []

    async def waiting() -> None:
        try:
            await wait(connection)
        except Exception as exc:  # noqa: BLE001 - judged below
            ended.append(exc)
        else:
            ended.append(None)

    with trio.fail_after(60):
        async with connected() as (server, connection):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(waiting)
                await wait_all_tasks_blocked(0.01)
                if way is not close or wait is not drain:
                    await way(server, connection)
            assert connection.statistics().requests == 0
            assert connection.statistics().subscriptions == 0
            if connection.state is not ConnectionState.CLOSED:
                await connection.wait_state(ConnectionState.CLOSED)
    (error,) = ended
    if error is not None:
        assert isinstance(error, Disconnected)
        assert wait in {request, flush} or isinstance(error, ConnectionClosed) or way is close
    else:
        assert wait in {drain_subscription, subscribe, listen, drain}


async def test_wait_for_room_ends_with_the_connection() -> None:
    """Bytes that wait behind a full socket leave no more; who waits for room is told."""
    stuck = trio.Event()

    async def script(client: Client) -> None:
        if stuck.is_set():
            await client.stream.aclose()
            return
        await client.log_in()
        stuck.set()
        await trio.sleep_forever()

    ended: list[str] = []

    async def wait_for_room() -> None:
        with pytest.raises(ConnectionClosed):
            await connection.ready()
        ended.append("ready")

    async def ask() -> None:
        with pytest.raises(Disconnected):
            await connection.request("anybody", timeout=60)
        ended.append("request")

    options = attrs.evolve(OPTIONS, ping_interval=0.1, max_pending=64 << 20)
    with trio.fail_after(60):
        async with open_scripted(script) as url, open_connection([url], options) as connection:
            for _ in range(32):
                connection.publish("flood", bytes(1 << 20))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait_for_room)
                nursery.start_soon(ask)
    assert sorted(ended) == ["ready", "request"]


@pytest.mark.parametrize("wait", [wait for wait in WAITS if wait is not drain])
async def test_silent_server_is_found_out_by_whoever_waits(wait: Callable[[Connection], Awaitable[None]]) -> None:
    """It closes nothing and says nothing: after two intervals the connection is given up."""
    with trio.fail_after(60):
        async with connected(attrs.evolve(OPTIONS, ping_interval=0.05)) as (_, connection):
            try:
                await wait(connection)
            except Disconnected as exc:
                assert "nothing was heard for 0.1 s" in str(exc) or "given up" in str(exc)  # noqa: PT017 - or none is raised
            await connection.wait_state(ConnectionState.CLOSED)


@pytest.mark.parametrize("wait", WAITS)
async def test_wait_can_be_cancelled(wait: Callable[[Connection], Awaitable[None]]) -> None:
    """At once, and nothing of it is left."""
    with trio.fail_after(60):
        async with connected(attrs.evolve(OPTIONS, drain_timeout=600.0)) as (_, connection):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(wait, connection)
                    await wait_all_tasks_blocked(0.01)
                    scope.cancel()
            assert scope.cancelled_caught
            assert connection.statistics().requests == 0
            assert connection.statistics().subscriptions == 0
            if wait is not drain:
                assert connection.state is ConnectionState.CONNECTED
