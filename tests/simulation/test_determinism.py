"""A seed gives the same run, byte for byte."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest
import trio

from aegis_pytest.simulation import draw_any, draw_scenario, simulate
from aegis_pytest.simulation.scheduling import seeded_scheduling

_SEEDS = ("5", "6", "19")
_DIGESTS = f"""
from aegis_pytest.simulation import draw_scenario, simulate
for seed in {_SEEDS!r}:
    print(simulate(draw_scenario(seed)).digest)
"""


def _run(program: str, hash_seed: str) -> list[str]:
    """The lines that *program* prints in a process of its own."""
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.splitlines()


def test_two_processes_see_the_same() -> None:
    """Whatever their hashes of strings are, and the addresses of their objects."""
    told = [_run(_DIGESTS, hash_seed) for hash_seed in ("1", "4711")]
    assert told[0] == told[1]
    assert len(set(told[0])) == len(_SEEDS)
    assert told[0][0] == simulate(draw_scenario(_SEEDS[0])).digest


_APPLICATION = """
import attrs
import trio
from aegis_core import LeaseLost, Role, Service, open_node
from aegis_core import AegisError
from aegis_pytest.simulation import Application, draw_any, simulate

rooms = Service("rooms", version="1.0.0")

@rooms.method
async def enter(call):
    return call.instance.instance_id

async def main():
    async with open_node() as node, node.serve(rooms) as instance:
        while True:
            try:
                async with instance.own("room", role=Role.STANDBY):
                    await trio.sleep_forever()
            except LeaseLost:
                continue

async def ask(node, chance):
    while True:
        await trio.sleep(5 * chance.random())
        try:
            await node.call("rooms", "enter", resource_id="room")
        except AegisError:
            pass

for seed in {seeds!r}:
    scenario = attrs.evolve(draw_any(seed), acts=())
    outcome = simulate(scenario, Application(main, ask))
    assert outcome.is_good, outcome.text()
    print(outcome.digest, len(outcome.history))
"""


def test_two_processes_see_the_same_of_an_application() -> None:
    """In scenarios in which anything may happen, in one of the focuses, and where messages overtake each other."""
    seeds = ("0", "1", "2", "3", "4", "5")
    drawn = [draw_any(seed) for seed in seeds]
    assert 0 < sum(scenario == draw_scenario(seed) for scenario, seed in zip(drawn, seeds, strict=True)) < len(seeds)
    assert any(trouble.kind == "jitter" for scenario in drawn for trouble in scenario.troubles)
    told = [_run(_APPLICATION.replace("{seeds!r}", repr(seeds)), hash_seed) for hash_seed in ("2", "815")]
    assert told[0] == told[1]
    assert len(set(told[0])) == len(seeds)


def test_order_of_tasks_follows_from_the_seed_alone() -> None:
    """Within the block; afterwards Trio shuffles as before."""

    async def race() -> list[int]:
        order: list[int] = []

        async def run(number: int) -> None:
            await trio.lowlevel.checkpoint()
            order.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(run, number)
        return order

    def raced(seed: str) -> list[int]:
        with seeded_scheduling(seed):
            return trio.run(race)

    before = trio._core._run._r.getstate()
    assert raced("a") == raced("a")
    assert raced("a") != raced("b")
    assert raced("a") != sorted(raced("a"))
    assert trio._core._run._r.getstate() == before


@pytest.mark.parametrize("lacking", ["_ALLOW_DETERMINISTIC_SCHEDULING", "_r"])
def test_trio_without_the_switch_is_told(lacking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than runs that nobody can repeat."""
    monkeypatch.setattr(trio._core._run, lacking, None)
    with pytest.raises(RuntimeError, match="need a switch in Trio's scheduler"), seeded_scheduling("a"):
        random.seed()
