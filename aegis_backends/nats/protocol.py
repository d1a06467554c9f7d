"""The NATS client protocol without I/O: bytes in, events out; events in, bytes out.

**Theory of operation.** A `Parser` is given bytes as they come (`receive_data`) and iterated for what they mean
(`events`). It works on the chunk as it was received: one regular expression finds a message's line, two slices take
what follows, and nothing is copied twice. Only what is left of a chunk, the beginning of something, is kept, together
with how many bytes it takes until trying again makes sense; so a large payload in many pieces costs its size, not its
square. The same bytes give the same events, and the same error in the same place, however they are cut.

**Who is strict about what.** Lines are judged strictly and within `Limits`: what does not fit is a `RemoteProtocolError`,
after which the parser gives nothing more. The *contents* of messages are not judged: a server passes on subjects and
header blocks as some publisher wrote them, and a stranger's nonsense must not end our connection. Subjects that are not
UTF-8 come as surrogate escapes, and go out again as the bytes they were.

Both sides' operations are here, as each is the other's mirror image, and a server that a test makes up needs them. The
file is that long because the protocol is one, and its two directions are read side by side.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias, assert_never

import attrs

from aegis_backends.nats.errors import LocalProtocolError, RemoteProtocolError
from aegis_backends.nats.headers import Headers
from aegis_backends.nats.subjects import check_pattern, check_queue

__all__ = [
    "Connect",
    "Error",
    "Event",
    "Info",
    "Limits",
    "Message",
    "Ok",
    "Parser",
    "Peer",
    "Ping",
    "Pong",
    "Publish",
    "Subscribe",
    "Unsubscribe",
    "encode",
    "encode_publish",
]

_ESCAPED: Final = "surrogateescape"
_STATUS: Final = re.compile(rb"NATS/1\.0 +([0-9]{3})(?: +([^\r\n]*))?")


@attrs.frozen
class Info:
    """What a server says of itself: at first, and again when something changes. `fields` is its JSON object."""

    fields: Mapping[str, object]


@attrs.frozen
class Connect:
    """What a client says of itself. `fields` is its JSON object, and may hold secrets."""

    fields: Mapping[str, object] = attrs.field(repr=False)


@attrs.frozen
class Publish:
    """A client's message: PUB, or HPUB where there is a header block (`head`)."""

    subject: str
    payload: bytes = b""
    reply: str = ""
    head: bytes = b""


@attrs.frozen
class Subscribe:
    """A client wants what is published to `subject`, under its number `sid`; alone, or as a member of `queue`."""

    subject: str
    sid: int
    queue: str = ""


@attrs.frozen
class Unsubscribe:
    """A client wants no more under `sid`: at once (`maximum` 0), or once it was sent `maximum` messages in all."""

    sid: int
    maximum: int = 0


# Not frozen, as it is made for each message: freezing would double what that costs.
@attrs.define
class Message:
    """A message as the server delivers it: MSG, or HMSG where there is a header block. Nobody changes it.

    Attributes:
        subject: Where it was published to.
        sid: The number of the subscription that it is for.
        reply: Where an answer is expected, "" for nowhere.
        payload: What was published.
        head: The header block as it came, b"" where there is none. Reading `headers` and `status` parses it each time.
    """

    subject: str
    sid: int
    reply: str = ""
    payload: bytes = b""
    head: bytes = b""

    @property
    def headers(self) -> Headers | None:
        """The headers; None where the message came without a header block."""
        return Headers.parse(self.head) if self.head else None

    @property
    def status(self) -> int | None:
        """The status that a server gave its own message (503: nobody listens); None in others."""
        found = _STATUS.match(self.head)
        return int(found[1]) if found else None

    @property
    def description(self) -> str:
        """What the server said beside the status, "" for nothing."""
        found = _STATUS.match(self.head)
        return (found[2] or b"").decode("utf-8", _ESCAPED).strip() if found else ""


@attrs.frozen
class Ping:
    """Are you there?"""


@attrs.frozen
class Pong:
    """I am, and have dealt with all that came before your question."""


@attrs.frozen
class Ok:
    """A server's word for each operation, where a client asked to have it (`verbose`)."""


