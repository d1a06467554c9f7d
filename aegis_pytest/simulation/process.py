"""The lives of the nodes of a simulation, and who looks at them: after each step of each task."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

import attrs
import trio

from aegis_core import Claim, Node
from aegis_pytest.faults.member import Member
from aegis_pytest.history import BeliefProbe, History, Record, Recorder
from aegis_pytest.simulation.monitor import Monitor
from aegis_pytest.simulation.program import Program
from aegis_pytest.state_dump import where_tasks_wait

__all__ = ["Notes", "Process", "Watch"]

_MOST_STEPS_AT_ONCE: Final = 10_000
_LAST_STEPS: Final = 1000
"""Of them, in which it is seen which tasks run."""
_LEAST_LIMIT: Final = 150_000
"""Of the steps of a scenario, however short it is: without an application, one takes some ten thousand."""
_STEPS_A_SECOND: Final = 1000
"""Of each node that lives, on average: one that calls another every 30 ms takes some hundred. What takes more goes round in circles."""


@attrs.define(eq=False)
class Process:
    """One life of a node, with its program; *node* and *member* are those of the node that it opened last.

    What its program does, it does in *tasks*; None before its time, and when it has been told to end.
    """

    name: str
    program: Program
    recorder: Recorder
    probe: BeliefProbe
    node: Node
    member: Member
    notes: Notes
    tasks: trio.Nursery | None = None

    def enter(self, node: Node, member: Member) -> None:
        """Go on with *node*, which it has opened after it closed another."""
        self.node, self.member = node, member
        self.probe.watch_node(node)

    @property
    def is_open(self) -> bool:
        """Whether it has a node now: an application may have closed its own."""
        return not self.node.runtime.closed

    @property
    def claims(self) -> Mapping[str, Claim]:
        """What its instances hold."""
        return {key: claim for instance in self.node.hosted.values() for key, claim in instance.claims.items()}


@attrs.define(eq=False)
class Notes:
    """Takes a process's records as long as it lives: what its tasks do when they unwind, no process would do."""

    history: History
    monitor: Monitor
    is_open: bool = True

    def take(self, record: Record) -> None:
        """Keep *record*, and have it judged."""
        if self.is_open:
            self.history.append(record)
            self.monitor.take(record)


class Watch(trio.abc.Instrument):
    """Looks at all processes after each step of each task, and sees that time goes on."""

    def __init__(self, living: Mapping[str, Process], stop: Callable[[str], None]) -> None:
        self._living = living
        self._stop = stop
        self._now = -1.0
        self._since = self._steps = 0
        self._earned = 0.0
        self._busy: dict[trio.lowlevel.Task, None] = {}

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """See what it changed."""
        now = trio.current_time()
        self._steps += 1
        if now != self._now:
            self._earned += _STEPS_A_SECOND * (now - self._now) * len(self._living)
            self._now, self._since = now, self._steps
            self._busy.clear()
        elif self._steps - self._since > _MOST_STEPS_AT_ONCE - _LAST_STEPS:
            self._busy[task] = None
            if self._steps - self._since == _MOST_STEPS_AT_ONCE:
                alive = [it for it in self._busy if getattr(it.coro, "cr_frame", None) is not None]
                where = "\n".join(where_tasks_wait(tasks=alive))
                self._stop(f"time stands still at {now:.6f} s: tasks run for ever, and wait for nothing\n{where}")
        if self._steps > max(_LEAST_LIMIT, self._earned):
            self._earned = math.inf  # said once
            self._stop(
                f"tasks go round in circles: they took {self._steps} steps in {now:.1f} s, of which each node has "
                f"{_STEPS_A_SECOND} a second, and a scenario {_LEAST_LIMIT} in any case"
            )
        for process in self._living.values():
            if process.probe.is_behind(now):
                break
        else:
            return
        for process in self._living.values():  # before what began, which may follow from it
            process.probe.look_for_ends(now)
        for process in self._living.values():
            process.probe.look_for_begins()
