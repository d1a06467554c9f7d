"""What the how-to for simulations says that they find is found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.test_pages import DOCS, programs

REPLAY = """
from aegis_pytest.simulation import Scenario, Trouble
from {test} import *


def test_it_is_found(aegis_simulation):
    downs = tuple(Trouble(60.0 + 100 * number, 70.0, "{trouble}", {names}) for number in range(8))
    scenario = Scenario(seed="0", nodes=("a", "b", "c"), seconds=900.0, ttl=30.0, troubles=downs)
    aegis_simulation.replay(scenario, main, {options})
"""


SLOW = """\
async def pay(self, epoch: int) -> None:
        self.begun = getattr(self, "begun", 0) + 1
        with trio.CancelScope(shield=True):
            await trio.sleep(12 if self.begun % 3 == 0 else 0.1)
"""


@pytest.mark.parametrize("is_broken", [True, False], ids=["broken", "whole"])
@pytest.mark.parametrize(
    ("name", "whole", "broken", "replay", "told"),
    [
        (
            "orders",
            "        if key not in self.keys:  # over a change of owner nobody else knows\n    ",
            "",
            {"trouble": "store_down", "names": '("store",)', "options": "work=order, setup=ledger.open"},
            "an order was placed twice",
        ),
        (
            "till",
            "async def pay(self, epoch: int) -> None:\n",
            SLOW,
            {"trouble": "partition", "names": '("abc"[number % 3],)', "options": "setup=bank.open"},
            "pays after epoch",
        ),
    ],
    ids=["order", "payment"],
)
def test_what_the_page_says_is_found(
    tmp_path: Path, name: str, whole: str, broken: str, replay: dict[str, str], told: str, *, is_broken: bool
) -> None:
    """Where the store or an owner is away again and again, the programs fail without what protects them, and not with it."""
    for program in programs(DOCS / "how-to" / "simulate.md"):
        (tmp_path / program.name).write_text(program.source, encoding="utf-8")
    source = (tmp_path / f"{name}.py").read_text(encoding="utf-8")
    assert source.count(whole) == 1
    if is_broken:
        (tmp_path / f"{name}.py").write_text(source.replace(whole, broken), encoding="utf-8")
    (tmp_path / "test_found.py").write_text(REPLAY.format(test=f"test_{name}", **replay), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "test_found.py::test_it_is_found"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == is_broken, f"{done.stdout}\n{done.stderr}"
    assert (told in done.stdout) is is_broken
