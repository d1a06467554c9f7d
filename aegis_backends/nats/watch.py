"""The one watch of a bucket, kept alive, and any number of local readers of it.

A push consumer that dies says nothing. So it heartbeats, and whoever hears nothing for some heartbeats makes another one,
which goes on where the view ends (a little before, to see that the bucket is what it was); as does whoever has been
reconnected, or sees that a message is missing. Only where that could miss something is the whole bucket loaded anew, and the readers told so: after
an absence so long that a deletion may have been forgotten, whether the consumer fell silent or not, and when the bucket
is not the one that it was.

It is one file, past 400 lines, because the life of a consumer, what it proves and who waits for that move together.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio

from aegis_backends.nats.absence import Absence
from aegis_backends.nats.bucket import BucketSettings
from aegis_backends.nats.connection import Connection, ConnectionState
from aegis_backends.nats.errors import LocalProtocolError, NatsError, PermissionDenied
from aegis_backends.nats.feed import NatsFeed
from aegis_backends.nats.fences import Fences
from aegis_backends.nats.generation import name_generation, read_generation
from aegis_backends.nats.histories import is_no_newer, next_name
from aegis_backends.nats.jetstream import JetStream, StreamInfo
from aegis_backends.nats.mirror import Action, Answer, Fence, Mirror, Renew, SetBack
from aegis_backends.nats.protocol import Message
from aegis_core.backend import Change, Clock, Feed
from aegis_core.errors import ConfigError, StoreUnavailable

__all__ = ["HEARTBEAT", "Watch"]

_log = logging.getLogger("aegis.nats")

HEARTBEAT: Final = 1.0
"""Seconds after which an idle consumer says that it is there."""

_SILENCE: Final = 2.5 * HEARTBEAT
_ORPHANED: Final = 30.0
_LEVEL_WITHIN: Final = 5.0
_LONGEST_PAUSE: Final = 1.0
_FIRST_PAUSE: Final = 0.02
_NANO: Final = 1_000_000_000


class Watch:
    """Keeps a mirror level with the bucket, and tells its readers.

    Args:
        connection: The client.
        jetstream: Requests over it.
        bucket: Which bucket.
        check: Makes sure of the bucket, and tells what it is.
        inbox_prefix: What the subjects begin with that this user may subscribe to.
        clock: What absences are measured by.
        random: Where names and jitter come from.
    """

    def __init__(
        self,
        connection: Connection,
        jetstream: JetStream,
        bucket: BucketSettings,
        *,
        check: Callable[[], Awaitable[StreamInfo]],
        inbox_prefix: str,
        clock: Clock,
        random: random.Random,
    ) -> None:
        self.mirror: Final = Mirror(bucket.prefix, self._tell)
        self.fences: Final = Fences(
            connection, self.mirror, prefix=bucket.prefix, stored=self._stored, clock=clock, random=random
        )
        self.acknowledged = 0
        """The highest revision that a commit over this connection was told, of the bucket as it counts now."""
        self.recounts = 0
        """How often the bucket turned out to count anew: what is known by revisions of before is void."""
        self.broken_loads = 0
        """How many snapshots broke off of which something had come."""
        self._connection = connection
        self._jetstream = jetstream
        self._check = check
        self._bucket = bucket
        self._stream = bucket.stream
        self._prefix = bucket.prefix
        self._inbox_prefix = inbox_prefix
        self._clock = clock
        self._random = random
        self._feeds: dict[NatsFeed, None] = {}
        self._heard_at = clock.now()
        self._absence = Absence(self._heard_at)
        self.obstacle = "no server has answered yet"
        """What keeps the bucket from being read, as far as that is known; "" where nothing does."""
        self._denied: PermissionDenied | None = None
        self._was_set_back = False
        # The history's name as it was found last: by that, and no revision, another set-back shows until the view is loaded.
        self._named: bytes | None = None
        self._recounted_at = -math.inf
        self._life = trio.CancelScope()
        # Whether the consumer has a life to be heard in; and whether anything was heard in what is being read in one go.
        self._hears = self._has_heard = False
        self._fence_wanted = trio.Event()
        self._level_moved = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        return f"<Watch of {self._stream} for {len(self._feeds)} readers, {self.mirror!r}>"

    # --- For its readers ---

    @asynccontextmanager
    async def open_feed(self) -> AsyncIterator[Feed]:
        """A feed of the whole bucket; its snapshot is made when it is first read."""
        await trio.lowlevel.checkpoint()
        feed = NatsFeed(self.mirror, self.acknowledged)
        self._feeds[feed] = None
        try:
            yield feed
        finally:
            self._feeds.pop(feed, None)
            feed.close()

    def close(self) -> None:
        """End all feeds."""
        for feed in tuple(self._feeds):
            feed.close()
        self._feeds.clear()

    async def wait_loaded(self) -> None:
        """Wait until the whole bucket has been read for the first time.

        Raises:
            PermissionDenied: The server does not let us, and will not as long as nobody changes that.
        """
        while not (self.mirror.level and self.mirror.revision >= 1):
            if self._denied is not None:
                raise self._denied
            await self._level_moved.park()

    async def wait_level(self, revision: int) -> None:
        """Wait until the view is level at *revision* or later."""
        while not (self.mirror.level and self.mirror.revision >= revision):
            await self._level_moved.park()

    async def barrier(self) -> int:
        """The revision of a message that was sent after this call and changes nothing.

        Raises:
            StoreUnavailable: It could not be stored, or there was no answer; or the bucket was set back, as it shows.
        """
        known, recounts = max(self.mirror.revision, self.acknowledged), self.recounts
        revision = await self.fences.barrier()
        if revision <= known:
            # To who knows that much already, it would prove nothing.
            if self.recounts == recounts:
                self._was_set_back = True
                self._end_life()
            raise StoreUnavailable(reason="the bucket was set back, and is read anew")
        return revision

    def now(self) -> float:
        """The time by which absences are measured."""
        return self._clock.now()

    def acknowledge(self, revision: int, *, sent_at: float) -> None:
        """Note that what was committed from here was given *revision*, and that it was sent at `now` or later."""
        if sent_at >= self._recounted_at:
            self.acknowledged = max(self.acknowledged, revision)
            self._absence.stored(revision, sent_at, self._clock.now())

    async def catch_up(self) -> None:
        """Wait until the view shows all that anybody was told of before this call.

        Raises:
            StoreUnavailable: It does not come to.
        """
        with trio.move_on_after(_LEVEL_WITHIN):
            await self.wait_level(await self.fences.barrier())
            return
        raise StoreUnavailable(reason=f"the watch of the bucket was not level within {_LEVEL_WITHIN:g} s")

    # --- Staying alive ---

    async def run(self) -> None:
        """Watch until cancelled, whatever happens to the server."""
        pause = _FIRST_PAUSE
        while True:
            try:
                await self._follow()
            except LocalProtocolError:
                raise  # a bug of ours
            except (StoreUnavailable, ConfigError, NatsError) as exc:
                self._note_denial(exc)
                self.obstacle = exc.message
                _log.warning("the watch of %s waits: %s", self._stream, exc.message)
            else:
                # A consumer that got nowhere is no better than none: the next one must not be made at once, too.
                if self.mirror.level and not self.mirror.behind:
                    pause = _FIRST_PAUSE
            await trio.sleep(pause * (0.5 + self._random.random()))
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _follow(self) -> None:
        """The life of one consumer. Returns when it has ended."""
        await self._connection.wait_state(ConnectionState.CONNECTED)
        connects = self._connection.connects
        name = f"aegis-{self._random.getrandbits(64):016x}"
        inbox = f"{self._inbox_prefix}.{name}"
        async with self._connection.listen(inbox, self._receive, afterwards=self._settle):
            bucket = await self._look()
            self._begin(bucket)
            try:
                with trio.CancelScope() as self._life:
                    # What the connection before had begun to read, it may not have come to the end of.
                    self._hears, self._has_heard = True, False
                    made = await self._jetstream.create_consumer(self._stream, self._consumer(name, inbox))
                    if self.mirror.loading and bucket.current is not None and made.server not in bucket.current:
                        # It takes over silently what was deleted: a snapshot from before that would keep it for ever.
                        self.obstacle = f"{made.server or 'a server'} has an old copy of it, which is not read"
                        _log.info("%s: %s", self._stream, self.obstacle)
                        return
                    self.obstacle = ""
                    self._heard_at = self._clock.now()
                    self._absence.expect(self._heard_at)
                    self._act(self.mirror.began(made.pending))
                    self._notice()
                    while not self._is_lost():
                        if self._absence.wants_proof(self._clock.now()):
                            self._fence_wanted.set()
                        with trio.move_on_after(max(0.0, self._heard_at + _SILENCE - self._clock.now())):
                            await self._connection.wait_connects(connects)
                            return
            finally:
                self._end_life()
                if self.mirror.loading:
                    if self.mirror.applied and not self.obstacle:
                        self.broken_loads += 1
                    # Of no use any more; and a fence must not find itself in it that is of a bucket set back since.
                    self.mirror.begin(fresh=True, why=self.mirror.why)
                self._jetstream.delete_consumer(self._stream, name)

    def _is_lost(self) -> bool:
        """Whether the consumer has fallen silent, or the view may have missed something."""
        now = self._clock.now()
        if now - self._heard_at >= _SILENCE:
            _log.info("the consumer of %s fell silent", self._stream)
            return True
        if self._absence.is_overdue(now) and not self.mirror.behind and not self.mirror.loading:
            # It lives on a server that has lost the others, say; elsewhere there is one that has not.
            _log.info("the consumer of %s does not show what was stored", self._stream)
            return True
        return self._absence.too_long(now)

    async def _look(self) -> StreamInfo:
        """The bucket, as its leader knows it.

        Raises:
            ConfigError: It cannot be used; says what to do.
            StoreUnavailable: No answer, or no leader.
        """
        bucket = await self._check()
        if bucket.current is not None and not bucket.current:
            # What a server knows that does not know of a leader may be old: it would look like a bucket that was set back.
            raise StoreUnavailable(reason="the bucket has no leader now")
        known = max(self.mirror.revision, self.mirror.applied, self.acknowledged)
        # A leader that has not come level yet, or that was one before, knows less than it has stored. What is stored now
        # has a revision above all that ever was, or the bucket is not what it was.
        if bucket.created == self.mirror.created:
            if bucket.last < known and await self.fences.barrier() <= known:
                self._was_set_back = True
            if self._was_set_back or self.mirror.revision or self._named is not None:
                await self._compare_generations()
        return bucket

    async def _compare_generations(self) -> None:
        """Learn whether somebody else has proof that the bucket was set back; whoever has it here lets others learn of it.

        Raises:
            NatsError, StoreUnavailable: No answer.
        """
        known = self._named if self._named is not None and not self.mirror.revision else self.mirror.named
        try:
            found, revision = await read_generation(self._jetstream, self._bucket)
            if found != known:
                # Of a leader that has not come level yet, or was one before, this is no proof: it may know an older one.
                await self.fences.barrier()
                found, revision = await read_generation(self._jetstream, self._bucket)
            self._was_set_back = self._was_set_back or found != known
            if self._was_set_back and is_no_newer(found, known):
                new = next_name(self._random.getrandbits(64), found=found, known=known)
                await name_generation(self._connection, self._bucket, new, revision)
                # Somebody else may have been first.
                found, _ = await read_generation(self._jetstream, self._bucket)
            self._named = found
        except PermissionDenied as exc:
            # Who may write nothing there has to go on all the same, by what it sees for itself.
            self._named = None
            _log.warning("of a set-back of %s, others may learn too late, or this node: %s", self._stream, exc.message)

    def _begin(self, bucket: StreamInfo) -> None:
        """Decide whether the view can be gone on with."""
        mirror, now = self.mirror, self._clock.now()
        if mirror.created != bucket.created:
            why = "the bucket is another one" if mirror.created else ""
            self._named = None
            self._forget_revisions(why)
        elif self._was_set_back:
            was = max(mirror.applied, self.acknowledged)
            why = f"the bucket was set back: it is at revision {bucket.last}, and was at {was}"
            self._forget_revisions(why)
        elif self._absence.too_long(now):
            behind = self._absence.seconds(now)
            why = f"the view was behind for {behind:.0f} s, so that deletions may have been missed"
        elif not mirror.loading:
            mirror.begin(fresh=False)
            return
        else:
            why = mirror.why
        mirror.created = bucket.created
        self._absence.begin(now)
        mirror.begin(fresh=True, why=why)

    def _forget_revisions(self, why: str) -> None:
        self._was_set_back = False
        self.recounts += 1
        # What was sent before may be acknowledged after, by a revision that means nothing any more.
        self._recounted_at = self._clock.now()
        self.acknowledged = self.mirror.revision = 0
        for feed in self._feeds:
            feed.forget_revisions(why)

    def _consumer(self, name: str, inbox: str) -> dict[str, object]:
        config: dict[str, object] = {
            "name": name,
            "deliver_subject": inbox,
            "deliver_policy": "last_per_subject",
            "ack_policy": "none",
            "ack_wait": 22 * 3600 * _NANO,
            "max_deliver": 1,
            # In the plural, a filter is no part of the request's subject, where a wildcard may not stand.
            "filter_subjects": [f"{self._prefix}>"],
            "replay_policy": "instant",
            "flow_control": True,
            "idle_heartbeat": int(HEARTBEAT * _NANO),
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": int(_ORPHANED * _NANO),
        }
        if self.mirror.resume_at:
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": self.mirror.resume_at}
        return config

    def _receive(self, message: Message) -> None:
        if not self._hears:
            return
        if not self._has_heard:  # the first of what was read in one go
            self._has_heard = True
            self._heard_at = self._clock.now()
            if self._absence.too_long(self._heard_at):
                self._end_life()
                return
        actions = self.mirror.feed(message)
        if actions:
            self._act(actions)

    def _settle(self) -> None:
        """What was read in one go has been received: wake who waits, once for all of it."""
        if self._has_heard:
            self._has_heard = False
            self._notice()

    def _end_life(self) -> None:
        """Hear no more of this consumer: another one is to be made."""
        self._hears = False
        self._life.cancel()

    def _stored(self, revision: int, sent_at: float) -> None:
        if sent_at >= self._recounted_at:
            self._absence.stored(revision, sent_at, self._clock.now())
        self._notice()

    def _act(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Answer(subject):
                    self._answer(subject)
                case Fence():
                    self._fence_wanted.set()
                case SetBack():
                    _log.warning("%s was set back since it was seen last", self._stream)
                    self._was_set_back = True
                    self._end_life()
                case Renew(reason):
                    _log.info("the consumer of %s is made anew: %s", self._stream, reason)
                    self._end_life()

    def _answer(self, subject: str) -> None:
        try:
            self._connection.publish(subject)
        except NatsError:
            self._end_life()

    async def send_wanted_fences(self) -> None:
        """Send the fences that the mirror asks for, until cancelled."""
        while True:
            await self._fence_wanted.wait()
            self._fence_wanted = trio.Event()
            try:
                await self.fences.barrier()
            except StoreUnavailable as exc:
                self._note_denial(exc.__cause__)
                await trio.sleep(_LONGEST_PAUSE * (0.5 + self._random.random()))
                self._act(self.mirror.fence_lost())

    def _note_denial(self, exc: BaseException | None) -> None:
        """Tell who waits for the first view, if *exc* is why there will be none."""
        if isinstance(exc, PermissionDenied):
            self._denied = exc
            self._level_moved.unpark_all()

    # --- Telling ---

    def _tell(self, changes: Sequence[Change]) -> None:
        for feed in self._feeds:
            feed.offer(changes)

    def _notice(self) -> None:
        """Wake whoever waits for a level view."""
        mirror = self.mirror
        if mirror.level:
            self._absence.shown(mirror.revision)
            self._level_moved.unpark_all()
            for feed in self._feeds:
                feed.notice()
