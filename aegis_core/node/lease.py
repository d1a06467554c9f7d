"""A lease: the time for which an instance may believe that it is registered, and the renewals that prolong it.

Theory of operation
-------------------
The store deletes the instance's record TTL seconds after it took the last renewal. The instance must have stopped
believing before that, by its own clock, which may drift from the store's by up to 1 %. So belief ends at::

    deadline = time at which the last renewal that counts was sent + TTL - margin,    margin = max(250 ms, TTL / 10)

A renewal counts only if its acknowledgement arrives before the deadline then in force: an expiry under way may still
erase a renewal that was acknowledged. Sent means sent for the first time, when one commit had to be repeated. Bodies
that run under a claim are cancelled half a margin before the deadline, so that they have unwound when belief ends.

A failed renewal is tried again, with jittered back-off, until the deadline and never beyond. A lease that ended stays
ended: the instance registers anew under another lease id.

See "Leases: an efficient fault-tolerant mechanism for distributed file cache consistency" (Gray and Cheriton, 1989).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Final

import trio

from aegis_core.backend import Conflict
from aegis_core.engine import instances
from aegis_core.errors import AegisError, Forbidden
from aegis_core.models import EndReason, ServiceInstance
from aegis_core.node.commit import Committer
from aegis_core.node.runtime import Runtime
from aegis_core.observe.outages import HEARD, is_away
from aegis_core.observe.refusals import tell_failed_heartbeat

__all__ = ["Lease", "margin"]

_log = logging.getLogger("aegis.lease")

_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.2


def margin(ttl: float) -> float:
    """Seconds by which belief ends before the store's TTL does: drift, clock skew with the store, unwinding."""
    return max(0.25, ttl / 10)


