"""Calls over HTTP, the instance's side: one by one for people, many on one connection, and callers who mean harm."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import httpx  # noqa: ASYNC127 - the fork has its interface, and may be put in its place
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from aegis_backends.http import calls as calls_module
from aegis_backends.http.calls import (
    ANSWERED,
    GONE,
    LONGEST_CALL,
    MAX_PAYLOAD,
    NOBODY,
    SIGN_OF_LIFE,
    CallServer,
    Frames,
    answer_frame,
    read_answer,
    read_request,
    request_frame,
)
from aegis_backends.http.server import Limits
from aegis_core import codec
from aegis_core.backend import Inbound
from aegis_core.errors import AegisError, ResourceNotFound
from tests.backends.http.peers import PATIENCE, Served, eventually, open_server, read_until

CONVERSE = b"POST /calls HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """*data* as HTTP sends it in a body of unknown length."""
    return b"%x\r\n%b\r\n" % (len(data), data)


@attrs.define
class Serving:
    """An instance that answers as a test wants."""

    served: Served
    calls: CallServer
    client: httpx.AsyncClient
    received: list[Inbound] = attrs.field(factory=list)
    answer: Callable[[Inbound], None] = lambda inbound: inbound.respond(inbound.payload)

    def receive(self, inbound: Inbound) -> None:
        """Take a request."""
        self.received.append(inbound)
        self.answer(inbound)


@asynccontextmanager
async def open_serving(
    token: str = "", limits: Limits | None = None, *, patience: float = LONGEST_CALL
) -> AsyncIterator[Serving]:
    """Serve ``one/tag``."""
    calls = CallServer(token, patience=patience)
    async with (
        open_server(calls, limits) as served,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}", timeout=PATIENCE) as client,
    ):
        serving = Serving(served, calls, client)
        async with calls.listen(b"one/tag", serving.receive):
            yield serving


def result(value: object) -> Callable[[Inbound], None]:
    """Answer every call with *value*."""
    return lambda inbound: inbound.respond(codec.encode_plain({"success": True, "result": value}))


def refusal(error: AegisError) -> Callable[[Inbound], None]:
    """Refuse every call."""
    raw = codec.error_to_wire(error)
    return lambda inbound: inbound.respond(codec.encode_plain({"success": False, "error": raw}))


# --- One by one ---


@pytest.mark.parametrize("path", ["/instances/one/tag", "/instances/one%2Ftag", "/instances/one"])
async def test_call_in_json_is_answered_in_json(path: str) -> None:
    """By instance id alone, too: that is the newest incarnation."""
    async with open_serving() as serving:
        serving.answer = result({"text": "ä", "bytes": b"\x01"})
        answer = await serving.client.post(path, json={"method": "enter", "params": {"a": 1}})
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["result"] == {"text": "ä", "bytes": "01"}
        assert codec.decode_plain(serving.received[0].payload, most=9) == {"method": "enter", "params": {"a": 1}}


async def test_call_in_messagepack_is_passed_on_as_it_is() -> None:
    """Both ways, byte by byte; the status says how it went."""
    async with open_serving() as serving:
        serving.answer = result(b"\xff")
        answer = await serving.client.post("/instances/one/tag", content=b"anything")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/msgpack")
        assert serving.received[0].payload == b"anything"
        serving.answer = refusal(ResourceNotFound(resource_id="a", service_name="b"))
        answer = await serving.client.post("/instances/one/tag", content=b"x")
        assert answer.status_code == 404
        assert codec.decode_plain(answer.content, most=11)


REFUSED: dict[str, tuple[str, str, bytes, str, int]] = {
    "other path": ("POST", "/other", b"", "", 404),
    "other method": ("GET", "/instances/one", b"", "", 404),
    "unknown instance": ("POST", "/instances/two", b"", "", 503),
    "unknown incarnation": ("POST", "/instances/one/other", b"", "", 503),
    "no JSON": ("POST", "/instances/one", b"{", "application/json; charset=utf-8", 400),
    "deep JSON": ("POST", "/instances/one", b"[" * 100_000, "application/json", 400),
    "number past 64 bits": ("POST", "/instances/one", b"99999999999999999999999", "application/json", 400),
    "text that is no UTF-8": ("POST", "/instances/one", b'"\xff"', "application/json", 400),
    "large body": ("POST", "/instances/one", bytes(MAX_PAYLOAD + 1), "", 400),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_cannot_be_called_is_told(name: str) -> None:
    """With a status, and nothing reaches the instance."""
    method, path, content, kind, status = REFUSED[name]
    async with open_serving() as serving:
        answer = await serving.client.request(method, path, content=content, headers={"content-type": kind})
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert serving.received == []


async def test_answer_without_a_form_in_json_is_the_callees_fault() -> None:
    """A map with bytes for keys, asked for in JSON."""
    async with open_serving() as serving:
        serving.answer = result({b"key": 1})
        answer = await serving.client.post("/instances/one", json={})
        assert answer.status_code == 500
        assert "no form in JSON" in answer.json()["detail"]


async def test_answer_is_not_waited_for_for_ever() -> None:
    """Whatever the call says of its time, or does not; a later answer is dropped."""
    async with open_serving(patience=0.05) as serving:
        serving.answer = lambda _: None
        answer = await serving.client.post("/instances/one", json={"method": "sleep", "timeout": 1e9})
        assert answer.status_code == 504
        assert answer.json()["code"] == "TIMEOUT"
        assert answer.json()["details"]["outcome"] == "MAYBE_EXECUTED"
        serving.received[0].respond(b"late")


async def test_instance_that_leaves_without_an_answer_is_told_of() -> None:
    """The call may have been executed; a later answer is dropped."""
    async with open_serving() as serving, trio.open_nursery() as nursery:
        inbox: list[Inbound] = []
        answers: list[httpx.Response] = []

        async def call() -> None:
            answers.append(await serving.client.post("/instances/two", content=b"x"))

        async with serving.calls.listen(b"two/tag", inbox.append):
            nursery.start_soon(call)
            await eventually(lambda: inbox)
        await eventually(lambda: answers)
        inbox[0].respond(b"late")
        assert answers[0].json()["details"]["outcome"] == "MAYBE_EXECUTED"
        assert "1 listeners" in repr(serving.calls)


async def test_caller_shows_its_token() -> None:
    """Or is not listened to."""
    async with open_serving(token="secret") as serving:
        serving.answer = result(1)
        assert (await serving.client.post("/instances/one", content=b"x")).status_code == 401
        assert (await serving.client.post("/calls", content=b"x")).status_code == 401
        wrong = {"authorization": "Bearer ä".encode("latin-1")}
        assert (await serving.client.post("/instances/one", content=b"x", headers=wrong)).status_code == 401
        right = {"authorization": "Bearer secret"}
        assert (await serving.client.post("/instances/one", content=b"x", headers=right)).status_code == 200


@pytest.mark.parametrize("path", ["/instances/one", "/instances/one/tag", "/calls"])
@pytest.mark.parametrize("headers", [{"origin": "http://evil.example"}, {"origin": "null"}, {"host": "evil.example"}])
async def test_page_of_another_site_calls_nobody(path: str, headers: dict[str, str]) -> None:
    """In the browser of somebody who reaches an instance that asks for no token."""
    async with open_serving() as serving:
        answer = await serving.client.post(path, content=b"x", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "FORBIDDEN")
        assert "access-control-allow-origin" not in answer.headers
        assert serving.received == []


async def test_instance_with_a_token_has_any_name() -> None:
    """No page knows the token."""
    headers = {"host": "one.example", "origin": "http://other.example", "authorization": "Bearer secret"}
    async with open_serving(token="secret") as serving:
        serving.answer = result(1)
        assert (await serving.client.post("/instances/one", content=b"x", headers=headers)).status_code == 200


async def test_nobody_listens_twice_under_one_path() -> None:
    """The second is refused, and the first stays."""
    async with open_serving() as serving:
        with pytest.raises(ValueError, match="one/tag is being listened to already"):
            async with serving.calls.listen(b"one/tag", serving.receive):
                pass
        serving.answer = result(1)
        assert (await serving.client.post("/instances/one", content=b"x")).status_code == 200


# --- Many on one connection ---


@given(st.integers(1, 40))
def test_frames_are_whole_however_the_bytes_come(size: int) -> None:
    """Signs of life are nobody's business."""
    data = request_frame(7, b"a/b", b"payload") + SIGN_OF_LIFE + answer_frame(2**64 - 1, GONE, b"")
    frames = Frames()
    found = [frame for at in range(0, len(data), size) for frame in frames.feed(data[at : at + size])]
    assert read_request(found[0]) == (7, b"a/b", b"payload")
    assert read_answer(found[1]) == (2**64 - 1, GONE, b"")


