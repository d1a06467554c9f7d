"""Publish, subscribe, flush, drain, close: against the real server.

It is one long file because each of these is told by what it does to the others.
"""

from __future__ import annotations

import pytest
import trio

from aegis_backends.nats.connection import Connection, ConnectionState, open_connection
from aegis_backends.nats.dialing import Dialed
from aegis_backends.nats.errors import (
    ConnectionClosed,
    ConnectionFailed,
    LocalProtocolError,
    PayloadTooLarge,
    PendingFull,
)
from aegis_backends.nats.headers import Headers
from aegis_backends.nats.options import ConnectOptions
from aegis_backends.nats.protocol import Connect, Event, Message, Pong, Publish, Unsubscribe
from aegis_backends.nats.supervisor import Supervisor
from tests.backends.nats.processes import ServerProcess
from tests.backends.nats.scripted import Client, open_scripted


async def test_message_arrives_as_it_was_published(shared_server: ServerProcess) -> None:
    """Subject, payload, reply and headers, in the order of publishing."""
    async with open_connection([shared_server.url]) as connection, connection.subscribe("arrives.*") as subscription:
        connection.publish("arrives.plain", b"1", reply="answer.to")
        connection.publish("arrives.headed", b"\x00\xff", headers=Headers([("A", "1"), ("A", "2")]))
        connection.publish("arrives.empty")
        first, second, third = [await subscription.receive() for _ in range(3)]
    assert (first.subject, first.payload, first.reply, first.headers) == ("arrives.plain", b"1", "answer.to", None)
    assert (second.subject, second.payload) == ("arrives.headed", b"\x00\xff")
    assert second.headers == Headers([("A", "1"), ("A", "2")])
    assert (third.payload, third.reply, third.status) == (b"", "", None)


async def test_server_tells_what_it_can(shared_server: ServerProcess) -> None:
    """The newest INFO is at hand, and the limit that comes with it."""
    async with open_connection([shared_server.url]) as connection:
        assert connection.state is ConnectionState.CONNECTED
        assert connection.connects == 1
        assert connection.server.version.startswith("2.")
        assert connection.max_payload == connection.server.max_payload == 1 << 20
        assert "connected" in repr(connection)
        assert shared_server.url in repr(connection)


async def test_payload_up_to_the_limit_passes_and_one_byte_more_is_refused(shared_server: ServerProcess) -> None:
    """Headers count. The server would close the connection, so it is never asked."""
    headers = Headers({"A": "1"})
    size = len(headers.encode())
    async with open_connection([shared_server.url]) as connection, connection.subscribe("limit") as subscription:
        connection.publish("limit", b"x" * connection.max_payload)
        connection.publish("limit", b"x" * (connection.max_payload - size), headers=headers)
        assert len((await subscription.receive()).payload) == connection.max_payload
        assert len((await subscription.receive()).payload) == connection.max_payload - size
        with pytest.raises(PayloadTooLarge) as caught:
            connection.publish("limit", b"x" * (connection.max_payload - size + 1), headers=headers)
        assert (caught.value.size, caught.value.limit) == (connection.max_payload + 1, connection.max_payload)
        with pytest.raises(PayloadTooLarge, match="1048577 bytes"):
            await connection.request("limit", b"x" * (connection.max_payload + 1), timeout=1)
        await connection.flush()
        assert connection.connects == 1


async def test_subject_that_cannot_be_sent_is_refused(shared_server: ServerProcess) -> None:
    """Each operation checks its subjects; the connection is unharmed."""
    async with open_connection([shared_server.url]) as connection:
        for subject in ("", "a b", "a.*", "x" * 4001):
            with pytest.raises(LocalProtocolError):
                connection.publish(subject)
            with pytest.raises(LocalProtocolError):
                await connection.request(subject, timeout=1)
        with pytest.raises(LocalProtocolError):
            connection.publish("a", reply="b c")
        for pattern, queue in (("a..b", ""), ("a", "q q"), ("x" * 4001, "")):
            with pytest.raises(LocalProtocolError):
                async with connection.subscribe(pattern, queue=queue):
                    pass
        connection.publish("x" * 4000)
        await connection.flush()
        assert connection.connects == 1


async def test_members_of_a_queue_group_share_the_messages(shared_server: ServerProcess) -> None:
    """Each message gets to one of them; others, outside of the group, get all."""
    async with open_connection([shared_server.url]) as one, open_connection([shared_server.url]) as two:
        got: list[list[Message]] = [[], [], []]
        async with (
            one.listen("shared", got[0].append, queue="workers"),
            two.listen("shared", got[1].append, queue="workers"),
            two.listen("shared", got[2].append),
        ):
            for _ in range(200):
                one.publish("shared")
            await one.flush()
            await two.flush()
    assert len(got[0]) + len(got[1]) == len(got[2]) == 200
    assert min(len(got[0]), len(got[1])) > 20


