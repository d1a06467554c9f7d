"""Requests: answered, refused, too late, cut off."""

from __future__ import annotations

import math
from functools import partial

import pytest
import trio

from aegis_backends.nats.connection import ConnectionState, open_connection
from aegis_backends.nats.errors import ConnectionClosed, Disconnected, NoResponders, PermissionDenied
from aegis_backends.nats.headers import Headers
from aegis_backends.nats.options import ConnectOptions
from aegis_backends.nats.protocol import Error, Event, Message, Publish, Subscribe
from tests.backends.nats.processes import ServerProcess
from tests.backends.nats.scripted import Client, open_scripted


async def test_request_is_answered_by_whoever_listens(shared_server: ServerProcess) -> None:
    """Payload and headers go both ways."""
    async with open_connection([shared_server.url]) as asker, open_connection([shared_server.url]) as answerer:

        def answer(message: Message) -> None:
            answerer.publish(message.reply, message.payload.upper(), headers=message.headers)

        async with answerer.listen("upper", answer):
            plain = await asker.request("upper", b"abc", timeout=60)
            headed = await asker.request("upper", b"abc", headers=Headers({"A": "1"}), timeout=math.inf)
    assert (plain.payload, plain.headers) == (b"ABC", None)
    assert (headed.payload, headed.headers) == (b"ABC", Headers({"A": "1"}))


async def test_many_requests_share_one_inbox_and_get_each_its_own_answer(shared_server: ServerProcess) -> None:
    """Answers come in any order; there is one subscription for all."""
    async with open_connection([shared_server.url]) as asker, open_connection([shared_server.url]) as answerer:
        waiting: list[Message] = []

        def answer(message: Message) -> None:
            waiting.append(message)
            if len(waiting) == 500:
                for each in reversed(waiting):
                    answerer.publish(each.reply, each.payload)

        answers: dict[int, bytes] = {}

        async def ask(number: int) -> None:
            answers[number] = (await asker.request("numbered", b"%d" % number, timeout=20)).payload

        async with answerer.listen("numbered", answer), trio.open_nursery() as nursery:
            for number in range(500):
                nursery.start_soon(ask, number)
        assert answers == {number: b"%d" % number for number in range(500)}
        assert asker.statistics().requests == 0
        assert asker.statistics().subscriptions == 0


async def test_nobody_listening_is_told_at_once(shared_server: ServerProcess) -> None:
    """The server answers itself; an answer that has a payload is somebody's, whatever its status."""
    async with open_connection([shared_server.url]) as connection:
        with pytest.raises(NoResponders, match=r"nobody listens on 'no\.body'"):
            await connection.request("no.body", timeout=60)

        def answer(message: Message) -> None:
            connection.publish(message.reply, b"busy")

        async with connection.listen("some.body", answer):
            assert (await connection.request("some.body", timeout=60)).payload == b"busy"


async def test_late_answer_is_dropped(shared_server: ServerProcess) -> None:
    """A request that timed out or was cancelled leaves nothing behind, and later ones are not confused."""
    async with open_connection([shared_server.url]) as connection, connection.subscribe("late") as asked:
        with pytest.raises(trio.TooSlowError):
            await connection.request("late", b"1", timeout=0.02)
        with trio.move_on_after(0.02) as scope:
            await connection.request("late", b"2", timeout=math.inf)
        assert scope.cancelled_caught
        assert connection.statistics().requests == 0
        async with trio.open_nursery() as nursery:

            async def answer() -> None:
                messages = [await asked.receive() for _ in range(3)]
                for message in messages:
                    connection.publish(message.reply, message.payload)

            nursery.start_soon(answer)
            assert (await connection.request("late", b"3", timeout=60)).payload == b"3"


