"""How many requests may be under way at once, so that whoever asks for much leaves room for what must not wait."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from aegis_core.errors import Overloaded
from aegis_core.hookspecs import Principal

__all__ = ["Places"]


class Places:
    """Counts requests under way, in all and of each principal.

    Args:
        most: Of all together.
        each: Of one principal.
    """

    def __init__(self, *, most: int, each: int) -> None:
        self._most = most
        self._each = each
        self._taken: Counter[Principal] = Counter()

    def __repr__(self) -> str:
        return f"<Places: {self._taken.total()} of {self._most} taken>"

    @contextmanager
    def take(self, principal: Principal) -> Iterator[None]:
        """Hold a place for a request of *principal* while the block runs.

        Raises:
            Overloaded: There is none left, for it or for anybody.
        """
        taken = self._taken.total()
        if taken >= self._most:
            raise Overloaded(what="this router", limit=self._most, asked=taken + 1)
        own = self._taken[principal]
        if own >= self._each:
            raise Overloaded(what=str(principal), limit=self._each, asked=own + 1)
        self._taken[principal] += 1
        try:
            yield
        finally:
            self._taken[principal] -= 1
            if not self._taken[principal]:
                del self._taken[principal]
