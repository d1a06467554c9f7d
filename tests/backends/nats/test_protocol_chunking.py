"""However the bytes are cut, they mean the same; and what is written is read as it was."""

from __future__ import annotations

from types import MappingProxyType

from hypothesis import given
from hypothesis import strategies as st

from aegis_backends.nats.errors import RemoteProtocolError
from aegis_backends.nats.headers import Headers
from aegis_backends.nats.protocol import (
    Connect,
    Error,
    Event,
    Info,
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
)

LIMITS = Limits(line=120, head=60, total=100)

TOKENS = st.text(
    st.characters(codec="utf-8", exclude_characters=".*>", exclude_categories=("C", "Z")), min_size=1, max_size=6
)
SUBJECTS = st.lists(TOKENS, min_size=1, max_size=3).map(".".join)
REPLIES = st.just("") | SUBJECTS
NUMBERS = st.integers(min_value=0, max_value=10**17)
PAYLOADS = st.binary(max_size=40)
NAMES = st.text("ABCxyz-09", min_size=1, max_size=5)
VALUES = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=5)
HEADS = st.just(b"") | st.lists(st.tuples(NAMES, VALUES), max_size=2).map(lambda pairs: Headers(pairs).encode())
FIELDS = st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3) | st.booleans(), max_size=3).map(
    MappingProxyType
)

SERVER_EVENTS = st.one_of(
    st.builds(Info, FIELDS),
    st.builds(Message, SUBJECTS, NUMBERS, REPLIES, PAYLOADS, HEADS),
    st.just(Ping()),
    st.just(Pong()),
    st.just(Ok()),
    st.builds(Error, st.text(st.characters(codec="utf-8", exclude_characters="\r\n'"), max_size=10)),
)
CLIENT_EVENTS = st.one_of(
    st.builds(Connect, FIELDS),
    st.builds(Publish, SUBJECTS, PAYLOADS, REPLIES, HEADS),
    st.builds(Subscribe, SUBJECTS, NUMBERS, REPLIES),
    st.builds(Unsubscribe, NUMBERS, NUMBERS),
    st.just(Ping()),
    st.just(Pong()),
)


def outcome(peer: Peer, pieces: list[bytes]) -> tuple[list[Event], str]:
    """All events of *pieces*, and the error that ends them, if one does."""
    parser = Parser(peer, LIMITS)
    events: list[Event] = []
    for piece in pieces:
        parser.receive_data(piece)
        try:
            # One by one: `extend` would lose those before an error.
            for event in parser.events():
                events.append(event)  # noqa: PERF402
        except RemoteProtocolError as exc:
            return events, str(exc)
    return events, ""


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """*data* cut at *places*."""
    ends = sorted({place % (len(data) + 1) for place in places})
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


CUTS = st.lists(st.integers(min_value=0, max_value=10_000), max_size=8)


@given(events=st.lists(SERVER_EVENTS, max_size=5), places=CUTS)
def test_what_a_server_writes_is_read_however_it_is_cut(events: list[Event], places: list[int]) -> None:
    """Every list of a server's operations survives the way."""
    parser = Parser()
    got: list[Event] = []
    for piece in cut(b"".join(map(encode, events)), places):
        parser.receive_data(piece)
        got += parser.events()
    assert got == events
    assert parser.held == 0


@given(events=st.lists(CLIENT_EVENTS, max_size=5), places=CUTS)
def test_what_a_client_writes_is_read_however_it_is_cut(events: list[Event], places: list[int]) -> None:
    """Every list of a client's operations survives the way."""
    parser = Parser(Peer.CLIENT)
    got: list[Event] = []
    for piece in cut(b"".join(map(encode, events)), places):
        parser.receive_data(piece)
        got += parser.events()
    assert got == events
    assert parser.held == 0


FRAGMENTS = st.sampled_from([
    b"MSG ", b"HMSG ", b"INFO ", b"PING", b"PONG", b"+OK", b"-ERR ", b"PUB ", b"SUB ", b"msg\t", b"\r\n", b"\r\n", b"\n",
    b"\r", b" ", b"a.b ", b"1 ", b"5", b"12 12", b"18", b"0", b"{}", b"{", b"NATS/1.0\r\n\r\n", b"'x'", b"\x00", b"\xff",
    b"0" * 60,
])  # fmt: skip
NOISE = st.lists(FRAGMENTS | st.binary(max_size=4), max_size=12).map(b"".join)


@given(peer=st.sampled_from(Peer), data=NOISE, places=CUTS)
def test_nonsense_has_the_same_outcome_however_it_is_cut(peer: Peer, data: bytes, places: list[int]) -> None:
    """Events and error do not depend on the pieces: in one, in some, byte by byte."""
    whole = outcome(peer, [data])
    assert outcome(peer, cut(data, places)) == whole
    assert outcome(peer, [data[at : at + 1] for at in range(len(data))]) == whole
