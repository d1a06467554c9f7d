"""The HTTP server: what a well-behaved client gets."""

from __future__ import annotations

import pytest
import trio

from aegis_backends.http.asgi import BodyTooLarge, Message, Receive, Scope, Send, header, read_body, respond
from aegis_backends.http.server import Limits
from tests.backends.http.peers import (
    PATIENCE,
    SHORT,
    echo,
    make_identities,
    open_server,
    problem_of,
    read_all,
    read_until,
)


def body_of(response: bytes) -> bytes:
    """What follows the headers."""
    return response.partition(b"\r\n\r\n")[2]


async def test_request_is_answered() -> None:
    """With a status, a date, and the length of its body."""
    async with open_server(echo) as served:
        response = await served.get("/a%20b?c=d")
        head, _, body = response.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"content-length: 4" in head
        assert b"\r\ndate: " in head
        assert b"connection: close" in head
        assert body == b"/a b"
        assert "1 requests" in repr(served.server)


async def test_connection_is_kept_and_requests_sent_ahead_are_answered_in_order() -> None:
    """One write with three requests brings three answers."""
    async with open_server(echo) as served, await served.connect() as stream:
        await stream.send_all(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\none"
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\nTrailer: x\r\n\r\n"
            b"GET /three HTTP/1.1\r\nHost: x\r\n\r\n"
        )
        found = await read_until(stream, b"/three")
        assert found.index(b"one") < found.index(b"two") < found.index(b"/three")
        await stream.send_all(b"GET /four HTTP/1.1\r\nHost: x\r\n\r\n")
        await read_until(stream, b"/four")
        assert served.server.statistics.accepted == 1
        assert served.server.statistics.requests == 4


async def test_body_comes_in_pieces() -> None:
    """However the bytes are cut, the request is the same."""
    async with open_server(echo) as served, await served.connect() as stream:
        for byte in b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello":
            await stream.send_all(bytes([byte]))
        assert body_of(await read_until(stream, b"hello")) == b"hello"


