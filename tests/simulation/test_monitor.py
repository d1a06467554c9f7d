"""What is judged while a simulation runs, and what of it is judged afterwards."""

from __future__ import annotations

import itertools
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from aegis_core.node.holdings import Holdings
from aegis_core.node.line import Place, leave
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
from aegis_pytest.simulation.calm import lost_for_nothing, not_claimed_again, out_of_turn, run_twice
from aegis_pytest.simulation.monitor import Monitor
from aegis_pytest.simulation.program import Program
from aegis_pytest.simulation.promptness import Promptness, Wait, judge_promptness


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
    by_force = began(1, "i", 3), began(2, "j", 4, forced=True)
    assert judged(*by_force, ended(32, "i", 3)) == []
    late = ["i believes to hold r until 32.500000 s, longer after it was taken by force than it takes to hear of that"]
    assert judged(*by_force, ended(32.5, "i", 3)) == late


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
    """When a tenth has passed since it was given up; or a TTL, a second and a tenth since anybody held it, or died."""
    wait = Wait("p", "r", 2.0, 40.0)
    lost = History([began(1, "i", 3), ended(5, "i", 3)])
    late = Promptness(("nobody owns r from 16.000 s to 40.000 s, although p stands in line since 2.000 s",), 1)
    assert judge_promptness(CALM, lost, [wait], []) == late
    assert judge_promptness(CALM, lost, [attrs.evolve(wait, ended=16.05)], []) == Promptness((), 0)
    assert judge_promptness(CALM, lost, [attrs.evolve(wait, ended=17.0)], [17.0, 28.9]).late == (
        "nobody owns r from 16.000 s to 17.000 s, although p stands in line since 2.000 s",
    )
    assert judge_promptness(CALM, lost, [wait], [15.0, 25.9, 36.8]).late == ()
    given_up = History([began(1, "i", 3), attrs.evolve(ended(5, "i", 3), reason="RELEASED"), began(5.2, "j", 4)])
    late = Promptness(("nobody owns r from 5.000 s to 5.200 s, although p stands in line since 2.000 s",), 1)
    assert judge_promptness(CALM, given_up, [wait], []) == late
    assert judge_promptness(attrs.evolve(CALM, latencies=(0.0, 0.02)), given_up, [wait], []) == Promptness((), 0)
    # What several tasks of one process wait for is owed to it once.
    tasks = [wait, attrs.evolve(wait, began=4.0, ended=50.0)]
    assert judge_promptness(CALM, given_up, tasks, []) == late
    promoted = [attrs.evolve(it, process="pj") for it in tasks]
    assert judge_promptness(attrs.evolve(CALM, latencies=(0.0, 0.02)), given_up, promoted, []) == Promptness((), 1)
    # What the holder claims once more is written again, and may cross its release.
    claim = Invoked(at=4.9, process="pi", number=1, kind=Kind.CLAIM, key="r", instance="i")
    done = Returned(at=5.15, process="pi", number=1, answer=Answer.DONE, epoch=3)
    freed = [it for it in given_up if it.at < 5.2]
    assert judge_promptness(CALM, History([*freed, claim, done, began(5.19, "j", 4)]), [wait], []) == Promptness((), 0)
    assert judge_promptness(CALM, History([*given_up, claim, attrs.evolve(done, epoch=2)]), [wait], []) == late
    slow = History([*freed, began(8.0, "j", 4), claim, attrs.evolve(done, at=7.95)])
    told = "nobody owns r from 5.100 s to 8.000 s, although p stands in line since 2.000 s"
    assert judge_promptness(CALM, slow, [wait], []).late == (told,)
    his = attrs.evolve(wait, process="pj")
    assert judge_promptness(attrs.evolve(CALM, latencies=(0.0, 0.02)), given_up, [his], []) == Promptness((), 1)
    cut = attrs.evolve(CALM, troubles=(Trouble(4.0, 20.0, "partition", ("a",)),))
    assert judge_promptness(cut, given_up, [his], []) == Promptness((), 0)
    assert judge_promptness(cut, given_up, [wait], []) == Promptness((), 0)


def test_lease_that_is_lost_is_told_where_nothing_is_wrong() -> None:
    """Nor was so shortly before. A crash of others is no excuse; a clock that jumps right afterwards is."""
    history = History([began(1, "i", 3), attrs.evolve(ended(50, "i", 3), reason="EXPIRED")])
    told = ["lost for nothing: i believed to hold r until 50.000 s (EXPIRED), and nothing is wrong"]
    assert list(lost_for_nothing(CALM, history)) == told
    for kind, at, is_told in (
        ("crash", 45.0, True),
        ("pause", 30.0, False),
        ("pause", 10.0, True),
        ("skew", 52.0, False),
    ):
        troubled = attrs.evolve(CALM, troubles=(Trouble(at, 10.0, kind, ("a",)),))
        assert list(lost_for_nothing(troubled, history)) == (told if is_told else [])
    assert list(lost_for_nothing(CALM, History([began(1, "i", 3), ended(50, "i", 3)]))) == []


