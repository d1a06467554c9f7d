"""Room at instances that operations of this node have been given, so that an instance's limit is exact within one node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import takewhile

from aegis_core import names
from aegis_core.engine.limits import NOTHING_RESERVED, Reserved
from aegis_core.engine.view import View

__all__ = ["Reservations", "Room"]


class Reservations:
    """What this node is about to acquire for instances, of its own or not.

    Args:
        view: The node's view, in which what was committed counts already.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self._rooms: dict[tuple[str, str], dict[Room, None]] = {}

    @contextmanager
    def reserve(self, service_name: str, instance_id: str, targets: Iterable[str]) -> Iterator[Room]:
        """While the block runs, an operation may add *targets* to what the instance holds."""
        who = (service_name, instance_id)
        rooms = self._rooms.setdefault(who, {})
        room = Room(self._view, who, frozenset(target for target in targets if not names.is_role(target)), rooms)
        rooms[room] = None
        try:
            yield room
        finally:
            del rooms[room]
            if not rooms:
                del self._rooms[who]


class Room:
    """Room at one instance for the targets of one operation; see `Reservations.reserve`."""

    def __init__(self, view: View, who: tuple[str, str], targets: frozenset[str], rooms: dict[Room, None]) -> None:
        self._view = view
        self._who = who
        self._targets = targets
        self._rooms = rooms
        self._promised = False

    def promise(self) -> None:
        """Keep the room until the block is left: it was found to be there, in this scheduling step.

        What comes later is refused for want of it, where it would otherwise wait for the outcome.
        """
        self._promised = True

    def others(self) -> Reserved:
        """The room that others have been given.

        Only those that began earlier count: two that waited for each other would wait for ever.
        """
        promised: set[str] = set()
        under_way: set[str] = set()
        for other in takewhile(lambda room: room is not self, self._rooms):
            if other._promised:
                promised |= other._targets
            else:
                under_way |= other._targets
        if not promised and not under_way:
            return NOTHING_RESERVED
        instance = self._view.instance(*self._who)
        held = {} if instance is None else self._view.held_by(instance.lease)
        return Reserved(
            promised=sum(1 for target in promised if target not in held and target not in self._targets),
            under_way=sum(1 for target in under_way - promised if target not in held and target not in self._targets),
        )
