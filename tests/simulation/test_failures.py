"""What a simulation says that fails: at most forty lines, kept in ``golden`` as people see them, and all of it in files.

Whoever changes a message on purpose changes the file, and looks at it: would you know at once what is wrong?
"""

from __future__ import annotations

import logging
import random
from functools import partial
from pathlib import Path
from typing import Final

import attrs
import pytest
import trio

from aegis_core import Node
from aegis_core.node import lease
from aegis_pytest import simulation
from aegis_pytest.history import Answer, History
from aegis_pytest.simulation import Act, Application, Outcome, Scenario, Simulation, Trouble, draw_scenario, simulate
from aegis_pytest.simulation.failure import tell_failure
from aegis_pytest.simulation.logged import Logged
from tests.history.writing import believes, claim, history, owner, release

GOLDEN: Final = Path(__file__).parent / "golden"
MOST_LINES: Final = 40
LONGEST_LINE: Final = 250

SMALL: Final = Scenario(
    seed="17",
    nodes=("p1", "p2", "p9"),
    seconds=60.0,
    ttl=10.0,
    latencies=(0.0, 0.005, 0.0),
    acts=tuple(Act(2.0 + number, f"p{1 + number % 2}", "claim", "r") for number in range(6)),
    troubles=(
        Trouble(3.5, 4.0, "crash", ("p1",)),
        Trouble(5.0, 14.0, "partition", ("p1",)),
        Trouble(6.0, 1.0, "drop", ("p1", "p2")),
    ),
)
LARGE: Final = attrs.evolve(
    SMALL,
    seed="18",
    acts=tuple(
        Act(2.125 + number / 4, f"p{1 + number % 2}", "own", f"key-{number % 3}", "", 2.5) for number in range(38)
    ),
)
LOST_RELEASE: Final = history(
    claim(100, 101, "i1", 3),
    believes(100.5, 101.5, "i1", 3, reason="RELEASED"),
    release(101.6, 102, "i1"),
    claim(101.7, 103, "i2", answer=Answer.UNKNOWN),
    owner(104, 105, "i1", 3),
)
TRACEBACK: Final = """\
Traceback (most recent call last):
  File "rooms.py", line 26, in main
    await bank.pay(claim.epoch)
  File "till.py", line 12, in pay
    assert epoch >= self.epoch, f"epoch {epoch} pays after epoch {self.epoch}"
AssertionError: epoch 3 pays after epoch 4"""

OUTCOMES: Final = {
    "violation": Outcome(
        scenario=SMALL, history=LOST_RELEASE, violations=LOST_RELEASE.check(), problems=(), seconds=90.0
    ),
    "problem": Outcome(scenario=SMALL, history=History(), violations=(), problems=(TRACEBACK,), seconds=90.0),
    "crowd": Outcome(
        scenario=LARGE,
        history=History(),
        violations=(),
        problems=("all is lost " * 50, *[TRACEBACK] * 5),
        seconds=90.0,
    ),
}


def logged(at: float, level: int, message: str, *args: object) -> Logged:
    """What a node might have logged."""
    return Logged(at, logging.LogRecord("aegis.events", level, "logs.py", 1, message, args, None))


LOGGED: Final = (
    logged(57.5, logging.ERROR, "long ago"),
    *(
        logged(60.0 + number, logging.WARNING, f"instance lost rooms-{number}{'abc'[number % 3]}")
        for number in range(8)
    ),
    *(
        logged(81.0 + number, logging.ERROR, "scope overran till (epoch 3, seconds %.1f)", number)
        for number in range(4)
    ),
    logged(86.25, logging.INFO, "instance registered"),
    logged(88.125, logging.WARNING, "is registered anew\nand more"),
    logged(90.5, logging.ERROR, "too late"),
)


