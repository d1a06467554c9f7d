"""Servers that do what no server should: they cost us neither memory nor processor time without bound."""

from __future__ import annotations

from itertools import pairwise

import attrs
import pytest
import trio

from aegis_backends.nats.connection import ConnectionState, open_connection
from aegis_backends.nats.errors import PayloadTooLarge
from aegis_backends.nats.options import ConnectOptions
from aegis_backends.nats.protocol import Info, Message, Publish
from tests.backends.nats.polling import until
from tests.backends.nats.scripted import INFO, Client, open_scripted

QUICK = ConnectOptions(connect_attempts=1, connect_timeout=20.0, backoff=0.1, max_backoff=1.0)


async def test_server_that_lets_in_and_throws_out_is_not_connected_to_in_a_loop() -> None:
    """The first loss is mended at once; from the second on, rounds come further and further apart."""
    accepted: list[float] = []

    async def script(client: Client) -> None:
        accepted.append(trio.current_time())
        await client.log_in()
        await client.stream.aclose()

    async with open_scripted(script) as url, open_connection([url], QUICK) as connection:
        await until(lambda: connection.connects == 4)
    pauses = [later - earlier for earlier, later in pairwise(accepted)]
    # At least half of 0.1 s, 0.2 s: the other half is chance's.
    assert pauses[1] >= 0.05
    assert pauses[2] >= 0.1


async def test_server_that_is_always_about_to_stop_is_not_connected_to_in_a_loop() -> None:
    """It says so with each greeting; it is used all the same, and asked again after growing pauses."""
    accepted: list[float] = []

    async def script(client: Client) -> None:
        accepted.append(trio.current_time())
        await client.log_in(ldm=True)
        while True:
            await client.receive()

    async with open_scripted(script) as url, open_connection([url], QUICK) as connection:
        await until(lambda: connection.connects == 4)
        await connection.flush()
    pauses = [later - earlier for earlier, later in pairwise(accepted)]
    assert pauses[1] >= 0.05
    assert pauses[2] >= 0.1


async def test_server_that_asks_and_does_not_read_is_left() -> None:
    """Our answers to its PINGs would fill the memory."""

    async def script(client: Client) -> None:
        await client.log_in()
        while True:
            await client.stream.send_all(b"PING\r\n" * 10_000)

    async with open_scripted(script) as url:
        options = attrs.evolve(QUICK, max_pending=1000, high_water=100)
        async with open_connection([url], options) as connection:
            most = 0
            while connection.connects < 2:
                await connection.wait_state(ConnectionState.CONNECTED, ConnectionState.RECONNECTING)
                most = max(most, connection.statistics().pending_bytes)
            assert most < 300_000  # what was read at once is answered at once


async def test_messages_that_nobody_asked_for_are_dropped() -> None:
    """To unknown numbers, to answers that nobody waits for, with headers that are none."""

    async def script(client: Client) -> None:
        await client.log_in()
        while True:
            event = await client.receive()
            if isinstance(event, Publish):
                await client.say(Message("stray", 999, "", b"x"), Message("_INBOX.stray", 1, "", b"x"))
                await client.say(Message("_INBOX.stray", 1, "", b"", b"\xff:nonsense\r\n"))
                await client.say(Message(event.reply, 1, "", b"right"))

    async with open_scripted(script) as url, open_connection([url], QUICK) as connection:
        assert (await connection.request("a", timeout=10)).payload == b"right"
        assert connection.statistics().in_messages == 4


@pytest.mark.parametrize(
    "fields",
    [
        {"connect_urls": ["", "::::", "[", "host:99999", "user:pw@[::1]:x", "a b:1", "\udcff:1", "x" * 10_000]},
        {"connect_urls": [".foo:1", "a" * 70 + ".com:1", "\u00ad:1", "a..b", "\udcff", "-:0"]},
        {"connect_urls": [f"127.0.0.1:{port}" for port in range(1, 30_000)]},
        {"server_name": "x" * 100_000, "cluster": "\n\r\x00", "unknown": {"deep": [[[]]]}},
        {"max_payload": -5},
    ],
    ids=["no addresses", "no names", "too many addresses", "long names", "negative payload"],
)
async def test_news_that_make_no_sense_do_no_harm(fields: dict[str, object]) -> None:
    """What is no address of a server is left out, the rest is as it was, also for who looks for another server then."""

    async def script(client: Client) -> None:
        await client.log_in()
        while True:
            event = await client.receive()
            if isinstance(event, Publish) and event.reply:
                await client.say(Info({**INFO, **fields}), Message(event.reply, 1, "", b"answer"))
            elif isinstance(event, Publish):
                await client.stream.aclose()

    async with open_scripted(script) as url, open_connection([url], QUICK) as connection:
        assert (await connection.request("a", timeout=10)).payload == b"answer"
        assert connection.state is ConnectionState.CONNECTED
        if "max_payload" in fields:
            with pytest.raises(PayloadTooLarge):
                connection.publish("a", b"1")
        else:
            connection.publish("leave")
            with trio.fail_after(60):
                assert await connection.wait_connects(1) == 2


async def test_news_of_a_wrong_type_end_the_connection_to_that_server() -> None:
    """It is broken; another one, or the same anew, may not be."""

    async def script(client: Client) -> None:
        await client.log_in()
        if not spoken:
            spoken.append(True)
            await client.say(Info({**INFO, "max_payload": "much"}))
        while True:
            await client.receive()

    spoken: list[bool] = []
    async with open_scripted(script) as url, open_connection([url], QUICK) as connection:
        assert await connection.wait_connects(1) == 2


async def test_what_is_too_large_for_the_next_server_is_dropped_and_counted() -> None:
    """It would hang up over it, and lose what comes behind."""
    got: list[bytes] = []

    async def script(client: Client) -> None:
        first = not clients
        clients.append(client)
        await client.log_in(max_payload=100 if first else 5)
        if first:
            await client.stream.aclose()
            return
        while True:
            event = await client.receive()
            if isinstance(event, Publish):
                got.append(event.payload)

    clients: list[Client] = []
    async with open_scripted(script) as url, open_connection([url], QUICK) as connection:
        await connection.wait_state(ConnectionState.RECONNECTING)
        for payload in (b"12345", b"123456", b"54321"):
            connection.publish("a", payload)
        await connection.wait_connects(1)
        await connection.flush()
        assert connection.statistics().dropped == 1
    assert got == [b"12345", b"54321"]
