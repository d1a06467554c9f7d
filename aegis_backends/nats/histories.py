"""The names of a bucket's histories: which of two was there before the other, and what the next one is. Pure.

A name is 16 hexadecimal digits that were drawn at random, and behind them, each after a space, the digests of names that
are not to count any more: the one that it took the place of, the one that whoever put it knew, and what that one carried.
So a bucket that was set back to a history with a name is not taken for one that somebody else named meanwhile.

Whoever may write to the bucket may have put anything there, and nodes of earlier versions put the digits alone. Both are
names as good as any, with nothing before them.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

__all__ = ["MOST_BEFORE", "digest", "is_no_newer", "next_name"]

MOST_BEFORE: Final = 8
"""How many names of before one carries."""

_NAME: Final = re.compile(rb"[0-9a-f]{16}((?: [0-9a-f]{16}){0,%d})" % MOST_BEFORE)


def digest(name: bytes) -> str:
    """16 hexadecimal digits that tell *name* from any other one, whatever was put there."""
    return hashlib.blake2b(name, digest_size=8).hexdigest()


def _before(name: bytes) -> tuple[str, ...]:
    found = _NAME.fullmatch(name)
    return tuple(found[1].decode().split()) if found else ()


def is_no_newer(found: bytes, known: bytes) -> bool:
    """Whether the history *found* is the one *known*, or one of before that; b"" is that of a bucket that was never set back.

    Nobody deletes a name, so that none is older than any. One that is not among those that *known* carries is newer, as
    far as can be told.
    """
    return found in {known, b""} or digest(found) in _before(known)


def next_name(drawn: int, *, found: bytes, known: bytes) -> str:
    """The name of a history that goes on from *found* and is not *known*, which has been lost.

    Args:
        drawn: 64 bits that nobody has drawn before.
        found: What is there, and is no newer than:
        known: What was there.
    """
    # That which has come back comes first: who restores the same backup again and again shall find it remembered.
    latest = (digest(name) for name in (found, known) if name)
    before = tuple(dict.fromkeys((*latest, *_before(known))))
    return " ".join((f"{drawn:016x}", *before[:MOST_BEFORE]))
