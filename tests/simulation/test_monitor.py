"""What is judged while a simulation runs, and what of it is judged afterwards."""

from __future__ import annotations

import itertools

import attrs
import pytest
import trio

from aegis_pytest.history import (
    Answer,
    BeliefBegan,
    BeliefEnded,
    Died,
    Handled,
    History,
    Invoked,
    Kind,
    Record,
    Returned,
)
from aegis_pytest.simulation import Act, Scenario, Trouble, simulate
from aegis_pytest.simulation.monitor import Monitor
from aegis_pytest.simulation.program import Program
from aegis_pytest.simulation.promptness import Wait, late_promotions


def judged(*records: Record, believing: bool = True) -> list[str]:
    """What a monitor says of *records*."""
    said: list[str] = []
    monitor = Monitor(lambda _process, _key: believing, said.append)
    for record in records:
        monitor.take(record)
    return said


def began(at: float, instance: str, epoch: int, *, forced: bool = False) -> BeliefBegan:
    """A belief begins."""
    return BeliefBegan(at=at, process=f"p{instance}", instance=instance, key="r", epoch=epoch, forced=forced)


def ended(at: float, instance: str, epoch: int) -> BeliefEnded:
    """It ends."""
    return BeliefEnded(at=at, process=f"p{instance}", instance=instance, key="r", epoch=epoch)


def test_two_who_believe_are_told_at_once() -> None:
    """Not when the first has ceased, died, or does not believe any more although nobody noted it; nor by force."""
    assert judged(began(1, "i", 3), began(2, "j", 4)) == ["i and j both believe to hold r at 2.000000 s"]
    assert judged(began(1, "i", 3), ended(1.5, "i", 3), began(2, "j", 4)) == []
    assert judged(began(1, "i", 3), Died(at=1.5, process="pi"), began(2, "j", 4)) == []
    assert judged(began(1, "i", 3), began(2, "j", 4), believing=False) == []
    assert judged(began(1, "i", 3), began(2, "j", 4, forced=True)) == []


def test_handler_outside_of_its_belief_is_told() -> None:
    """Before it, or after it."""
    run = Handled(at=5, process="pi", instance="i", key="r", epoch=3, call="c", began=4)
    assert judged(began(1, "i", 3), run) == []
    assert judged(began(1, "i", 3), ended(4.5, "i", 3), run) == []
    late = judged(began(1, "i", 3), ended(3, "i", 3), run)
    assert late == ["a handler of i started under epoch 3 of r at 4.000000 s, which it did not believe to hold then"]
    assert judged(run) == late


def test_epoch_that_falls_is_told() -> None:
    """By who asked when a higher one had been told, not by who asked before."""
    read = Invoked(at=2, process="p", number=1, kind=Kind.GET_OWNER, key="r")
    answer = Returned(at=3, process="p", number=1, answer=Answer.DONE, owner="i", epoch=3)
    assert judged(began(1, "i", 4), read, answer) == ["epoch 3 of r is told at 3.000000 s, after epoch 4 was"]
    assert judged(began(1, "i", 3), read, ended(2.5, "i", 3), began(2.6, "j", 4), answer) == []


CALM = Scenario(seed="1", nodes=("a", "b"), seconds=100.0, ttl=10.0)


def test_nobody_where_somebody_waits_is_late() -> None:
    """When a TTL, a second and a tenth have passed since anybody held it, or died."""
    history = History([began(1, "i", 3), ended(5, "i", 3)])
    wait = Wait("p", "r", 2.0, 40.0)
    assert late_promotions(CALM, history, [wait], []) == [
        "nobody owns r from 16.000 s to 40.000 s, although p stands in line since 2.000 s"
    ]
    assert late_promotions(CALM, history, [attrs.evolve(wait, ended=17.0)], []) == []
    assert late_promotions(CALM, history, [wait], [17.0, 28.9]) == []
    cut = attrs.evolve(CALM, troubles=(Trouble(10.0, 20.0, "partition", ("a",)),))
    assert late_promotions(cut, history, [wait], []) == []


def test_time_that_stands_still_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than the patience of who waits for it."""

    async def spin(_self: Program, *_args: object) -> None:
        for _ in itertools.count():
            await trio.lowlevel.checkpoint()

    monkeypatch.setattr(Program, "perform", spin)
    outcome = simulate(attrs.evolve(CALM, acts=(Act(3.0, "a", "claim", "key"),)))
    assert outcome.text() == "time stands still at 3.000000 s: tasks run for ever, and wait for nothing"
