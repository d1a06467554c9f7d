"""Moving away from a server that is about to stop, while work is under way."""

from __future__ import annotations

import signal
from pathlib import Path

import trio

from aegis_backends.nats.connection import ConnectionState, open_connection
from aegis_backends.nats.errors import NoResponders
from aegis_backends.nats.options import ConnectOptions
from aegis_backends.nats.protocol import Event, Info, Message, Publish, Subscribe, Unsubscribe
from tests.backends.nats.polling import until
from tests.backends.nats.processes import running_cluster
from tests.backends.nats.scripted import INFO, Client, open_scripted

QUICK = ConnectOptions(backoff=0.01, max_backoff=0.05, connect_timeout=1.0)
SLOWLY = 'lame_duck_grace_period: "10s"\nlame_duck_duration: "30s"'


async def test_no_request_is_lost_when_a_server_is_stopped_gently(tmp_path: Path) -> None:
    """Those who ask and those who answer move to other servers; requests under way are answered, new ones too."""
    with running_cluster(tmp_path, 3, SLOWLY) as servers:
        urls = [servers[0].url]
        async with open_connection(urls, QUICK) as asker, open_connection(urls, QUICK) as answerer:
            with trio.fail_after(60):
                await until(lambda: len(asker.server.connect_urls) >= 3 and len(answerer.server.connect_urls) >= 3)
            answered = 0
            stop = False

            async def ask() -> None:
                nonlocal answered
                while not stop:
                    assert (await asker.request("work", b"x", timeout=60)).payload == b"x"
                    answered += 1

            async def work() -> None:
                async for message in subscription:
                    await trio.sleep(0.002)
                    answerer.publish(message.reply, message.payload)

            async with answerer.subscribe("work", queue="workers") as subscription, trio.open_nursery() as nursery:
                nursery.start_soon(work)
                nursery.start_soon(work)
                async with trio.open_nursery() as askers:
                    for _ in range(8):
                        askers.start_soon(ask)
                    with trio.fail_after(60):
                        await until(lambda: answered >= 50)
                        old = asker.server.server_id
                        servers[0].send(signal.SIGUSR2)
                        await asker.wait_connects(1)
                        await answerer.wait_connects(1)
                        before = answered
                        await until(lambda: answered >= before + 200)
                    stop = True
                nursery.cancel_scope.cancel()
            assert asker.server.server_id != old
            assert asker.connects == answerer.connects == 2
            assert asker.state is ConnectionState.CONNECTED


async def test_plain_subscription_moves_and_gets_nothing_twice(tmp_path: Path) -> None:
    """At most once: what is published in the round trip of the move may be lost, the order holds, the rest arrives."""
    with running_cluster(tmp_path, 2, SLOWLY) as servers:
        async with (
            open_connection([servers[1].url], QUICK) as writer,
            open_connection([servers[0].url], QUICK) as reader,
            reader.subscribe("plain") as subscription,
        ):
            with trio.fail_after(60):
                await until(lambda: len(reader.server.connect_urls) >= 2)
                servers[0].send(signal.SIGUSR2)
                number = 0
                while reader.connects < 2 or number < 200:
                    writer.publish("plain", b"%d" % number)
                    number += 1
                    await trio.sleep(0.001)
                got: list[int] = []
                while not got or got[-1] < number - 1:
                    got.append(int((await subscription.receive()).payload))
            assert got == sorted(set(got))
            assert subscription.dropped == 0


async def test_single_server_that_stops_is_used_until_it_is_gone() -> None:
    """With nowhere to go it is kept, and then reconnected to as after any loss."""
    clients: list[Client] = []

    async def script(client: Client) -> None:
        clients.append(client)
        if len(clients) in {2, 3}:
            await client.stream.aclose()
        await client.log_in()
        while True:
            event = await client.receive()
            if isinstance(event, Publish) and event.subject == "stop":
                await client.say(Info({**INFO, "ldm": True}))
            elif isinstance(event, Publish) and event.subject == "gone":
                await client.stream.aclose()
            elif isinstance(event, Publish) and event.reply:
                await client.say(Message(event.reply, 1, "", b"answer"))

    async with open_scripted(script) as url, open_connection([url], QUICK) as connection:
        connection.publish("stop")
        with trio.fail_after(60):
            await until(lambda: connection.server.lame_duck)
            assert connection.state is ConnectionState.CONNECTED
            assert (await connection.request("a", timeout=60)).payload == b"answer"
            await connection.wait_connects(1)
            connection.publish("gone")
            await connection.wait_connects(2)


