"""The HTTP server: what a client gets that is broken, slow, greedy, or means harm."""

from __future__ import annotations

import random
import socket
import struct
from contextlib import AsyncExitStack

import pytest
import trio

from aegis_backends.http.asgi import Receive, Scope, Send, respond
from aegis_backends.http.exchange import Cut
from aegis_backends.http.server import HttpServer, Limits
from tests.backends.http.peers import (
    PATIENCE,
    SHORT,
    Served,
    echo,
    eventually,
    make_identities,
    open_server,
    problem_of,
    read_all,
    read_until,
)

GET = b"GET / HTTP/1.1\r\nHost: x\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\n"

REFUSED = {
    "no request": (b"hello?\r\n\r\n", 400, "malformed"),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400, "malformed"),
    "two hosts": (GET + b"Host: y\r\n\r\n", 400, "malformed"),
    "two lengths": (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400, "malformed"),
    "length and chunks": (POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "malformed"),
    "negative length": (POST + b"Content-Length: -1\r\n\r\n", 400, "malformed"),
    "length past 64 bits": (POST + b"Content-Length: 99999999999999999999999\r\n\r\n", 400, "malformed"),
    "chunk of no size": (POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 400, "malformed"),
    "space before a colon": (GET + b"A : b\r\n\r\n", 400, "malformed"),
    "zero byte": (GET + b"A: \x00\r\n\r\n", 400, "malformed"),
    "path that is no text": (b"GET /%ff HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed"),
    "target that is no URL": (b"GET \x68ttp://[ HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed"),
    "many headers": (GET + b"A: b\r\n" * 101 + b"\r\n", 431, "head_too_large"),
    "large headers": (GET + b"A: %b\r\n\r\n" % (b"b" * 20_000), 431, "head_too_large"),
    "long target": (b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n" % (b"a" * 20_000), 431, "head_too_large"),
    "endless header": (GET + b"A: " + b"b" * 200_000, 431, "head_too_large"),
    "large body": (POST + b"Content-Length: 2000\r\n\r\n", 413, "body_too_large"),
    "large body in chunks": (POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"ff\r\n%b\r\n" % (b"x" * 255) * 9, 413, "body_too_large"),
    "websocket": (GET + b"Upgrade: websocket\r\nConnection: upgrade\r\n\r\nx", 501, "upgrade"),
    "http2": (GET + b"Upgrade: h2c\r\nConnection: upgrade, http2-settings\r\nHTTP2-Settings: ?\r\n\r\n", 501, "upgrade"),
    "http2 at once": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "malformed"),
    "connect": (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 501, "upgrade"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_wrong_is_refused_and_counted(name: str) -> None:
    """The connection is closed, and the next client is served."""
    data, status, reason = REFUSED[name]
    async with open_server(echo, Limits(body=1000)) as served:
        response = await served.say(data)
        # A client that was still sending may not see the answer.
        if response or len(data) <= 100_000:
            problem = problem_of(response)
            assert (problem["status"], problem["code"]) == (status, "VALIDATION_ERROR")
        assert served.server.statistics.cut == {reason: 1}
        assert (await served.get("/next")).endswith(b"/next")


async def test_bad_request_after_a_good_one_does_not_spoil_it() -> None:
    """Each has its answer."""
    async with open_server(echo) as served:
        found = await served.say(GET + b"\r\n" + b"nonsense\r\n\r\n")
        assert found.startswith(b"HTTP/1.1 200 ")
        assert problem_of(found)["status"] == 400


# --- Time ---

LATE = {
    "head": (b"GET / HTTP/1.1\r\nHo", "slow_head"),
    "body": (POST + b"Content-Length: 500\r\n\r\nhe", "slow_body"),
    "chunk": (POST + b"Transfer-Encoding: chunked\r\n\r\n5;ext=", "slow_body"),
    "head after a request": (GET + b"\r\nGET / HTTP/1.1\r\nA: ", "slow_head"),
}


@pytest.mark.parametrize("name", LATE)
async def test_slow_sender_is_cut_off(name: str) -> None:
    """One byte at a time does not keep a connection open: the whole head, or body, has to come in time."""
    sent, reason = LATE[name]
    async with open_server(echo, Limits(head_time=SHORT, body_time=SHORT)) as served:
        async with await served.connect() as stream:
            await stream.send_all(sent)
            with trio.fail_after(PATIENCE):
                try:
                    while True:
                        await stream.send_all(b"x")
                        await trio.sleep(SHORT / 10)
                except trio.BrokenResourceError:
                    pass
        assert served.server.statistics.cut[reason] == 1
        await served.wait_connections(0)


async def test_idle_connection_is_closed() -> None:
    """That is no offence, and not counted; nor is one that never says a word."""
    async with open_server(echo, Limits(idle_time=SHORT)) as served:
        async with await served.connect() as silent, await served.connect() as stream:
            await stream.send_all(GET + b"\r\n")
            await read_until(stream, b"\r\n\r\n/")
            with trio.fail_after(PATIENCE):
                assert await read_all(stream) == b""
                assert await read_all(silent) == b""
        assert served.server.statistics.cut == {}


async def test_slow_reader_is_cut_off() -> None:
    """Who asks and does not take the answer holds up nobody, and not for long."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, 200, b"x" * (32 << 20), content_type=b"text/plain")

    async with open_server(app, Limits(send_time=SHORT)) as served, await served.connect() as stream:
        await stream.send_all(GET + b"\r\n")
        await served.wait_cut("slow_reader")
        await served.wait_connections(0)


async def test_client_that_says_nothing_of_tls_is_cut_off() -> None:
    """Neither silence nor plain text is waited for."""
    identities = make_identities()
    async with open_server(echo, Limits(head_time=SHORT), identities.server) as served:
        async with await served.connect() as stream:
            with trio.fail_after(PATIENCE):
                assert await read_all(stream) == b""
        assert served.server.statistics.cut == {"tls": 1}
        await served.say(GET + b"\r\n")
        assert served.server.statistics.cut == {"tls": 2}


async def reset(stream: trio.SocketStream) -> None:
    """Close *stream* as a process does that dies with something unread."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await stream.aclose()


@pytest.mark.parametrize("sent", [b"GET / HT", POST + b"Content-Length: 5\r\n\r\nhe"], ids=["head", "body"])
async def test_client_that_leaves_halfway_is_counted(sent: bytes) -> None:
    """And its connection goes, whether it says so or not."""
    async with open_server(echo) as served:
        for leave in (trio.SocketStream.aclose, reset):
            stream = await served.connect()
            await stream.send_all(sent)
            await served.wait_connections(1)
            await eventually(lambda: not served.server.connections[0].is_idle)
            await leave(stream)
            await served.wait_connections(0)
        assert served.server.statistics.cut == {"left_halfway": 2}


# --- Number ---


async def test_idlest_connection_makes_room() -> None:
    """With as many connections as may be open, the one that has been idle longest goes."""
    async with open_server(echo, Limits(connections=2, per_address=3)) as served:
        async with await served.connect() as first, await served.connect() as second:
            for stream in (first, second):
                await stream.send_all(GET + b"\r\n")
                await read_until(stream, b"\r\n\r\n/")
            assert (await served.get("/third")).endswith(b"/third")
            with trio.fail_after(PATIENCE):
                assert await read_all(first) == b""
            await second.send_all(GET + b"\r\n")
            await read_until(second, b"\r\n\r\n/")
        assert served.server.statistics.cut == {}


def say_unread(served: Served) -> trio.SocketStream:
    """A connection over which a request came before the server could look at it."""
    connection = socket.create_connection(("127.0.0.1", served.port))
    connection.sendall(POST + b"Content-Length: 100\r\n\r\n" + bytes(100))
    connection.setblocking(False)
    return trio.SocketStream(trio.socket.from_stdlib_socket(connection))


async def test_who_is_turned_away_reads_why_to_its_end() -> None:
    """Also where its request was under way; but no more of them linger than connections there may be."""
    async with open_server(echo, Limits(connections=1, per_address=2)) as served, await served.connect() as busy:
        await busy.send_all(b"GET / HT")
        await eventually(lambda: [each for each in served.server.connections if not each.is_idle])
        async with say_unread(served) as first, say_unread(served) as second:
            with trio.fail_after(PATIENCE):
                answer = b"".join([part async for part in first])
                assert answer.startswith(b"HTTP/1.1 503 ")
                with pytest.raises(trio.BrokenResourceError):
                    await drain(second)
        await eventually(lambda: served.server.statistics.accepted == 3)
        assert served.server.statistics.cut == {"too_many_connections": 2}


async def drain(stream: trio.SocketStream) -> None:
    """Read *stream* to its end."""
    async for _part in stream:
        pass


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
async def test_too_many_busy_connections_refuse_the_next(encrypted: bool) -> None:  # noqa: FBT001
    """It is told so, if it speaks plainly, and counted."""
    async with (
        open_server(
            echo, Limits(connections=1, per_address=2), make_identities().server if encrypted else None
        ) as served,
        await served.connect() as busy,
    ):
        await served.wait_connections(1)
        if not encrypted:
            await busy.send_all(b"GET / HT")
            await eventually(lambda: not served.server.connections[0].is_idle)
        response = await served.say(GET + b"\r\n")
        assert (response == b"") is encrypted
        if not encrypted:
            problem = problem_of(response)
            assert (problem["status"], problem["code"]) == (503, "TRANSPORT_UNAVAILABLE")
            assert problem["details"] == {
                "endpoint": "this server",
                "reason": problem["details"]["reason"],
                "outcome": "NOT_SENT",
            }  # type: ignore[index]
        assert served.server.statistics.cut == {"too_many_connections": 1}
        await reset(busy)


async def test_who_is_cut_off_is_told_to_the_operator(caplog: pytest.LogCaptureFixture) -> None:
    """Each time to who counts; in the log at once, and then in one line for all of a minute."""
    told: list[str] = []
    server = HttpServer(echo, tell_cut=told.append)
    for _ in range(3):
        server.count_cut(Cut.RATE)
    server._log_cut()
    server.count_cut(Cut.RATE)
    server.count_cut(Cut.SLOW_HEAD)
    server._log_cut()
    server.now += 61.0
    server._log_cut()
    server.now += 61.0
    server._log_cut()
    assert told == ["too_many_requests"] * 4 + ["slow_head"]
    assert [record.getMessage() for record in caplog.records] == [
        "clients of the HTTP server were cut off or refused: too_many_requests 3",
        "clients of the HTTP server were cut off or refused: too_many_requests 1, slow_head 1",
    ]


async def test_running_server_tells_whom_it_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    """Without being asked."""
    async with open_server(echo, Limits(idle_time=SHORT)) as served:
        assert problem_of(await served.say(b"hello?\r\n\r\n"))["status"] == 400
        await eventually(lambda: "cut off or refused: malformed 1" in caplog.text)


async def test_one_address_cannot_take_all_connections() -> None:
    """Its own idle ones make room for its next; where it has none, the next is refused, and others are served."""
    assert Limits(connections=100).per_address == 75
    async with open_server(echo, Limits(connections=3, per_address=2)) as served, AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(await served.connect()) for _ in range(2)]
        await second.send_all(b"GET / HT")
        await eventually(lambda: [each.is_idle for each in served.server.connections] == [True, False])
        assert (await served.get("/next")).endswith(b"/next")
        with trio.fail_after(PATIENCE):
            assert await read_all(first) == b""
        third = await stack.enter_async_context(await served.connect())
        await third.send_all(b"GET / HT")
        await served.wait_connections(2)
        await eventually(lambda: not any(each.is_idle for each in served.server.connections))
        assert problem_of(await served.get())["code"] == "TRANSPORT_UNAVAILABLE"
        assert served.server.statistics.cut == {"too_many_connections_of_one_address": 1}
        assert (await served.get("/other", source="127.0.0.2")).endswith(b"/other")
        for stream in (second, third):
            await reset(stream)
        await served.wait_connections(0)
        assert not served.server._by_address