async def test_timeouts_in_any_order_end_each_request_in_its_time(shared_server: ServerProcess) -> None:
    """A shorter one set later rings first; answered ones are swept out of the list of deadlines."""
    async with open_connection([shared_server.url]) as connection, connection.subscribe("silent"):
        ended: list[float] = []

        async def ask(timeout: float) -> None:
            with pytest.raises(trio.TooSlowError):
                await connection.request("silent", timeout=timeout)
            ended.append(timeout)

        async with (
            connection.listen("quick", lambda message: connection.publish(message.reply)),
            trio.open_nursery() as nursery,
        ):
            for timeout in (0.3, 0.15, 0.05):
                nursery.start_soon(ask, timeout)
            for _ in range(200):
                await connection.request("quick", timeout=60)
            assert len(connection._requests._deadlines) < 150
        assert ended == [0.05, 0.15, 0.3]


async def test_negative_timeout_is_a_mistake(shared_server: ServerProcess) -> None:
    """Whoever computed it wants to know."""
    async with open_connection([shared_server.url]) as connection:
        with pytest.raises(ValueError, match="negative"):
            await connection.request("a", timeout=-1)
        with pytest.raises(ValueError, match="negative"):
            await connection.request("a", timeout=math.nan)


async def test_lost_inbox_fails_what_was_sent_as_possibly_executed() -> None:
    """The answer cannot come, but the request has arrived; what is asked from then on is not sent."""

    async def script(client: Client) -> None:
        await client.log_in()
        while not isinstance(event := await client.receive(), Publish):
            pass
        inbox = event.reply.rpartition(".")[0]
        await client.say(Error(f'Permissions Violation for Subscription to "{inbox}.*"'))
        while True:
            assert not isinstance(await client.receive(), Publish)

    async with open_scripted(script) as url, open_connection([url]) as connection:
        with pytest.raises(Disconnected, match="does not allow this user to subscribe") as caught:
            await connection.request("a", timeout=60)
        assert caught.value.sent
        with pytest.raises(PermissionDenied):
            await connection.request("a", timeout=60)
        await connection.flush()


async def test_lost_inbox_takes_back_what_was_not_sent() -> None:
    """Nothing was executed, and that is what it says."""
    full = trio.Event()

    async def script(client: Client) -> None:
        await client.log_in()
        event = await client.receive()
        assert isinstance(event, Subscribe)
        await full.wait()
        await client.say(Error(f'Permissions Violation for Subscription to "{event.subject}"'))
        await trio.sleep_forever()

    options = ConnectOptions(high_water=1 << 30, max_pending=1 << 30, close_timeout=0.05)
    async with open_scripted(script) as url, open_connection([url], options) as connection:
        for _ in range(32):
            connection.publish("much", bytes(1 << 20))
        full.set()
        with pytest.raises(PermissionDenied):
            await connection.request("a", timeout=60)


async def test_broken_connection_fails_what_was_sent_at_once() -> None:
    """Somebody may have acted on it; waiting for an answer that cannot come helps nobody."""

    async def script(client: Client) -> None:
        await client.log_in()
        while not isinstance(await client.receive(), Publish):
            pass
        await client.stream.aclose()

    async with open_scripted(script) as url, open_connection([url]) as connection:
        with trio.fail_after(60), pytest.raises(Disconnected) as caught:
            await connection.request("a", timeout=60)
        assert caught.value.sent
        assert "(sent)" in str(caught.value)


async def test_request_waits_for_the_next_server_within_its_time(shared_server: ServerProcess) -> None:
    """While there is none, nothing is sent, and the error says so."""
    clients: list[Client] = []
    answers = trio.Event()

    async def script(client: Client) -> None:
        clients.append(client)
        if len(clients) > 1:
            await answers.wait()
        await client.log_in()
        while not isinstance(event := await client.receive(), Publish):
            pass
        await client.say(Message(event.reply, 1, "", b"answer"))

    options = ConnectOptions(close_timeout=0.05)
    async with open_scripted(script) as url, open_connection([url], options) as connection:
        await connection.request("a", timeout=60)
        await clients[0].stream.aclose()
        await connection.wait_state(ConnectionState.RECONNECTING)
        with pytest.raises(Disconnected) as caught:
            await connection.request("a", timeout=0.05)
        assert not caught.value.sent
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(connection.request, "a", timeout=10))
            await trio.testing.wait_all_tasks_blocked()
            answers.set()
        assert connection.connects == 2


