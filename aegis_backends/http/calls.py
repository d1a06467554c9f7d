"""Calls over HTTP, the instance's side: who listens on this node's server, and how requests reach it.

There are two ways in. ``POST /instances/{id}/{tag}`` is one call, for people and programs that have nothing but HTTP: a
body in MessagePack or JSON, the answer in the same. ``POST /calls`` is what transports of ours use: one endless request
and response, whose chunks hold frames of any number of calls under way, so that a call costs no request of HTTP, and one
connection to a process is enough. Frames, big-endian::

    request:  length of the rest (4) · number (8) · length of the path (2) · path ``{id}/{tag}`` · payload
    answer:   length of the rest (4) · number (8) · kind (1) · payload

A request of no length (4 bytes) is a sign of life of a caller who has nothing to ask.
"""

from __future__ import annotations

import contextvars
import hmac
import json
import struct
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import unquote

import attrs
import trio

from aegis_backends.http import wire
from aegis_backends.http.asgi import BodyTooLarge, Message, Receive, Scope, Send, header, read_body, respond
from aegis_backends.http.exchange import Cut, Refused
from aegis_backends.http.json_bodies import read_json
from aegis_backends.http.same_site import check_same_site
from aegis_core import codec
from aegis_core.backend import Inbound
from aegis_core.errors import AegisError, CallTimeout, InvalidRequest, RemoteError, TransportUnavailable, Unauthorized
from aegis_core.models import Outcome

__all__ = [
    "ANSWERED",
    "CALLS",
    "GONE",
    "LONGEST_CALL",
    "MAX_PAYLOAD",
    "NOBODY",
    "SIGN_OF_LIFE",
    "CallServer",
    "Frames",
    "answer_frame",
    "request_frame",
]

MAX_PAYLOAD: Final = 1 << 20
"""One MiB, as on a NATS server that was not told otherwise."""

LONGEST_CALL: Final = 300.0
"""Seconds, as of calls that routers pass on."""

CALLS: Final = "/calls"

SIGN_OF_LIFE: Final = bytes(4)

ANSWERED: Final = 0
NOBODY: Final = 1
GONE: Final = 2

_LENGTH: Final = struct.Struct(">I")
_REQUEST: Final = struct.Struct(">IQH")
_ANSWER: Final = struct.Struct(">IQB")
_MOST: Final = MAX_PAYLOAD + 4096
_MOST_UNREAD: Final = 64 * MAX_PAYLOAD


def request_frame(number: int, path: bytes, payload: bytes) -> bytes:
    """A request as it travels."""
    return _REQUEST.pack(10 + len(path) + len(payload), number, len(path)) + path + payload


def answer_frame(number: int, kind: int, payload: bytes) -> bytes:
    """An answer as it travels: ``ANSWERED``, ``NOBODY`` listens there, or who did is ``GONE``."""
    return _ANSWER.pack(9 + len(payload), number, kind) + payload


class Frames:
    """Puts frames together again, however the bytes come."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The frames that are whole with *data*, each with its length in front.

        Raises:
            ValueError: A frame is longer than any may be.
        """
        self._data += data
        at, end = 0, len(self._data)
        try:
            while end - at >= 4:
                (length,) = _LENGTH.unpack_from(self._data, at)
                if length > _MOST or 0 < length < 9:
                    raise ValueError(f"a frame of {length} bytes")
                if end - at < 4 + length:
                    return
                at += 4 + length
                if length:
                    yield bytes(self._data[at - 4 - length : at])
        finally:
            del self._data[:at]


def read_request(frame: bytes) -> tuple[int, bytes, bytes]:
    """Number, path and payload of a request.

    Raises:
        ValueError: The path is longer than the frame.
    """
    _, number, length = _REQUEST.unpack_from(frame)
    start = _REQUEST.size + length
    if start > len(frame):
        raise ValueError("a path past the end of its frame")
    return number, frame[_REQUEST.size : start], frame[start:]


def read_answer(frame: bytes) -> tuple[int, int, bytes]:
    """Number, kind and payload of an answer."""
    _, number, kind = _ANSWER.unpack_from(frame)
    return number, kind, frame[_ANSWER.size :]


