"""Headers of messages: order, repetition, and whatever strangers send."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_backends.nats.errors import LocalProtocolError
from aegis_backends.nats.headers import Headers, first_value


def test_headers_are_an_ordered_multi_map() -> None:
    """Names may repeat, keep their order and their case."""
    headers = Headers([("A", "1"), ("b", ""), ("A", "2")])
    assert (headers["A"], headers.get("A"), headers.get_all("A")) == ("1", "1", ("1", "2"))
    assert (list(headers), len(headers)) == (["A", "b", "A"], 3)
    assert ("b" in headers, "B" in headers) == (True, False)
    assert (headers.get("a"), headers.get("a", "none")) == (None, "none")
    with pytest.raises(KeyError):
        headers["a"]


def test_headers_are_equal_by_their_pairs() -> None:
    """A mapping makes the same headers as its pairs do."""
    assert Headers({"A": "1"}) == Headers([("A", "1")])
    assert hash(Headers({"A": "1"})) == hash(Headers([("A", "1")]))
    assert Headers() != Headers({"A": "1"})


def test_headers_are_written_one_a_line() -> None:
    """The block has the version, a line each, and an empty one; reading it gives the same again."""
    headers = Headers({"Nats-TTL": "10s", "Name": "Zoë"})
    assert headers.encode() == "NATS/1.0\r\nNats-TTL: 10s\r\nName: Zoë\r\n\r\n".encode()
    assert Headers.parse(headers.encode()) == headers
    assert Headers.parse(Headers().encode()) == Headers()


@pytest.mark.parametrize(
    "pairs", [[("", "x")], [("a b", "x")], [("a:b", "x")], [("ä", "x")], [("a", "x\r\ny")], [("a", "\n")]]
)
def test_what_would_break_the_block_is_refused(pairs: list[tuple[str, str]]) -> None:
    """A name is printable ASCII without a colon, a value has no line break."""
    with pytest.raises(LocalProtocolError):
        Headers(pairs)


@pytest.mark.parametrize(
    ("block", "pairs"),
    [
        (b"NATS/1.0\r\nA:1\r\nB:   2  \r\n\r\n", (("A", "1"), ("B", "2"))),
        (b"NATS/1.0 503 No Responders\r\nA: 1\r\n\r\n", (("A", "1"),)),
        (b"NATS/1.0\r\nwithout colon\r\n: no name\r\nA: b: c\r\n", (("A", "b: c"),)),
        (b"NATS/1.0\r\nA: \xff\r\n\r\n", (("A", "\udcff"),)),
        (b"XATS/1.0\r\nA: 1\r\n\r\n", ()),
        (b"", ()),
        (b"\x00\xff", ()),
    ],
)
def test_block_of_a_stranger_is_read_as_far_as_it_is_one(block: bytes, pairs: tuple[tuple[str, str], ...]) -> None:
    """What is no header is left out; nothing raises."""
    assert Headers.parse(block).pairs == pairs


@given(
    st.sampled_from([b"NATS/1.0", b"NATS/1.0 100 Idle Heartbeat", b"XATS/1.0", b""]),
    st.lists(st.sampled_from([b"A", b"AB", b":", b" ", b"A:", b"A: ", b"\r\n", b"\r", b"\n", b"1", b"\xff"])),
)
def test_one_value_is_what_reading_all_of_them_finds(first: bytes, rest: list[bytes]) -> None:
    """Of the first header of that name, whatever else the block holds."""
    block = b"".join((first, b"\r\n", *rest))
    everything = Headers.parse(block)
    for name in ("A", "AB", "C"):
        found = first_value(block, name.encode())
        told = None if found is None else found.decode("utf-8", "surrogateescape")
        assert told == everything.get(name)
