"""The node's view of the store: one watch folded into one `Snapshot`, and the waits on it.

There is one task that reads the feed (`run`); everything else reads the snapshot, synchronously. The view's revision
moves when the feed is level (`Synced`), never in between. What this node itself commits is folded in at its
acknowledgement (`fold`), so that one's own writes are seen at once.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import weakref
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial

import trio

from aegis_core import codec, events, names
from aegis_core.backend import Change, Clock, DeleteReason, Resync, Store, Synced
from aegis_core.engine.decision import Write
from aegis_core.engine.snapshot import Snapshot
from aegis_core.errors import StoreUnavailable
from aegis_core.models import Record

__all__ = ["Directory"]

_log = logging.getLogger("aegis.directory")


class Directory:
    """Keeps `snapshot` level with *store*.

    Args:
        store: What is watched.
        clock: The node's clock, for when an instance was last heard of.
        wall: Time of day for events.
        emit: Where events go.
        touched: Called after each change with the key that changed, and with None when the view was made anew.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        wall: Callable[[], datetime],
        emit: Callable[[events.Event], None],
        touched: Callable[[names.Key | None], None],
    ) -> None:
        self.snapshot = Snapshot()
        self._store = store
        self._clock = clock
        self._wall = wall
        self._emit = emit
        self._touched = touched
        self._waiters: list[tuple[int, int, trio.Event]] = []
        # How many of these wait no more: their events are set.
        self._gone_waiters = 0
        self._order = itertools.count()
        # How often the store turned out to count its revisions anew.
        self._recounts = 0
        # Weak, so that what nobody waits for any more is forgotten, whether it ever changes or not.
        self._targets: dict[str, weakref.ref[trio.Event]] = {}
        # What waits for any change, and for records of the dead; None while nothing does, as most of the time.
        self._changed: trio.Event | None = None
        self._orphaned: trio.Event | None = None
        # This node's own commits that the watch has yet to come to, by revision.
        self._folded: dict[int, names.Key] = {}
        self._was_whole = False

    def __repr__(self) -> str:
        state = "synced" if self.ready else "loading"
        return f"<Directory {state} at revision {self.snapshot.revision}>"

    @property
    def ready(self) -> bool:
        """Whether the view is whole."""
        return self.snapshot.synced

    @property
    def newest(self) -> int:
        """The newest revision in the view: its own, or that of a commit of this node that the watch has yet to come to."""
        return max(self.snapshot.revision, *self._folded) if self._folded else self.snapshot.revision

    async def run(self, scope: trio.CancelScope, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read the watch until *scope* is cancelled; started once the first snapshot is whole."""
        with scope:
            async with self._store.watch() as feed:
                started = False
                while True:
                    self._apply(await feed.receive())
                    if not started and self.ready:
                        started = True
                        task_status.started()

    async def sync(self) -> None:
        """Wait until the view shows every commit that anybody was told of before this call.

        Raises:
            StoreUnavailable: The store does not answer, or was set back meanwhile.
        """
        recounts = self._recounts
        await self._wait(await self._store.sync(), recounts)

    async def wait_revision(self, revision: int) -> None:
        """Wait until the view is whole and at *revision* or later.

        Raises:
            StoreUnavailable: The store was set back meanwhile, and counts anew.
        """
        await self._wait(revision, self._recounts)

    async def _wait(self, revision: int, recounts: int) -> None:
        snapshot = self.snapshot
        while self._recounts == recounts:
            if snapshot.synced and snapshot.revision >= revision:
                return
            reached = trio.Event()
            heapq.heappush(self._waiters, (revision, next(self._order), reached))
            try:
                await reached.wait()
            finally:
                self._leave(reached)
        raise StoreUnavailable(reason="the store was set back, and counts its revisions anew")

    def _leave(self, reached: trio.Event) -> None:
        """Whoever waited for *reached* was cancelled. As many as still wait may be kept of those."""
        if not reached.is_set():
            reached.set()
            self._gone_waiters += 1
            if 2 * self._gone_waiters > len(self._waiters):
                self._waiters = [waiter for waiter in self._waiters if not waiter[2].is_set()]
                heapq.heapify(self._waiters)
                self._gone_waiters = 0

    async def wait_change(self) -> None:
        """Wait until anything in the view changes."""
        if self._changed is None:
            self._changed = trio.Event()
        await self._changed.wait()

    async def wait_orphans(self) -> None:
        """Wait until anything in the view changes while it holds records that name dead leases."""
        if self._orphaned is None:
            self._orphaned = trio.Event()
        await self._orphaned.wait()

    def watch_target(self, target: str) -> trio.Event:
        """An event that is set at the next change of who owns, or who waits for, *target*."""
        known = self._targets.get(target)
        event = None if known is None else known()
        if event is None:
            event = trio.Event()
            self._targets[target] = weakref.ref(event, partial(self._forget_target, target))
        return event

    def _forget_target(self, target: str, forgotten: weakref.ref[trio.Event]) -> None:
        if self._targets.get(target) is forgotten:
            del self._targets[target]

    def note_silence(self) -> None:
        """The watch is known to be alive now: tell which instances have fallen silent. Not while the view is made anew."""
        if not self.ready:
            return
        now, at = self._clock.now(), self._wall()
        self._publish(self.snapshot.advance(self.snapshot.revision, now=now, at=at))
        self._publish(self.snapshot.tell_silence(now, at))

    def fold(self, writes: Sequence[Write], revisions: Sequence[int]) -> None:
        """Take this node's own acknowledged *writes* into the view, ahead of the watch."""
        snapshot, now, at = self.snapshot, self._clock.now(), self._wall()
        for write, revision in zip(writes, revisions, strict=True):
            if revision <= snapshot.revision:
                continue  # no write, or the watch was quicker
            key = write.named
            if write.record is None or snapshot.expectation(key) < revision:
                self._folded[revision] = key
                self._tell(key, write.record, revision, now=now, at=at, folded=True)
        self._wake()

    def _apply(self, batch: Sequence[Change | Synced | Resync]) -> None:
        now, at = self._clock.now(), self._wall()
        for item in batch:
            if isinstance(item, Change):
                self._change(item, now, at)
            elif isinstance(item, Synced):
                again = not self.snapshot.synced
                found = self.snapshot.advance(item.revision, now=now, at=at)
                self._publish(found)
                if self._folded:
                    self._folded = {r: key for r, key in self._folded.items() if r > item.revision}
                self._was_whole = True
                if again:
                    self._wake_all_targets()
                    self._touched(None)
            elif item.recounted:
                self._forget(item, at)
            else:
                self.snapshot.resync()
                self._emit(events.Resync(at=at, reason=item.reason))
        while self._waiters and self.snapshot.synced and self._waiters[0][0] <= self.snapshot.revision:
            self._wake_first()
        self._wake()

    def _forget(self, resync: Resync, at: datetime) -> None:
        """Nothing that is known by its revision counts any more: no lease, one's own no more than those of others."""
        self._recounts += 1
        self._folded.clear()
        while self._waiters:
            self._wake_first()
        self._emit(events.Resync(at=at, reason=resync.reason))
        self._publish(self.snapshot.forget(at))
        self._wake_all_targets()
        self._touched(None)

    def _wake_first(self) -> None:
        waiting = heapq.heappop(self._waiters)[2]
        if waiting.is_set():
            self._gone_waiters -= 1
        waiting.set()

    def _change(self, change: Change, now: float, at: datetime) -> None:
        if self._folded and self.snapshot.synced:
            own = self._folded.get(change.revision)
            if own is not None:
                # Everybody was told when it was folded in.
                self.snapshot.confirm(own, change.revision)
                return
        key = names.parse_key(change.key)
        if key is None:
            return
        record: Record | None = None
        if change.value is not None:
            try:
                record = codec.decode_record(key, change.value, change.revision)
            except ValueError as exc:
                _log.warning("the record under %s cannot be read and counts for nothing: %s", change.key, exc)
        deleted, expired = change.value is None, change.reason is DeleteReason.EXPIRED
        self._tell(key, record, change.revision, now=now, at=at, deleted=deleted, expired=expired)

    def _tell(
        self,
        key: names.Key,
        record: Record | None,
        revision: int,
        *,
        now: float,
        at: datetime,
        folded: bool = False,
        deleted: bool = False,
        expired: bool = False,
    ) -> None:
        snapshot = self.snapshot
        if isinstance(key, (names.TargetKey, names.StandbyKey)):  # half as dear as a union
            if self._targets:
                self._wake_target(key.target)
        elif isinstance(key, names.InstanceKey):
            before = snapshot.instance(key.service_name, key.instance_id)
            if before is not None and (record is None or getattr(record, "lease", None) != before.lease):
                for target in tuple(snapshot.held_by(before.lease)):
                    self._wake_target(target)
        if deleted or (folded and record is None):
            found = snapshot.delete(key, revision, expired=expired, now=now, at=at)
        else:
            found = snapshot.put(key, record, revision, folded=folded, now=now, at=at)
        if found:
            self._publish(found)
        if self._was_whole:  # before, there is nobody whom it could concern
            self._touched(key)

    def _publish(self, found: Sequence[events.Event]) -> None:
        for event in found:
            self._emit(event)

    def _wake_target(self, target: str) -> None:
        known = self._targets.pop(target, None)
        if known is not None and (waiting := known()) is not None:
            waiting.set()

    def _wake_all_targets(self) -> None:
        for target in tuple(self._targets):
            self._wake_target(target)

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None
        if self._orphaned is not None and self.snapshot.names_dead:
            self._orphaned.set()
            self._orphaned = None
