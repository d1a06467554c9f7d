"""The fixture ``aegis_simulation``, as a test uses it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aegis_core.node import lease
from aegis_pytest import simulation
from aegis_pytest.simulation import Act, Scenario, Simulation, Trouble
from tests.plugin.conftest import RunTests, run_tests

__all__ = ["run_tests"]

CUT_OFF = Scenario(
    seed="cut off",
    nodes=("a", "b"),
    seconds=40.0,
    ttl=10.0,
    acts=(Act(2.0, "a", "claim", "key"), Act(20.0, "b", "claim", "key"), Act(3.0, "b", "get_owner", "other")),
    troubles=(Trouble(5.0, 25.0, "partition", ("a",)),),
)
"""The owner cannot reach the store until its lease has ended, and another takes what it held."""


def test_seeds_without_fault_pass(aegis_simulation: Simulation) -> None:
    """And what they did is counted."""
    tally = aegis_simulation(seeds=range(6), seconds=120.0, acts=60)
    assert tally.scenarios == 6
    assert tally.seconds >= 6 * 120
    assert tally.records > 6 * 60


def test_same_scenario_can_be_run_again(aegis_simulation: Simulation) -> None:
    """With the same history."""
    assert aegis_simulation.replay(CUT_OFF).digest == aegis_simulation.replay(CUT_OFF).digest


@pytest.fixture
def careless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes that believe in their leases for longer than the store keeps them."""
    monkeypatch.setattr(lease, "margin", lambda ttl: -2 * ttl)


@pytest.mark.usefixtures("careless")
def test_failure_shows_the_seed_and_a_small_scenario(aegis_simulation: Simulation, tmp_path: Path) -> None:
    """In at most 40 lines, with a picture; what it says to paste fails again."""
    with pytest.raises(pytest.fail.Exception) as caught:
        aegis_simulation(seeds=range(200), faults=["partition"], seconds=120.0, acts=30)
    told = str(caught.value.msg)
    assert len(told.splitlines()) <= 40
    assert re.match(r"seed '\d+' breaks a rule\nSINGLE_OWNER is broken for 'key-\d'", told)
    assert "both believe to hold it" in told
    pasted = told[told.index("Scenario(") :]
    scenario = eval(pasted, vars(simulation))
    assert len(scenario.acts) <= 3
    assert len(scenario.troubles) == 1
    assert (tmp_path / "violation-1.svg").read_text(encoding="utf-8").startswith("<svg")
    with pytest.raises(pytest.fail.Exception, match="SINGLE_OWNER"):
        aegis_simulation.replay(scenario)


def test_unknown_fault_is_refused(aegis_simulation: Simulation) -> None:
    """It names those that there are."""
    with pytest.raises(ValueError, match="there is no fault 'flood'; there are crash, "):
        aegis_simulation(faults=["crash", "flood"])


APPLICATION = """
from aegis_core import LeaseLost

seen = []

async def main():
    async with open_node() as node, node.serve(rooms) as instance:
        while True:
            try:
                async with instance.own("room", role=Role.STANDBY):
                    seen.append(instance.instance_id)
                    await trio.sleep_forever()
            except LeaseLost:
                continue

async def ask(node, chance):
    while True:
        await trio.sleep(10 * chance.random())
        try:
            await node.call("rooms", "enter", resource_id="room")
        except Exception as exc:
            assert type(exc).__module__ == "aegis_core.errors"
"""


def test_application_runs_unchanged_on_every_node(run_tests: RunTests) -> None:
    """Its own program and what it does besides; it is started again after a crash."""
    result = run_tests(
        APPLICATION
        + """
def test_rooms(aegis_simulation):
    tally = aegis_simulation(main, work=ask, seeds=range(4), seconds=200.0, faults=["crash"])
    assert tally.scenarios == 4
    assert len(set(seen)) > tally.scenarios  # Another took over from one that crashed.
"""
    )
    result.assert_outcomes(passed=1)


def test_error_of_the_application_is_found(run_tests: RunTests) -> None:
    """With its traceback, and the seed."""
    result = run_tests(
        """
async def main():
    async with open_node() as node, node.serve(rooms) as instance:
        await instance.claim("room")  # every node but one is refused
        await trio.sleep_forever()

def test_rooms(aegis_simulation):
    aegis_simulation(main, seeds=[1], faults=[])
"""
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*seed '1' breaks a rule*", "*ResourceConflict: resource 'room' is held by*"])