@attrs.frozen
class Error:
    """What a server did not like; it may close the connection next."""

    text: str


Event: TypeAlias = Info | Connect | Publish | Subscribe | Unsubscribe | Message | Ping | Pong | Ok | Error


class Peer(enum.Enum):
    """Who sends what a parser reads."""

    SERVER = "server"
    CLIENT = "client"


@attrs.frozen(kw_only=True)
class Limits:
    """Most bytes of a line (an INFO of a large cluster is the longest), of a header block, and of that with its payload.

    The defaults are above what a server can be configured to send: a message within its limit must never end a connection.
    """

    line: int = 1 << 20
    head: int = 64 << 20
    total: int = 65 << 20


_PING: Final = Ping()
_PONG: Final = Pong()
_OK: Final = Ok()

# The lines as servers write them, with the numbers short enough to be numbers of something. No part gives back what it has
# matched (``++``), which no other could take, so that a line is read once.
_MSG: Final = re.compile(rb"MSG (\S++) (\d{1,18}+) (?:(\S++) )?()(\d{1,10}+)\r\n").match
_HMSG: Final = re.compile(rb"HMSG (\S++) (\d{1,18}+) (?:(\S++) )?(\d{1,10}+) (\d{1,10}+)\r\n").match

# Arguments as the protocol's grammar has them, where any white space separates. Operations with a payload have the same
# five groups: subject, sid, reply, length of the header block, length of all.
_PAYLOAD_LINES: Final[Mapping[Peer, Mapping[bytes, re.Pattern[bytes]]]] = {
    Peer.SERVER: {
        b"MSG": re.compile(rb"(\S+)[ \t]+(\d{1,18})[ \t]+(?:(\S+)[ \t]+)?()(\d{1,10})"),
        b"HMSG": re.compile(rb"(\S+)[ \t]+(\d{1,18})[ \t]+(?:(\S+)[ \t]+)?(\d{1,10})[ \t]+(\d{1,10})"),
    },
    Peer.CLIENT: {
        b"PUB": re.compile(rb"(\S+)[ \t]+()(?:(\S+)[ \t]+)?()(\d{1,10})"),
        b"HPUB": re.compile(rb"(\S+)[ \t]+()(?:(\S+)[ \t]+)?(\d{1,10})[ \t]+(\d{1,10})"),
    },
}
_SUB_LINE: Final = re.compile(rb"(\S+)[ \t]+(?:(\S+)[ \t]+)?(\d{1,18})")
_UNSUB_LINE: Final = re.compile(rb"(\d{1,18})(?:[ \t]+(\d{1,18}))?")


def _fields(line: bytes) -> Mapping[str, object]:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise RemoteProtocolError("an INFO or CONNECT without a JSON object")
    return MappingProxyType(fields)


def _info(line: bytes) -> Event:
    return Info(_fields(line))


def _connect(line: bytes) -> Event:
    return Connect(_fields(line))


def _bare(event: Event) -> Callable[[bytes], Event]:
    def parse(line: bytes) -> Event:
        if line:
            raise RemoteProtocolError(f"{line[:80]!r} after an operation without arguments")
        return event

    return parse


def _error(line: bytes) -> Event:
    text = line.decode("utf-8", _ESCAPED)
    quoted = len(text) > 1 and text[0] == text[-1] == "'"
    return Error(text[1:-1] if quoted else text)


def _subscribe(line: bytes) -> Event:
    found = _SUB_LINE.fullmatch(line)
    if found is None:
        raise RemoteProtocolError(f"malformed SUB {line[:80]!r}")
    subject, queue, sid = found.groups()
    return Subscribe(subject.decode("utf-8", _ESCAPED), int(sid), (queue or b"").decode("utf-8", _ESCAPED))


def _unsubscribe(line: bytes) -> Event:
    found = _UNSUB_LINE.fullmatch(line)
    if found is None:
        raise RemoteProtocolError(f"malformed UNSUB {line[:80]!r}")
    return Unsubscribe(int(found[1]), int(found[2] or 0))


