"""Headers of a message: pairs of names and values, in order, names repeated where the sender did."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, cast, overload

import attrs

from aegis_backends.nats.errors import LocalProtocolError

__all__ = ["VERSION_LINE", "Headers", "first_value"]

VERSION_LINE: Final = b"NATS/1.0"
"""What a header block begins with; a status may follow on the same line."""

_NAME: Final = re.compile(r"[!-9;-~]+")  # printable ASCII without the colon and the space
_NOT_IN_VALUE: Final = re.compile(r"[\r\n]")


def first_value(head: bytes, name: bytes) -> bytes | None:
    """The first value of *name* in the header block *head*, as `Headers.parse` would find it, without reading the rest."""
    if not head.startswith(VERSION_LINE):
        return None
    at = head.find(b"\r\n%b:" % name)
    if at < 0:
        return None
    start = at + len(name) + 3
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].strip()


def _pairs(given: Mapping[str, str] | Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    # The cast: a type checker cannot rule out an iterable of pairs that is a mapping from pairs as well.
    pairs = tuple(cast("Mapping[str, str]", given).items() if isinstance(given, Mapping) else given)
    for name, value in pairs:
        if not _NAME.fullmatch(name):
            raise LocalProtocolError(f"{name!r} is no name for a header")
        if _NOT_IN_VALUE.search(value):
            raise LocalProtocolError(f"the value of header {name!r} has a line break")
    return pairs


@attrs.frozen
class Headers:
    """An ordered multi-map of strings; names are case-sensitive, as on the wire.

    Args:
        pairs: A mapping, or (name, value) pairs. Names are printable ASCII without colons; values have no line breaks,
            and lose white space around them on the way.

    Raises:
        LocalProtocolError: A name or a value cannot be sent.
    """

    pairs: tuple[tuple[str, str], ...] = attrs.field(default=(), converter=_pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[str]:
        return iter(name for name, _ in self.pairs)

    def __contains__(self, name: str) -> bool:
        return any(known == name for known, _ in self.pairs)

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    @overload
    def get(self, name: str) -> str | None: ...
    @overload
    def get(self, name: str, default: str) -> str: ...
    def get(self, name: str, default: str | None = None) -> str | None:
        """The first value of *name*, or *default*."""
        for known, value in self.pairs:
            if known == name:
                return value
        return default

    def get_all(self, name: str) -> tuple[str, ...]:
        """Every value of *name*, in order."""
        return tuple(value for known, value in self.pairs if known == name)

    def encode(self) -> bytes:
        """The header block: version line, one line each, an empty line."""
        lines = [f"{name}: {value}\r\n" for name, value in self.pairs]
        return f"NATS/1.0\r\n{''.join(lines)}\r\n".encode("utf-8", "surrogateescape")

    @classmethod
    def parse(cls, head: bytes) -> Headers:
        """The headers in the block *head*; never raises.

        Servers pass on whatever a publisher sent as headers, so that what is no header is another client's fault: it
        is left out, and must not end this client's connection or its reader.
        """
        first, *lines = head.decode("utf-8", "surrogateescape").split("\r\n")
        headers = object.__new__(cls)
        pairs: list[tuple[str, str]] = []
        if first.startswith("NATS/1.0"):
            for line in lines:
                name, colon, value = line.partition(":")
                if colon and name:
                    pairs.append((name, value.strip()))
        object.__setattr__(headers, "pairs", tuple(pairs))
        return headers
