"""What goes wrong for a while is told when it begins and when it is over, not each time that it is tried again.

That an instance is away from the store, and back, is heard on standard error even where nobody configured logging (see
`aegis_core.observe.logs`): the work under its claims ends by it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

import attrs

from aegis_core.errors import AegisError, Indeterminate, Unavailable

__all__ = ["HEARD", "Repeats", "is_away"]

HEARD: Final[Mapping[str, object]] = {"is_heard": True}
"""``extra`` of a record that is heard where nobody configured logging, though it is no error."""


def is_away(error: AegisError) -> bool:
    """Whether *error* is that there was no answer, rather than an answer."""
    return isinstance(error, Indeterminate | Unavailable)


@attrs.define(eq=False)
class Repeats:
    """What was told already of something that is tried again until it succeeds."""

    _told: set[str] = attrs.field(factory=set)

    def level(self, error: AegisError) -> int:
        """At which level to log *error*: DEBUG if there was one of its kind; no answer is one kind, whatever its reason."""
        kind = "" if is_away(error) else error.code
        if kind in self._told:
            return logging.DEBUG
        self._told.add(kind)
        return logging.WARNING

    def over(self) -> None:
        """It succeeded: the next error is news."""
        self._told.clear()
