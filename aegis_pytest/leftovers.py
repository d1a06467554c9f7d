"""What a test may not leave behind.

When the test is over, its cluster closes as programs end, step by step: background tasks are cancelled, calls get the
time of a drain to be answered, applications are cancelled, instances leave their blocks, nodes close. What resists is told:

- ``leaked_claims``: a claim that nobody would ever have released: of an ``own`` block that was entered and never left, or
  one that the store keeps for a live instance that does not know of it. Claims that end with their instance (all of
  `Instance.claim`, all of a killed node) are no leaks.
- ``unanswered_calls``: a call that had come before, and has no answer when the drain time (10 s, virtual) is over.
- ``tasks_left``: a background task, an application or a ``serve`` block that ends more than `PATIENCE` seconds after it
  was told to.
"""

from __future__ import annotations

from typing import Final

import attrs

__all__ = ["LEFTOVERS", "PATIENCE", "Leftover"]

LEFTOVERS: Final = ("leaked_claims", "unanswered_calls", "tasks_left")
"""Everything that the marker ``aegis_allow`` can allow."""

PATIENCE: Final = 20.0
"""Seconds, on Trio's clock: time for a drain and for the library's own limits on leaving."""


@attrs.frozen
class Leftover:
    """One thing that was left behind.

    Args:
        kind: Of `LEFTOVERS`.
        what: It is, in a line.
        places: Where tasks waited when that was seen, if this is the last of its kind.
    """

    kind: str
    what: str
    places: tuple[str, ...] = ()
