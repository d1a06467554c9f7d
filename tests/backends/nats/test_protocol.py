"""The protocol without I/O: a table of bytes, read and written; what is malformed; what is too large."""

from __future__ import annotations

import pytest

from aegis_backends.nats.errors import LocalProtocolError, RemoteProtocolError
from aegis_backends.nats.protocol import (
    Connect,
    Error,
    Event,
    Limits,
    Message,
    Ok,
    Parser,
    Peer,
    Ping,
    Pong,
    Publish,
    Subscribe,
    Unsubscribe,
    encode,
    encode_publish,
)
from tests.backends.nats.byte_tables import ACCEPTED, HEAD, MALFORMED, SPOKEN


def read(peer: Peer, data: bytes, limits: Limits | None = None) -> list[Event]:
    """What *data* means in one piece."""
    parser = Parser(peer, limits)
    parser.receive_data(data)
    events = list(parser.events())
    assert parser.held == 0
    return events


@pytest.mark.parametrize(("peer", "data", "event"), SPOKEN + ACCEPTED)
def test_bytes_mean_an_event(peer: Peer, data: bytes, event: Event) -> None:
    """Each operation is read, alone and twice in a row."""
    assert read(peer, data) == [event]
    assert read(peer, data + data) == [event, event]


@pytest.mark.parametrize(("peer", "data", "event"), SPOKEN)
def test_event_is_written_as_its_bytes(peer: Peer, data: bytes, event: Event) -> None:
    """Each operation is written as the table has it."""
    assert encode(event) == data


@pytest.mark.parametrize(("peer", "data"), MALFORMED)
def test_malformed_bytes_are_the_other_sides_fault(peer: Peer, data: bytes) -> None:
    """What does not fit is an error, after what came before it, and for ever."""
    parser = Parser(peer)
    parser.receive_data(b"PING\r\n" + data)
    events = parser.events()
    assert next(events) == Ping()
    with pytest.raises(RemoteProtocolError):
        next(events)
    parser.receive_data(b"PING\r\n")
    with pytest.raises(RemoteProtocolError):
        next(parser.events())


@pytest.mark.parametrize(
    "event",
    [
        Publish("a b"),
        Publish("a", reply="b c"),
        Message("", 1),
        Message("a", 1, "x\r\ny"),
        Message("a", -1),
        Subscribe("a.>.b", 1),
        Subscribe("a", 1, "two words"),
        Unsubscribe(-1),
        Unsubscribe(1, -5),
        Error("two\r\nlines"),
    ],
)
def test_event_that_cannot_be_written_is_our_own_fault(event: Event) -> None:
    """What would break the line it is on is refused; as the caller's mistake, it is a ValueError, too."""
    with pytest.raises(LocalProtocolError) as caught:
        encode(event)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("cut", range(1, 40))
def test_message_is_put_together_from_pieces(cut: int) -> None:
    """Wherever it is cut, nothing comes before it is whole, and what follows is not lost."""
    data = b"MSG a.b 17 re.ply 5\r\nhello\r\nPING\r\nPONG\r\n"
    parser = Parser()
    parser.receive_data(data[:cut])
    first = list(parser.events())
    parser.receive_data(data[cut:])
    assert first + list(parser.events()) == [Message("a.b", 17, "re.ply", b"hello"), Ping(), Pong()]


def test_large_payload_in_many_pieces_is_not_copied_with_each() -> None:
    """Until enough has come the parser only appends: it looks at the beginning once, and once at the end."""
    parser = Parser()
    parser.receive_data(b"MSG a 1 1000000\r\n")
    assert list(parser.events()) == []
    for _ in range(1000):
        parser.receive_data(b"x" * 1000)
        assert list(parser.events()) == []
    assert parser.held == 1_000_017
    parser.receive_data(b"\r\n")
    assert list(parser.events()) == [Message("a", 1, "", b"x" * 1_000_000)]