class Lease:
    """The lease of one registration of one instance of this node.

    Args:
        runtime: The node.
        committer: How renewals reach the store.
        record: The instance record as registered, with its revision.
        lease_id: The secret of the registration; `record.lease` is its public tag.
        sent: When the registration was sent, on the node's clock.
        describe: The record to write at the next renewal, made from the last one.
        suspend: Called when half a margin is left: cancel what runs under the lease.
        resume: Called when the lease was renewed after that, in the last moment.
        closed: Called once, when the lease ended.
    """

    def __init__(
        self,
        runtime: Runtime,
        committer: Committer,
        record: ServiceInstance,
        lease_id: str,
        *,
        sent: float,
        describe: Callable[[ServiceInstance], ServiceInstance],
        suspend: Callable[[], None],
        resume: Callable[[], None],
        closed: Callable[[EndReason], None],
    ) -> None:
        self.record = record
        self.lease_id = lease_id
        self.tag = record.lease
        self.ended: EndReason | None = None
        self.suspended = False
        self.deadline = sent + record.ttl - margin(record.ttl)
        self._runtime = runtime
        self._committer = committer
        self._describe = describe
        self._suspend = suspend
        self._resume = resume
        self._closed = closed
        self._due = self._next_renewal(sent)
        self._poke = trio.Event()
        self._poked_waiters: list[trio.Event] = []
        self._sleeping = trio.CancelScope()
        self._end = trio.Event()

    def __repr__(self) -> str:
        state = f"{self.remaining:.1f} s left" if self.ended is None else self.ended.value
        return f"<Lease of {self.record.instance_id} {state}>"

    @property
    def believed(self) -> bool:
        """Whether the lease holds now, by this node's own clock. Synchronous: valid until the next checkpoint at most."""
        return self.believed_at(self._runtime.clock.now())

    def believed_at(self, now: float) -> bool:
        """`believed` for a caller who has just read the node's clock as *now*."""
        return self.ended is None and now < self.deadline

    @property
    def usable(self) -> bool:
        """Whether new work may begin under it: it has not ended, and is not about to."""
        return self.ended is None and not self.suspended

    @property
    def remaining(self) -> float:
        """Seconds of belief left, 0 when it ended."""
        if self.ended is not None:
            return 0.0
        return max(0.0, self.deadline - self._runtime.clock.now())

    @property
    def body_deadline(self) -> float:
        """When bodies under the lease are cancelled, on the node's clock."""
        return self.deadline - margin(self.record.ttl) / 2

    async def run(self) -> None:
        """Renew the lease until it ends; returns then."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_time)
            nursery.start_soon(self._keep)
            await self._end.wait()
            nursery.cancel_scope.cancel()

    async def wait_ended(self) -> EndReason:
        """Wait until the lease has ended, and how."""
        await self._end.wait()
        assert self.ended is not None
        return self.ended

    async def refresh(self) -> None:
        """Write the record now (role, health or draining changed); returns when that is acknowledged or the lease ended."""
        if self.ended is not None:
            await trio.lowlevel.checkpoint()
            return
        written = trio.Event()
        self._poked_waiters.append(written)
        self.renew_soon()
        await written.wait()

    def renew_soon(self) -> None:
        """Write the record now, without waiting for it. Synchronous."""
        self._poke.set()

    def end(self, reason: EndReason) -> None:
        """End the lease, now and for good. Synchronous; the second call does nothing."""
        if self.ended is not None:
            return
        self.ended = reason
        self._end.set()
        self._wake(self._poked_waiters)
        self._closed(reason)

    def verify(self) -> None:
        """Look at one's own record in the view: a newer one that is gone or another's means that the lease is erased."""
        snapshot = self._runtime.directory.snapshot
        seen = snapshot.instance(self.record.service_name, self.record.instance_id)
        if seen is None or seen.lease != self.tag:
            self.end(EndReason.ERASED)
        elif seen.revision > self.record.revision:
            self.record = seen

    def _next_renewal(self, sent: float) -> float:
        """A jittered interval after *sent*, in steps that let the instances of one node renew in one flush."""
        interval = self.record.heartbeat_interval
        step = interval / 20
        due = sent + interval * (0.9 + 0.1 * self._runtime.random.random())
        return max(sent + step, math.floor(due / step) * step)

    async def _watch_time(self) -> None:
        clock, sleepers = self._runtime.clock, self._runtime.sleepers
        while True:
            now = clock.now()
            if now >= self.deadline:
                self.end(EndReason.EXPIRED)
                return
            if now >= self.body_deadline and not self.suspended:
                self.suspended = True
                self._suspend()
            if now >= self._due:
                self._due = math.inf  # once, until that renewal says when the next one is
                self._poke.set()
            marks = (self._due, self.body_deadline, self.deadline)
            with trio.CancelScope() as self._sleeping:
                await sleepers.sleep_until(min(mark for mark in marks if mark > now), self._sleeping)

    async def _keep(self) -> None:
        while True:
            await self._poke.wait()
            self._poke = trio.Event()
            waiters, self._poked_waiters = self._poked_waiters, []
            try:
                await self._runtime.measure(
                    "heartbeat",
                    self._renew,
                    service_name=self.record.service_name,
                    instance_id=self.record.instance_id,
                )
            finally:
                self._wake(waiters)

    async def _renew(self) -> None:
        runtime, record = self._runtime, self.record
        clock = runtime.clock
        pause = _FIRST_PAUSE
        sent = clock.now()
        is_told = False
        away_since: float | None = None

        def failed(error: AegisError) -> None:
            nonlocal is_told, away_since
            if not is_told:
                tell_failed_heartbeat(record.service_name, record.instance_id, error)
                away_since = clock.now() if is_away(error) else None
            is_told = True

        while True:
            write = instances.renew(self._describe(self.record), at=runtime.wall())
            try:
                await self._committer.commit((write,), urgent=True, failed=failed)
            except (Conflict, Forbidden) as exc:
                failed(exc)
                # Somebody else wrote the record, or it is gone: the view knows, once it is level.
                await self._committer.sync(urgent=True)
                self.verify()
                await self._committer.pause(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                sent = clock.now()
            else:
                break
        if clock.now() >= self.deadline:
            self.end(EndReason.EXPIRED)
        self.verify()  # takes what was written from the view, where `commit` has folded it in
        if self.ended is not None:
            return
        self.deadline = max(self.deadline, sent + self.record.ttl - margin(self.record.ttl))
        self._due = self._next_renewal(sent)
        self._sleeping.cancel()
        if away_since is not None:
            fields = {"service_name": record.service_name, "instance_id": record.instance_id, "operation": "heartbeat"}
            seconds = clock.now() - away_since
            _log.warning(
                "the heartbeats of %s are answered again, after %.1f s",
                record.instance_id,
                seconds,
                extra={**fields, **HEARD},
            )
        if self.suspended and clock.now() < self.body_deadline:
            self.suspended = False
            self._resume()

    @staticmethod
    def _wake(waiters: list[trio.Event]) -> None:
        for waiter in waiters:
            waiter.set()