async def test_idle_connection_makes_room_for_one_only() -> None:
    """Once it is to end, it is none that the next could have instead."""
    async with open_server(echo) as served, await served.connect():
        await eventually(lambda: [each.is_idle for each in served.server.connections] == [True])
        (idle,) = served.server.connections
        idle.stop()
        assert not idle.is_idle
        await served.wait_connections(0)
        assert served.server.statistics.cut == {}


async def test_rate_of_one_address_is_limited() -> None:
    """So many at once, then 429 until time has passed; the connection stays."""
    async with open_server(echo, Limits(rate=10.0, burst=0.3)) as served, await served.connect() as stream:
        answers: list[bytes] = []
        with trio.fail_after(PATIENCE):
            while b"429" not in b"".join(answers):
                await stream.send_all(GET + b"\r\n")
                answers.append(await read_until(stream, b"\r\n\r\n"))
            while not answers[-1].endswith(b"}}"):
                answers[-1] += await stream.receive_some()
            assert problem_of(answers[-1])["code"] == "OVERLOADED"
            await trio.sleep(0.3)
            while not answers[-1].startswith(b"HTTP/1.1 200 "):
                await stream.send_all(GET + b"\r\n")
                answers.append(await read_until(stream, b"\r\n\r\n"))
        assert len(answers) > 3
        assert served.server.statistics.cut["too_many_requests"] >= 1
        assert b"retry-after: 1" in b"".join(answers)


