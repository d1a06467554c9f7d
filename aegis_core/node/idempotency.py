"""The answers an instance gave to calls with an idempotency key, so that a repeat is answered and not executed.

It covers one incarnation: a new owner of a resource starts with none. What is kept is bounded by count, by bytes and by
age; the oldest answers go first. A repeat that comes while the first attempt still runs waits for its answer.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import attrs
import trio

from aegis_core.backend import Clock
from aegis_core.models import Shown

__all__ = ["AnswerCache", "Attempt", "Key"]

RETENTION: Final = 300.0
"""Seconds for which an answer is kept."""

MOST_ANSWERS: Final = 10_000
MOST_BYTES: Final = 1 << 26

Key = tuple[str, str | None, str]
"""Method, resource id and idempotency key; the service is the instance's own."""


@attrs.define(eq=False, repr=False)
class Attempt(Shown):
    """The one execution of a call with a key.

    Args:
        key: What it executes.
        answer: The answer as it was sent; None while it runs, and when it left none and may be executed again.
        ended_at: When it ended, on the node's clock.
    """

    key: Key
    answer: bytes | None = None
    ended_at: float = 0.0
    _ended: trio.Event = attrs.field(factory=trio.Event, init=False)

    async def wait(self) -> bytes | None:
        """Wait for the answer; None when the attempt left none."""
        await self._ended.wait()
        return self.answer


class AnswerCache:
    """The attempts of one incarnation, running and ended.

    Args:
        clock: The node's clock.
        most_answers: How many answers are kept.
        most_bytes: How many bytes of answers are kept.
    """

    def __init__(self, clock: Clock, *, most_answers: int = MOST_ANSWERS, most_bytes: int = MOST_BYTES) -> None:
        self._clock = clock
        self._most_answers = most_answers
        self._most_bytes = most_bytes
        self._running: dict[Key, Attempt] = {}
        self._ended: OrderedDict[Key, Attempt] = OrderedDict()  # in the order of their ends
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<AnswerCache {len(self._running)} running, {len(self._ended)} answers, {self._bytes} bytes>"

    def __len__(self) -> int:
        return len(self._ended)

    def find(self, key: Key) -> Attempt | None:
        """The attempt at *key* that runs, or whose answer is still kept."""
        self._evict()
        return self._running.get(key) or self._ended.get(key)

    def begin(self, key: Key) -> Attempt:
        """A new attempt; `find` gave none. End it by `finish` or `forget`, whatever happens."""
        attempt = self._running[key] = Attempt(key)
        return attempt

    def finish(self, attempt: Attempt, answer: bytes) -> None:
        """*attempt* was executed, at least in part, and answered: no repeat is executed while that is kept."""
        del self._running[attempt.key]
        attempt.answer = answer
        attempt.ended_at = self._clock.now()
        self._ended[attempt.key] = attempt
        self._bytes += len(answer)
        attempt._ended.set()
        self._evict()

    def forget(self, attempt: Attempt) -> None:
        """*attempt* may be executed again."""
        del self._running[attempt.key]
        attempt._ended.set()

    def _evict(self) -> None:
        ended = self._ended
        oldest_kept = self._clock.now() - RETENTION
        while ended:
            first = next(iter(ended.values()))
            full = len(ended) > self._most_answers or self._bytes > self._most_bytes
            if first.ended_at >= oldest_kept and not full:
                return
            ended.popitem(last=False)
            self._bytes -= len(first.answer or b"")