_LINES: Final[Mapping[Peer, Mapping[bytes, Callable[[bytes], Event]]]] = {
    Peer.SERVER: {b"INFO": _info, b"PING": _bare(Ping()), b"PONG": _bare(Pong()), b"+OK": _bare(Ok()), b"-ERR": _error},
    Peer.CLIENT: {
        b"CONNECT": _connect,
        b"PING": _bare(Ping()),
        b"PONG": _bare(Pong()),
        b"SUB": _subscribe,
        b"UNSUB": _unsubscribe,
    },
}


class Parser:
    """Makes events of what one peer sends.

    Args:
        peer: Who sends it; the other side's operations are errors.
        limits: What is too much.
    """

    def __init__(self, peer: Peer = Peer.SERVER, limits: Limits | None = None) -> None:
        self._peer: Final = peer
        self._limits: Final = limits or Limits()
        self._data = b""
        self._pos = 0
        # The beginning of something, and the bytes that it takes until trying again makes sense; 0: an end of line.
        self._rest = bytearray()
        self._needed = 0
        self._error: RemoteProtocolError | None = None

    def __repr__(self) -> str:
        return f"<Parser of a {self._peer.value}'s bytes, holding {self.held}>"

    @property
    def held(self) -> int:
        """Bytes that were received and have not become an event yet."""
        return len(self._rest) + len(self._data) - self._pos

    def receive_data(self, data: bytes) -> None:
        """Take the next bytes, however they are cut. Iterate `events` afterwards."""
        rest = self._rest
        if not rest:
            self._data = self._data[self._pos :] + data if self._pos < len(self._data) else data
            self._pos = 0
            return
        rest += data
        enough = len(rest) >= self._needed if self._needed else b"\n" in data or len(rest) > self._limits.line
        if enough:
            self._data = bytes(rest)
            self._pos = 0
            self._rest = bytearray()

    def events(self) -> Iterator[Event]:
        """Every event that is complete, in order. Take them all before the next bytes.

        Raises:
            RemoteProtocolError: What comes next is no NATS, or past a limit; every later iteration raises it again.
        """
        if self._error is not None:
            raise self._error
        is_server, limits = self._peer is Peer.SERVER, self._limits
        longest, largest = limits.line + 2, limits.total
        found: re.Match[bytes] | None
        while (pos := self._pos) < len(self._data):
            data = self._data
            if is_server and (found := _MSG(data, pos)):
                start = found.end()
                subject, sid, reply, _, total = found.groups()
                end = start + int(total)
                if data[end : end + 2] == b"\r\n" and start - pos <= longest and end - start <= largest:
                    # Almost all messages, in three quarters of the time that what follows takes.
                    self._pos = end + 2
                    yield Message(
                        subject.decode("utf-8", _ESCAPED),
                        int(sid),
                        reply.decode("utf-8", _ESCAPED) if reply else "",
                        data[start:end],
                    )
                    continue
            elif is_server and (found := _HMSG(data, pos)):
                start = found.end()
            else:
                try:
                    start = self._end_of_line(pos)
                    read = self._line(data[pos : start - 2]) if start else None
                except RemoteProtocolError as exc:
                    self._error = exc
                    raise
                if read is None:
                    self._keep(pos, 0)
                    return
                if not isinstance(read, re.Match):
                    self._pos = start
                    yield read
                    continue
                found = read
            if start - pos > longest:
                raise self._broken(f"a line of more than {limits.line} bytes")
            subject, sid, reply, head, total = found.groups()
            end = start + int(total)
            between = start + int(head) if head else start
            if end - start > largest or between - start > limits.head or between > end:
                raise self._broken(f"a message of {end - start} bytes with {between - start} of headers")
            if end + 2 > len(data):
                self._keep(pos, end + 2 - pos)
                return
            if not data.startswith(b"\r\n", end):
                raise self._broken("a message that is longer than was announced")
            self._pos = end + 2
            where = subject.decode("utf-8", _ESCAPED)
            answer = reply.decode("utf-8", _ESCAPED) if reply else ""
            if is_server:
                yield Message(where, int(sid), answer, data[between:end], data[start:between])
            else:
                yield Publish(where, data[between:end], answer, data[start:between])

    def _broken(self, problem: str) -> RemoteProtocolError:
        self._error = RemoteProtocolError(problem)
        return self._error

    def _keep(self, pos: int, needed: int) -> None:
        """Put the rest of the data by until there are *needed* bytes of it, or a line's end."""
        self._rest = bytearray(self._data[pos:])
        self._needed = needed
        self._data = b""
        self._pos = 0

    def _end_of_line(self, pos: int) -> int:
        """Where the line at *pos* and its end are over; 0 if they are not complete."""
        data = self._data
        at = data.find(b"\n", pos)
        if (at if at >= 0 else len(data)) - pos > self._limits.line + 1:
            raise RemoteProtocolError(f"a line of more than {self._limits.line} bytes")
        if at < 0:
            return 0
        if not data.endswith(b"\r", pos, at):
            raise RemoteProtocolError(f"a line that does not end in CR LF: {data[pos : min(at, pos + 80)]!r}")
        return at + 1

    def _line(self, line: bytes) -> Event | re.Match[bytes]:
        """What *line* is: an event, or the announcement of a payload."""
        verb, *rest = line.split(None, 1)[:2] or (b"",)
        verb = verb.upper()
        arguments = rest[0].rstrip(b" \t") if rest else b""
        parse = _LINES[self._peer].get(verb)
        if parse is not None:
            return parse(arguments)
        announced = _PAYLOAD_LINES[self._peer].get(verb)
        if announced is None:
            raise RemoteProtocolError(f"{line[:80]!r} is no operation of a {self._peer.value}")
        found = announced.fullmatch(arguments)
        if found is None:
            raise RemoteProtocolError(f"malformed {verb.decode()} {arguments[:80]!r}")
        return found