async def test_own_messages_come_back_unless_that_is_not_wanted(shared_server: ServerProcess) -> None:
    """Without echo, only others get what is published."""
    options = ConnectOptions(echo=False)
    async with open_connection([shared_server.url], options) as one, open_connection([shared_server.url]) as two:
        got: list[list[Message]] = [[], []]
        async with one.listen("echoes", got[0].append), two.listen("echoes", got[1].append):
            one.publish("echoes")
            await one.flush()
            await two.flush()
    assert [len(messages) for messages in got] == [0, 1]


async def test_publishing_of_one_step_is_sent_in_one_piece() -> None:
    """Writing waits for the end of the step, so that many messages cost one call of the system."""
    send, receive = trio.open_memory_channel[bytes](100)

    async def script(client: Client) -> None:
        await client.log_in()
        while True:
            await send.send(bytes(await client.stream.receive_some()))

    async with open_scripted(script) as url, open_connection([url], ConnectOptions(close_timeout=0.05)) as connection:
        assert (await receive.receive()).startswith(b"SUB _INBOX.")
        connection.publish("first")  # which may leave at once
        for _ in range(100):
            connection.publish("many", b"x" * 10)
        # The first question whether the server is there may come before, or in the same piece.
        while not (piece := (await receive.receive()).removeprefix(b"PING\r\n").removeprefix(b"PUB first 0\r\n\r\n")):
            pass
        assert piece == b"PUB many 10\r\nxxxxxxxxxx\r\n" * 100


async def test_back_pressure_waits_and_then_refuses() -> None:
    """Beyond high water `ready` waits; beyond what may wait publishing raises, and a server that reads relieves both."""
    options = ConnectOptions(high_water=1_000_000, max_pending=8_000_000)
    go_on = trio.Event()

    async def script(client: Client) -> None:
        await client.log_in()
        await go_on.wait()
        while True:
            await client.receive()

    async with open_scripted(script) as url, open_connection([url], options) as connection:
        await connection.ready()
        for _ in range(7):
            connection.publish("much", b"x" * 1_000_000)
        with pytest.raises(PendingFull) as caught:
            connection.publish("much", b"x" * 1_000_000)
        assert caught.value.limit == 8_000_000
        assert caught.value.size == connection.statistics().pending_bytes > 7_000_000
        assert "at most 8000000 may" in str(caught.value)
        with trio.move_on_after(0.05) as waiting:
            await connection.ready()
        assert waiting.cancelled_caught
        go_on.set()
        with trio.fail_after(60):
            await connection.ready()
        assert connection.statistics().pending_bytes < 1_000_000
        connection.publish("much")


async def test_slow_reader_loses_the_newest_and_nobody_else_suffers(shared_server: ServerProcess) -> None:
    """The bounds are of messages and of bytes; what was dropped is counted."""
    async with (
        open_connection([shared_server.url]) as connection,
        connection.subscribe("slow", max_messages=3) as few,
        connection.subscribe("slow", max_bytes=10) as small,
        connection.subscribe("slow") as enough,
    ):
        for number in range(8):
            connection.publish("slow", b"%04d" % number)
        await connection.flush()
        assert (few.pending, few.dropped) == (3, 5)
        assert (small.pending, small.dropped) == (2, 6)
        assert (enough.pending, enough.dropped) == (8, 0)
        assert connection.statistics().dropped == 11
        assert [few.receive_nowait().payload for _ in range(3)] == [b"0000", b"0001", b"0002"]
        with pytest.raises(trio.WouldBlock):
            few.receive_nowait()
        connection.publish("slow", b"again")
        assert (await few.receive()).payload == b"again"
        assert repr(few) == "<Subscription to 'slow': 0 pending, 5 dropped>"


async def test_subscription_ends_after_its_number_of_messages(shared_server: ServerProcess) -> None:
    """Those received before count; then an iteration ends, and a later call says the same."""
    async with open_connection([shared_server.url]) as connection, connection.subscribe("few") as subscription:
        connection.publish("few", b"0")
        assert (await subscription.receive()).payload == b"0"
        subscription.auto_unsubscribe(3)
        assert subscription.remaining == 2
        for number in range(1, 6):
            connection.publish("few", b"%d" % number)
        assert [message.payload async for message in subscription] == [b"1", b"2"]
        with pytest.raises(trio.EndOfChannel):
            subscription.receive_nowait()
        assert connection.statistics().subscriptions == 0
        subscription.auto_unsubscribe(1)
    with pytest.raises(ValueError, match="at least one"):
        subscription.auto_unsubscribe(0)