@pytest.mark.parametrize("name", OUTCOMES)
def test_failure_says_what_is_wrong_and_how_to_run_it_again(name: str, tmp_path: Path) -> None:
    """As it stands in the file, in at most forty lines; what it says to paste makes the scenario."""
    part = OUTCOMES[name]
    whole = attrs.evolve(part, scenario=attrs.evolve(part.scenario, acts=(*part.scenario.acts, *LARGE.acts)))
    told = tell_failure(whole, part, tmp_path, Application(), LOGGED)
    assert told.replace(str(tmp_path), "FOLDER") == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8").rstrip("\n")
    lines = told.splitlines()
    assert len(lines) <= MOST_LINES
    assert max(map(len, lines)) <= LONGEST_LINE
    names: dict[str, object] = {}
    exec(told[told.index("from aegis_pytest.simulation import ") :], names)
    assert names["scenario"] == part.scenario


def test_scenario_without_steps_is_told_without_them(tmp_path: Path) -> None:
    """Neither in its code nor in what is to be imported for it."""
    empty = attrs.evolve(OUTCOMES["problem"], scenario=attrs.evolve(SMALL, acts=(), troubles=()))
    *_, import_line, first, second, third, last = tell_failure(
        empty, empty, tmp_path, Application(setup=print)
    ).splitlines()
    assert import_line == "from aegis_pytest.simulation import Scenario"
    assert eval(f"{first}{second}{third}{last}".removeprefix("scenario = "), vars(simulation)) == empty.scenario


@pytest.mark.parametrize(("acts", "troubles"), [(0, 1), (14, 1), (28, 3), (90, 8), (500, 40)])
def test_scenario_is_whole_however_many_steps_it_has(acts: int, troubles: int, tmp_path: Path) -> None:
    """Many share a line, so that what is wrong has its place."""
    scenario = draw_scenario("many", acts=acts, troubles=troubles)
    problems = tuple(f"problem {number}" for number in range(100))
    outcome = Outcome(scenario=scenario, history=History(), violations=(), problems=problems, seconds=1.0)
    told = tell_failure(outcome, outcome, tmp_path, Application())
    assert len(told.splitlines()) == MOST_LINES
    assert sum(line.startswith("problem") for line in told.splitlines()) >= 14
    assert eval(told[told.index("Scenario(") :], vars(simulation)) == scenario


def test_what_does_not_fail_again_is_told_without_a_scenario_to_paste(tmp_path: Path) -> None:
    """That would not show it; the file has it, for who looks for what decides it."""
    outcome = OUTCOMES["crowd"]
    told = tell_failure(outcome, None, tmp_path, Application())
    assert "it did not fail in this way when it was run again" in told.splitlines()[-1]
    assert len(told.splitlines()) <= MOST_LINES
    assert (tmp_path / "failure.txt").read_text(encoding="utf-8").endswith(f"\n\n{outcome.scenario.code()}\n\n")


@pytest.mark.parametrize("has_setup", [False, True])
def test_setup_is_advised_to_who_has_none(tmp_path: Path, *, has_setup: bool) -> None:
    """Where a scenario without steps fails, and where one does not fail again."""
    outcome = OUTCOMES["problem"]
    empty = attrs.evolve(outcome, scenario=attrs.evolve(SMALL, acts=(), troubles=()))
    for smallest, what in (
        (empty, "although nothing goes wrong"),
        (None, "not fail in this way when it was run again"),
    ):
        told = tell_failure(outcome, smallest, tmp_path, Application(setup=print if has_setup else None))
        assert what in told
        assert ("make it anew by setup=" in told) is not has_setup


class Bank:
    """What an application keeps."""

    def open(self) -> None:
        """Begin anew."""


def test_what_is_to_be_pasted_has_what_was_given(tmp_path: Path) -> None:
    """By its name: a replay without *work* would not do what failed. What has none is left to who pastes it."""

    async def main() -> None: ...

    async def work(_node: Node, _random: random.Random) -> None: ...

    async def ask(_often: int, _node: Node, _random: random.Random) -> None: ...

    class Setup:
        def __call__(self) -> None: ...

    outcome = OUTCOMES["problem"]
    for application, arguments in (
        (Application(), "scenario"),
        (Application(main), "scenario, main"),
        (Application(main, work, Bank().open), "scenario, main, work=work, setup=Bank.open"),
        (Application(partial(main), partial(ask, 3)), "scenario, ..., work=..."),
        (
            Application(None, lambda node, chance: ask(1, node, chance), Setup()),
            "scenario, work=..., setup=...",
        ),
    ):
        told = tell_failure(outcome, outcome, tmp_path, application)
        assert f"to run it again: aegis_simulation.replay({arguments}) with\n" in told


