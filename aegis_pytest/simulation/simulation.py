"""Many scenarios, one for each seed: the fixture ``aegis_simulation``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Final

import attrs
import pytest

from aegis_core import Node
from aegis_pytest.simulation.run import Outcome, simulate
from aegis_pytest.simulation.scenario import TROUBLES, Scenario, draw_scenario
from aegis_pytest.simulation.shrinking import shrink
from aegis_pytest.simulation.world import Application

__all__ = ["Simulation", "Tally", "failure"]

_SHOWN: Final = 22
"""Lines of a counter-example: with the scenario that follows, they are read without scrolling."""


@attrs.frozen
class Tally:
    """What simulations did.

    Args:
        scenarios: How many ran.
        seconds: Virtual ones, in all.
        records: How many were checked.
    """

    scenarios: int = 0
    seconds: float = 0.0
    records: int = 0

    def __add__(self, outcome: Outcome) -> Tally:
        return Tally(self.scenarios + 1, self.seconds + outcome.seconds, self.records + len(outcome.history))


class Simulation:
    """Runs an application under every scenario that seeds give, and fails the test with the first that breaks a rule.

    Args:
        folder: Where pictures of counter-examples are put.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __repr__(self) -> str:
        return f"<Simulation, pictures to {self._folder}>"

    def __call__(
        self,
        main: Callable[[], Awaitable[object]] | None = None,
        *,
        work: Callable[[Node, Random], Awaitable[object]] | None = None,
        seeds: Iterable[object] = range(20),
        nodes: Sequence[str] = ("a", "b", "c"),
        seconds: float | None = None,
        ttl: float | None = None,
        acts: int | None = None,
        troubles: int = 8,
        faults: Collection[str] = tuple(TROUBLES),
    ) -> Tally:
        """Run one scenario for each seed.

        Args:
            main: The application, run on every node; its bare ``open_node()`` is the node, and it is started again after
                a crash. Without one, the nodes serve instances that claim, release, transfer, own and call at random.
            work: ``await work(node, random)`` besides, on each node; it dies with the node.
            seeds: Anything whose `str` differs. The same seed gives the same run, byte for byte, on every machine, as long as
                the application takes nothing from elsewhere: time, ids, hash-ordered sets.
            nodes: Names of the nodes.
            seconds: How long a scenario goes on, virtual; 3 TTLs without faults follow.
            ttl: Of instances that are served without one, in seconds.
            acts: How often the nodes of a scenario without *main* ask for something; 120 by default.
            troubles: How many things go wrong in a scenario at most.
            faults: What may go wrong; of `TROUBLES`.

        Raises:
            pytest.fail.Exception: A scenario breaks a rule: two owners, a read that no order explains, a call handled without
                ownership, something acknowledged and lost, a resource that is not freed in time, an operation without an
                answer, an error of the application, something left behind. Shows the seed, and the smallest scenario
                found that breaks the same rule.
            ValueError: *faults* names what there is not.
        """
        __tracebackhide__ = True
        unknown = sorted(set(faults) - set(TROUBLES))
        if unknown:
            raise ValueError(f"there is no fault {unknown[0]!r}; there are {', '.join(TROUBLES)}")
        application = Application(main, work)
        count = acts if acts is not None else 0 if main is not None else 90
        tally = Tally()
        for seed in seeds:
            scenario = draw_scenario(
                str(seed), nodes=nodes, seconds=seconds, ttl=ttl, acts=count, troubles=troubles, kinds=faults
            )
            tally += self._judge(scenario, application)
        return tally

    def replay(
        self,
        scenario: Scenario,
        main: Callable[[], Awaitable[object]] | None = None,
        *,
        work: Callable[[Node, Random], Awaitable[object]] | None = None,
    ) -> Outcome:
        """Run *scenario* again, as a failure printed it.

        Raises:
            pytest.fail.Exception: It breaks a rule.
        """
        __tracebackhide__ = True
        return self._judge(scenario, Application(main, work), smaller=False)

    def _judge(self, scenario: Scenario, application: Application, *, smaller: bool = True) -> Outcome:
        __tracebackhide__ = True
        outcome = simulate(scenario, application)
        if outcome.is_good:
            return outcome
        smallest = outcome
        if smaller:
            kind = outcome.kind()
            found = shrink(scenario, lambda tried: simulate(tried, application).kind() == kind)
            smallest = simulate(found, application)
        pictures = []
        for number, violation in enumerate(smallest.violations, start=1):
            picture = self._folder / f"violation-{number}.svg"
            picture.write_text(violation.svg(), encoding="utf-8")
            pictures.append(picture)
        pytest.fail(failure(outcome, smallest, pictures), pytrace=False)


def failure(outcome: Outcome, smallest: Outcome, pictures: Sequence[Path] = ()) -> str:
    """What a test that found *outcome* says, *smallest* being the smallest scenario that fails like it."""
    text = smallest.text().splitlines()
    if len(text) > _SHOWN:
        text = [*text[:_SHOWN], f"  ({len(text) - _SHOWN} more lines)"]
    whole, part = outcome.scenario, smallest.scenario
    steps, kept = len(whole.acts) + len(whole.troubles), len(part.acts) + len(part.troubles)
    lines = [f"seed {whole.seed!r} breaks a rule", *text]
    if pictures:
        lines.append(f"pictures: {', '.join(map(str, pictures))}")
    lines.append(f"to run it again ({kept} of its {steps} steps are needed): aegis_simulation.replay(...) with")
    return "\n".join([*lines, part.code()])
