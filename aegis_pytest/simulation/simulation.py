"""Many scenarios, one for each seed: the fixture ``aegis_simulation``."""

from __future__ import annotations

import gc
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from pathlib import Path
from random import Random

import attrs
import pytest

from aegis_core import Node
from aegis_pytest.simulation.application import Application
from aegis_pytest.simulation.checks import check_collection, check_kinds
from aegis_pytest.simulation.evidence import Evidence
from aegis_pytest.simulation.failure import tell_failure
from aegis_pytest.simulation.logged import Logged, withheld
from aegis_pytest.simulation.run import Outcome, simulate
from aegis_pytest.simulation.scenario import TROUBLES, Scenario, draw_scenario
from aegis_pytest.simulation.shrinking import shrink

__all__ = ["Simulation", "Tally"]


@attrs.frozen
class Tally:
    """What simulations did.

    Args:
        scenarios: How many ran.
        seconds: Virtual ones, in all.
        records: How many were checked.
        evidence: How often they came to what the rules are about.
    """

    scenarios: int = 0
    seconds: float = 0.0
    records: int = 0
    evidence: Evidence = attrs.field(factory=Evidence)

    def __add__(self, outcome: Outcome) -> Tally:
        return self.with_all(Tally(1, outcome.seconds, len(outcome.history), outcome.evidence))

    def with_all(self, other: Tally) -> Tally:
        """What both did."""
        return Tally(
            self.scenarios + other.scenarios,
            self.seconds + other.seconds,
            self.records + other.records,
            self.evidence + other.evidence,
        )