def test_what_was_logged_is_in_a_file(tmp_path: Path) -> None:
    """All of it, where there is any."""
    outcome = OUTCOMES["problem"]
    assert f"{tmp_path}: failure.txt, history.jsonl\n" in tell_failure(outcome, outcome, tmp_path, Application())
    told = tell_failure(outcome, outcome, tmp_path, Application(), LOGGED)
    assert f"{tmp_path}: failure.txt, history.jsonl, log.txt\n" in told
    text = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert text.count(" s  ") == len(LOGGED)
    assert "    57.500000 s  ERROR  aegis.events: long ago\n" in text
    assert text.endswith("    90.500000 s  ERROR  aegis.events: too late\n")


def test_all_of_it_is_in_the_files(tmp_path: Path) -> None:
    """What is wrong, whole, with a scenario of one step a line; the history, to be read; a picture of each violation."""
    problems = tuple(f"problem {number}" for number in range(100))
    outcome = attrs.evolve(OUTCOMES["violation"], problems=problems)
    told = tell_failure(outcome, outcome, tmp_path, Application())
    assert f"all of it in {tmp_path}: failure.txt, history.jsonl, violation-1.svg\n" in told
    text = (tmp_path / "failure.txt").read_text(encoding="utf-8")
    (violation,) = outcome.violations
    assert text.split("\n\n") == [violation.text(), *problems, outcome.scenario.code(), ""]
    assert list(History.read(tmp_path / "history.jsonl")) == list(outcome.history)
    assert (tmp_path / "violation-1.svg").read_text(encoding="utf-8") == violation.svg()
    twice = attrs.evolve(outcome, violations=(violation, violation))
    assert "violation-1.svg to violation-2.svg" in tell_failure(twice, twice, tmp_path, Application())


def test_large_scenario_is_replayed_from_what_its_failure_says(
    aegis_simulation: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was not made smaller, so that no step is said to be needed; pasted it fails in the same way."""
    monkeypatch.setattr(lease, "margin", lambda ttl: -2 * ttl)
    looks = tuple(Act(2.5 + number / 4, "a", "get_owner", "other") for number in range(60))
    scenario = Scenario(
        seed="cut off",
        nodes=("a", "b"),
        seconds=40.0,
        ttl=10.0,
        acts=(Act(2.0, "a", "claim", "key"), *looks, Act(20.0, "b", "claim", "key")),
        troubles=(Trouble(5.0, 25.0, "partition", ("a",)),),
    )
    with pytest.raises(pytest.fail.Exception, match="SINGLE_OWNER") as caught:
        aegis_simulation.replay(scenario)
    told = str(caught.value.msg)
    assert len(told.splitlines()) <= MOST_LINES
    assert "to run it again: aegis_simulation.replay(scenario) with" in told
    assert simulate(eval(told[told.index("Scenario(") :], vars(simulation))).kind() == "SINGLE_OWNER"


def test_replay_that_makes_a_failure_smaller_logs_the_run_that_it_shows(
    aegis_simulation: Simulation, caplog: pytest.LogCaptureFixture
) -> None:
    """And no other: the one that is smallest, of which it tells, and when in it that was."""
    runs = 0

    def count() -> None:
        nonlocal runs
        runs += 1

    async def log(_node: Node, _random: random.Random) -> None:
        await trio.sleep_until(1.5)
        logging.getLogger("aegis.test").warning("run %d", runs)
        await trio.sleep_until(1.75)
        raise ValueError

    with pytest.raises(pytest.fail.Exception) as caught:
        aegis_simulation.replay(SMALL, work=log, setup=count, smaller=True)
    assert runs > 2
    (message,) = {record.getMessage() for record in caplog.records if record.name == "aegis.test"}
    assert message != "run 1"
    assert "\nit showed at 1.750000 s; of what was logged before, the last warnings and errors:\n" in str(caught.value)
    assert f"     1.500000 s  WARNING  aegis.test: {message}\n" in str(caught.value)
