"""How many requests may be under way at once, so that whoever asks for much leaves room for what must not wait."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum

from aegis_core.errors import Overloaded
from aegis_core.hookspecs import Principal

__all__ = ["Kind", "Places", "places"]


class Kind(StrEnum):
    """What a request asks for, in so far as it decides how long it may last."""

    CALL = "calls"
    """One that waits for an instance."""
    STREAM = "streams"
    """One that lasts until its listener leaves."""
    WATCH = "watches"
    """As long as a node runs."""
    OTHER = "other requests"


def places(connections: int) -> Mapping[Kind, Places]:
    """How many requests of each kind a server of so many *connections* has under way at once.

    The kinds apart from watches have three quarters of them together, so that requests of nodes find room whatever else
    is asked; and each has its own, so that nobody who waits long is in the way of what does not.
    """
    shares = {
        Kind.CALL: (3 / 8, 1 / 4),
        Kind.STREAM: (1 / 8, 1 / 16),
        Kind.OTHER: (1 / 4, 1 / 8),
        Kind.WATCH: (1, 1 / 4),
    }
    return {
        kind: Places(kind, most=max(1, int(connections * most)), each=max(1, int(connections * each)))
        for kind, (most, each) in shares.items()
    }


class Places:
    """Counts requests of one kind under way, in all and of each principal.

    Args:
        kind: Of requests.
        most: Of all together.
        each: Of one principal.
    """

    def __init__(self, kind: Kind, *, most: int, each: int) -> None:
        self._kind = kind
        self._most = most
        self._each = each
        self._taken: Counter[Principal] = Counter()

    def __repr__(self) -> str:
        return f"<Places for {self._kind}: {self._taken.total()} of {self._most} taken>"

    @contextmanager
    def take(self, principal: Principal) -> Iterator[None]:
        """Hold a place for a request of *principal* while the block runs.

        Raises:
            Overloaded: There is none left, for it or for anybody.
        """
        taken = self._taken.total()
        if taken >= self._most:
            raise Overloaded(what=f"this router's room for {self._kind}", limit=self._most, asked=taken + 1)
        own = self._taken[principal]
        if own >= self._each:
            raise Overloaded(what=f"{principal}'s room for {self._kind}", limit=self._each, asked=own + 1)
        self._taken[principal] += 1
        try:
            yield
        finally:
            self._taken[principal] -= 1
            if not self._taken[principal]:
                del self._taken[principal]