async def test_calls_on_one_connection_are_answered_out_of_order() -> None:
    """Each by its number; where nobody listens, and a number that is under way, are refused at once."""
    async with open_serving() as serving, await serving.served.connect() as stream:
        serving.answer = lambda _: None
        frames = [request_frame(n, b"one/tag", b"%d" % n) for n in (1, 2)]
        await stream.send_all(CONVERSE + chunk(b"".join(frames)))
        await eventually(lambda: len(serving.received) == 2)
        await stream.send_all(chunk(request_frame(3, b"two/tag", b"")))
        await read_until(stream, answer_frame(3, NOBODY, b""))
        serving.received[1].respond(b"second")
        await read_until(stream, answer_frame(2, ANSWERED, b"second"))
        await stream.send_all(chunk(request_frame(1, b"one/tag", b"again")))
        await read_until(stream, answer_frame(1, NOBODY, b""))
        assert len(serving.received) == 2


@pytest.mark.parametrize(
    "frame",
    [
        struct.pack(">I", 1 << 30),
        struct.pack(">I", 5) + b"short",
        struct.pack(">IQH", 10, 1, 500),
    ],
    ids=["endless", "short", "path past its end"],
)
async def test_caller_that_keeps_to_no_frames_is_left(frame: bytes) -> None:
    """The connection ends, the next caller is served, and what was under way is forgotten."""
    async with open_serving() as serving, await serving.served.connect() as stream:
        serving.answer = lambda _: None
        await stream.send_all(CONVERSE + chunk(request_frame(1, b"one/tag", b"")))
        await eventually(lambda: serving.received)
        await stream.send_all(chunk(frame))
        await serving.served.wait_connections(0)
        serving.received[0].respond(b"nobody reads it")
        serving.answer = result(1)
        assert (await serving.client.post("/instances/one", content=b"x")).status_code == 200


