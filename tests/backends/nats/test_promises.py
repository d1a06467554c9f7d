"""The judgement of the parser's promises: right about what is right, and not about what is wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aegis_backends.nats.protocol import Event, Parser, Ping
from tests.backends.nats.promises import check, seeds


def test_every_seed_of_the_search_is_dealt_with_as_promised() -> None:
    """What a search begins with is in order, so that what it finds is news."""
    given = list(seeds())
    assert len(given) > 100
    for seed in (*given, b"", b"\0"):
        check(seed)


class Impatient(Parser):
    """A parser that takes each piece for something whole."""

    def events(self) -> Iterator[Event]:
        """One for each piece."""
        yield Ping()


class Stubborn(Parser):
    """A parser that goes on after an error."""

    _ended = False

    def events(self) -> Iterator[Event]:
        """Nothing more, the second time."""
        if not self._ended:
            self._ended = True
            yield from super().events()


class Hoarder(Parser):
    """A parser that holds more than it may."""

    @property
    def held(self) -> int:
        """Too much."""
        return 1 << 20


class Clumsy(Parser):
    """A parser that falls over its own feet."""

    def events(self) -> Iterator[Event]:
        """None."""
        raise IndexError("out of range")


@pytest.mark.parametrize(
    ("parser", "given", "promise"),
    [
        (Impatient, b"\0\1PING\r\n", "how they are cut"),
        (Stubborn, b"\0\0nonsense\r\n", "goes on after an error"),
        (Hoarder, b"\0\0PING\r\n", "more is held"),
        (Clumsy, b"\0\0PING\r\n", "out of range"),
    ],
)
def test_broken_promise_is_found(parser: type[Parser], given: bytes, promise: str) -> None:
    """And told in its words."""
    with pytest.raises((AssertionError, IndexError), match=promise):
        check(given, parser)