async def _stalled(client: Client) -> None:
    await client.log_in()
    await trio.sleep_forever()


async def test_request_that_could_not_be_sent_in_time_never_is() -> None:
    """Behind a socket that takes no more, it is taken back when its time is over, or its caller cancelled."""
    got: list[Event] = []
    go_on = trio.Event()

    async def script(client: Client) -> None:
        await client.log_in()
        await go_on.wait()
        while True:
            got.append(await client.receive())

    options = ConnectOptions(high_water=50_000_000, max_pending=50_000_000)
    async with open_scripted(script) as url, open_connection([url], options) as connection:
        for _ in range(20):
            connection.publish("filler", b"x" * 1_000_000)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(Disconnected, match=r"could not be sent within 0\.05 s") as caught:
            await connection.request("timed.out", timeout=0.05)
        assert not caught.value.sent
        with trio.move_on_after(0.05):
            await connection.request("cancelled", timeout=60)
        go_on.set()
        connection.publish("end")
        await connection.flush()
    subjects = [event.subject for event in got if isinstance(event, Publish)]
    assert subjects == ["filler"] * 20 + ["end"]


async def test_request_waits_while_too_much_is_waiting_to_be_sent() -> None:
    """Beyond high water it is not even written."""
    options = ConnectOptions(high_water=1_000_000, max_pending=50_000_000, close_timeout=0.05)
    async with open_scripted(_stalled) as url, open_connection([url], options) as connection:
        for _ in range(20):
            connection.publish("filler", b"x" * 1_000_000)
        with pytest.raises(Disconnected, match="in time") as caught:
            await connection.request("a", timeout=0.05)
        assert not caught.value.sent
        assert connection.statistics().out_messages == 20


async def test_unsent_request_goes_to_the_next_server() -> None:
    """One that the dead connection was never given is sent over the next, within its time; publications too, in order."""
    got: list[str] = []
    clients: list[Client] = []
    stop = trio.Event()

    async def script(client: Client) -> None:
        clients.append(client)
        await client.log_in()
        if len(clients) == 1:
            await stop.wait()
            await client.stream.aclose()
        while True:
            event = await client.receive()
            if isinstance(event, Publish):
                got.append(event.subject)
                if event.reply:
                    await client.say(Message(event.reply, 1, "", b"answer"))

    options = ConnectOptions(high_water=50_000_000, max_pending=50_000_000)
    async with open_scripted(script) as url, open_connection([url], options) as connection:
        for _ in range(20):
            connection.publish("filler", b"x" * 1_000_000)
        await trio.testing.wait_all_tasks_blocked()
        connection.publish("kept.1")
        answers: list[Message] = []

        async def ask() -> None:
            answers.append(await connection.request("asked", timeout=10))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            connection.publish("kept.2")
            stop.set()
        await connection.flush()
        assert answers[0].payload == b"answer"
    # Only what the socket was given is lost; of the request, nothing was.
    assert [subject for subject in got if subject != "filler"] == ["kept.1", "kept.2", "asked"]
    assert 0 < got.count("filler") < 20


async def test_closing_fails_what_waits() -> None:
    """A request under way when the connection is closed ends with that, and says whether it was sent."""
    async with (
        open_scripted(_stalled) as url,
        open_connection([url], ConnectOptions(drain_timeout=0.05)) as connection,
        trio.open_nursery() as nursery,
    ):

        async def ask() -> None:
            with pytest.raises(ConnectionClosed) as caught:
                await connection.request("a", timeout=60)
            assert caught.value.sent

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        await connection.drain()
