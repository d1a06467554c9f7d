"""How many resources the commits under way may add to an instance, so that its limit is exact within one node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from aegis_core import names
from aegis_core.engine.view import View

__all__ = ["Reservations"]


class Reservations:
    """What this node is about to acquire for instances, of its own or not.

    Args:
        view: The node's view, in which what was committed counts already.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self._under_way: dict[tuple[str, str], dict[object, frozenset[str]]] = {}

    @contextmanager
    def reserve(self, service_name: str, instance_id: str, targets: Iterable[str]) -> Iterator[Callable[[], int]]:
        """While the block runs, a commit under way may add *targets*; yields how many resources others may still add.

        Only blocks that began earlier count: two commits that waited for each other would wait for ever.
        """
        who = (service_name, instance_id)
        mine = frozenset(target for target in targets if not names.is_role(target))
        token = object()
        under_way = self._under_way.setdefault(who, {})

        def others() -> int:
            found: set[str] = set()
            for other, theirs in under_way.items():
                if other is token:
                    break
                found |= theirs
            if not found:
                return 0
            instance = self._view.instance(*who)
            held = {} if instance is None else self._view.held_by(instance.lease)
            return sum(1 for target in found if target not in mine and target not in held)

        under_way[token] = mine
        try:
            yield others
        finally:
            del under_way[token]
            if not under_way:
                del self._under_way[who]