# --- Everything else ---

SEEDS = (
    GET + b"\r\n",
    POST + b"Content-Length: 5\r\n\r\nhello",
    POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    GET + b"Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n\x88",
    GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
)
SPLICES = (b"\r\n", b"\n", b"\x00", b"\xff" * 9, b": ", b"Content-Length: 3\r\n", b"chunked", b" HTTP/1.1", b"0\r\n", b"GET ")  # fmt: skip


def mutated(rng: random.Random) -> bytes:
    """A request with a few mistakes."""
    data = bytearray(rng.choice(SEEDS) + rng.choice(SEEDS) * rng.randrange(2))
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(4)
        if kind == 0 and at < len(data):
            data[at] = rng.randrange(256)
        elif kind == 1:
            data[at:at] = rng.choice(SPLICES)
        elif kind == 2:
            del data[at : at + rng.randrange(8)]
        else:
            data[at:at] = data[at : at + rng.randrange(40)]
    return bytes(data)


@pytest.mark.parametrize("seed", range(8))
async def test_no_input_ends_the_server(seed: int) -> None:
    """Whatever bytes come, in whatever pieces, the connection ends and the next request is answered."""
    rng = random.Random(seed)

    async def offend(served: Served) -> None:
        data = mutated(rng)
        stream = await served.connect()
        try:
            while data:
                size = rng.choice((1, 7, 1000))
                await stream.send_all(data[:size])
                data = data[size:]
            await stream.send_eof()
            await read_all(stream)
        except trio.BrokenResourceError:
            pass
        await trio.aclose_forcefully(stream)

    async with open_server(echo, Limits(head_time=5.0, body_time=5.0)) as served:
        with trio.fail_after(4 * PATIENCE):
            for _ in range(5):
                async with trio.open_nursery() as nursery:
                    for _ in range(20):
                        nursery.start_soon(offend, served)
                assert (await served.get("/alive")).endswith(b"/alive")
        assert "crash" not in served.server.statistics.cut
        await served.wait_connections(0)