def encode_publish(subject: str, payload: bytes = b"", reply: str = "", head: bytes = b"") -> bytes:
    """A PUB, or with a header block an HPUB. Unlike `encode`, it trusts its caller to have checked the subjects."""
    to = f"{subject} {reply}" if reply else subject
    if head:
        line = f"HPUB {to} {len(head)} {len(head) + len(payload)}\r\n".encode("utf-8", _ESCAPED)
        return b"".join((line, head, payload, b"\r\n"))
    return b"%b%b\r\n" % (f"PUB {to} {len(payload)}\r\n".encode("utf-8", _ESCAPED), payload)


def encode(event: Event) -> bytes:
    """The bytes that say *event*.

    Raises:
        LocalProtocolError: A subject, a queue or a text cannot be part of a line; a number is negative.
    """
    match event:
        case Publish(subject, payload, reply, head):
            check_pattern(subject)
            if reply:
                check_pattern(reply)
            return encode_publish(subject, payload, reply, head)
        case Message(subject, sid, reply, payload, head):
            check_pattern(subject)
            if reply:
                check_pattern(reply)
            to = f"{subject} {_number(sid)} {reply}" if reply else f"{subject} {_number(sid)}"
            sizes = f"{len(head)} {len(head) + len(payload)}" if head else f"{len(payload)}"
            line = f"{'HMSG' if head else 'MSG'} {to} {sizes}\r\n".encode("utf-8", _ESCAPED)
            return b"".join((line, head, payload, b"\r\n"))
        case Subscribe(subject, sid, queue):
            check_pattern(subject)
            check_queue(queue)
            to = f"{subject} {queue}" if queue else subject
            return f"SUB {to} {_number(sid)}\r\n".encode("utf-8", _ESCAPED)
        case Unsubscribe(sid, maximum):
            number = _number(sid)
            return (f"UNSUB {number} {_number(maximum)}\r\n" if maximum else f"UNSUB {number}\r\n").encode()
        case Info(fields):
            return b"INFO %b\r\n" % json.dumps(dict(fields), separators=(",", ":")).encode()
        case Connect(fields):
            return b"CONNECT %b\r\n" % json.dumps(dict(fields), separators=(",", ":")).encode()
        case Error(text):
            if "\r" in text or "\n" in text:
                raise LocalProtocolError("the text of an error has a line break")
            return f"-ERR '{text}'\r\n".encode("utf-8", _ESCAPED)
        case Ping():
            return b"PING\r\n"
        case Pong():
            return b"PONG\r\n"
        case Ok():
            return b"+OK\r\n"
        case _:
            assert_never(event)


def _number(number: int) -> int:
    if number < 0:
        raise LocalProtocolError(f"{number} is negative")
    return number
