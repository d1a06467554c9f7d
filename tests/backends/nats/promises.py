"""What the NATS protocol's parser promises for any bytes, and the inputs with which a search for broken promises begins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from aegis_backends.nats.errors import LocalProtocolError, RemoteProtocolError
from aegis_backends.nats.headers import Headers
from aegis_backends.nats.protocol import Connect, Event, Info, Limits, Message, Parser, Peer, encode
from aegis_backends.nats.servers import ServerInfo
from tests.backends.nats.byte_tables import ACCEPTED, MALFORMED, SPOKEN

# Small, so that an input of moderate length can reach them.
LIMITS: Final = Limits(line=120, head=60, total=100)


def seeds() -> Iterator[bytes]:
    """The tables of bytes as inputs: each alone, in one piece and byte by byte, and all that one side says in a row."""
    for number, peer in enumerate(Peer):
        said = [data for who, data, _ in SPOKEN + ACCEPTED if who is peer]
        for data in (*said, b"".join(said), *(data for who, data in MALFORMED if who is peer)):
            for step in (0, 1):
                yield bytes((number, step)) + data[:4000]


def check(given: bytes, make_parser: type[Parser] = Parser) -> None:
    """Parse what *given* stands for: who speaks, how many bytes come at a time (0: all at once), and the bytes.

    Raises:
        AssertionError: The parser broke a promise.
        Exception: It raised what it should not.
    """
    if len(given) < 2:
        return
    peer = tuple(Peer)[given[0] % 2]
    data = given[2:]
    whole = _read(make_parser(peer, LIMITS), data, len(data))
    assert whole == _read(make_parser(peer, LIMITS), data, given[1]), "what bytes mean depends on how they are cut"
    for event in whole[0]:
        _judge(peer, event)


def _read(parser: Parser, data: bytes, step: int) -> tuple[list[Event], str]:
    """The events, and the error that ended them, of *data* in pieces of *step* bytes."""
    step = step or max(len(data), 1)
    events: list[Event] = []
    for start in range(0, len(data), step):
        parser.receive_data(data[start : start + step])
        problem = _take(parser, events)
        if problem:
            assert _take(parser, []) == problem, "the parser goes on after an error"
            return events, problem
        assert parser.held <= LIMITS.line + LIMITS.total + 4, "more is held than can become one message"
    return events, ""


def _take(parser: Parser, events: list[Event]) -> str:
    """Add what there is to *events*, and return the error that ended it, "" for none."""
    try:
        events.extend(parser.events())
    except RemoteProtocolError as exc:
        return exc.problem
    return ""


def _judge(peer: Peer, event: Event) -> None:
    """What reads an event must not fail; and what can be written must be read as it was."""
    if isinstance(event, Message):
        assert event.status is None or 0 <= event.status <= 999
        assert "\n" not in event.description
        headers = event.headers
        assert headers is None or Headers.parse(headers.encode()) == headers, "headers change on the way"
    try:
        if isinstance(event, Info | Connect):
            ServerInfo.from_fields(event.fields)
            return
        written = encode(event)
    except (RemoteProtocolError, LocalProtocolError):
        return  # a stranger's nonsense, which we neither use nor would send
    parser = Parser(peer)
    parser.receive_data(written)
    assert list(parser.events()) == [event], "what is written is read as something else"
