"""What routers do for instances that no node serves: promote those that wait in line, and end what has its own TTL.

Every router does it, one a little later than the other, in the order of their ids: one compare-and-set decides, so it
is done once, and whichever of them dies, another one does it.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
from typing import Final, NamedTuple

import trio

from aegis_core.engine import resources, roles
from aegis_core.engine.decision import Decision
from aegis_core.engine.snapshot import Snapshot
from aegis_core.errors import AegisError, Forbidden, Held
from aegis_core.models import Ownership, ServiceInstance, Standby
from aegis_core.names import Key, StandbyKey, TargetKey, describe_target
from aegis_core.node.errands import has_scopes
from aegis_core.node.line import STEP
from aegis_core.node.node import Node

__all__ = ["Wards"]

_log: Final = logging.getLogger("aegis.router")

_PAUSE: Final = 1.0
_FORGOTTEN: Final = 64
_LATER: Final = 0.25
"""Seconds by which each router ends what has its own TTL later than the one before it."""


class _Limit(NamedTuple):
    """When what has its own time to live is over, on the node's clock."""

    due: float
    number: int
    target: str
    epoch: int
    ttl: float


class Wards:
    """The chores of one router.

    Args:
        node: The router's.
        service: The service that routers are instances of.
    """

    def __init__(self, node: Node, service: str) -> None:
        self._node = node
        self._runtime = node.runtime
        self._service = service
        self._lines: set[str] = set()
        self._limited: list[_Limit] = []
        self._marks: dict[str, tuple[int, float | None]] = {}
        self._numbers = itertools.count()
        self._sleeping = trio.CancelScope()
        self._nursery: trio.Nursery | None = None

    def __repr__(self) -> str:
        return f"<Wards: {len(self._lines)} lines, {len(self._limited)} limits>"

    async def run(self) -> None:
        """Do the chores for ever."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._runtime.touched.append(self._touched)
            try:
                self._touched(None)
                await self._end_limited()
            finally:
                self._runtime.touched.remove(self._touched)

    def _touched(self, key: Key | None) -> None:
        """The view of *key* changed (None: all of it)."""
        view = self._runtime.directory.snapshot
        if isinstance(key, StandbyKey):
            self._watch_line(key.target)
        elif isinstance(key, TargetKey):
            self._look_at(view, key.target)
        elif key is None:
            for service_name in view.services():
                for target in view.lines(service_name):
                    self._watch_line(target)
            for target in [*self._marks, *(record.target for record in view.limited())]:
                self._look_at(view, target)

    def _order(self) -> int:
        """How many routers come before this one."""
        peers = sorted(peer.instance_id for peer in self._runtime.directory.snapshot.live(self._service))
        own = [instance_id for service, instance_id in self._node.hosted if service == self._service]
        return next((at for at, peer in enumerate(peers) if peer in own), len(peers))

    # -- lines --------------------------------------------------------------------------------------------------

    def _watch_line(self, target: str) -> None:
        if target not in self._lines and self._waiting(target):
            assert self._nursery is not None
            self._lines.add(target)
            self._nursery.start_soon(self._keep_line, target)

    def _waiting(self, target: str) -> list[tuple[Standby, ServiceInstance]]:
        """Who waits for *target* and is served by no node, in order."""
        view = self._runtime.directory.snapshot
        line = [(place, view.by_lease(place.lease)) for place in view.line(target)]
        return [(place, who) for place, who in line if who is not None and not has_scopes(who)]

    async def _keep_line(self, target: str) -> None:
        """Promote who waits for *target*, one after the other, until no such instance does."""
        runtime, clock = self._runtime, self._runtime.clock
        try:
            while waiting := self._waiting(target):
                changed = runtime.directory.watch_target(target)
                view = runtime.directory.snapshot
                if view.owner(target) is not None:
                    await changed.wait()
                    continue
                ranking = runtime.plugins.promote(target, view.line(target))
                ranks = {
                    place.lease: roles.rank(view, target, lease=place.lease, ranking=ranking) for place, _ in waiting
                }
                place, who = min(waiting, key=lambda found: ranks[found[0].lease])
                delay = (ranks[place.lease] + self._order()) * STEP
                with trio.move_on_at(clock.trio_time(clock.now() + delay)):
                    await changed.wait()
                    continue
                await self._promote(target, who)
        finally:
            self._lines.discard(target)

    async def _promote(self, target: str, who: ServiceInstance) -> None:
        runtime, committer = self._runtime, self._node.committer
        timeout = runtime.settings.request_timeout

        def promote(view: Snapshot) -> Decision[Ownership]:
            return roles.promote(
                view,
                target,
                lease=who.lease,
                limit=runtime.settings.max_resources_per_instance,
                reserved=room.others(),
                at=runtime.wall(),
            )

        def leave(view: Snapshot) -> Decision[bool]:
            return roles.leave_line(view, target, lease=who.lease)

        what = f"the promotion of {who.instance_id} for {describe_target(target)}"
        try:
            with runtime.reservations.reserve(who.service_name, who.instance_id, (target,)) as room:
                await committer.decide(promote, timeout=timeout, what=what)
            await committer.decide(leave, timeout=timeout, what=what)
        except Held:
            _log.debug("%s: another router was quicker", what)
        except AegisError as exc:
            level = logging.DEBUG if isinstance(exc, Forbidden) else logging.WARNING
            _log.log(level, "%s is tried again: %s", what, exc)
            await committer.pause(_PAUSE)

    # -- time to live -------------------------------------------------------------------------------------------

    def _look_at(self, view: Snapshot, target: str) -> None:
        """End *target* when it has lasted as long as it may, where that is a router's to do."""
        owned = view.owner(target)
        ttl = None if owned is None or has_scopes(owned[1]) else owned[0].metadata.ttl_seconds
        if owned is None or ttl is None:
            self._marks.pop(target, None)
        else:
            self._watch_limit(owned[0], ttl)
        if len(self._limited) > 2 * len(self._marks) + _FORGOTTEN:
            # Most of them were released, or changed, long before their time.
            self._limited = [each for each in self._limited if self._is_meant(each)]
            heapq.heapify(self._limited)

    def _watch_limit(self, record: Ownership, ttl: float) -> None:
        """How long it has lasted already, the time of day tells: a router that has just been started knows no better."""
        known = (record.epoch, ttl)
        if self._marks.get(record.target) != known:
            self._marks[record.target] = known
            age = (self._runtime.wall() - record.registered_at).total_seconds()
            due = self._runtime.clock.now() + ttl - min(max(0.0, age), ttl)
            heapq.heappush(self._limited, _Limit(due, next(self._numbers), record.target, record.epoch, ttl))
            self._sleeping.cancel()

    def _is_meant(self, limit: _Limit) -> bool:
        return self._marks.get(limit.target) == (limit.epoch, limit.ttl)

    async def _end_limited(self) -> None:
        clock = self._runtime.clock
        while True:
            with trio.CancelScope() as self._sleeping:
                await clock.sleep_until(self._limited[0].due if self._limited else math.inf)
            while self._limited and self._limited[0].due <= clock.now():
                limit = heapq.heappop(self._limited)
                if self._is_meant(limit):
                    del self._marks[limit.target]
                owned = self._runtime.directory.snapshot.owner(limit.target)
                # Where it was changed since, or is another's, there is another limit.
                if owned is not None and (owned[0].epoch, owned[0].metadata.ttl_seconds) == (limit.epoch, limit.ttl):
                    assert self._nursery is not None
                    self._nursery.start_soon(self._end, limit.target, limit.epoch)

    async def _end(self, target: str, epoch: int) -> None:
        runtime, committer = self._runtime, self._node.committer
        await runtime.clock.sleep_until(runtime.clock.now() + self._order() * _LATER)
        audit = runtime.audit(reason="its time to live has passed", requested_by="router")
        while True:
            try:
                await committer.decide(
                    lambda view: resources.expire(view, target, epoch=epoch, audit=audit, at=runtime.wall()),
                    timeout=runtime.settings.request_timeout,
                    what=f"the end of {target}",
                )
            except AegisError as exc:
                _log.warning("%s, whose time to live has passed, is released later: %s", target, exc)
                await committer.pause(_PAUSE)
            else:
                return