async def test_client_that_asks_first_is_told_to_continue() -> None:
    """``Expect: 100-continue`` is answered when the application wants the body."""
    async with open_server(echo) as served, await served.connect() as stream:
        await stream.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert await read_until(stream, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await stream.send_all(b"ok")
        assert body_of(await read_until(stream, b"ok")) == b"ok"


@pytest.mark.parametrize(
    ("request_line", "kept"),
    [(b"GET / HTTP/1.0", False), (b"GET / HTTP/1.0\r\nConnection: keep-alive", True)],
    ids=["closed", "kept"],
)
async def test_older_clients_are_served(request_line: bytes, kept: bool) -> None:  # noqa: FBT001
    """HTTP/1.0 needs no host, and keeps the connection only if it says so."""
    async with open_server(echo) as served, await served.connect() as stream:
        await stream.send_all(request_line + b"\r\n\r\n")
        response = await read_until(stream, b"\r\n\r\n/")
        assert (b"connection: keep-alive" in response) is kept
        if not kept:
            assert await read_all(stream) == b""


async def stream_numbers(scope: Scope, receive: Receive, send: Send) -> None:
    """Three parts, of a length that is not known before."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for number in range(3):
        await send({"type": "http.response.body", "body": b"%d" % number, "more_body": True})
    await send({"type": "http.response.body"})
    await send({"type": "http.response.body", "body": b"ignored"})


async def test_response_of_unknown_length_is_chunked() -> None:
    """And ends with the connection for a client that knows no chunks."""
    async with open_server(stream_numbers) as served:
        response = await served.get()
        assert body_of(response) == b"1\r\n0\r\n1\r\n1\r\n1\r\n2\r\n0\r\n\r\n"
        assert body_of(await served.say(b"GET / HTTP/1.0\r\n\r\n")) == b"012"


async def test_head_and_status_without_content_have_no_body() -> None:
    """The headers are those that a GET would have."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        status = 204 if scope["path"] == "/empty" else 200
        await respond(send, status, b"body", content_type=b"text/plain")

    async with open_server(app) as served:
        response = await served.say(b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"content-length: 4" in response
        assert body_of(response) == b""
        empty = await served.get("/empty")
        assert b"content-length" not in empty
        assert body_of(empty) == b""


async def test_target_may_be_a_whole_url() -> None:
    """As proxies send it."""
    async with open_server(echo) as served:
        response = await served.say(b"GET http://x:1/path?q=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert body_of(response) == b"/path"


async def test_application_sees_the_request() -> None:
    """Addresses, scheme, headers in lower case, the query."""
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await respond(send, 200, b"", content_type=b"text/plain", headers=[(b"x-more", b"1")])

    async with open_server(app) as served:
        assert b"x-more: 1" in await served.say(b"GET /p?q=1 HTTP/1.1\r\nHoSt: h\r\nConnection: close\r\n\r\n")
        (scope,) = scopes
        assert (scope["scheme"], scope["method"], scope["query_string"]) == ("http", "GET", b"q=1")
        assert (header(scope, b"host"), header(scope, b"absent")) == (b"h", b"")
        assert scope["server"] == ("127.0.0.1", served.port)
        assert scope["client"] is not None


# --- Applications that fail ---


async def fail_at_once(scope: Scope, receive: Receive, send: Send) -> None:
    """Raises before it answers."""
    raise ValueError("a mistake")


async def fail_in_a_nursery(scope: Scope, receive: Receive, send: Send) -> None:
    """Raises a group."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail_at_once, scope, receive, send)
        await trio.sleep_forever()


async def say_nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """Forgets to answer."""


async def break_a_header(scope: Scope, receive: Receive, send: Send) -> None:
    """Lets a line break into a header."""
    await respond(send, 200, b"", content_type=b"a\r\nset-cookie: b")


async def send_before_the_start(scope: Scope, receive: Receive, send: Send) -> None:
    """Has no status."""
    await send({"type": "http.response.body", "body": b"x"})


@pytest.mark.parametrize("app", [fail_at_once, fail_in_a_nursery, say_nothing, break_a_header, send_before_the_start])
async def test_failure_of_the_application_is_a_500(app: object, caplog: pytest.LogCaptureFixture) -> None:
    """It ends its request, is logged, and tells the client nothing."""
    assert callable(app)
    async with open_server(app) as served:
        for _ in range(2):
            problem = problem_of(await served.get())
            assert (problem["status"], problem["code"]) == (500, "REMOTE_ERROR")
            assert "mistake" not in str(problem)
        assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 2


@pytest.mark.parametrize("said", [5, 1], ids=["less", "more"])
async def test_response_of_another_length_than_said_ends_the_connection(said: int) -> None:
    """So that the client cannot take the next response for a part of it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"Content-Length", b"%d" % said)]})
        await send({"type": "http.response.body", "body": b"abc"})

    async with open_server(app) as served:
        response = await served.say(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert len(body_of(response)) != said


async def test_failure_in_the_middle_of_a_response_cuts_it() -> None:
    """The client sees that it is not whole."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"abc", "more_body": True})
        raise ValueError("a mistake")

    async with open_server(app) as served:
        assert body_of(await served.say(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")) == b"3\r\nabc\r\n"
        assert served.server.statistics.cut == {"crash": 1}


# --- Streams, and clients that leave ---


async def converse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer each part of the body as it comes."""
    scope["extensions"]["aegis.stream"]()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "more_body": True})
    while True:
        message = await receive()
        if message["type"] != "http.request":
            break
        part = message.get("body", b"")
        await send({"type": "http.response.body", "body": part.upper(), "more_body": message.get("more_body", False)})
        if not message.get("more_body", False):
            break


async def test_request_and_response_may_be_streams_at_once() -> None:
    """For longer, and with more bytes, than the limits of a body allow."""
    limits = Limits(body=10, body_time=SHORT)
    async with open_server(converse, limits) as served, await served.connect() as stream:
        await stream.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(4):
            await trio.sleep(SHORT / 2)
            await stream.send_all(b"5\r\nabcde\r\n")
            await read_until(stream, b"ABCDE")
        await stream.send_all(b"0\r\n\r\n")
        await read_until(stream, b"0\r\n\r\n")
        assert served.server.statistics.cut == {}


