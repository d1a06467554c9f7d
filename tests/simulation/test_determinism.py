"""A seed gives the same run, byte for byte."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest
import trio

from aegis_pytest.simulation import draw_scenario, simulate
from aegis_pytest.simulation.scheduling import seeded_scheduling

_SEEDS = ("5", "6", "19")
_DIGESTS = f"""
from aegis_pytest.simulation import draw_scenario, simulate
for seed in {_SEEDS!r}:
    print(simulate(draw_scenario(seed)).digest)
"""


def test_two_processes_see_the_same() -> None:
    """Whatever their hashes of strings are, and the addresses of their objects."""
    told = []
    for hash_seed in ("1", "4711"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", _DIGESTS], env=environment, capture_output=True, text=True, check=True, timeout=120
        )
        told.append(done.stdout.split())
    assert told[0] == told[1]
    assert len(set(told[0])) == len(_SEEDS)
    assert told[0][0] == simulate(draw_scenario(_SEEDS[0])).digest


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
