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

__all__ = ["KEYS", "SHARES", "Churn", "churning", "tally"]

SHARES: Final = {
    "test_leader_is_killed": 4000,
    "test_servers_are_restarted_one_by_one": 4000,
    "test_all_servers_are_away_for_longer_than_a_lease_lasts": 4000,
    "test_leader_hangs": 1000,
    "test_leader_is_cut_off": 4000,
    "test_client_is_cut_off_for_longer_than_its_lease_lasts": 4000,
    "test_one_is_killed_and_one_is_stopped": 2000,
}
"""Claims, releases and transfers that are done at least in each scenario."""

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
async def churning(processes: Sequence[Process], *, changes: int) -> AsyncIterator[Churn]:
    """Let *processes* change what they can during the block, and on until those left have done *changes*, all about as many."""
    names = [process.name for process in processes]
    churn = Churn({})
    for number, process in enumerate(processes):
        peers = [name for name in names if name != process.name]
        churn.begun[process] = await process.begin("churn", keys=KEYS, peers=peers, seed=number)
    yield churn
    await churn.reach(-(-changes // len(churn.begun)), further=False)
    for process in churn.begun:
        await process.ask("enough")
    for process, begun in churn.begun.items():
        await process.result(begun)


def tally(history: History, *, share: int) -> str:
    """What was done in *history*, how much of it nobody knows the outcome of, and for how long no change was answered.

    Raises:
        AssertionError: Fewer claims, releases and transfers were done than the scenario's *share*.
    """
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
    assert answers[True, Answer.DONE] >= share, f"{answers[True, Answer.DONE]} changes were done, of {share}"
    others = sum(count for (changing, _), count in answers.items() if not changing)
    return (
        f"{answers[True, Answer.DONE]} claims, releases and transfers done, {answers[True, Answer.HELD]} refused, "
        f"{answers[True, Answer.FAILED]} failed, {answers[True, Answer.UNKNOWN]} of unknown outcome; "
        f"{others} reads and calls; no change for {pause:.1f} s at the longest"
    )
