"""The mirror by which the suites read a feed insists on what a feed promises."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio

from aegis_core.backend import Change, DeleteReason, Resync, Synced
from aegis_pytest.conformance.steps import Mirror, abandoned_after, cancelled_everywhere


class Nothing:
    """A feed that is never asked."""

    async def receive(self) -> Sequence[Change | Synced | Resync]:
        """Wait for ever."""
        await trio.sleep_forever()


def test_resync_begins_a_new_view() -> None:
    """What the new snapshot lacks is gone, and its revisions may be lower than those told before."""
    mirror = Mirror(Nothing())
    mirror.fold([Change("a", b"1", 5), Change("b", b"1", 6), Synced(9)])
    mirror.fold([Resync("lost the thread"), Change("b", b"1", 6)])
    assert not mirror.synced
    mirror.fold([Synced(10)])
    assert (mirror.values, mirror.revision) == ({"b": b"1"}, 10)


@pytest.mark.parametrize(
    "batch",
    [
        [],
        ["nonsense"],
        "no list",
        [Change("a", b"1", 5)],
        [Change("a", b"1", 10), Change("b", b"1", 10)],
        [Change("a", None, 11)],
        [Change("a", b"1", 11, DeleteReason.DELETED)],
        [Synced(8)],
    ],
    ids=repr,
)
def test_feed_that_breaks_its_promises_is_refused(batch: object) -> None:
    """Empty batches, foreign items, revisions that do not grow, deletions without reason, levels that fall."""
    mirror = Mirror(Nothing())
    mirror.fold([Change("a", b"1", 9), Synced(9)])
    with pytest.raises(AssertionError):
        mirror.fold(batch)


async def test_each_checkpoint_comes_to_be_the_cancelled_one() -> None:
    """From none at all to all of them, in order, exactly."""
    reached: list[int] = []

    async def three_checkpoints() -> str:
        for _ in range(3):
            reached[-1] += 1
            await trio.lowlevel.checkpoint()
        return "done"

    async def attempt(checkpoints: int) -> Sequence[str]:
        reached.append(0)
        return await abandoned_after(checkpoints, three_checkpoints)

    await cancelled_everywhere(attempt)
    assert reached == [1, 1, 2, 3, 3]
