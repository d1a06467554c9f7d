"""Running one scenario, and judging it."""

from __future__ import annotations

import hashlib
import re
import traceback
from collections.abc import Sequence
from typing import Final

import attrs
import pytest
import trio

from aegis_pytest.cluster import open_cluster
from aegis_pytest.faults.clock import ElapsedClock
from aegis_pytest.history import History, TooManyConfigurations, Violation, to_line
from aegis_pytest.memory import MemoryHarness
from aegis_pytest.simulation.application import Application, Misuse
from aegis_pytest.simulation.evidence import Evidence, evidence_of
from aegis_pytest.simulation.scenario import Scenario
from aegis_pytest.simulation.scheduling import seeded_scheduling
from aegis_pytest.simulation.world import Stopped, World
from aegis_pytest.state_dump import passes_users_code
from aegis_pytest.traces import leaves, users_trace
from aegis_pytest.virtual_time import JumpingClock, Limits, bounded_run

__all__ = ["Outcome", "simulate"]

_MOST_REAL: Final = 3600.0
"""Of something that does not even let the clock jump. A scenario is not slow because its machine is busy."""

_BEYOND: Final = 1200.0
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
        seconds: How long it took in virtual time, up to the breach that ended it.
        evidence: How often it came to what the rules are about.
        called: The services that were called, by an application that has *work*.
        served: The services that had an instance.
    """

    scenario: Scenario
    history: History
    violations: tuple[Violation, ...]
    problems: tuple[str, ...]
    seconds: float
    evidence: Evidence = attrs.field(factory=Evidence)
    called: frozenset[str] = frozenset()
    served: frozenset[str] = frozenset()

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
        """What is wrong, without what differs from run to run (names, numbers, times); "" if nothing is."""
        if self.violations:
            return self.violations[0].rule.name
        names = {*self.scenario.nodes, *(act.key for act in self.scenario.acts)}
        return _without_names(self.problems[0], sorted(names)) if self.problems else ""

    def text(self, most: int = 40) -> str:
        """What is wrong first, in *most* lines, or fewer; "" if nothing is."""
        if self.violations:
            return self.violations[0].text(most)
        lines = "\n".join(self.problems).splitlines()
        if len(lines) <= most:
            return "\n".join(lines)
        return "\n".join([*lines[: most - 1], f"  ({len(lines) - most + 1} more lines are left out)"])


def simulate(scenario: Scenario, application: Application = _EXERCISE) -> Outcome:
    """Run *scenario* in a Trio run of its own, on virtual time, and check what was recorded.

    Args:
        scenario: What is to happen.
        application: What the nodes run; by default they do what the scenario's acts say.

    Raises:
        pytest.UsageError: The application's *setup* is an async function, or its *main* or *work* is none; or there is its *main*,
            and *scenario* has acts.
        RuntimeError: This version of Trio cannot be told the order of tasks.
    """
    __tracebackhide__ = True
    application = application.checked()
    if scenario.acts and application.main is not None:
        raise pytest.UsageError(
            "acts are for nodes without main, and yours run main: leave out acts= (of a Scenario, write acts=()), and let "
            "main, or work=, do what is to be done"
        )
    application.set_up()
    history = History()
    problems: list[str] = []
    seen: list[str] = []
    ended = 0.0
    freed = promotions = conflicts = calls = 0
    called: frozenset[str] = frozenset()
    served: frozenset[str] = frozenset()

    async def main() -> None:
        nonlocal ended, freed, promotions, conflicts, calls, called, served
        # No clock that counts the time for which the machine sleeps: a run follows from its seed alone.
        async with open_cluster(MemoryHarness(ElapsedClock()), seed=scenario.seed, ttl=scenario.ttl) as cluster:
            world = World(scenario, application, cluster, history, problems, seen)
            try:
                await world.run()
            finally:
                ended = trio.current_time()
                freed, promotions, conflicts = world.freed, world.promotions, cluster.plane.conflicts
                calls = len(cluster.calls)
                called, served = frozenset(world.calls.services), frozenset(cluster.calls.known.served)

    limits = Limits(virtual=scenario.seconds * 2 + _BEYOND, real=_MOST_REAL)
    try:
        with seeded_scheduling(scenario.seed):
            bounded_run(limits, full_trace=True)(main, clock=JumpingClock())
    except (Exception, pytest.fail.Exception, BaseExceptionGroup) as exc:  # noqa: BLE001 - whatever it is, it is what was looked for
        raised = [it for it in leaves(exc) if not isinstance(it, Stopped | trio.Cancelled)]
        for it in raised:
            if isinstance(it, Misuse):
                raise pytest.UsageError(str(it)) from None
            if not isinstance(it, Exception | pytest.fail.Exception):  # it skips the test, or ends the session
                raise it from None
        if any(passes_users_code(it.__traceback__) for it in raised):
            # What a program that has failed could not do any more, is none of its mistakes.
            raised = [
                it for it in raised if not isinstance(it, pytest.UsageError) or passes_users_code(it.__traceback__)
            ]
        told: dict[str, str] = {}
        for it in raised:  # where each node fails in the same way, it is told of the first
            told.setdefault(_told(it, with_notes=False), _told(it))
        problems += told.values()
    violations: tuple[Violation, ...] = ()
    try:
        violations = history.check()
    except TooManyConfigurations as exc:
        problems.append(f"undecided: {exc}")
    return Outcome(
        scenario=scenario,
        history=history,
        violations=violations,
        problems=(*(() if violations else seen), *problems),
        seconds=ended,
        evidence=evidence_of(history, freed=freed, promotions=promotions, conflicts=conflicts, calls=calls),
        called=called,
        served=served,
    )


def _without_names(problem: str, names: Sequence[str]) -> str:
    """What kind of problem that is. Of an exception: its type, and which function raised it."""
    lines = problem.splitlines()
    if lines[0].startswith("Traceback"):
        *_, function = re.findall(r", in (\S+)", problem) or [""]
        last = next((line for line in lines if re.match(r"[\w.]+(:|$)", line) and not line.startswith("Traceback")), "")
        return f"{last.partition(':')[0]} in {function}"
    known = "|".join(map(re.escape, names))
    return re.sub(rf"\b({known})\b|\S*\d\S*", "#", lines[0])


def _told(exc: BaseException, *, with_notes: bool = True) -> str:
    """*exc* with the lines of the user's program that led to it."""
    if isinstance(exc, pytest.fail.Exception) and not exc.pytrace:
        return str(exc)
    told = traceback.TracebackException(type(exc), exc, users_trace(exc), limit=_FRAMES)
    if not with_notes:
        told.__notes__ = None  # they name the node
    return "".join(told.format(chain=False)).strip()
