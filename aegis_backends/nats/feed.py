"""One local reader of the view of a bucket: a snapshot, and what changed since."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from aegis_backends.nats.mirror import Mirror
from aegis_core.backend import Change, Resync, Synced

__all__ = ["NatsFeed"]

# Changes of keys that are gone, which a backlog may hold before a new snapshot is the cheaper way to tell them.
_MAX_GONE: Final = 10_000


class NatsFeed:
    """A reader; see `aegis_core.backend.Feed`.

    Args:
        mirror: The view.
        since: The least revision of its first snapshot: what was committed here before is in it.
    """

    def __init__(self, mirror: Mirror, since: int) -> None:
        self._mirror = mirror
        self._since = since
        self._backlog: dict[str, Change] = {}
        # Why a snapshot is to be told next; "" for the first, which needs no reason.
        self._snapshot_due: str | None = ""
        # Why the reader is to be told at once that the bucket counts anew; None where it is not.
        self._recount_due: str | None = None
        # Which of the mirror's snapshots was told.
        self._loads = 0
        self._told = 0
        self._closed = False
        self._reader = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        return f"<NatsFeed with {len(self._backlog)} changes to tell>"

    def offer(self, changes: Sequence[Change]) -> None:
        """Add what changed, and wake the reader."""
        self._look()
        if self._snapshot_due is not None:
            return
        backlog = self._backlog
        for change in changes:
            # Out and in again, because a dict keeps the place of a key that it has.
            backlog.pop(change.key, None)
            backlog[change.key] = change
        if len(backlog) > len(self._mirror.records) + _MAX_GONE:
            self._begin_again("the reader fell behind")
        self._reader.unpark_all()

    def _look(self) -> None:
        """Whether the mirror has read everything anew: then a backlog leads nowhere, and a new snapshot is to be told.

        Looked at here, whenever anything is told or asked, because nobody may come to say so in time.
        """
        if self._snapshot_due is None and self._mirror.loads != self._loads:
            self._begin_again(self._mirror.why)

    def _begin_again(self, reason: str) -> None:
        """Tell a new snapshot next."""
        self._snapshot_due = reason
        self._backlog.clear()

    def forget_revisions(self, why: str) -> None:
        """The bucket counts anew, and *why*: no revision of before is waited for.

        A reader that was told anything is told so at once, and all that there is when that has been read: until then it
        must not take what it knows for current, because a barrier has a lower revision now.
        """
        self._since = 0
        if self._snapshot_due != "":
            self._recount_due = why
            self._begin_again("")
        self._reader.unpark_all()

    def notice(self) -> None:
        """The view may have become level."""
        self._reader.unpark_all()

    def close(self) -> None:
        """End the feed: a reader that waits, or comes, gets `trio.ClosedResourceError`."""
        self._closed = True
        self._reader.unpark_all()

    async def receive(self) -> Sequence[Change | Synced | Resync]:
        """All that there is to tell; waits while that is nothing. The server's absence is a wait like any other.

        Raises:
            trio.ClosedResourceError: The watch's block has been left.
        """
        if self._closed or self._batch_is_due():
            await trio.lowlevel.checkpoint()
        while not self._closed:
            if self._batch_is_due():
                return self._batch()
            await self._reader.park()
        raise trio.ClosedResourceError("the watch has been left")

    def _batch_is_due(self) -> bool:
        mirror = self._mirror
        self._look()
        if self._recount_due is not None:
            return True
        if self._snapshot_due is not None:
            return mirror.level and mirror.revision >= self._since
        return bool(self._backlog) or (mirror.level and mirror.revision > self._told)

    def _batch(self) -> Sequence[Change | Synced | Resync]:
        mirror = self._mirror
        batch: list[Change | Synced | Resync]
        if self._recount_due is not None:
            why, self._recount_due = self._recount_due, None
            return [Resync(why, recounted=True)]
        if self._snapshot_due is not None:
            batch = [Resync(self._snapshot_due)] if self._snapshot_due else []
            batch += [record.change for record in mirror.records.values()]
            self._snapshot_due, self._loads = None, mirror.loads
        else:
            batch = list(self._backlog.values())
            self._backlog.clear()
        if mirror.level:
            self._told = mirror.revision
            batch.append(Synced(mirror.revision, mirror.generation))
        return batch