class Simulation:
    """Runs an application under every scenario that seeds give, and fails the test with the first that breaks a rule.

    Args:
        folder: Where pictures of counter-examples are put, and what a failure does not show.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __repr__(self) -> str:
        return f"<Simulation, files to {self._folder}>"

    def __call__(
        self,
        main: Callable[[], Awaitable[object]] | None = None,
        *,
        work: Callable[[Node, Random], Awaitable[object]] | None = None,
        setup: Callable[[], object] | None = None,
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
            setup: Called before each run, of which there is one for each seed, and more to make a failure smaller: makes
                anew what the application keeps outside of its nodes, the tables of a database, say.
            seeds: Anything whose `str` differs; a string is one seed. The same seed gives the same run, byte for byte, on every machine, as long as
                the application takes nothing from elsewhere: time, ids, hash-ordered sets.
            nodes: Names of the nodes.
            seconds: How long a scenario goes on, virtual, 1 at least; 3 TTLs without faults follow.
            ttl: Of instances that are served without one, in seconds, 1 at least.
            acts: How often the nodes of a scenario without *main* ask for something; 90 by default. With *main*, the
                application alone says what its nodes do.
            troubles: How many things go wrong in a scenario at most.
            faults: What may go wrong; of `TROUBLES`.

        Raises:
            pytest.fail.Exception: A scenario breaks a rule: two owners, a read that no order explains, a call handled without
                ownership, something acknowledged and lost, a resource that is not freed in time, an operation without an
                answer, an error of the application, something left behind. Shows the seed, and the smallest scenario
                found that breaks the same rule.
            pytest.UsageError: *setup* is an async function, or *main* or *work* is none; or there are both *main* and *acts*.
            TypeError: An argument is nothing of its kind: *nodes*, *seeds* or *faults* is one thing instead of several,
                *seconds*, *ttl*, *acts* or *troubles* no number.
            ValueError: *faults* names what there is not; two nodes have the same name, or one a name with a dot;
                there is no node or no seed; *ttl* or *seconds* is less than 1, *acts* or *troubles* less than 0; nobody held
                anything or called anything, in all scenarios, and there is no *work* that might judge; or *work* called
                a service that nobody served, and of all calls none was handled.
        """
        __tracebackhide__ = True
        check_collection("faults", faults, str, "kinds of faults, ['crash', 'partition']", in_order=False)
        check_kinds("fault", faults, TROUBLES)
        if not isinstance(seeds, Iterable):
            raise TypeError(f"seeds= takes several seeds, range(20), not {seeds!r}")
        application = Application(main, work, setup)
        count = acts if acts is not None else 0 if main is not None else 90
        seeds = (seeds,) if isinstance(seeds, str) else seeds
        tally = Tally()
        called: set[str] = set()
        served: set[str] = set()
        # What earlier tests left behind is collected now: what Python says of it then would be taken for the application's.
        gc.collect()
        for seed in seeds:
            scenario = draw_scenario(
                str(seed), nodes=nodes, seconds=seconds, ttl=ttl, acts=count, troubles=troubles, kinds=faults
            )
            with withheld() as logged:
                outcome = self._judge(scenario, application, logged)
            tally += outcome
            called |= outcome.called
            served |= outcome.served
        if not tally.scenarios:
            raise ValueError("seeds= is empty, or an iterator that was used before: nothing was checked")
        if not count:
            _check_that_something_happened(
                application, tally.evidence, "in any of the scenarios", "give it something to do, or callers by work="
            )
        if not tally.evidence.calls and not called <= served:
            raise ValueError(
                f"there was no instance of service {min(called - served)!r}, which work called, in any of the scenarios, and no "
                f"call came to a handler; there were instances of: {', '.join(sorted(served)) or 'no service'}"
            )
        return tally

    def replay(
        self,
        scenario: Scenario,
        main: Callable[[], Awaitable[object]] | None = None,
        *,
        work: Callable[[Node, Random], Awaitable[object]] | None = None,
        setup: Callable[[], object] | None = None,
        smaller: bool = False,
    ) -> Outcome:
        """Run *scenario* again, as a failure printed it; with *smaller*, a failure shows the smallest one that fails like it.

        Raises:
            pytest.fail.Exception: It breaks a rule.
            pytest.UsageError: *setup* is an async function, or *main* or *work* is none; or there is *main*, and *scenario* has acts.
            ValueError: There is neither *main* nor *work*, and *scenario* has no acts, so that nothing happened: without the
                *main*, *work* and *setup* that the failure names, it is another run.
        """
        __tracebackhide__ = True
        application = Application(main, work, setup)
        gc.collect()
        logged: list[Logged] = []
        try:
            with withheld() as logged:
                outcome = self._judge(scenario, application, logged, smaller=smaller)
        finally:
            for it in logged:
                logging.getLogger().handle(it.record)
        if not scenario.acts and application.main is None:
            # A main that is mended may do nothing yet in the time of the scenario that its failure has printed.
            _check_that_something_happened(
                application,
                outcome.evidence,
                "in this replay",
                "give it the main, work= and setup= that the failure names",
            )
        return outcome

    def _judge(
        self, scenario: Scenario, application: Application, logged: list[Logged], *, smaller: bool = True
    ) -> Outcome:
        """Run *scenario*; at the end *logged* has what was logged in the run that is told of."""
        __tracebackhide__ = True
        logged.clear()
        outcome = simulate(scenario, application)
        if outcome.is_good:
            return outcome
        smallest, repeats, kept = outcome, True, tuple(logged)
        if smaller:
            kind = outcome.kind()

            def fails(tried: Scenario) -> bool:
                nonlocal smallest, kept
                logged.clear()
                again = simulate(tried, application)
                if again.kind() != kind:
                    return False
                smallest, kept = again, tuple(logged)  # each that fails is the smallest so far
                return True

            repeats = fails(scenario)
            if repeats:
                shrink(scenario, fails)
        logged[:] = kept
        told = tell_failure(outcome, smallest if repeats else None, self._folder, application, kept)
        pytest.fail(told, pytrace=False)


def _check_that_something_happened(application: Application, evidence: Evidence, where: str, advice: str) -> None:
    """Refuse a test without acts that would pass whatever the library, or the application, did.

    Raises:
        ValueError: There is no *work* that might judge, and nothing of what is judged happened.
    """
    __tracebackhide__ = True
    if application.work is None and not evidence.beliefs and not evidence.calls:
        who = "the nodes" if application.main is None else "main"
        raise ValueError(
            f"{who} held no resource and no role, and no call came to a handler, {where}: nothing was checked; {advice}"
        )
