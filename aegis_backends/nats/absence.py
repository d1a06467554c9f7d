"""For how long the view may have missed something: nothing that a consumer says can tell. Pure.

**Why not.** A consumer lives on any of the bucket's servers. One that is cut off from the others goes on saying that there
is nothing to deliver, and believes it; back again, it takes over what is there, and passes over what was deleted so long
ago that the deletion has been forgotten, too. Even what it delivers may be old.

**What can.** The bucket's leader gave a revision to something that was sent from here, and the view is level at that
revision or a later one: so it lacks nothing that was stored before that was sent. Renewals of leases show as much all the
time; where nobody commits anything, a fence now and then has to.
"""

from __future__ import annotations

from typing import Final

from aegis_backends.nats.batch import MARKER_TTL

__all__ = ["LONGEST", "Absence"]

LONGEST: Final = MARKER_TTL / 2
"""Seconds after which a deletion may have been forgotten before it was told: half of those that it is remembered for."""

_OVERDUE: Final = 5.0
"""Seconds after which a consumer with nothing else to deliver should have shown what was stored: far more than it takes."""

_PROOF_AFTER: Final = LONGEST / 3
"""Seconds without a proof after which one is wanted: early enough for a leader to be elected, and for another try."""


class Absence:
    """Measures how long ago the view was certainly whole; every time in seconds, by one clock.

    Args:
        since: When that is measured from at first.
    """

    def __init__(self, since: float) -> None:
        self._since = since
        # The oldest revision that the view has yet to show, and when what has it was sent. The newest would not do: where
        # much is sent, there would always be a newer one before it is shown.
        self._awaited: tuple[int, float] | None = None
        # Since when that can be expected to be shown.
        self._expected_at = since

    def __repr__(self) -> str:
        return f"<Absence since {self._since:.1f}>"

    def seconds(self, now: float) -> float:
        """Seconds since the view was certainly whole."""
        return now - self._since

    def too_long(self, now: float) -> bool:
        """Whether a deletion may have been missed, so that the bucket must be read anew."""
        return now - self._since > LONGEST

    def wants_proof(self, now: float) -> bool:
        """Whether it is time to store something, so that the view can show it."""
        return self._awaited is None and now - self._since > _PROOF_AFTER

    def is_overdue(self, now: float) -> bool:
        """Whether what was stored should have been shown by now, by a consumer that has nothing else to deliver."""
        return self._awaited is not None and now - self._expected_at > _OVERDUE

    def expect(self, now: float) -> None:
        """Another consumer is there to show it."""
        self._expected_at = now

    def begin(self, now: float) -> None:
        """The whole bucket is being read from now on: a snapshot lacks nothing of what was before it."""
        self._since = now
        self._awaited = None

    def stored(self, revision: int, sent_at: float, now: float) -> None:
        """What was sent from here at *sent_at* was given *revision*."""
        if self._awaited is None:
            self._awaited = revision, sent_at
            self._expected_at = now

    def shown(self, revision: int) -> None:
        """The view is level at *revision*."""
        if self._awaited is not None and revision >= self._awaited[0]:
            self._since = max(self._since, self._awaited[1])
            self._awaited = None
