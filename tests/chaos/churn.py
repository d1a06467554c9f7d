"""Claims, releases, transfers, reads and calls by several processes, while something goes wrong, and what came of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Final

import trio

from aegis_pytest.history import Answer, History, Invoked, Kind, Returned
from tests.chaos.process import Process

__all__ = ["CHANGES", "KEYS", "Churn", "churning", "tally"]

CHANGES: Final = 4000
"""Claims, releases and transfers that are done at least in each scenario; there are five, so that 20,000 are in all."""

KEYS: Final = tuple(f"key-{number}" for number in range(40))
_PATIENCE: Final = 300.0
_CHANGING: Final = frozenset({Kind.CLAIM, Kind.RELEASE, Kind.TRANSFER})


class Churn:
    """What several processes do all the time. Made by `churning`.

    Args:
        begun: The number of the command, for each process.
    """

    def __init__(self, begun: dict[Process, int]) -> None:
        self.begun = begun

    def __repr__(self) -> str:
        return f"<Churn of {list(self.begun)}>"

    def leave_out(self, process: Process) -> None:
        """Expect no more of *process*, which is dead."""
        del self.begun[process]

    async def reach(self, count: int, *, further: bool = True, without: Process | None = None) -> None:
        """Wait until each process (but one) has done *count* changes, further ones or in all."""
        async with trio.open_nursery() as nursery:
            for process in self.begun:
                if process is not without:
                    nursery.start_soon(_reach, process, count, further)


async def _reach(process: Process, count: int, further: bool) -> None:  # noqa: FBT001 - a task's argument
    await process.result(await process.begin("reach", count=count, further=further), within=_PATIENCE)


@asynccontextmanager
async def churning(processes: Sequence[Process], *, changes: int = CHANGES) -> AsyncIterator[Churn]:
    """Let *processes* change what they can during the block, and on until they have done at least *changes*, all about as many."""
    names = [process.name for process in processes]
    churn = Churn({})
    for number, process in enumerate(processes):
        peers = [name for name in names if name != process.name]
        churn.begun[process] = await process.begin("churn", keys=KEYS, peers=peers, seed=number)
    yield churn
    await churn.reach(-(-changes // len(processes)), further=False)
    for process in churn.begun:
        await process.ask("enough")
    for process, begun in churn.begun.items():
        await process.result(begun)


def tally(history: History) -> str:
    """What was done in *history*, how much of it nobody knows the outcome of, and for how long no change was answered."""
    asked = {(it.process, it.number): it.kind for it in history if isinstance(it, Invoked)}
    answers: Counter[tuple[bool, Answer]] = Counter()
    changed_at: list[float] = []
    for it in history:
        if isinstance(it, Returned):
            changing = asked[it.process, it.number] in _CHANGING
            answers[changing, it.answer] += 1
            if changing and it.answer is Answer.DONE:
                changed_at.append(it.at)
    changed_at.sort()
    pause = max((after - before for before, after in pairwise(changed_at)), default=0.0)
    others = sum(count for (changing, _), count in answers.items() if not changing)
    return (
        f"{answers[True, Answer.DONE]} claims, releases and transfers done, {answers[True, Answer.HELD]} refused, "
        f"{answers[True, Answer.FAILED]} failed, {answers[True, Answer.UNKNOWN]} of unknown outcome; "
        f"{others} reads and calls; no change for {pause:.1f} s at the longest"
    )
