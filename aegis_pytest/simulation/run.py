"""Running one scenario, and judging it."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Iterator
from typing import Final

import attrs
import pytest
import trio

from aegis_pytest.backends import on_memory
from aegis_pytest.cluster import open_cluster
from aegis_pytest.faults.clock import ElapsedClock
from aegis_pytest.history import History, Violation, to_line
from aegis_pytest.simulation.scenario import Scenario
from aegis_pytest.simulation.scheduling import seeded_scheduling
from aegis_pytest.simulation.world import Application, Stopped, World
from aegis_pytest.state_dump import from_users_code
from aegis_pytest.virtual_time import JumpingClock, Limits, bounded_run

__all__ = ["Outcome", "simulate"]

_MOST_REAL: Final = 3600.0
"""Of something that does not even let the clock jump. A scenario is not slow because its machine is busy."""

_BEYOND: Final = 1200.0
_SHOWN: Final = 8
_FRAMES: Final = 4
_EXERCISE: Final = Application()


@attrs.frozen(kw_only=True)
class Outcome:
    """What came of a scenario.

    Args:
        scenario: What was run.
        history: What was recorded.
        violations: What breaks a rule of histories, in the order in which it showed.
        problems: What is wrong besides: promises about time, errors of the nodes, what was left behind; in words.
        seconds: How long it took in virtual time.
    """

    scenario: Scenario
    history: History
    violations: tuple[Violation, ...]
    problems: tuple[str, ...]
    seconds: float

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.violations and not self.problems

    @property
    def digest(self) -> str:
        """A hash of the history, byte for byte: runs of the same scenario have the same."""
        lines = "\n".join(to_line(record) for record in self.history)
        return hashlib.sha256(lines.encode()).hexdigest()

    def kind(self) -> str:
        """What is wrong, without what differs from run to run; "" if nothing is."""
        if self.violations:
            return self.violations[0].rule.name
        return self.problems[0].split(" ")[0] if self.problems else ""

    def text(self) -> str:
        """What is wrong first, in at most 40 lines; "" if nothing is."""
        if self.violations:
            return self.violations[0].text()
        return "\n".join(self.problems[:_SHOWN])


def simulate(scenario: Scenario, application: Application = _EXERCISE) -> Outcome:
    """Run *scenario* in a Trio run of its own, on virtual time, and check what was recorded.

    Args:
        scenario: What is to happen.
        application: What the nodes run; by default they do what the scenario's acts say.

    Raises:
        RuntimeError: This version of Trio cannot be told the order of tasks.
    """
    history = History()
    problems: list[str] = []
    seen: list[str] = []
    ended = 0.0

    async def main() -> None:
        nonlocal ended
        # No clock that counts the time for which the machine sleeps: a run follows from its seed alone.
        shared = on_memory(ElapsedClock())
        async with open_cluster(shared, seed=scenario.seed, ttl=scenario.ttl) as cluster:
            await World(scenario, application, cluster, history, problems, seen).run()
        ended = trio.current_time()

    limits = Limits(virtual=scenario.seconds * 2 + _BEYOND, real=_MOST_REAL)
    try:
        with seeded_scheduling(scenario.seed):
            bounded_run(limits)(main, clock=JumpingClock())
    except (Exception, pytest.fail.Exception) as exc:  # noqa: BLE001 - whatever it is, it is what was looked for
        problems += [_told(it) for it in _leaves(exc) if not isinstance(it, Stopped)]
    violations = history.check()
    return Outcome(
        scenario=scenario,
        history=history,
        violations=violations,
        problems=(*(() if violations else seen), *problems),
        seconds=ended,
    )


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    """What was raised first, without the groups that nurseries put around it."""
    if isinstance(exc, BaseExceptionGroup):
        for each in exc.exceptions:
            yield from _leaves(each)
    else:
        yield exc


def _told(exc: BaseException) -> str:
    """*exc* with the lines of the user's program that led to it."""
    if isinstance(exc, pytest.fail.Exception):
        return str(exc)
    lines = traceback.format_exception(type(exc), exc, from_users_code(exc.__traceback__), limit=_FRAMES, chain=False)
    return "".join(lines).strip()
