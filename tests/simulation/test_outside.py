"""What a simulation makes of things that are outside of it: state that decides a failure, garbage, a setup that does nothing, other TTLs."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
import trio

from aegis_backends.memory.store import StoreState
from aegis_core import LeaseLost, ResourceConflict, Role, Service, open_node
from aegis_core.backend import Change
from aegis_pytest.simulation import Application, Scenario, Trouble, simulate
from tests.plugin.conftest import RunTests, run_tests

__all__ = ["run_tests"]


def test_failure_that_does_not_repeat_is_shown_as_it_came(run_tests: RunTests) -> None:
    """And said to be one; no run is spent to make it smaller."""
    result = run_tests(
        """
runs = []

async def fail_once(node, chance):
    runs.append(node)
    if len(runs) == 1:
        raise ValueError("only the first time")

def test_once(aegis_simulation):
    with pytest.raises(pytest.fail.Exception) as caught:
        aegis_simulation(work=fail_once, seeds=[1], seconds=30.0, faults=[], acts=20)
    told = caught.value.msg.splitlines()
    assert told[0] == "seed '1' breaks a rule"
    assert "ValueError: only the first time" in told
    assert told[-1].startswith("it did not fail in this way when it was run again: something outside of the simulation")
    assert len(runs) <= 2 * 3  # of each of the nodes, in two runs
"""
    )
    result.assert_outcomes(passed=1)


def test_garbage_of_an_earlier_test_breaks_no_rule(run_tests: RunTests) -> None:
    """What nobody awaited is collected before the first seed, though it may be known to itself only."""
    result = run_tests(
        """
import gc

class Circle:
    pass

async def forgotten(circle):
    pass

def leave_garbage():
    gc.disable()
    circle = Circle()
    circle.coroutine = forgotten(circle)

async def collect(node, chance):
    gc.collect()

def test_simulated(aegis_simulation):
    leave_garbage()
    with pytest.warns(RuntimeWarning, match="'forgotten' was never awaited"):
        aegis_simulation(work=collect, seeds=[1], seconds=30.0, faults=[], acts=1)
    gc.enable()
"""
    )
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("how", ["aegis_simulation(seeds=[1], ", "aegis_simulation.replay(scenario, "])
def test_async_setup_is_refused(run_tests: RunTests, how: str) -> None:
    """Else it would do nothing; it says what to write."""
    result = run_tests(
        f"""
from aegis_pytest.simulation import Scenario

async def forget():
    raise AssertionError

scenario = Scenario(seed="1", nodes=("a",), seconds=10.0, ttl=3.0, acts=(), troubles=())

def test_it(aegis_simulation):
    {how}setup=forget)
"""
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*UsageError: setup= takes a synchronous function*: write 'def forget()' instead of 'async def forget()'*"]
    )


def test_resource_of_a_dead_owner_with_a_ttl_of_its_own_falls_free_when_that_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not with the TTL of the scenario, which is for instances without one."""
    service = Service("rooms")

    async def main() -> None:
        async with open_node() as node, node.serve(service, ttl=40.0) as instance:
            with suppress(ResourceConflict):
                await instance.claim("room")
            await trio.sleep_forever()

    crashes = (Trouble(10.0, 1.0, "crash", ("a",)), Trouble(15.0, 1.0, "crash", ("b",)))  # b owns it
    dies = Scenario(seed="held", nodes=("a", "b"), seconds=40.0, ttl=3.0, acts=(), troubles=crashes)
    good = simulate(dies, Application(main))
    assert good.is_good, good.text()
    assert good.evidence.freed == 1
    keep = StoreState._keep

    def keep_longer(self: StoreState, change: Change, transaction: str, ttl: float | None, now: float) -> None:
        keep(self, change, transaction, None if ttl is None else ttl + 15.0, now)

    monkeypatch.setattr(StoreState, "_keep", keep_longer)
    late = simulate(dies, Application(main))
    assert re.search(r"still takes b, dead since 15\.000 s, for the owner of room at 56\.010 s$", late.text())


class Till:
    """An application that pays under its claim and checks that first; only its tasks run while its node is stopped."""

    def __init__(self) -> None:
        self.epoch = 0

    def open(self) -> None:
        """Begin anew."""
        self.epoch = 0

    async def main(self) -> None:
        """Stand in line, and pay every second."""
        async with open_node() as node, node.serve(Service("till")) as instance:
            while True:
                with suppress(LeaseLost):
                    async with instance.own("till", role=Role.STANDBY) as claim:
                        while True:
                            claim.check()
                            assert claim.epoch >= self.epoch, "an old owner pays"
                            self.epoch = claim.epoch
                            await trio.sleep(1)


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_application_that_checks_its_claim_pays_nothing_while_it_is_stopped(name: str) -> None:
    """After another's lease has begun: its own tasks run on, but its claim is over by the time. One of the nodes owns it."""
    till = Till()
    scenario = Scenario(
        seed="9",
        nodes=("a", "b", "c"),
        seconds=120.0,
        ttl=30.0,
        troubles=(Trouble(20.0, 60.0, "pause", (name,)),),
    )
    outcome = simulate(scenario, Application(till.main, setup=till.open))
    assert outcome.is_good, outcome.text()
