"""Histories of registers that work are accepted; with one thing changed, they are refused for it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_pytest.history import (
    Answer,
    BeliefBegan,
    BeliefEnded,
    Handled,
    History,
    Invoked,
    Kind,
    Record,
    Returned,
    Rule,
    Wrote,
)
from tests.history.registers import true_history

Mutation = Callable[[list[Record], random.Random], list[Record]]


@given(
    seed=st.integers(0, 2**32),
    operations=st.integers(1, 60),
    keys=st.integers(1, 3),
    unknown=st.sampled_from([0.0, 0.1, 0.4]),
    deaths=st.booleans(),
)
def test_history_of_a_register_that_works_is_accepted(
    seed: int, operations: int, keys: int, unknown: float, *, deaths: bool
) -> None:
    """Whatever overlaps, and whatever nobody learns the outcome of."""
    records = true_history(random.Random(seed), operations=operations, keys=keys, unknown=unknown, deaths=deaths)
    found = History(records).check()
    assert not found, found[0].text()


@given(st.integers(0, 2**32))
def test_order_of_records_does_not_matter(seed: int) -> None:
    """Several files are read one after the other."""
    chance = random.Random(seed)
    records = true_history(chance, operations=30)
    chance.shuffle(records)
    assert History(records).check() == ()


def answers(records: Sequence[Record], *kinds: Kind) -> list[tuple[Invoked, Returned]]:
    """The operations of those kinds that have an answer."""
    asked = {(it.process, it.number): it for it in records if isinstance(it, Invoked)}
    told = [(asked[it.process, it.number], it) for it in records if isinstance(it, Returned)]
    return [(begun, it) for begun, it in told if begun.kind in kinds and it.answer is not Answer.UNKNOWN]


def replaced(records: Sequence[Record], old: Record, new: Record) -> list[Record]:
    """*records* with *new* in the place of *old*."""
    return [new if it is old else it for it in records]


def highest(records: Sequence[Record]) -> int:
    """The highest epoch of all."""
    return max(getattr(it, "epoch", 0) for it in records)


def second_owner(records: list[Record], chance: random.Random) -> list[Record]:
    """A claim that was refused succeeds, as if nothing had been compared before the write."""
    refused = [it for asked, it in answers(records, Kind.CLAIM) if it.answer is Answer.HELD]
    it = chance.choice(refused)
    return replaced(records, it, attrs.evolve(it, answer=Answer.DONE, owner="", epoch=highest(records) + 1))


def lost_claim(records: list[Record], chance: random.Random) -> list[Record]:
    """The last read finds nobody where somebody holds it."""
    it = last_read(records)
    return replaced(records, it, attrs.evolve(it, answer=Answer.FREE, owner="", epoch=0))


def stale_read(records: list[Record], chance: random.Random) -> list[Record]:
    """The last read finds the first owner of all."""
    first = min((it for it in records if isinstance(it, BeliefBegan)), key=lambda it: it.epoch)
    it = last_read(records)
    return replaced(records, it, attrs.evolve(it, owner=first.instance, epoch=first.epoch))


def wrong_owner(records: list[Record], chance: random.Random) -> list[Record]:
    """The last read finds another's name under the right epoch."""
    it = last_read(records)
    return replaced(records, it, attrs.evolve(it, owner="i7"))


def fallen_epoch(records: list[Record], chance: random.Random) -> list[Record]:
    """The last acquisition of all bears an epoch below the one before."""
    last = highest(records)
    return [attrs.evolve(it, epoch=0.5) if getattr(it, "epoch", 0) == last else it for it in records]  # type: ignore[arg-type]


def long_belief(records: list[Record], chance: random.Random) -> list[Record]:
    """Somebody believes on when the next one does."""
    ends = [it for it in records if isinstance(it, BeliefEnded)]
    begins = [it for it in records if isinstance(it, BeliefBegan)]
    pairs = [(it, other) for it in ends for other in begins if other.epoch > it.epoch and other.instance != it.instance]
    it, following = chance.choice(pairs)
    return replaced(records, it, attrs.evolve(it, at=following.at + 0.0001))