async def test_number_that_has_been_reached_already_ends_it_at_once(shared_server: ServerProcess) -> None:
    """What was received can still be read."""
    async with open_connection([shared_server.url]) as connection, connection.subscribe("enough") as subscription:
        for _ in range(3):
            connection.publish("enough")
        await connection.flush()
        subscription.auto_unsubscribe(2)
        assert len([message async for message in subscription]) == 3


async def test_drained_subscription_ends_once_all_is_read(shared_server: ServerProcess) -> None:
    """Nothing that the server sent before is lost, nothing comes after."""
    async with open_connection([shared_server.url]) as connection, connection.subscribe("drained") as subscription:
        for _ in range(100):
            connection.publish("drained")
        await subscription.drain()
        connection.publish("drained")
        await connection.flush()
        assert len([message async for message in subscription]) == 100
        await subscription.drain()


async def test_left_block_ends_its_subscription(shared_server: ServerProcess) -> None:
    """A task that still reads it is told so; what was not read is dropped."""
    async with open_connection([shared_server.url]) as connection, trio.open_nursery() as nursery:
        async with connection.subscribe("left") as subscription:

            async def read() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await subscription.receive()

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
        connection.publish("left")
        await connection.flush()
        assert subscription.pending == 0
        with pytest.raises(trio.ClosedResourceError):
            await subscription.receive()
        assert connection.statistics().subscriptions == 0


async def test_cancelled_receive_loses_no_message(shared_server: ServerProcess) -> None:
    """The next call gets it; a second reader is not left asleep."""
    async with open_connection([shared_server.url]) as connection, connection.subscribe("kept") as subscription:
        with trio.move_on_after(0.01) as waiting:
            await subscription.receive()
        assert waiting.cancelled_caught
        connection.publish("kept", b"1")
        assert (await subscription.receive()).payload == b"1"


async def test_flush_gives_up_in_time() -> None:
    """A server that does not answer is not waited for any longer than was said."""
    options = ConnectOptions(close_timeout=0.05)
    async with open_scripted(Client.log_in) as url, open_connection([url], options) as connection:
        with pytest.raises(trio.TooSlowError):
            await connection.flush(timeout=0.05)


async def test_block_that_ends_sends_what_was_published(shared_server: ServerProcess) -> None:
    """Nobody needs to flush at the end."""
    async with open_connection([shared_server.url]) as reader, reader.subscribe("last") as subscription:
        async with open_connection([shared_server.url]) as writer:
            for _ in range(1000):
                writer.publish("last", b"x" * 1000)
        with trio.fail_after(60):
            for _ in range(1000):
                await subscription.receive()
    with pytest.raises(ConnectionClosed, match="its block was left"):
        writer.publish("last")
    assert writer.state is ConnectionState.CLOSED


async def test_error_of_the_block_leaves_it_as_itself(shared_server: ServerProcess) -> None:
    """Not in a group, and its traceback goes to the line that raised."""
    with pytest.raises(ZeroDivisionError) as caught:
        async with open_connection([shared_server.url]):
            raise ZeroDivisionError
    assert caught.traceback[-1].name == "test_error_of_the_block_leaves_it_as_itself"


async def test_listener_is_told_once_what_was_read_in_one_go_has_got_there(shared_server: ServerProcess) -> None:
    """After the last message, before anybody can see that it came; and no more when the block has been left."""
    calls: list[bytes] = []
    payloads = [b"%d" % number for number in range(100)]
    async with open_connection([shared_server.url]) as connection:
        async with connection.listen(
            "many", lambda message: calls.append(message.payload), afterwards=lambda: calls.append(b"settled")
        ):
            for payload in payloads:
                connection.publish("many", payload)
            await connection.flush()
            assert [call for call in calls if call != b"settled"] == payloads
            assert calls[-1] == b"settled"
        calls.clear()
        await connection.flush()
        assert calls == []


