"""What a node does for the cluster without being asked: sweep what the dead left, notice silence, end what has its own TTL."""

from __future__ import annotations

import heapq
import itertools
import logging
import math
from collections.abc import Container
from typing import Final

import trio

from aegis_core import names
from aegis_core.engine import sweeping
from aegis_core.errors import AegisError
from aegis_core.events import OrphanSwept
from aegis_core.node.claims import Claim
from aegis_core.node.commit import Committer
from aegis_core.node.runtime import Runtime
from aegis_core.observe.outages import Repeats

__all__ = ["Janitor"]

_log = logging.getLogger("aegis.janitor")

_SLACK: Final = 64


class Janitor:
    """The background chores of one node.

    Args:
        runtime: The node.
        committer: How decisions reach the store.
        hosted: Service and id of the instances that the node serves.
    """

    def __init__(self, runtime: Runtime, committer: Committer, hosted: Container[tuple[str, str]]) -> None:
        self._runtime = runtime
        self._committer = committer
        self._hosted = hosted
        self._limits: list[tuple[float, int, Claim]] = []
        self._most = _SLACK
        self._order = itertools.count()
        self._sleeping = trio.CancelScope()
        self._repeats = Repeats()

    @property
    def watched(self) -> int:
        """How many limits of claims it remembers."""
        return len(self._limits)

    async def run(self) -> None:
        """Do the chores for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sweep)
            nursery.start_soon(self._notice_silence)
            nursery.start_soon(self._end_limited)

    def watch_limit(self, claim: Claim) -> None:
        """End *claim* when the time to live that its metadata sets has passed."""
        if claim.expires_at is not None:
            if len(self._limits) >= self._most:
                self._forget_ended()
            heapq.heappush(self._limits, (claim.expires_at, next(self._order), claim))
            self._sleeping.cancel()

    def _forget_ended(self) -> None:
        """Keep one entry of each claim that has not ended, so that the heap stays in proportion to what is held."""
        live = {
            claim: at for _, _, claim in self._limits if claim.ended is None and (at := claim.expires_at) is not None
        }
        self._limits = [(at, next(self._order), claim) for claim, at in live.items()]
        heapq.heapify(self._limits)
        self._most = 2 * len(live) + _SLACK

    async def _sweep(self) -> None:
        """Delete the records that name dead leases, if this node hosts the live instance with the lowest id."""
        runtime = self._runtime
        while True:
            snapshot = runtime.directory.snapshot
            swept = False
            for lease in snapshot.orphans():
                if not self._is_mine():
                    break
                swept = await self._sweep_one(lease) or swept
            if not swept:
                await runtime.directory.wait_orphans()

    def _is_mine(self) -> bool:
        first = sweeping.sweeper(self._runtime.directory.snapshot)
        return first is not None and (first.service_name, first.instance_id) in self._hosted

    async def _sweep_one(self, lease: str) -> bool:
        runtime = self._runtime
        audit = runtime.audit(reason="its lease ended", requested_by="janitor")
        try:
            swept = await self._committer.decide(
                lambda view: sweeping.sweep(
                    view,
                    lease,
                    audit=audit,
                    max_transaction=runtime.store.capabilities.max_transaction,
                    at=runtime.wall(),
                ),
                timeout=runtime.settings.request_timeout,
                what="the sweep",
            )
        except AegisError as exc:
            _log.log(self._repeats.level(exc), "what a dead instance left is swept later: %s", exc)
            await self._committer.pause(1.0)
            return True
        self._repeats.over()
        gone = tuple(target for target in swept.resource_ids if not names.is_role(target))
        if gone:
            runtime.emit(
                OrphanSwept(
                    service_name=swept.service_name,
                    instance_id=swept.instance_id,
                    at=runtime.wall(),
                    resource_ids=gone,
                    reason=audit.reason,
                )
            )
        return True

    async def _notice_silence(self) -> None:
        """Tell which instances have fallen silent; make sure first that it is not the watch that is."""
        runtime = self._runtime
        settings = runtime.settings
        interval = (settings.heartbeat_interval or settings.ttl / 3) / 2
        while True:
            await runtime.clock.sleep_until(runtime.clock.now() + interval)
            try:
                with trio.move_on_after(interval) as scope:
                    await self._committer.sync()
            except AegisError as exc:
                _log.debug("nothing can be said about silence: %s", exc)
                continue
            if not scope.cancelled_caught:
                runtime.directory.note_silence()

    async def _end_limited(self) -> None:
        clock = self._runtime.clock
        while True:
            with trio.CancelScope() as self._sleeping:
                await clock.sleep_until(self._limits[0][0] if self._limits else math.inf)
            now = clock.now()
            while self._limits and self._limits[0][0] <= now:
                claim = heapq.heappop(self._limits)[2]
                if claim.ended is None and not claim.moving:
                    if claim.expires_at is not None and claim.expires_at <= now:
                        self._runtime.nursery.start_soon(claim.holdings.expire, claim)
                    else:
                        self.watch_limit(claim)
