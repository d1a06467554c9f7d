"""The cache of answers to calls with an idempotency key."""

from __future__ import annotations

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from aegis_core.backend import TrioClock
from aegis_core.node.idempotency import RETENTION, AnswerCache

KEY = ("pay", "account:42", "k1")


def cache(**limits: int) -> AnswerCache:
    """An empty cache."""
    return AnswerCache(TrioClock(), **limits)


async def test_finished_attempt_answers_repeats() -> None:
    """The answer is kept under method, resource and key."""
    answers = cache()
    answers.finish(answers.begin(KEY), b"done")
    known = answers.find(KEY)
    assert known is not None
    assert await known.wait() == b"done"
    assert answers.find(("pay", "account:43", "k1")) is None
    assert answers.find(("refund", "account:42", "k1")) is None


async def test_repeat_waits_for_the_first_attempt() -> None:
    """While the first runs, repeats find it and get its answer when it ends."""
    answers = cache()
    first = answers.begin(KEY)
    got: list[bytes | None] = []

    async def repeat() -> None:
        known = answers.find(KEY)
        assert known is first
        got.append(await known.wait())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(repeat)
        nursery.start_soon(repeat)
        await wait_all_tasks_blocked()
        assert got == []
        answers.finish(first, b"done")
    assert got == [b"done", b"done"]


async def test_forgotten_attempt_makes_room_for_another() -> None:
    """A refused attempt leaves nothing, and those who wait learn that."""
    answers = cache()
    first = answers.begin(KEY)
    answers.forget(first)
    assert await first.wait() is None
    assert answers.find(KEY) is None
    answers.finish(answers.begin(KEY), b"second")
    assert len(answers) == 1


async def test_answers_are_dropped_when_they_are_old(autojump_clock: MockClock) -> None:
    """An answer is kept for 300 s after it was given."""
    answers = cache()
    answers.finish(answers.begin(KEY), b"done")
    await trio.sleep(RETENTION - 1)
    assert answers.find(KEY) is not None
    await trio.sleep(2)
    assert answers.find(KEY) is None
    assert len(answers) == 0


async def test_running_attempt_does_not_age(autojump_clock: MockClock) -> None:
    """What still runs is never executed a second time, however long it takes."""
    answers = cache()
    first = answers.begin(KEY)
    await trio.sleep(2 * RETENTION)
    assert answers.find(KEY) is first


async def test_count_is_bounded_and_the_oldest_goes_first() -> None:
    """Beyond the limit the answer that was given first is dropped."""
    answers = cache(most_answers=2)
    for number in range(3):
        answers.finish(answers.begin(("pay", None, str(number))), b"done")
    assert answers.find(("pay", None, "0")) is None
    assert answers.find(("pay", None, "1")) is not None
    assert answers.find(("pay", None, "2")) is not None


async def test_bytes_are_bounded() -> None:
    """Large answers push older ones out."""
    answers = cache(most_bytes=10)
    answers.finish(answers.begin(("pay", None, "0")), b"x" * 6)
    answers.finish(answers.begin(("pay", None, "1")), b"x" * 6)
    assert answers.find(("pay", None, "0")) is None
    assert answers.find(("pay", None, "1")) is not None
    assert repr(answers) == "<AnswerCache 0 running, 1 answers, 6 bytes>"