async def test_several_subjects_are_listened_to_as_one(shared_server: ServerProcess) -> None:
    """One receiver gets them all while the block runs, and nothing after it."""
    got: list[str] = []
    async with open_connection([shared_server.url]) as connection:
        async with connection.listen(("some.one", "some.*.two"), lambda message: got.append(message.subject)):
            assert connection.statistics().subscriptions == 2
            for subject in ("some.one", "some.more.two", "some.three"):
                connection.publish(subject)
            await connection.flush()
        assert connection.statistics().subscriptions == 0
        connection.publish("some.one")
        await connection.flush()
        with pytest.raises(LocalProtocolError):
            async with connection.listen(("some.one", "some..two"), lambda message: got.append(message.subject)):
                pass
        assert connection.statistics().subscriptions == 0
    assert got == ["some.one", "some.more.two"]


async def test_error_of_a_listener_ends_the_block_as_itself(shared_server: ServerProcess) -> None:
    """A listener must not raise; if one does, nobody goes on as if nothing had happened."""

    def fail(_message: Message) -> None:
        raise ZeroDivisionError

    async def listen() -> None:
        async with open_connection([shared_server.url]) as connection, connection.listen("fails", fail):
            connection.publish("fails")
            await trio.sleep_forever()

    with pytest.raises(ZeroDivisionError):
        await listen()


async def test_cancelled_block_leaves_nothing_behind(shared_server: ServerProcess) -> None:
    """The cancellation stays outside, no task is left, and the server sees the connection go."""
    tasks = len(trio.lowlevel.current_root_task().child_nurseries)
    with trio.move_on_after(0.05) as scope:
        async with open_connection([shared_server.url]) as connection, connection.subscribe("x") as subscription:
            await subscription.receive()
    assert scope.cancelled_caught
    assert connection.state is ConnectionState.CLOSED
    assert len(trio.lowlevel.current_root_task().child_nurseries) == tasks