def test_events_that_were_not_taken_are_kept() -> None:
    """Whoever stops after one event gets the next ones later, together with what has come since."""
    parser = Parser()
    parser.receive_data(b"PING\r\nPONG\r\nPI")
    assert next(parser.events()) == Ping()
    assert parser.held == 8
    parser.receive_data(b"NG\r\n+OK\r\n")
    assert list(parser.events()) == [Pong(), Ping(), Ok()]
    assert repr(parser) == "<Parser of a server's bytes, holding 0>"


@pytest.mark.parametrize(
    ("data", "limits", "fits"),
    [
        (b"-ERR 456789\r\n", Limits(line=11), True),
        (b"-ERR 456789\r\n", Limits(line=10), False),
        (b"MSG a 1 2\r\nhi\r\n", Limits(line=9), True),
        (b"MSG a 1 2\r\nhi\r\n", Limits(line=8), False),
        (b"HMSG a 1 18 20\r\n" + HEAD + b"hi\r\n", Limits(head=18, total=20), True),
        (b"HMSG a 1 18 20\r\n" + HEAD + b"hi\r\n", Limits(head=17), False),
        (b"HMSG a 1 18 20\r\n" + HEAD + b"hi\r\n", Limits(total=19), False),
        (b"MSG a 1 20\r\n" + b"x" * 20 + b"\r\n", Limits(total=20), True),
        (b"MSG a 1 20\r\n" + b"x" * 20 + b"\r\n", Limits(total=19), False),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 1000])
def test_limits_hold_to_the_byte_however_the_bytes_come(data: bytes, limits: Limits, *, fits: bool, size: int) -> None:
    """A line, a header block or a message at its limit passes, one more byte does not."""
    parser = Parser(limits=limits)
    events: list[Event] = []
    error = None
    for start in range(0, len(data), size):
        parser.receive_data(data[start : start + size])
        try:
            events += parser.events()
        except RemoteProtocolError as exc:
            error = exc
            break
    assert (len(events), error is None) == ((1, True) if fits else (0, False))


def test_endless_line_is_refused_before_it_ends() -> None:
    """A peer that never ends its line cannot fill the memory."""
    parser = Parser(limits=Limits(line=100))
    parser.receive_data(b"INFO {")
    assert list(parser.events()) == []
    parser.receive_data(b" " * 95)
    assert list(parser.events()) == []
    parser.receive_data(b" ")
    with pytest.raises(RemoteProtocolError, match="more than 100 bytes"):
        list(parser.events())


def test_too_large_a_message_is_refused_before_it_has_come() -> None:
    """The announcement suffices: nothing is kept for what would not be taken."""
    parser = Parser(limits=Limits(total=100))
    parser.receive_data(b"MSG a 1 101\r\n")
    with pytest.raises(RemoteProtocolError, match="101 bytes"):
        list(parser.events())


def test_publishing_quickly_writes_the_same_as_writing_the_event() -> None:
    """The fast function differs in what it checks, not in what it writes."""
    for event in (Publish("a"), Publish("a", b"b", "c"), Publish("a", b"b", "c", HEAD), Publish("\udcff\xe4", b"b")):
        assert encode_publish(event.subject, event.payload, event.reply, event.head) == encode(event)


def test_status_of_a_servers_message_is_read() -> None:
    """A server's own messages carry a status and mostly a description; others carry none."""
    nobody = Message("i", 1, "", b"", b"NATS/1.0 503\r\nNats-Subject: a\r\n\r\n")
    assert (nobody.status, nobody.description) == (503, "")
    assert nobody.headers is not None
    assert nobody.headers.get("Nats-Subject") == "a"
    idle = Message("i", 1, "", b"", b"NATS/1.0 100  Idle Heartbeat \r\n\r\n")
    assert (idle.status, idle.description) == (100, "Idle Heartbeat")
    plain = Message("i", 1, "", b"", HEAD)
    assert (plain.status, plain.description) == (None, "")
    assert Message("i", 1).headers is None
    assert Message("i", 1).status is None


def test_secrets_of_a_connect_are_not_shown() -> None:
    """What a client logs in with is in no repr."""
    assert "hunter2" not in repr(Connect({"pass": "hunter2"}))
