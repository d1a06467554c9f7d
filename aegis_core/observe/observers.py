"""Events on their way to observers: one that fails harms neither the others nor what it observes."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from aegis_core.events import Event
from aegis_core.hookspecs import Observer

__all__ = ["Observers"]

_log = logging.getLogger("aegis.observe")


class Observers:
    """The observers of one node, in the order in which they were registered."""

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        self._observers = tuple(observers)
        self._failed: set[tuple[int, str]] = set()

    def __repr__(self) -> str:
        return f"<Observers: {', '.join(type(o).__name__ for o in self._observers) or 'none'}>"

    def __len__(self) -> int:
        return len(self._observers)

    def notify(self, event: Event) -> None:
        """Hand *event* to each observer; never raises. An observer's failure is logged once per kind of event."""
        for observer in self._observers:
            try:
                observer.on_event(event)
            except Exception:  # noqa: BLE001 - the boundary to other people's code
                self._tell(observer, event)

    def _tell(self, observer: Observer, event: Event) -> None:
        if (id(observer), event.kind) in self._failed:
            return
        self._failed.add((id(observer), event.kind))
        _log.exception(
            "observer %s failed on %s; told once, it is still called",
            type(observer).__name__,
            event.kind,
        )