async def test_caller_that_hangs_up_is_forgotten() -> None:
    """In the middle of a conversation, or properly at its end."""
    async with open_serving() as serving:
        serving.answer = lambda _: None
        for ending in (b"", b"0\r\n\r\n"):
            async with await serving.served.connect() as stream:
                await stream.send_all(CONVERSE + chunk(request_frame(1, b"one/tag", b"")) + ending)
                await eventually(lambda: serving.received)
            await serving.served.wait_connections(0)
            serving.received.pop().respond(b"nobody reads it")


async def test_caller_without_a_sign_of_life_is_cut_off() -> None:
    """And counted; one that has nothing to ask, but lives, is not."""
    async with (
        open_serving(limits=Limits(stream_time=0.4)) as serving,
        await serving.served.connect() as stream,
        await serving.served.connect() as silent,
    ):
        await silent.send_all(CONVERSE)
        await stream.send_all(CONVERSE)
        with trio.fail_after(PATIENCE):
            while not serving.served.server.statistics.cut:
                await stream.send_all(chunk(SIGN_OF_LIFE))
                await trio.sleep(0.05)
        await serving.served.wait_connections(1)
        assert serving.served.server.statistics.cut == {"slow_body": 1}
        await stream.send_all(chunk(request_frame(1, b"one/tag", b"x")))
        await read_until(stream, answer_frame(1, ANSWERED, b"x"))


async def test_caller_that_waits_for_leave_is_told_by_the_answer_that_begins() -> None:
    """Nothing else may stand in the middle of it, nor be written while an answer is."""
    expecting = CONVERSE.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
    async with open_serving() as serving, await serving.served.connect() as stream:
        await stream.send_all(expecting)
        found = await read_until(stream, b"\r\n\r\n")
        assert found.startswith(b"HTTP/1.1 200 ")
        await stream.send_all(chunk(request_frame(1, b"one/tag", b"x")))
        found += await read_until(stream, answer_frame(1, ANSWERED, b"x"))
        assert b"100 Continue" not in found
        assert serving.served.server.statistics.cut == {}


async def test_caller_that_reads_no_answers_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before they fill the memory, and counted; what it asked is forgotten, and others are served."""
    monkeypatch.setattr(calls_module, "_MOST_UNREAD", 2 * MAX_PAYLOAD)
    async with open_serving() as serving, await serving.served.connect() as stream:
        serving.answer = lambda inbound: inbound.respond(bytes(MAX_PAYLOAD))
        await stream.send_all(CONVERSE + chunk(b"".join(request_frame(n, b"one/tag", b"") for n in range(50))))
        await serving.served.wait_cut("slow_reader")
        await serving.served.wait_connections(0)
        assert serving.served.server.statistics.cut == {"slow_reader": 1}
        serving.answer = result(1)
        assert (await serving.client.post("/instances/one", content=b"x")).status_code == 200


async def test_answers_past_the_limit_are_dropped() -> None:
    """The caller's deadline tells it."""
    async with open_serving() as serving, await serving.served.connect() as stream:
        serving.answer = lambda inbound: inbound.respond(bytes(MAX_PAYLOAD + (inbound.payload == b"large")))
        await stream.send_all(
            CONVERSE + chunk(request_frame(1, b"one/tag", b"large") + request_frame(2, b"one/tag", b""))
        )
        await read_until(stream, answer_frame(2, ANSWERED, bytes(MAX_PAYLOAD))[:20])
        assert json.dumps(len(serving.received)) == "2"