async def test_each_server_is_told_what_it_must_know_while_moving() -> None:
    """Queue groups are on both for a while, plain subscriptions never; requests under way are answered through either."""
    told: list[list[Event]] = []
    asked: list[Publish] = []
    clients: list[Client] = []

    async def script(client: Client) -> None:
        clients.append(client)
        events: list[Event] = []
        told.append(events)
        await client.log_in()
        while True:
            event = await client.receive()
            events.append(event)
            if isinstance(event, Publish):
                asked.append(event)

    async with (
        open_scripted(script) as url,
        open_connection([url], QUICK) as connection,
        connection.subscribe("plain"),
        connection.subscribe("grouped", queue="q"),
        trio.open_nursery() as nursery,
    ):
        answers: list[Message] = []

        async def ask(subject: str) -> None:
            answers.append(await connection.request(subject, timeout=60))

        nursery.start_soon(ask, "first")
        nursery.start_soon(ask, "second")
        with trio.fail_after(60):
            await until(lambda: len(asked) >= 2)
            await clients[0].say(Info({**INFO, "ldm": True}))
            await connection.wait_connects(1)
            await until(lambda: len([event for event in told[0] if isinstance(event, Unsubscribe)]) >= 2)
            old = {event.subject: event.sid for event in told[0] if isinstance(event, Subscribe)}
            new = {event.subject: event.sid for event in told[1] if isinstance(event, Subscribe)}
            assert old == new
            assert list(new)[1:] == ["grouped", "plain"]
            left = [event.sid for event in told[0] if isinstance(event, Unsubscribe)]
            assert left == [old["plain"], old["grouped"]]
            await clients[0].say(Message(asked[0].reply, 1, "", b"by the old"))
            await clients[1].say(Message(asked[1].reply, 1, "", b"by the new"))
            await until(lambda: len(answers) >= 2)
            # The old connection is closed, now that nothing depends on it.
            await until(lambda: clients[0].gone)
    assert sorted(answer.payload for answer in answers) == [b"by the new", b"by the old"]


async def test_old_server_that_dies_while_moving_does_no_harm() -> None:
    """The new one then gets the plain subscriptions at once."""
    told: list[list[Event]] = []
    clients: list[Client] = []

    async def script(client: Client) -> None:
        clients.append(client)
        events: list[Event] = []
        told.append(events)
        await client.log_in()
        while True:
            event = await client.receive()
            events.append(event)
            if len(clients) > 1 and client is clients[0] and isinstance(event, Unsubscribe):
                await client.stream.aclose()

    async with open_scripted(script) as url, open_connection([url], QUICK) as connection, connection.subscribe("plain"):
        await clients[0].say(Info({**INFO, "ldm": True}))
        with trio.fail_after(60):
            await connection.wait_connects(1)
            await until(lambda: any(isinstance(event, Subscribe) and event.subject == "plain" for event in told[1]))
        assert connection.state is ConnectionState.CONNECTED
        assert connection.connects == 2


async def test_nobody_is_asked_twice_when_there_is_no_group(tmp_path: Path) -> None:
    """A plain listener never gets a request twice; one that is on its way while the listener moves may be lost."""
    with running_cluster(tmp_path, 2, SLOWLY) as servers:
        async with (
            open_connection([servers[1].url], QUICK) as asker,
            open_connection([servers[0].url], QUICK) as answerer,
        ):
            seen: list[bytes] = []

            def answer(message: Message) -> None:
                seen.append(message.payload)
                answerer.publish(message.reply)

            async with answerer.listen("endpoint", answer):
                with trio.fail_after(60):
                    await until(lambda: len(answerer.server.connect_urls) >= 2)
                    servers[0].send(signal.SIGUSR2)
                    number = answered = 0
                    while answerer.connects < 2 or answered < 50:
                        number += 1
                        try:
                            await asker.request("endpoint", b"%d" % number, timeout=0.5)
                            answered += 1
                        except NoResponders:
                            await trio.sleep(0.001)
                        except trio.TooSlowError:
                            continue  # The old server had forgotten the listener, which the asker's did not know yet.
            assert len(seen) == len(set(seen)) >= answered