def late_handler(records: list[Record], chance: random.Random) -> list[Record]:
    """A handler starts under the epoch before that of its claim."""
    it = chance.choice([it for it in records if isinstance(it, Handled)])
    return replaced(records, it, attrs.evolve(it, epoch=it.epoch - 1))


def old_write(records: list[Record], chance: random.Random) -> list[Record]:
    """After all, the storage takes a write of the first owner."""
    last = max((it for it in records if isinstance(it, Wrote)), key=lambda it: it.epoch)
    return [*records, attrs.evolve(last, at=last.at + 100, epoch=last.epoch - 1)]


def lost_answer(records: list[Record], chance: random.Random) -> list[Record]:
    """An operation never gets an answer."""
    gone = chance.choice([it for it in records if isinstance(it, Returned)])
    return [it for it in records if it is not gone]


def last_read(records: Sequence[Record]) -> Returned:
    """The read that ends the history."""
    return max((it for _, it in answers(records, Kind.GET_OWNER)), key=lambda it: it.at)


MUTATIONS: dict[Mutation, set[Rule]] = {
    second_owner: {Rule.LINEARIZABLE, Rule.DURABLE},
    lost_claim: {Rule.LINEARIZABLE, Rule.DURABLE},
    stale_read: {Rule.LINEARIZABLE, Rule.DURABLE},
    wrong_owner: {Rule.LINEARIZABLE, Rule.DURABLE},
    fallen_epoch: {Rule.DURABLE},
    long_belief: {Rule.SINGLE_OWNER},
    late_handler: {Rule.FENCED_CALLS},
    old_write: {Rule.FENCED_WRITES},
    lost_answer: {Rule.ANSWERED},
}


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda it: it.__name__)
def test_one_thing_changed_is_found(mutation: Mutation) -> None:
    """In each of sixty histories that end with an owner and have what is changed; for a rule that it breaks."""
    tried = 0
    for seed in range(200):
        chance = random.Random(seed)
        records = true_history(chance, operations=60, unknown=0.0)
        read = last_read(records)
        believers = {it.instance for it in records if isinstance(it, BeliefBegan)}
        refused = any(it.answer is Answer.HELD for _, it in answers(records, Kind.CLAIM))
        handled = any(isinstance(it, Handled) for it in records)
        if read.answer is not Answer.DONE or len(believers) < 3 or not refused or not handled:
            continue
        tried += 1
        found = {it.rule for it in History(mutation(records, chance)).check()}
        assert MUTATIONS[mutation] & found, f"seed {seed}"
        if tried == 60:
            break
    assert tried == 60


def test_records_that_contradict_each_other_are_refused() -> None:
    """An answer or an end without a begin, and two begins."""
    asked = Invoked(at=1, process="p", number=1, kind=Kind.CLAIM, key="r", instance="i")
    answered = Returned(at=2, process="p", number=1, answer=Answer.DONE, epoch=1)
    began = BeliefBegan(at=1, process="p", instance="i", key="r", epoch=1)
    ended = BeliefEnded(at=2, process="p", instance="i", key="r", epoch=1)
    wrong: dict[str, list[Record]] = {
        "operation 1 of p was answered, but had not begun": [answered],
        "operation 1 of p began twice": [asked, answered, asked],
        "i ceased to hold 'r' at epoch 1, and never began to": [ended],
        "i began to hold 'r' twice at epoch 1": [began, attrs.evolve(began, at=1.5), ended],
    }
    for words, records in wrong.items():
        with pytest.raises(ValueError, match=words):
            History(records).check()


def test_twenty_thousand_operations_are_checked(record_property: Callable[[str, object], None]) -> None:
    """Over 200 resources, and a thousand of unknown outcome among them, with a small limit."""
    records = true_history(random.Random(7), operations=24_000, keys=200, instances=8, unknown=0.05)
    began = time.perf_counter()
    assert History(records).check(limit=5_000) == ()
    took = time.perf_counter() - began
    unknown = sum(isinstance(it, Returned) and it.answer is Answer.UNKNOWN for it in records)
    operations = sum(isinstance(it, Invoked) for it in records)
    record_property("counted", f"{operations} operations ({unknown} of unknown outcome) checked in {took:.1f} s")
    assert operations > 20_000
    assert unknown > 500