@attrs.define(eq=False)
class _Listener:
    """Who is served under one path."""

    receive: Callable[[Inbound], None]
    context: contextvars.Context
    unanswered: dict[_Exchange, None] = attrs.field(factory=dict)


class _Exchange:
    """A request under way; to its receiver, an `Inbound`.

    Args:
        payload: The request.
        listener: Who received it.
        answer: Takes the kind of the answer, and its payload; called once at most.
    """

    __slots__ = ("_answer", "_listener", "payload")

    def __init__(self, payload: bytes, listener: _Listener, answer: Callable[[int, bytes], None]) -> None:
        self.payload = payload
        self._listener = listener
        self._answer = answer

    def respond(self, payload: bytes) -> None:
        """Send the answer. Dropped: a second one, and one too large to be sent."""
        if len(payload) <= MAX_PAYLOAD and self.forget():
            self._answer(ANSWERED, bytes(payload))

    def leave(self) -> None:
        """Its receiver has gone without an answer."""
        if self.forget():
            self._answer(GONE, b"")

    def forget(self) -> bool:
        """Take it off the list; False when it was off already."""
        try:
            del self._listener.unanswered[self]
        except KeyError:
            return False
        return True


class _Conversation:
    """The calls that come over one endless request."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.unread = False
        self._out = bytearray()
        self._writer = trio.lowlevel.ParkingLot()
        self.exchanges: dict[int, _Exchange] = {}

    def answer(self, number: int, kind: int, payload: bytes) -> None:
        """Have an answer sent; never blocks. The caller that reads none is left when too much waits for it."""
        self.exchanges.pop(number, None)
        self._out += answer_frame(number, kind, payload)
        if len(self._out) > _MOST_UNREAD:
            self.unread = True
            self._out.clear()
            self.scope.cancel()
        self._writer.unpark()

    async def write(self, send: Send) -> None:
        """For ever: send what there is, all of it at once."""
        while True:
            while not self._out:
                await self._writer.park()
            data = bytes(self._out)
            self._out.clear()
            await send({"type": "http.response.body", "body": data, "more_body": True})


class CallServer:
    """An ASGI application: the instances that this node serves.

    Args:
        token: What a caller has to show as bearer token; "" for nothing. Pages of other sites are refused then.
        names: What this machine is called by who asks without a token; see `aegis_backends.http.same_site`.
        patience: Seconds that one call by itself has for its answer, whatever it says; many calls on one connection are
            for programs, which see to their own.
    """

    def __init__(self, token: str = "", *, names: Collection[str] = (), patience: float = LONGEST_CALL) -> None:
        self._patience = patience
        self._names = frozenset(names)
        self._listeners: dict[bytes, _Listener] = {}
        self._expected = f"Bearer {token}".encode() if token else b""

    def __repr__(self) -> str:
        return f"<CallServer of {len(self._listeners)} listeners>"

    @asynccontextmanager
    async def listen(self, path: bytes, receive: Callable[[Inbound], None]) -> AsyncIterator[None]:
        """Hand requests for *path* (``{id}/{tag}``) to *receive* while the block runs; what is unanswered then is GONE.

        Raises:
            ValueError: Somebody listens there already.
        """
        await trio.lowlevel.checkpoint()
        if path in self._listeners:
            raise ValueError(f"{path.decode()} is being listened to already")
        listener = self._listeners[path] = _Listener(receive, contextvars.copy_context())
        try:
            yield
        finally:
            del self._listeners[path]
            for exchange in tuple(listener.unanswered):
                exchange.leave()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request of HTTP."""
        path = scope["raw_path"].decode("latin-1")
        authorization = header(scope, b"authorization")
        try:
            if not self._expected:
                check_same_site(scope, self._names)
            elif not hmac.compare_digest(authorization, self._expected):
                raise Unauthorized(operation=f"{scope['method']} {path}")
            if scope["method"] == "POST" and path == CALLS:
                await self._converse(scope, receive, send)
                return
            if scope["method"] != "POST" or not path.startswith(f"{wire.INSTANCES}/"):
                await respond(send, 404, b"{}", content_type=wire.PROBLEM)
                return
            await self._call(unquote(path[len(wire.INSTANCES) + 1 :]).encode(), scope, receive, send)
        except AegisError as exc:
            await respond(send, wire.status_of(exc), wire.problem(exc), content_type=wire.PROBLEM)

    # -- one call ------------------------------------------------------------------------------------

    async def _call(self, path: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        as_json = header(scope, b"content-type").partition(b";")[0].strip() == wire.JSON
        try:
            payload = await read_body(receive, most=MAX_PAYLOAD)
            if as_json:
                payload = codec.encode_plain(read_json(payload))
        except BodyTooLarge as exc:
            raise InvalidRequest.at("$", f"a request has at most {MAX_PAYLOAD} bytes") from exc
        except (ValueError, RecursionError) as exc:
            raise InvalidRequest.at("$", f"not JSON: {exc}") from exc
        listener = self._listeners.get(path) or self._newest(path)
        if listener is None:
            raise _unavailable(path, "nobody listens there", Outcome.NOT_SENT)
        answered = trio.Event()
        answers: list[tuple[int, bytes]] = []

        def answer(kind: int, payload: bytes) -> None:
            answers.append((kind, payload))
            answered.set()

        exchange = _Exchange(payload, listener, answer)
        self._hand_over(exchange, listener)
        try:
            with trio.move_on_after(self._patience):
                await answered.wait()
        finally:
            exchange.forget()
        if not answers:
            what = f"the call to {path.decode(errors='replace')}"
            raise CallTimeout(timeout=self._patience, outcome=Outcome.MAYBE_EXECUTED, what=what)
        ((kind, payload),) = answers
        if kind == GONE:
            raise _unavailable(path, "the instance stopped listening before it answered", Outcome.MAYBE_EXECUTED)
        await self._answer_one(payload, send, as_json=as_json)

    @staticmethod
    async def _answer_one(payload: bytes, send: Send, *, as_json: bool) -> None:
        """Send the answer of a call with the status that it means."""
        found = codec.decode_answer(payload)
        status = 200 if found.error is None else wire.status_of(found.error)
        if not as_json:
            await respond(send, status, payload, content_type=wire.MSGPACK)
            return
        try:
            text = json.dumps(codec.decode_plain(payload, most=MAX_PAYLOAD), default=_as_text, ensure_ascii=False)
        except (TypeError, ValueError) as exc:
            raise RemoteError(kind="InvalidResult", remote_message=f"it has no form in JSON: {exc}") from exc
        await respond(send, status, text.encode(errors="replace"), content_type=wire.JSON)

    def _newest(self, path: bytes) -> _Listener | None:
        """Who is served as the instance *path*, which names no tag."""
        if b"/" in path:
            return None
        found = [listener for known, listener in self._listeners.items() if known.partition(b"/")[0] == path]
        return found[-1] if found else None

    @staticmethod
    def _hand_over(exchange: _Exchange, listener: _Listener) -> None:
        listener.unanswered[exchange] = None
        listener.context.run(listener.receive, exchange)

    # -- many calls ----------------------------------------------------------------------------------

    async def _converse(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"]["aegis.stream"]()
        conversation, frames = _Conversation(), Frames()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", wire.MSGPACK)]})
        await send({"type": "http.response.body", "more_body": True})
        try:
            with conversation.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(conversation.write, send)
                    while True:
                        message: Message = await receive()
                        for frame in frames.feed(message.get("body", b"")):
                            self._take(frame, conversation)
                        if message["type"] != "http.request" or not message.get("more_body", False):
                            break
                    nursery.cancel_scope.cancel()
        except* ValueError:  # a caller that does not keep to the frames
            pass
        finally:
            for exchange in conversation.exchanges.values():
                exchange.forget()
        if conversation.unread:
            raise Refused(503, Cut.SLOW_READER)

    def _take(self, frame: bytes, conversation: _Conversation) -> None:
        number, path, payload = read_request(frame)
        listener = self._listeners.get(path)
        if listener is None or number in conversation.exchanges:
            conversation.answer(number, NOBODY, b"")
            return
        exchange = _Exchange(payload, listener, lambda kind, answer: conversation.answer(number, kind, answer))
        conversation.exchanges[number] = exchange
        self._hand_over(exchange, listener)


def _unavailable(path: bytes, reason: str, outcome: Outcome) -> TransportUnavailable:
    return TransportUnavailable(reason=reason, endpoint=path.decode(errors="replace"), outcome=outcome)


def _as_text(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
