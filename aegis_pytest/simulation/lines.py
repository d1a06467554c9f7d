"""Who stands in line for what, as seen from inside the nodes: an application tells a simulation nothing of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import trio

from aegis_core import Instance
from aegis_core.models import Health
from aegis_pytest.simulation.process import Process
from aegis_pytest.simulation.promptness import Wait

__all__ = ["Lines"]

_Place = tuple[Instance, str]


class Lines(trio.abc.Instrument):
    """Looks at the lines of all processes whenever time goes on: who stands there then has done so since the last look.

    An instance that is UNHEALTHY or holds as much as it may is refused what it waits for. It is not owed that, nor at once
    when this is over.

    Args:
        living: The processes that live, by node.
        ttl: Seconds, the least that `ttl` becomes.

    Attributes:
        waits: When each place in a line was taken, by somebody who was owed his turn, and left.
        ttl: The longest one of any instance that was seen.
    """

    def __init__(self, living: Mapping[str, Process], *, ttl: float) -> None:
        self.waits: list[Wait] = []
        self.ttl = ttl
        self._living = living
        self._now = 0.0
        # By process: the places that are taken now, and since when; None for those of who was refused meanwhile.
        self._taken: dict[Process, dict[_Place, float | None]] = {}

    def __repr__(self) -> str:
        return f"<Lines: {sum(map(len, self._taken.values()))} places taken>"

    def before_io_wait(self, timeout: float) -> None:
        """See how all stands at the end of a moment."""
        now = trio.current_time()
        if now == self._now:
            return
        for process in self._living.values():
            self._look(process)
        self._now = now

    def close(self, process: Process) -> None:
        """It has died, or is over: it stands nowhere any more."""
        for (_, key), since in self._taken.pop(process, {}).items():
            self._note(process, key, since)

    def _look(self, process: Process) -> None:
        before = self._taken.get(process, {})
        taken: dict[_Place, float | None] = {}
        for instance, key, is_able in self._places(process):
            taken[instance, key] = before.get((instance, key), self._now) if is_able else None
        for (instance, key), since in before.items():
            if (instance, key) not in taken:
                self._note(process, key, since)
        self._taken[process] = taken

    def _places(self, process: Process) -> Iterator[tuple[Instance, str, bool]]:
        most = process.node.runtime.settings.max_resources_per_instance
        for instance in process.node.hosted.values():
            self.ttl = max(self.ttl, instance.ttl)
            for key in instance.incarnation.holdings.lines if instance.incarnation is not None else ():
                yield instance, key, instance.health is Health.ONLINE and len(instance.claims) < most

    def _note(self, process: Process, key: str, since: float | None) -> None:
        if since is not None:
            self.waits.append(Wait(process.name, key, since, self._now))
