"""Events of all nodes of a cluster, and waiting for one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar

import attrs
import trio

from aegis_core.events import CircuitStateChanged, Event
from aegis_pytest.telling import brief, clip, show_fields, show_time

__all__ = ["DEFAULT_WITHIN", "EventLog"]

DEFAULT_WITHIN: Final = 60.0
"""Seconds: twice the default TTL, in which whatever follows from a death has happened. In a cluster with another TTL, twice
that one, and 20 at least: where the real clock counts, a test is told what is missing before its own time is over."""

_SHOWN: Final = 12
# What tells one telling of a change from another, not one change from another.
_INCIDENTAL: Final = frozenset({"at", "revision"})

_ANY_TIME: Final = datetime.min.replace(tzinfo=UTC)

E = TypeVar("E", bound=Event)


class EventLog:
    """What happened in a cluster, in the order in which it was first told.

    Every node tells every change of the store; here it appears once. Facts that are local to a node (a circuit that
    opened, an instance that fell silent as seen from there) appear as often as they were told.

    Args:
        within: Seconds that `expect` waits if it is not told.
    """

    def __init__(self, within: float = DEFAULT_WITHIN) -> None:
        self._within = within
        self._began = trio.current_time()
        self._events: list[Event] = []
        self._times: list[float] = []
        self._taken: list[bool] = []
        self._known: set[Event] = set()
        self._moved = trio.Event()

    def __repr__(self) -> str:
        return f"<EventLog of {len(self._events)} events>"

    def __len__(self) -> int:
        return len(self._events)

    def __iter__(self) -> Iterator[Event]:
        return iter(tuple(self._events))

    def on_event(self, event: Event) -> None:
        """Take note of *event*, as the observer of every node."""
        if event.revision:
            # Told by each node at its own time of day.
            known = attrs.evolve(event, at=_ANY_TIME)
            if known in self._known:
                return
            self._known.add(known)
        self._events.append(event)
        self._times.append(trio.current_time() - self._began)
        self._taken.append(False)
        self._moved.set()
        self._moved = trio.Event()

    def of(self, kind: type[E], /, **fields: object) -> list[E]:
        """All events of *kind* so far whose fields are *fields*; what `expect` took is among them.

        Raises:
            TypeError: Events of *kind* have no such field.
        """
        _check_fields(kind, fields)
        return [event for event in self._events if isinstance(event, kind) and _matches(event, fields)]

    def clear(self) -> None:
        """Let `expect` look only at what comes from now on."""
        self._taken = [True] * len(self._taken)

    @property
    def moved(self) -> trio.Event:
        """Set when the next thing happens."""
        return self._moved

    async def expect(self, wanted: type[E] | E, /, *, within: float | None = None, **fields: object) -> E:
        """Wait until something has happened, and return the event.

        What happened before the call counts too, from the start of the cluster or the last `clear` on, so that nothing is
        missed between an act and its expectation. Each event is taken once: the next `expect` wants another.

        Args:
            wanted: The class of the event, or an example of it. What is left out of an example, or has its default value,
                may be anything, and so may `at` and `revision`: ``expect(RoleChanged(resource_id="r", new=Role.ACTIVE))``.
            within: Seconds, virtual where the test's time is; by default 60, or twice the time to live that the
                cluster was made with, but 20 at least.
            fields: Values that the event's fields must have, defaults too (``reason=""``, ``old=None``); others may be
                anything.

        Raises:
            AssertionError: It did not happen in time; tells what did.
            TypeError: It is no event; or events of that kind have no such field.

        Cancelled, it has taken nothing.
        """
        __tracebackhide__ = True
        kind, pattern = _pattern(wanted, fields)
        _check_fields(kind, pattern)
        await trio.lowlevel.checkpoint_if_cancelled()
        limit = self._within if within is None else within
        with trio.move_on_after(limit):
            while True:
                moved = self._moved
                found = self._take(kind, pattern)
                if found is not None:
                    await trio.lowlevel.cancel_shielded_checkpoint()
                    return found
                await moved.wait()
        raise AssertionError(self._missed(kind, pattern, limit))

    def describe(self, most: int) -> Iterator[str]:
        """The last events, *most* of them, line by line. Of circuits that open and close, which they go on to, only the last."""
        told = dict(zip(map(id, self._events), self._times, strict=True))
        for event in _without_flapping(self._events)[-most:]:
            yield brief(f"{show_time(told[id(event)])}: {_describe_event(event)}")

    def _take(self, kind: type[E], fields: Mapping[str, object]) -> E | None:
        for at, event in enumerate(self._events):
            if not self._taken[at] and isinstance(event, kind) and _matches(event, fields):
                self._taken[at] = True
                return event
        return None

    def _missed(self, kind: type[Event], fields: Mapping[str, object], within: float) -> str:
        wanted = brief(f"{kind.__name__}({show_fields(fields)})")
        open_events = [event for event, taken in zip(self._events, self._taken, strict=True) if not taken]
        told = open_events if kind is CircuitStateChanged else _without_flapping(open_events)
        hidden = len(open_events) - len(told[-_SHOWN:])
        return "\n".join(
            [
                f"{wanted} did not happen within {within:g} s. What happened and was not expected yet:",
                *([f"  ({hidden} before)"] if hidden > 0 else []),
                *(clip(f"  {_describe_event(event)}") for event in told[-_SHOWN:]),
                *(["  nothing"] if not open_events else []),
            ]
        )


def _without_flapping(events: Sequence[Event]) -> list[Event]:
    """*events* but those of circuits before the last of them: while the store is away they come again and again."""
    last = next((event for event in reversed(events) if isinstance(event, CircuitStateChanged)), None)
    return [event for event in events if event is last or not isinstance(event, CircuitStateChanged)]


def _describe_event(event: Event) -> str:
    """*event* in one line: its class, and the fields that say something."""
    said = {
        field.name: getattr(event, field.name)
        for field in attrs.fields(type(event))
        if field.name not in _INCIDENTAL and getattr(event, field.name) != field.default
    }
    return f"{type(event).__name__}({show_fields(said)})"


def _matches(event: Event, fields: Mapping[str, object]) -> bool:
    return all(getattr(event, name) == value for name, value in fields.items())


def _pattern(wanted: type[E] | E, fields: Mapping[str, object]) -> tuple[type[E], Mapping[str, object]]:
    if not issubclass(wanted if isinstance(wanted, type) else type(wanted), Event):
        raise TypeError(f"expected a class of events, or an example of one, got {wanted!r}")
    if isinstance(wanted, type):
        return wanted, fields
    given = {field.name: (getattr(wanted, field.name), field.default) for field in attrs.fields(type(wanted))}
    told = {name: value for name, (value, default) in given.items() if value != default and name not in _INCIDENTAL}
    return type(wanted), {**told, **fields}


def _check_fields(kind: type[Event], fields: Mapping[str, object]) -> None:
    known = [field.name for field in attrs.fields(kind)]
    for name in fields:
        if name not in known:
            raise TypeError(f"{kind.__name__} has no field {name!r}; it has {', '.join(known)}")