@pytest.mark.parametrize("sent", [b"", b"5\r\nab"], ids=["between", "within"])
async def test_stream_ends_when_the_client_leaves(sent: bytes) -> None:
    """The application is told, and its connection goes."""
    ended = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await converse(scope, receive, send)
        ended.set()

    async with open_server(app) as served:
        async with await served.connect() as stream:
            await stream.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + sent)
            await read_until(stream, b"\r\n\r\n")
        with trio.fail_after(PATIENCE):
            await ended.wait()
        await served.wait_connections(0)


async def test_application_can_wait_for_the_client_to_leave() -> None:
    """After the body `receive` waits for that, or until it is cancelled because all is answered."""
    seen: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive, most=10)
        seen.append(await receive())

    async with open_server(app) as served:
        async with await served.connect() as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await trio.sleep(SHORT / 4)
        await served.wait_connections(0)
        assert seen == [{"type": "http.disconnect"}]


async def test_body_that_is_too_large_for_the_application() -> None:
    """It says how much it reads."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await read_body(receive, most=3)
        except BodyTooLarge:
            await respond(send, 413, b"too much", content_type=b"text/plain")

    async with open_server(app) as served:
        response = await served.say(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nConnection: close\r\n\r\nabcd")
        assert response.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("length", [10, 100_000])
async def test_body_that_nobody_reads(length: int) -> None:
    """A short one is skipped, a long one ends the connection."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, 200, b"no, thanks", content_type=b"text/plain")

    async with open_server(app) as served, await served.connect() as stream:
        await stream.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length)
        await read_until(stream, b"no, thanks")
        if length == 10:
            await stream.send_all(b"x" * 10 + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await read_until(stream, b"no, thanks")
        else:
            assert await read_all(stream) == b""


# --- The end ---


async def test_stop_lets_requests_under_way_finish() -> None:
    """Idle connections close at once, no new ones are taken, the last answers say that the connection ends."""
    asked, may_answer = trio.Event(), trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        asked.set()
        await may_answer.wait()
        await respond(send, 200, b"done", content_type=b"text/plain")

    async with open_server(app) as served, await served.connect() as idle, await served.connect() as busy:
        await busy.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asked.wait()
        await served.wait_connections(2)
        served.server.stop()
        assert await read_all(idle) == b""
        may_answer.set()
        response = await read_all(busy)
        assert b"connection: close" in response
        assert body_of(response) == b"done"
        with pytest.raises(OSError, match="connect"):
            await served.connect()


async def test_stop_waits_no_longer_than_the_grace() -> None:
    """What is not answered by then is cut off."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.sleep_forever()

    async with open_server(app, Limits(grace=SHORT)) as served, await served.connect() as stream:
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await served.wait_connections(1)
        served.server.stop()
        with trio.fail_after(PATIENCE):
            assert await read_all(stream) == b""


# --- TLS ---


async def test_tls() -> None:
    """The same over TLS; the application knows the scheme."""
    identities = make_identities()
    schemes: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        schemes.append(scope["scheme"])
        await echo(scope, receive, send)

    async with open_server(app, tls=identities.server) as served:
        async with trio.SSLStream(
            await served.connect(), identities.client, server_hostname="127.0.0.1", https_compatible=True
        ) as stream:
            await stream.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
            assert (await stream.receive_some(1000)).endswith(b"hi")
        assert schemes == ["https"]


async def test_tls_with_a_certificate_of_the_client() -> None:
    """Who has none is not served."""
    identities = make_identities(mutual=True)
    async with open_server(echo, tls=identities.server) as served:
        for context, answered in ((identities.client, True), (identities.stranger, False)):
            found = b""
            with trio.fail_after(PATIENCE):
                stream = trio.SSLStream(
                    await served.connect(), context, server_hostname="127.0.0.1", https_compatible=True
                )
                try:
                    await stream.send_all(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
                    found = await stream.receive_some(1000)
                except trio.BrokenResourceError:
                    pass
                await trio.aclose_forcefully(stream)
            assert (b"/hello" in found) is answered
        await served.wait_cut("tls")