def test_what_was_lost_and_not_claimed_again_is_told() -> None:
    """While its process lives, wants it still, and nobody else has had it."""
    lost = [began(1, "i", 3), attrs.evolve(ended(50, "i", 3), reason="EXPIRED")]
    claimed = {("pi", "r", 3)}
    told = ["not claimed again: i had claimed r, lost it at 50.000 s, and nobody has had it since"]
    assert list(not_claimed_again(CALM, History(lost), {"pi"}, claimed)) == told
    assert list(not_claimed_again(CALM, History(lost), {"pi"}, set())) == []
    assert list(not_claimed_again(CALM, History(lost), {"pj"}, claimed)) == []
    assert list(not_claimed_again(CALM, History([*lost, began(60, "j", 4), ended(70, "j", 4)]), {"pi"}, claimed)) == []
    unwanted = Invoked(at=55, process="pi", number=1, kind=Kind.RELEASE, key="r", instance="i")
    assert list(not_claimed_again(CALM, History([*lost, unwanted]), {"pi"}, claimed)) == []
    assert list(not_claimed_again(CALM, History([unwanted]), {"pi"}, claimed)) == []
    # Another's claim stood in the store although it died before it believed.
    taken = Invoked(at=45, process="pj", number=1, kind=Kind.CLAIM, key="r", instance="j")
    assert list(not_claimed_again(CALM, History([taken, *lost, Died(at=52, process="pj")]), {"pi"}, claimed)) == []
    # Long before, what another gave up without knowing what came of it cannot stand any more.
    gone = Died(at=46 - CALM.ttl, process="pj")
    early = attrs.evolve(taken, at=20)
    assert list(not_claimed_again(CALM, History([early, *lost, gone]), {"pi"}, claimed)) == []
    assert (
        list(not_claimed_again(CALM, History([early, *lost, attrs.evolve(gone, at=gone.at - 2)]), {"pi"}, claimed))
        == told
    )
    refused = Returned(at=51, process="pj", number=1, answer=Answer.HELD, owner="i")
    assert list(not_claimed_again(CALM, History([taken, *lost, refused]), {"pi"}, claimed)) == told


def test_promotion_out_of_turn_is_told() -> None:
    """Where nothing goes wrong, messages take no time, and it was not given to whom it went."""
    history = History([began(1, "i", 3), attrs.evolve(ended(9, "i", 3), reason="RELEASED"), began(10, "j", 4)])
    waits = [Wait("pj", "r", 5.0, 10.0), Wait("pk", "r", 3.0, 30.0)]
    told = [
        "out of turn: pj stands in line for r since 5.000 s and has it at 10.000 s, although pk waits since 3.000 s"
    ]
    assert list(out_of_turn(CALM, history, waits)) == told
    assert list(out_of_turn(CALM, history, [waits[0], Wait("pk", "r", 6.0, 30.0)])) == []
    assert list(out_of_turn(attrs.evolve(CALM, latencies=(0.05, 0.0)), history, waits)) == []
    cut = attrs.evolve(CALM, troubles=(Trouble(4.0, 20.0, "partition", ("a",)),))
    assert list(out_of_turn(cut, history, waits)) == []
    # Who claims besides takes what is free, whosever turn it is.
    claim = Invoked(at=9.9, process="pj", number=1, kind=Kind.CLAIM, key="r", instance="j")
    done = Returned(at=10.1, process="pj", number=1, answer=Answer.DONE, epoch=4)
    assert list(out_of_turn(CALM, History([*history, claim, done]), waits)) == []
    assert list(out_of_turn(CALM, History([*history, claim, attrs.evolve(done, epoch=2)]), waits)) == told
    given = History([began(1, "i", 3), attrs.evolve(ended(9.9, "i", 3), reason="TRANSFERRED"), began(10, "j", 4)])
    assert list(out_of_turn(CALM, given, waits)) == []