async def test_connect_that_is_cancelled_as_it_succeeds_leaves_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server has let us in, and sees us go."""
    connect, left = Supervisor.connect, trio.Event()
    dialed: list[Dialed] = []  # kept, or Python would close it

    async def connect_and_cancel(supervisor: Supervisor) -> Dialed:
        dialed.append(await connect(supervisor))
        scope.cancel()
        return dialed[0]

    async def script(client: Client) -> None:
        await client.log_in()
        try:
            while True:
                await client.receive()
        except EOFError:
            left.set()

    monkeypatch.setattr(Supervisor, "connect", connect_and_cancel)
    with trio.fail_after(20):
        async with open_scripted(script) as url:
            with trio.CancelScope() as scope:
                async with open_connection([url]):
                    pytest.fail("it was not cancelled")
            assert scope.cancelled_caught
            await left.wait()
    assert len(dialed) == 1


async def test_closed_connection_answers_nobody(shared_server: ServerProcess) -> None:
    """Whatever is asked of it afterwards says so, and waits for nothing."""
    async with open_connection([shared_server.url]) as connection:
        pass
    with trio.fail_after(60):
        for work in (
            connection.ready,
            connection.flush,
            connection.drain,
            lambda: connection.request("a", timeout=1),
            lambda: connection.wait_state(ConnectionState.CONNECTED),
            lambda: connection.wait_connects(1),
        ):
            with pytest.raises(ConnectionClosed):
                await work()
        with pytest.raises(ConnectionClosed):
            async with connection.subscribe("a"):
                pass
        with pytest.raises(ConnectionClosed):
            async with connection.listen("a", print):
                pass
        assert await connection.wait_state(ConnectionState.CLOSED) is ConnectionState.CLOSED
        assert await connection.wait_connects(0) == 1


async def test_draining_lets_everything_be_dealt_with(shared_server: ServerProcess) -> None:
    """What was received is read and answered, what is asked is answered, then the connection closes within its block."""
    async with open_connection([shared_server.url]) as other, open_connection([shared_server.url]) as connection:
        done = trio.Event()

        async def answer(owner: Connection, subject: str, *, task_status: trio.TaskStatus[None]) -> None:
            async with owner.subscribe(subject) as subscription:
                task_status.started()
                async for message in subscription:
                    await done.wait()
                    owner.publish(message.reply, b"answered")

        answers: list[bytes] = []

        async def ask(owner: Connection, subject: str) -> None:
            answers.append((await owner.request(subject, timeout=60)).payload)

        async with trio.open_nursery() as nursery:
            await nursery.start(answer, connection, "theirs")
            for _ in range(5):
                nursery.start_soon(ask, other, "theirs")
            async with other.listen("ours", lambda message: other.publish(message.reply, b"answered")):
                nursery.start_soon(ask, connection, "ours")
                await trio.sleep(0.05)
                nursery.start_soon(connection.drain)
                await connection.wait_state(ConnectionState.DRAINING)
                done.set()
                await connection.wait_state(ConnectionState.CLOSED)
        assert answers == [b"answered"] * 6
        with pytest.raises(ConnectionClosed, match="drained"):
            connection.publish("a")


async def test_draining_does_not_wait_for_ever(shared_server: ServerProcess) -> None:
    """A reader that does not read gets its time, and no more; what it has not read by then it still can."""
    options = ConnectOptions(drain_timeout=0.05)
    async with open_connection([shared_server.url], options) as connection, connection.subscribe("stuck") as stuck:
        connection.publish("stuck")
        with trio.fail_after(20):  # less than what it gets by default
            await connection.drain()
        assert connection.state is ConnectionState.CLOSED
        assert len([message async for message in stuck]) == 1


async def test_statistics_count_both_ways(shared_server: ServerProcess) -> None:
    """Messages and bytes, headers included."""
    headers = Headers({"A": "1"})
    async with open_connection([shared_server.url]) as connection, connection.subscribe("counted"):
        connection.publish("counted", b"12345")
        connection.publish("counted", b"1", headers=headers)
        await connection.flush()
        await connection.flush()
        statistics = connection.statistics()
    size = 6 + len(headers.encode())
    assert (statistics.out_messages, statistics.out_bytes) == (2, size)
    assert (statistics.in_messages, statistics.in_bytes) == (2, size)
    assert (statistics.connects, statistics.subscriptions, statistics.requests) == (1, 1, 0)
    assert (statistics.pending_bytes, statistics.dropped, statistics.server_errors) == (0, 0, 0)


async def test_server_that_is_not_there_is_told_with_its_reason() -> None:
    """Every server is tried in each round, and the error says what each said."""
    accepted: list[Client] = []

    async def hang_up(client: Client) -> None:
        accepted.append(client)
        await client.stream.aclose()

    async with open_scripted(hang_up) as url:
        with pytest.raises(ConnectionFailed) as caught:
            async with open_connection([url, "nats://127.0.0.1:1"], ConnectOptions(connect_attempts=2, backoff=0.01)):
                pass
    assert len(accepted) == 2
    assert caught.value.reasons[url] == "the server closed the connection"
    assert "refused" in caught.value.reasons["nats://127.0.0.1:1"]
    assert "127.0.0.1:1" in str(caught.value)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is no operation of a server"),
        (b"PING\r\n", "does not begin with an INFO"),
        (b'INFO {"headers":false}\r\n', "does not know headers"),
        (b'INFO {"headers":1}\r\n', "of type int"),
        (b"INFO {\"headers\":true}\r\n-ERR 'maximum connections exceeded'\r\n", "maximum connections exceeded"),
        (b"", "no answer within 0.2 s"),
    ],
)
async def test_server_that_is_none_is_given_up(said: bytes, reason: str) -> None:
    """What is no NATS server, or one that cannot be used, or says nothing, is told as such."""

    async def script(client: Client) -> None:
        await client.stream.send_all(said)

    async with open_scripted(script) as url:
        with pytest.raises(ConnectionFailed) as caught:
            async with open_connection([url], ConnectOptions(connect_attempts=1, connect_timeout=0.2)):
                pass
    assert reason in caught.value.reasons[url]


async def test_words_before_the_first_pong_are_heeded() -> None:
    """A server may say +OK, ask whether we are there, and tell news, before it lets us in."""
    got: list[Event] = []

    async def script(client: Client) -> None:
        await client.stream.send_all(
            b'INFO {"headers":true}\r\n+OK\r\nPING\r\nINFO {"headers":true,"max_payload":5}\r\n'
        )
        while True:
            got.append(await client.receive())

    async with open_scripted(script) as url, open_connection([url]) as connection:
        assert connection.max_payload == 5
        connection.publish("a", b"12345")
        await connection.flush()
    assert isinstance(got[0], Connect)
    assert Pong() in got
    assert Publish("a", b"12345") in got


async def test_who_says_goodbye_gets_what_was_on_the_way() -> None:
    """What the server sent before it knew; a listener that just ends drops it."""

    async def script(client: Client) -> None:
        await client.log_in()
        while True:
            event = await client.receive()
            if isinstance(event, Unsubscribe):
                await client.say(Message("a", event.sid, "", b"late"))

    got: list[Message] = []
    async with open_scripted(script) as url, open_connection([url]) as connection:
        async with connection.listen("a", got.append, goodbye=5.0):
            assert got == []
        assert [message.payload for message in got] == [b"late"]
        async with connection.listen("a", got.append):
            pass
        await connection.flush()
        assert len(got) == 1
