"""The stream under a link of NATS and under a connection of HTTP: what it promises when it need not wait, when it must, and when it breaks."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from aegis_backends.nats.connection import open_connection
from aegis_backends.nats.options import ConnectOptions
from aegis_backends.nats.protocol import Message, Publish
from aegis_backends.tcp import TcpStream
from tests.backends.nats.scripted import Client, open_scripted


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[TcpStream, socket.socket]]:
    """A stream, and the other side's socket, which does not block."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stream = TcpStream(await trio.open_tcp_stream(*listener.getsockname()))
        there, _ = listener.accept()
    with there:
        there.setblocking(False)
        async with stream:
            yield stream, there


async def test_bytes_go_both_ways_until_the_end() -> None:
    """What was sent at once or in a piece comes in order; at its end there are no more."""
    async with connected() as (here, there):
        assert here.send_nowait(b"at once, ") == 9
        await here.send_all(b"and later")
        await trio.lowlevel.wait_readable(there)
        assert there.recv(100) == b"at once, and later"
        there.sendall(b"answer")
        assert await here.receive_some(3) == b"ans"
        assert await here.receive_some(100) == b"wer"
        there.shutdown(socket.SHUT_WR)
        assert await here.receive_some(100) == b""


async def test_end_is_told_to_the_other_side() -> None:
    """It reads what was sent, then an end; and may go on to send."""
    async with connected() as (here, there):
        await here.send_all(b"last")
        await here.send_eof()
        await trio.lowlevel.wait_readable(there)
        assert there.recv(100) == b"last"
        await trio.lowlevel.wait_readable(there)
        assert there.recv(100) == b""
        there.sendall(b"answer")
        assert await here.receive_some(100) == b"answer"


async def test_reader_waits_without_being_in_the_way() -> None:
    """Cancelled, it has taken nothing."""
    async with connected() as (here, there):
        with trio.move_on_after(0) as scope:
            await here.receive_some(100)
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def read() -> None:
                assert await here.receive_some(100) == b"late"

            await trio.testing.wait_all_tasks_blocked()
            there.sendall(b"late")


async def test_others_have_their_turn_while_there_is_always_more_to_read() -> None:
    """Also a reader that never has to wait lets others run, and can be cancelled."""
    async with connected() as (here, there):
        there.sendall(b"x" * 1000)
        assert await here.receive_some(1) == b"x"
        with trio.testing.assert_checkpoints():
            assert await here.receive_some(1) == b"x"
        with trio.CancelScope() as scope:
            scope.cancel()
            await here.receive_some(1)
        assert scope.cancelled_caught
        assert await here.receive_some(1000) == b"x" * 998


async def test_only_what_fits_is_sent_at_once() -> None:
    """It tells how much that was; of what does not fit at all it is nothing."""
    async with connected() as (here, there):
        much = b"x" * (64 << 20)
        assert 0 < here.send_nowait(much) < len(much)
        while here.send_nowait(much):
            pass
        assert here.send_nowait(b"x") == 0
        there.close()


async def test_broken_connection_says_so() -> None:
    """A reset is told to the reader, and to who sends; at once nothing can be sent any more."""
    async with connected() as (here, there):
        there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # closing sends a reset
        there.close()
        with pytest.raises(trio.BrokenResourceError):
            await here.receive_some(100)
        assert here.send_nowait(b"x") == 0
        with pytest.raises(trio.BrokenResourceError):
            await here.send_all(b"x")


async def test_closing_wakes_the_reader() -> None:
    """It is told who closed it."""
    async with connected() as (here, _), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def read() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await here.receive_some(100)

        await trio.testing.wait_all_tasks_blocked()
        await here.aclose()


async def test_what_is_written_first_after_a_lonely_message_leaves_in_the_same_step() -> None:
    """There is nothing to gather it with. What else is written in that step leaves together, after it."""
    got: list[str] = []

    async def script(client: Client) -> None:
        await client.log_in()
        while True:
            event = await client.receive()
            if isinstance(event, Publish):
                got.append(event.subject)

    async with open_scripted(script) as url, open_connection([url]) as connection:
        waiting: list[int] = []
        await connection.flush()
        await trio.testing.wait_all_tasks_blocked()
        for number in range(3):
            connection.publish(f"news.{number}")
            waiting.append(connection.statistics().pending_bytes)
        await connection.flush()
    assert waiting == [0, 16, 32]
    assert got == ["news.0", "news.1", "news.2"]


async def test_message_that_leaves_in_part_is_completed_before_the_next() -> None:
    """Many megabytes for a server that does not read yet come whole, and in order."""
    got: list[tuple[str, bytes]] = []
    go_on = trio.Event()
    sizes = [30 << 20, 5, 5]

    async def script(client: Client) -> None:
        await client.log_in(max_payload=64 << 20)
        await client.receive()  # the inbox
        await client.say(Message("lonely", 99, "", b""))
        await go_on.wait()
        while True:
            event = await client.receive()
            if isinstance(event, Publish):
                got.append((event.subject, event.payload))

    async with open_scripted(script) as url, open_connection([url], ConnectOptions(max_pending=1 << 30)) as connection:
        await trio.testing.wait_all_tasks_blocked()
        for number, size in enumerate(sizes):
            connection.publish(f"part.{number}", b"%d" % number * size)
        assert 0 < connection.statistics().pending_bytes < sizes[0]
        go_on.set()
        with trio.fail_after(60):
            await connection.flush()
        assert connection.statistics().pending_bytes == 0
    assert got == [(f"part.{number}", b"%d" % number * size) for number, size in enumerate(sizes)]
