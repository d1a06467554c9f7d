"""The floor: blocking sockets that speak just enough of the protocol to a server that they trust."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from time import perf_counter
from typing import Final
from urllib.parse import urlsplit

import trio

from tests.benchmarks.parts.commands import Commands, Taken

__all__ = ["RESPONDER", "BareSocket", "ask", "respond"]

RESPONDER: Final = "bench.bare"
_CHUNK: Final = 1 << 18
_PATIENCE: Final = 10.0
_INBOX: Final = b"_INBOX.bare"


class BareSocket:
    """A connection. Messages have no headers, or theirs are part of what is read."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url.partition(",")[0])
        self._socket = socket.create_connection((parts.hostname, parts.port or 4222))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._heard = b""
        self.send(b'CONNECT {"verbose":false,"headers":true,"protocol":1}\r\n')

    def send(self, data: bytes) -> None:
        """Send *data*."""
        self._socket.sendall(data)

    def wait_settled(self) -> None:
        """Wait until the server has dealt with what was sent; messages must not come meanwhile."""
        self.send(b"PING\r\n")
        while b"PONG\r\n" not in self._heard:
            self._heard += self._socket.recv(_CHUNK)
        self._heard = b""

    def set_patience(self, seconds: float | None) -> None:
        """Let `receive` wait for *seconds* at most, then it raises `TimeoutError`."""
        self._socket.settimeout(seconds)

    def receive(self) -> Iterator[tuple[bytes, bytes]]:
        """The lines and payloads of the messages that have come; waits while there is none."""
        data = self._heard + self._socket.recv(_CHUNK)
        at = 0
        while (end := data.find(b"\r\n", at)) >= 0:
            line = data[at:end]
            if not line.startswith((b"MSG", b"HMSG")):
                if line == b"PING":
                    self.send(b"PONG\r\n")
                at = end + 2
                continue
            begin, size = end + 2, int(line[line.rfind(b" ") :])
            if len(data) < begin + size + 2:
                break
            yield line, data[begin : begin + size]
            at = begin + size + 2
        self._heard = data[at:]


def respond(commands: Commands, url: str) -> None:
    """Answer what is asked until the commands end; one write for all that came together."""
    connection = BareSocket(url)
    connection.send(b"SUB " + RESPONDER.encode() + b" 1\r\n")
    connection.wait_settled()
    connection.set_patience(None)

    def answer() -> None:
        while True:
            answers = []
            for line, payload in connection.receive():
                reply = line.split(b" ")[3]
                answers.append(b"PUB %b %d\r\n%b\r\n" % (reply, len(payload), payload))
            connection.send(b"".join(answers))

    threading.Thread(target=answer, daemon=True).start()
    _obey(commands, {})


def ask(commands: Commands, url: str) -> None:
    """Ask the bare responder, and put into streams; one at a time, or so many in flight."""
    connection = BareSocket(url)
    connection.set_patience(_PATIENCE)
    connection.send(b"SUB %b.* 1\r\n" % _INBOX)
    connection.wait_settled()
    counts: dict[int, int] = {}
    numbers = itertools.count()

    def measure(count: int, together: int, size: int) -> Taken:
        message = b"PUB %b %b.1 %d\r\n%b\r\n" % (RESPONDER.encode(), _INBOX, size, b"x" * size)
        return _in_flight(connection, count, together, lambda _: message)

    def put(count: int, together: int, size: int, prefix: str) -> Taken:
        def message(number: int) -> bytes:
            # Each key is written again when the write before it has been acknowledged.
            key = number % together
            return _put(prefix, key, counts.get(key, 0), size)

        def acknowledged(number: int, payload: bytes) -> None:
            counts[number % together] = _sequence(payload)

        return _in_flight(connection, count, together, message, acknowledged)

    def batch(count: int, together: int, size: int, prefix: str) -> Taken:
        taken = Taken()
        for number in itertools.islice(numbers, count):
            with taken.one():
                parts = [
                    _put(prefix, key, counts.get(-1 - key, 0), size, batch=(number, key + 1, together))
                    for key in range(together)
                ]
                connection.send(b"".join(parts))
                last = _sequence(_one(connection))
                counts.update({-1 - key: last - together + 1 + key for key in range(together)})
        return taken

    _obey(commands, {"measure": measure, "put": put, "batch": batch})


def _one(connection: BareSocket) -> bytes:
    answers: list[tuple[bytes, bytes]] = []
    while not answers:
        answers = list(connection.receive())
    ((_, payload),) = answers
    return payload


def _put(prefix: str, key: int, expected: int, size: int, *, batch: tuple[int, int, int] | None = None) -> bytes:
    """A put of a key that has to be as it was left; as part of a batch, only its last message asks for an answer."""
    head = b"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: %d\r\n" % expected
    name, reply = b"bare", b"%b.1 " % _INBOX
    if batch is not None:
        number, place, last = batch
        name = b"bare-batch"
        head += b"Nats-Batch-Id: bare-%d\r\nNats-Batch-Sequence: %d\r\n" % (number, place)
        if place == last:
            head += b"Nats-Batch-Commit: 1\r\n"
        else:
            reply = b""
    head += b"\r\n"
    return b"HPUB %b%b.%d %b%d %d\r\n%b%b\r\n" % (
        *(prefix.encode(), name, key, reply, len(head), len(head) + size),
        *(head, b"x" * size),
    )


def _sequence(payload: bytes) -> int:
    if b'"error"' in payload:
        raise RuntimeError(payload.decode())
    return int(payload.partition(b'"seq":')[2].partition(b",")[0].rstrip(b"}"))


def _in_flight(
    connection: BareSocket,
    count: int,
    together: int,
    message: Callable[[int], bytes],
    answered: Callable[[int, bytes], None] = lambda *_: None,
) -> Taken:
    """Send *count* messages, *together* in flight; answers come in the order of what they answer."""
    taken, began = Taken(), []
    with taken.all():
        sent = min(count, together)
        began = [perf_counter()] * sent
        connection.send(b"".join(map(message, range(sent))))
        done = 0
        while done < count:
            first = done
            for _, payload in connection.receive():
                answered(done, payload)
                taken.seconds.append(perf_counter() - began[done])
                done += 1
            more = range(sent, min(count, sent + done - first))
            if more:
                began.extend([perf_counter()] * len(more))
                connection.send(b"".join(map(message, more)))
                sent = more.stop
    return taken


def _obey(commands: Commands, acts: dict[str, Callable[..., Taken]]) -> None:
    async def later(act: Callable[..., Taken], **arguments: object) -> Taken:
        return act(**arguments)

    while (command := commands.read()) is not None:
        trio.run(partial(commands.carry_out, command, {name: partial(later, act) for name, act in acts.items()}))