def test_turn_is_that_of_the_tasks_before() -> None:
    """As long as any of an instance stands in line it keeps its place, for others to be promoted after it."""
    history = History([began(1, "i", 3), attrs.evolve(ended(9, "i", 3), reason="RELEASED"), began(10, "j", 4)])
    last, other = Wait("pj", "r", 6.0, 10.0), Wait("pk", "r", 3.0, 30.0)
    told = "out of turn: pj stands in line for r since {} s and has it at 10.000 s, although pk waits since 3.000 s"
    for before, since in (
        ([Wait("pj", "r", 1.0, 7.0)], None),
        ([Wait("pj", "r", 1.0, 5.0), Wait("pj", "r", 2.0, 6.5)], None),
        ([Wait("pj", "r", 1.0, 5.5)], "6.000"),
        ([Wait("pj", "r", 1.0, 4.5), Wait("pj", "r", 5.0, 7.0)], "5.000"),
        ([Wait("pj", "q", 1.0, 7.0), Wait("pl", "r", 1.0, 7.0)], "6.000"),
    ):
        judged = list(out_of_turn(CALM, history, [*before, last, other]))
        assert judged == ([] if since is None else [told.format(since)])
    kept = [Wait("pk", "r", 3.0, 9.8), Wait("pk", "r", 9.0, 30.0)]
    assert list(out_of_turn(CALM, history, [last, *kept])) == [told.format("6.000")]
    # It came in the moment in which the other one left, perhaps too late.
    assert list(out_of_turn(CALM, history, [last, kept[0], attrs.evolve(kept[1], began=9.7)])) == []


def test_each_task_that_waits_is_noted() -> None:
    """Who comes when the first of several has given up has the turn of the others, and so comes before who came between."""
    owns = [Act(at, "b", "own", "key", "", 3.0) for at in (5.0, 50.0, 70.0)]
    between = Act(30.0, "c", "own", "key", "", 3.0)
    acts = (Act(2.0, "a", "claim", "key"), *owns, between, Act(80.0, "a", "release", "key"))
    waits = attrs.evolve(CALM, nodes=("a", "b", "c"), acts=tuple(sorted(acts, key=lambda it: it.at)))
    outcome = simulate(waits)
    assert outcome.is_good, outcome.text()
    believed = [it.process for it in outcome.history if isinstance(it, BeliefBegan)]
    assert believed[:3] == ["a", "b", "c"]


def test_place_that_is_not_handed_on_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits on when another task of its instance has given up has lost its turn to one who came between."""
    owns = [Act(at, "b", "own", "key", "", 3.0) for at in (5.0, 60.0)]
    acts = (
        Act(2.0, "a", "claim", "key"),
        *owns,
        Act(62.0, "c", "own", "key", "", 3.0),
        Act(80.0, "a", "release", "key"),
    )
    waits = attrs.evolve(CALM, nodes=("a", "b", "c"), acts=acts)
    outcome = simulate(waits)
    assert outcome.is_good, outcome.text()
    stand = Holdings.place

    @asynccontextmanager
    async def stand_alone(self: Holdings, target: str) -> AsyncIterator[Place]:
        async with stand(self, target) as place:
            try:
                yield place
            finally:
                await leave(self._committer, self.lease.tag, place)  # noqa: ASYNC102 - it shields itself

    monkeypatch.setattr(Holdings, "place", stand_alone)
    told = simulate(waits).text()
    assert re.fullmatch(r"out of turn: c stands .* since 62\.000 s .*, although b waits since 5\.000 s", told), told


def test_call_that_runs_twice_is_told_where_no_message_comes_twice() -> None:
    """On the way from caller to callee, while it is asked; nor did somebody ask again, with a key."""

    def asked(*, once: bool) -> History:
        call = Invoked(at=2, process="p.2", number=1, kind=Kind.CALL, key="r", call="c", once=once)
        run = Handled(at=5, process="pi", instance="i", key="r", epoch=3, call="c", began=4)
        answer = Returned(at=5, process="p.2", number=1, answer=Answer.DONE, owner="i", epoch=3)
        return History([began(1, "i", 3), call, answer, run, attrs.evolve(run, began=6, at=7)])

    assert list(run_twice(CALM, asked(once=False))) == ["run twice: call c of r ran 2 times, and was sent once"]
    assert list(run_twice(CALM, asked(once=True))) == []
    for names, at, is_told in ((("p", "pi"), 3.0, False), (("pi", "p"), 3.0, True), (("p", "pi"), 5.5, True)):
        doubled = attrs.evolve(CALM, nodes=("p", "pi"), troubles=(Trouble(at, 1.0, "duplicate", names),))
        assert len(list(run_twice(doubled, asked(once=False)))) == is_told


def test_time_that_stands_still_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than the patience of who waits for it."""

    async def spin(_self: Program, *_args: object) -> None:
        for _ in itertools.count():
            await trio.lowlevel.checkpoint()

    monkeypatch.setattr(Program, "perform", spin)
    outcome = simulate(attrs.evolve(CALM, acts=(Act(3.0, "a", "claim", "key"),)))
    first, *where = outcome.text().splitlines()
    assert first == "time stands still at 3.000000 s: tasks run for ever, and wait for nothing"
    assert "in spin: await trio.lowlevel.checkpoint()" in where[1]
