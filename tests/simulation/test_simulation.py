"""The fixture ``aegis_simulation``, as a test uses it."""

from __future__ import annotations

import random
import re
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from aegis_backends.memory.store import StoreState
from aegis_core import Node
from aegis_core.backend import ANY, Change, Delete, Transaction
from aegis_core.engine import resources
from aegis_core.engine.decision import Audit
from aegis_core.models import ClaimReply
from aegis_core.names import target_key
from aegis_core.node import lease
from aegis_pytest import simulation
from aegis_pytest.history import BeliefBegan, History, TooManyConfigurations, Violation
from aegis_pytest.logs import CapturedLogs
from aegis_pytest.simulation import Act, Scenario, Simulation, Trouble
from aegis_pytest.simulation.program import Program
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


HELD = attrs.evolve(CUT_OFF, seed="held", acts=(Act(2.0, "a", "claim", "key"),), troubles=())


def test_claim_that_is_lost_while_its_lease_lives_is_found() -> None:
    """Nobody else may delete its record."""

    async def erase(node: Node, _: random.Random) -> None:
        await trio.sleep_until(10.0)
        (instance,) = node.hosted.values()
        if "key" not in instance.claims:
            await node.runtime.store.commit(Transaction(id="erased", operations=(Delete(target_key("key"), ANY),)))

    outcome = simulation.simulate(HELD, simulation.Application(work=erase))
    assert outcome.kind() == "lost: # is nobody's at # s, although # whose lease lives, has not given up its epoch #"
    assert re.match(
        r"lost: key is nobody's at 10\.\d+ s, although simulated-\w+, whose lease lives, has not", outcome.text()
    )
    assert 10.0 <= outcome.seconds < 10.5  # The run ended there.
    assert HELD.seconds == 40.0


def test_claim_that_is_taken_by_force_is_not_lost() -> None:
    """That is what force is for."""
    taken: list[ClaimReply] = []

    async def take(node: Node, _: random.Random) -> None:
        await trio.sleep_until(10.0)
        (instance,) = node.hosted.values()
        if "key" not in instance.claims:
            claim = partial(
                resources.claim,
                service_name=instance.service.name,
                instance_id=instance.instance_id,
                resource_ids=("key",),
                force=True,
                admin=True,
                audit=Audit(transfer_id="transfer_1"),
                now=node.runtime.clock.now(),
                at=node.runtime.wall(),
            )
            taken.append(await node.committer.decide(claim, timeout=5.0))

    outcome = simulation.simulate(HELD, simulation.Application(work=take))
    assert outcome.is_good, outcome.text()
    assert [reply.registered for reply in taken] == [("key",)]


def test_resource_of_a_dead_owner_that_does_not_fall_free_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nobody waits for it; one that does is counted."""
    dies = attrs.evolve(HELD, troubles=(Trouble(10.0, 25.0, "crash", ("a",)),))
    good = simulation.simulate(dies)
    assert good.is_good, good.text()
    assert good.evidence.freed == 1
    keep = StoreState._keep

    def keep_longer(self: StoreState, change: Change, transaction: str, ttl: float | None, now: float) -> None:
        keep(self, change, transaction, None if ttl is None else ttl + 5.0, now)

    monkeypatch.setattr(StoreState, "_keep", keep_longer)
    late = simulation.simulate(dies)
    assert late.text() == "b still takes a, dead since 10.000 s, for the owner of key at 21.010 s"


def test_node_that_ends_in_order_hands_over_at_once() -> None:
    """Who waits is owner without waiting for a lease to end, and may be handed over to in turn."""
    leaves = attrs.evolve(
        HELD,
        acts=(Act(2.0, "a", "claim", "key"), Act(3.0, "b", "own", "key", "", 60.0)),
        troubles=(Trouble(10.0, 5.0, "leave", ("a",)), Trouble(12.0, 5.0, "leave", ("a",))),
    )
    outcome = simulation.simulate(leaves)
    assert outcome.is_good, outcome.text()
    assert outcome.evidence.promotions == 1
    began = [it.at for it in outcome.history if isinstance(it, BeliefBegan)]
    assert began[1] == pytest.approx(10.0, abs=0.05)


def test_call_that_outlasts_the_drain_of_a_node_that_ends_is_no_breach(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is interrupted. One that should have been over by then is not to be left without an answer."""
    leaves = attrs.evolve(
        HELD,
        ttl=30.0,
        acts=(Act(2.0, "a", "claim", "key"), Act(5.0, "b", "call", "key", "", 14.0)),
        troubles=(Trouble(6.0, 5.0, "leave", ("a",)),),
    )
    outcome = simulation.simulate(leaves)
    assert outcome.is_good, outcome.text()

    sleep = Program._sleep

    async def sleep_long(program: Program, seconds: float) -> None:
        await sleep(program, 20.0 if seconds == 0.3 else seconds)

    monkeypatch.setattr(Program, "_sleep", sleep_long)
    short = attrs.evolve(leaves, acts=(leaves.acts[0], Act(5.0, "b", "call_stubborn", "key", "", 0.3)))
    assert simulation.simulate(short).text().startswith("left behind: a call to ")


def test_what_a_node_is_asked_for_ends_with_it() -> None:
    """Also what another node's act has it hand on: nobody waits any longer."""
    scenario = attrs.evolve(
        HELD,
        nodes=("a", "b", "c"),
        acts=(Act(1.0, "b", "claim", "key"), Act(2.1, "c", "hand_on", "key", to="a")),
        troubles=(Trouble(1.9, 1.0, "slow", ("b", "store"), 0.9), Trouble(2.0, 5.0, "leave", ("b",))),
    )
    outcome = simulation.simulate(scenario)
    assert outcome.is_good, outcome.text()


