"""When servers die, freeze, talk nonsense, or come and go."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import trio

from aegis_backends.nats.connection import ConnectionState, open_connection
from aegis_backends.nats.errors import ConnectionClosed, ConnectionFailed, Disconnected, NoResponders, PendingFull
from aegis_backends.nats.options import ConnectOptions
from aegis_backends.nats.protocol import Error, Event, Message, Publish, Subscribe, Unsubscribe
from tests.backends.nats.polling import until
from tests.backends.nats.processes import running, running_cluster
from tests.backends.nats.scripted import Client, open_scripted

QUICK = ConnectOptions(backoff=0.01, max_backoff=0.05, connect_timeout=1.0)


async def test_killed_server_that_comes_back_is_connected_to_again(tmp_path: Path) -> None:
    """Every subscription is there again, what was published meanwhile is sent, and the state tells each step."""
    with running(tmp_path) as server:
        async with open_connection([server.url], QUICK) as connection, connection.subscribe("a") as subscription:
            heard: list[Message] = []
            async with connection.listen("b.*", heard.append, queue="workers"):
                server.kill()
                assert await connection.wait_state(ConnectionState.RECONNECTING) is ConnectionState.RECONNECTING
                connection.publish("a", b"kept")
                connection.publish("b.x", b"kept")
                assert connection.statistics().pending_bytes > 0
                assert connection.server.version  # the last one's
                async with connection.subscribe("c") as later:
                    server.start()
                    with trio.fail_after(60):
                        assert await connection.wait_connects(1) == 2
                    assert connection.state is ConnectionState.CONNECTED
                    connection.publish("c")
                    assert (await subscription.receive()).payload == b"kept"
                    await later.receive()
                assert [message.payload for message in heard] == [b"kept"]
                assert connection.statistics().connects == 2


async def test_subscription_that_ends_by_number_counts_on_over_reconnects(tmp_path: Path) -> None:
    """The new server is told how many are left."""
    with running(tmp_path) as server:
        async with open_connection([server.url], QUICK) as connection, connection.subscribe("few") as subscription:
            subscription.auto_unsubscribe(4)
            connection.publish("few", b"0")
            assert (await subscription.receive()).payload == b"0"
            server.kill()
            await connection.wait_state(ConnectionState.RECONNECTING)
            for number in range(1, 10):
                connection.publish("few", b"%d" % number)
            server.start()
            with trio.fail_after(60):
                assert [message.payload async for message in subscription] == [b"1", b"2", b"3"]


async def test_what_is_published_while_there_is_no_server_is_bounded(tmp_path: Path) -> None:
    """Beyond the bound it raises; `ready` waits for a server."""
    options = ConnectOptions(backoff=0.01, max_backoff=0.05, high_water=1000, max_pending=2000)
    with running(tmp_path) as server:
        async with open_connection([server.url], options) as connection:
            server.kill()
            await connection.wait_state(ConnectionState.RECONNECTING)
            for _ in range(19):
                connection.publish("a", b"x" * 90)
            with pytest.raises(PendingFull):
                connection.publish("a", b"x" * 90)
            with trio.move_on_after(0.05) as waiting:
                await connection.ready()
            assert waiting.cancelled_caught
            server.start()
            with trio.fail_after(60):
                await connection.ready()
                await connection.flush()
            assert connection.statistics().pending_bytes == 0


async def test_another_server_of_the_cluster_takes_over_though_only_one_was_named(tmp_path: Path) -> None:
    """The first told of the others; requests are answered by whoever is left."""
    with running_cluster(tmp_path, 3) as servers:
        async with (
            open_connection([servers[1].url], QUICK) as answerer,
            answerer.listen("echo", lambda message: answerer.publish(message.reply, message.payload), queue="q"),
            open_connection([servers[0].url], QUICK) as asker,
        ):
            with trio.fail_after(60):
                await until(lambda: len(asker.server.connect_urls) >= 3 and len(answerer.server.connect_urls) >= 3)
                first = asker.server.server_id
                servers[0].kill()
                await asker.wait_connects(1)
                assert asker.server.server_id != first
                while True:
                    try:
                        assert (await asker.request("echo", b"x", timeout=60)).payload == b"x"
                        break
                    except (Disconnected, NoResponders):
                        await trio.sleep(0.01)


async def test_several_servers_may_be_named_of_which_some_are_dead(tmp_path: Path) -> None:
    """One that lives suffices."""
    with running(tmp_path) as server:
        urls = ["nats://127.0.0.1:1", server.url, "nats://127.0.0.1:2"]
        for _ in range(5):
            async with open_connection(urls, QUICK) as connection:
                await connection.flush()


async def test_first_connect_waits_for_a_server_that_starts_late(tmp_path: Path) -> None:
    """A few rounds with pauses in between: programs that start together find each other."""
    with running(tmp_path) as server:
        server.kill()
        async with trio.open_nursery() as nursery:

            async def start_late() -> None:
                await trio.sleep(0.1)
                server.start()

            nursery.start_soon(start_late)
            options = ConnectOptions(connect_attempts=10, backoff=0.1, max_backoff=0.2)
            async with open_connection([server.url], options) as connection:
                await connection.flush()


async def test_lost_connection_is_given_up_after_its_rounds(tmp_path: Path) -> None:
    """Then everybody who waits, and everybody who comes, is told why."""
    options = ConnectOptions(backoff=0.01, reconnect_attempts=2)
    with running(tmp_path) as server:
        async with (
            open_connection([server.url], options) as connection,
            connection.subscribe("a") as subscription,
            trio.open_nursery() as nursery,
        ):
            connection.publish("a", b"read before the end")
            await connection.flush()

            async def wait() -> None:
                with pytest.raises(ConnectionClosed, match="given up"):
                    await connection.wait_connects(1)

            nursery.start_soon(wait)
            server.kill()
            with trio.fail_after(60):
                assert (await subscription.receive()).payload == b"read before the end"
                with pytest.raises(ConnectionClosed, match="refused"):
                    await subscription.receive()
            with pytest.raises(ConnectionClosed, match="given up"):
                connection.publish("a")


async def test_frozen_server_is_found_out_and_left(tmp_path: Path) -> None:
    """It still has the socket open and says nothing: two silent intervals, and the other server is used."""
    options = ConnectOptions(backoff=0.01, ping_interval=0.1, connect_timeout=0.3)
    with running_cluster(tmp_path, 2) as servers:
        async with (
            open_connection([servers[0].url], options) as connection,
            connection.subscribe("a") as subscription,
            connection.subscribe("unanswered"),
        ):
            with trio.fail_after(60):
                await until(lambda: len(connection.server.connect_urls) >= 2)
                servers[0].send(signal.SIGSTOP)
                try:
                    with pytest.raises(Disconnected, match=r"nothing was heard for 0\.2 s") as caught:
                        await connection.request("unanswered", timeout=60)
                    assert caught.value.sent
                    await connection.wait_connects(1)
                    connection.publish("a", b"through the other")
                    assert (await subscription.receive()).payload == b"through the other"
                finally:
                    servers[0].send(signal.SIGCONT)


async def test_silence_of_others_is_no_reason_to_leave(tmp_path: Path) -> None:
    """A server that answers our PINGs is alive, however little there is to say."""
    with running(tmp_path) as server:
        async with open_connection([server.url], ConnectOptions(ping_interval=0.1)) as connection:
            await trio.sleep(0.5)
            assert connection.connects == 1


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"NONSENSE\r\n", "broke the protocol"),
        (b'INFO {"max_payload":"much"}\r\n', "broke the protocol"),
        (b"-ERR 'Unknown Protocol Operation'\r\n", "the server said: Unknown Protocol Operation"),
        (b"-ERR 'Stale Connection'\r\n", "the server said: Stale Connection"),
        (b"-ERR 'User Authentication Expired'\r\n", "refuses our credentials"),
        (b"MSG a 1 5\r\nab", "the server closed the connection"),
    ],
)
async def test_server_that_fails_is_left_for_the_next(said: bytes, reason: str) -> None:
    """Nonsense, a fatal error, or an end in the middle of a message: the next connect is tried, requests fail with why."""
    clients: list[Client] = []

    async def script(client: Client) -> None:
        clients.append(client)
        await client.log_in()
        while not isinstance(await client.receive(), Publish):
            pass
        await client.stream.send_all(said)
        await client.stream.send_eof()

    async with open_scripted(script) as url, open_connection([url], QUICK) as connection:
        with trio.fail_after(60):
            with pytest.raises(Disconnected, match=reason):
                await connection.request("a", timeout=60)
            assert await connection.wait_connects(1) == 2


async def test_harmless_errors_are_counted_and_the_connection_stays(caplog: pytest.LogCaptureFixture) -> None:
    """The server goes on after them, and so do we; a PONG that nobody asked for hurts nobody."""

    async def script(client: Client) -> None:
        await client.log_in()
        await client.stream.send_all(
            b"-ERR 'Invalid Subject'\r\n-ERR 'Invalid Publish Subject'\r\nPONG\r\nPONG\r\n+OK\r\n"
        )
        while True:
            await client.receive()

    async with open_scripted(script) as url, open_connection([url], QUICK) as connection:
        with trio.fail_after(60):
            await until(lambda: connection.statistics().server_errors >= 2)
        await connection.flush()
        assert connection.connects == 1
    assert "Invalid Publish Subject" in caplog.text


async def test_new_server_is_told_all_that_the_old_one_knew() -> None:
    """The inbox, each subscription with its queue, and how many messages are left."""
    told: list[list[Event]] = []
    first = trio.CancelScope()

    async def script(client: Client) -> None:
        await client.log_in()
        events: list[Event] = []
        told.append(events)
        with first if len(told) == 1 else trio.CancelScope():
            while True:
                events.append(await client.receive())
        await client.stream.aclose()

    async with open_scripted(script) as url, open_connection([url], QUICK) as connection:
        async with (
            connection.subscribe("one") as one,
            connection.subscribe("two.*", queue="q"),
            connection.subscribe("gone"),
        ):
            one.auto_unsubscribe(7)
        async with connection.subscribe("one") as one, connection.subscribe("two.*", queue="q"):
            one.auto_unsubscribe(7)
            await connection.flush()
            first.cancel()
            with trio.fail_after(60):
                await connection.wait_connects(1)
                await connection.flush()
            sids = [event.sid for event in told[1] if isinstance(event, Subscribe)]
            assert told[1][1:] == [
                Subscribe("one", sids[1]),
                Unsubscribe(sids[1], 7),
                Subscribe("two.*", sids[2], "q"),
            ]
            assert isinstance(told[1][0], Subscribe)
            assert told[1][0].subject.startswith("_INBOX.")


async def test_flush_that_loses_its_server_says_so() -> None:
    """Whether the server had dealt with what was sent is not known."""

    async def script(client: Client) -> None:
        await client.log_in()
        while not isinstance(await client.receive(), Publish):
            pass
        await client.stream.aclose()

    async with open_scripted(script) as url, open_connection([url], QUICK) as connection:
        connection.publish("a")
        with pytest.raises(Disconnected) as caught:
            await connection.flush()
        assert caught.value.sent


async def test_error_before_the_first_pong_is_the_reason_told() -> None:
    """A server that is full says so."""

    async def script(client: Client) -> None:
        await client.log_in()
        await client.say(Error("maximum connections exceeded"))

    async with open_scripted(script) as url, open_connection([url], QUICK) as connection:
        with trio.fail_after(60):
            await connection.wait_connects(1)


async def test_draining_while_there_is_no_server_ends_in_time(tmp_path: Path) -> None:
    """There is nothing to unsubscribe from, and nobody to send to."""
    options = ConnectOptions(backoff=0.01, max_backoff=0.05, drain_timeout=0.2)
    with running(tmp_path) as server:
        async with open_connection([server.url], options) as connection, connection.subscribe("a") as subscription:
            server.kill()
            await connection.wait_state(ConnectionState.RECONNECTING)
            with trio.fail_after(20):  # less than it may take by default
                await connection.drain()
            with pytest.raises(trio.EndOfChannel):
                await subscription.receive()


async def test_no_server_at_the_first_connect_fails_in_time() -> None:
    """Rounds with back-off, then the error."""
    with trio.fail_after(60), pytest.raises(ConnectionFailed):
        async with open_connection(["nats://127.0.0.1:1"], QUICK):
            pass


async def test_goodbye_is_said_to_nobody_where_there_is_no_server(tmp_path: Path) -> None:
    """Nothing can be on the way, so that nothing is waited for."""
    with running(tmp_path) as server:
        async with open_connection([server.url]) as connection:
            with trio.fail_after(60):
                async with connection.listen("a", lambda _: None, goodbye=3600.0):
                    server.kill()
                    await connection.wait_state(ConnectionState.RECONNECTING)
