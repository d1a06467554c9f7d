"""A circuit breaker: after repeated failures of one peer, leave it alone for a while, then try it with one request.

::

    CLOSED --(threshold failures in a row)--> OPEN --(cooldown seconds)--> HALF_OPEN --(success)--> CLOSED
                                               ^                               |
                                               +-----------(failure)-----------+

A pure state machine on the node's clock: it neither waits nor sends. In HALF_OPEN one attempt is let through at a
time. An attempt that never tells its end (its task was cancelled and nobody said so) blocks nothing for ever: after
another `cooldown` the next one is let through.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from aegis_core.backend import Clock

__all__ = ["CircuitBreaker", "CircuitState"]


class CircuitState(enum.Enum):
    """Whether attempts are let through (CLOSED), refused (OPEN), or tried one at a time (HALF_OPEN)."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class CircuitBreaker:
    """The circuit to one peer.

    Args:
        clock: The node's clock.
        threshold: How many failures in a row open the circuit, 1 or more.
        cooldown: Seconds from opening to the first new attempt.
        on_change: Called with the old and the new state at each change; must not raise.
    """

    __slots__ = ("_clock", "_cooldown", "_failures", "_next_try", "_on_change", "_threshold", "state")

    def __init__(
        self,
        clock: Clock,
        *,
        threshold: int,
        cooldown: float,
        on_change: Callable[[CircuitState, CircuitState], None],
    ) -> None:
        self.state = CircuitState.CLOSED
        self._clock = clock
        self._threshold = threshold
        self._cooldown = cooldown
        self._on_change = on_change
        self._failures = 0
        self._next_try = 0.0

    def __repr__(self) -> str:
        return f"<CircuitBreaker {self.state.value}, {self._failures} failures in a row>"

    @property
    def remaining(self) -> float:
        """Seconds until the next attempt is let through; 0.0 when one is now."""
        return 0.0 if self.state is CircuitState.CLOSED else max(0.0, self._next_try - self._clock.now())

    def would_allow(self) -> bool:
        """Whether `allow` would answer True now; changes nothing."""
        return self.state is CircuitState.CLOSED or self._clock.now() >= self._next_try

    def allow(self) -> bool:
        """Whether an attempt may be made now. True counts as the attempt: tell its end by one of the methods below."""
        if self.state is CircuitState.CLOSED:
            return True
        now = self._clock.now()
        if now < self._next_try:
            return False
        self._next_try = now + self._cooldown
        if self.state is CircuitState.OPEN:
            self._change(CircuitState.HALF_OPEN)
        return True

    def success(self) -> None:
        """The peer answered, whatever it answered: it is there."""
        self._failures = 0
        if self.state is not CircuitState.CLOSED:
            self._next_try = 0.0
            self._change(CircuitState.CLOSED)

    def failure(self) -> None:
        """The peer did not answer."""
        self._failures += 1
        if self.state is CircuitState.HALF_OPEN or (
            self.state is CircuitState.CLOSED and self._failures >= self._threshold
        ):
            self._next_try = self._clock.now() + self._cooldown
            self._change(CircuitState.OPEN)

    def withdraw(self) -> None:
        """The attempt was given up (cancelled) and tells nothing: the next one may be made at once."""
        if self.state is CircuitState.HALF_OPEN:
            self._next_try = self._clock.now()

    def _change(self, new: CircuitState) -> None:
        old, self.state = self.state, new
        self._on_change(old, new)