def test_what_cannot_be_decided_is_not_called_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search for an order that needs more memory than it may take shows nothing."""

    def give_up(_self: History) -> tuple[Violation, ...]:
        raise TooManyConfigurations(limit=7, at=3.0, pending=2, unknown=1)

    monkeypatch.setattr(History, "check", give_up)
    outcome = simulation.simulate(HELD)
    assert outcome.text().startswith("undecided: more than 7 configurations at 3.000 s")
    assert outcome.kind().startswith("undecided: more than # configurations")


def test_kind_of_a_problem_tells_errors_apart() -> None:
    """Else a scenario that fails by one would be made smaller into one that fails by another."""

    async def fail(node: Node, _: random.Random) -> None:
        raise ValueError(f"no such thing on {node}")

    async def look_up(_node: Node, _: random.Random) -> None:
        raise KeyError(("key", 1))

    kinds = [simulation.simulate(HELD, simulation.Application(work=work)).kind() for work in (fail, look_up)]
    assert kinds == ["ValueError in fail", "KeyError in look_up"]


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


def test_task_that_is_left_behind_is_found() -> None:
    """However well all else goes."""

    async def linger(_node: Node, _: random.Random) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep_until(HELD.seconds + 500.0)

    outcome = simulation.simulate(HELD, simulation.Application(work=linger))
    assert not outcome.violations
    assert "left behind" in outcome.text()
    assert "linger" in outcome.text()


@pytest.mark.parametrize("count", [1, 5])
def test_simulations_have_as_many_nodes_as_one_likes(aegis_simulation: Simulation, count: int) -> None:
    """Each of which is started, and comes back; all are judged alike."""
    names = [f"node-{number}" for number in range(count)]
    started: list[Node] = []

    async def note(node: Node, _: random.Random) -> None:
        started.append(node)
        await trio.lowlevel.checkpoint()

    tally = aegis_simulation(work=note, nodes=names, seeds=range(3), seconds=60.0, ttl=10.0, acts=40)
    assert tally.scenarios == 3
    assert tally.evidence.beliefs > 0
    assert len(started) >= 3 * count


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


TILL = """
from aegis_core import LeaseLost

class Bank:
    epoch = 0

bank = Bank()

def forget():
    bank.epoch = 0

async def main():
    async with open_node() as node, node.serve(rooms) as instance:
        while True:
            try:
                async with instance.own("till", role=Role.STANDBY) as claim:
                    while True:
                        with trio.CancelScope(shield=True):
                            await trio.sleep(3)
                        if claim.epoch < bank.epoch:
                            raise AssertionError("an old owner pays")
                        bank.epoch = claim.epoch
                        await trio.sleep(0.5)
            except LeaseLost:
                continue
"""
"""An application that writes to a bank without asking, for as long as it takes, whether it still owns."""


def test_what_an_application_keeps_outside_is_made_anew_for_each_run(run_tests: RunTests) -> None:
    """By setup=; where it is not, a failure for which nothing had to go wrong says so."""
    result = run_tests(
        TILL
        + """
def test_fresh(aegis_simulation):
    aegis_simulation(main, setup=forget, seeds=range(2), seconds=60.0, faults=[])
    aegis_simulation(main, setup=forget, seeds=range(2), seconds=60.0, faults=[])

def test_kept(aegis_simulation):
    aegis_simulation(main, seeds=range(2), seconds=60.0, faults=["crash"])
    bank.epoch = 10_000
    aegis_simulation(main, seeds=range(20), seconds=60.0, faults=["crash"])
"""
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["AssertionError: an old owner pays", "it fails although nothing goes wrong. *setup="])


def test_error_of_the_application_while_an_owner_is_stopped_is_told_as_what_it_is(run_tests: RunTests) -> None:
    """Not as two owners: who is stopped cannot note that its time is over."""
    result = run_tests(
        TILL
        + """
from aegis_pytest.simulation import Scenario, Trouble

def test_stopped(aegis_simulation):
    for name in "abc":  # one of them owns it
        scenario = Scenario(
            seed="9", nodes=("a", "b", "c"), seconds=120.0, ttl=30.0, acts=(), troubles=(Trouble(20.0, 60.0, "pause", (name,)),)
        )
        aegis_simulation.replay(scenario, main, setup=forget)
"""
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["AssertionError: an old owner pays"])
    result.stdout.no_fnmatch_line("*SINGLE_OWNER*")


def test_runs_log_nothing_but_the_one_that_is_replayed(
    aegis_simulation: Simulation, caplog: pytest.LogCaptureFixture
) -> None:
    """Hundreds of runs would bury what the failure says."""
    aegis_simulation(seeds=["1"], seconds=60.0, faults=["store_down"])
    assert not caplog.records
    aegis_simulation.replay(CUT_OFF)
    assert any(record.name.startswith("aegis") for record in caplog.records)


def test_logs_of_all_runs_come_to_who_asks_for_them(
    aegis_simulation: Simulation, aegis_logs: CapturedLogs, capsys: pytest.CaptureFixture[str]
) -> None:
    """That nothing was logged can be asserted; it is printed nowhere for all that."""
    aegis_simulation(seeds=["1"], seconds=60.0, faults=["store_down"])
    assert aegis_logs.at_least("WARNING")
    assert capsys.readouterr() == ("", "")
