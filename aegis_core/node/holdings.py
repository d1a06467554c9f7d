"""What one registration of an instance holds: its claim table, and how claims come into it and leave it.

The table, never the view, says what this instance serves. The view only tells it what others did: a record that is gone
or another's ends a claim (ERASED, FORCED); a record that names this lease without a claim in the table is either
somebody's doing (a transfer to us: it is adopted) or a stray of an attempt of ours that was abandoned when its fate was
open (it is deleted again).

It is one long file because claims come and go by these rules together: each of them must know what the others do meanwhile.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

import trio

from aegis_core import names
from aegis_core.engine import resources
from aegis_core.engine.decision import Decision
from aegis_core.engine.snapshot import Snapshot
from aegis_core.errors import AegisError, LeaseLost
from aegis_core.models import EndReason, Ownership
from aegis_core.node.claims import Claim
from aegis_core.node.commit import Committer
from aegis_core.node.deletions import Deleted, Deletions
from aegis_core.node.lease import Lease
from aegis_core.node.line import Place, leave
from aegis_core.node.overrun import watch_overrun
from aegis_core.node.reservations import Room
from aegis_core.node.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from aegis_core.node.instance import Instance

__all__ = ["OWN_ACTS", "Holdings"]

_log = logging.getLogger("aegis.claims")

OWN_ACTS: Final = frozenset({"claimed", "promoted", "activated"})
"""Reasons of ownership that only the owner's own acts write; others come from somebody else."""

_HOOKS_AT_ONCE: Final = 16
_LAST_CHANCE: Final = 1.0
_RETRY: Final = 1.0


class Holdings:
    """The claims of one registration.

    Args:
        runtime: The node.
        committer: How decisions reach the store.
        instance: Whose claims they are.
        lease: What they live by.
        claimed: By target, over all instances of the node: whose claim it is.
        watch_limit: Ends a claim when its resource's own time to live has passed.
    """

    def __init__(
        self,
        runtime: Runtime,
        committer: Committer,
        instance: Instance,
        lease: Lease,
        claimed: dict[str, Holdings],
        watch_limit: Callable[[Claim], None],
    ) -> None:
        self.table: dict[str, Claim] = {}
        self.lease = lease
        self._claimed = claimed
        self._watch_limit = watch_limit
        self._runtime = runtime
        self._committer = committer
        self._instance = instance
        self._deletions = Deletions(runtime, committer, lease.tag, self.is_taken)
        self._attempting: Counter[str] = Counter()
        self._given_up: dict[str, int] = {}
        self._places: WeakValueDictionary[str, Place] = WeakValueDictionary()
        self._lost: list[Claim] = []
        self._suspects: dict[str, None] = {}
        self._suspected = trio.Event()

    def __repr__(self) -> str:
        return f"<Holdings of {self._instance.instance_id}: {len(self.table)} claims>"

    # -- claims come --------------------------------------------------------------------------------------------

    @contextmanager
    def attempt(self, targets: Iterable[str]) -> Iterator[None]:
        """While the block runs, records of *targets* that name this lease are no strays; afterwards they are looked at."""
        wanted = tuple(targets)
        self._attempting.update(wanted)
        try:
            yield
        finally:
            for target in wanted:
                if self._attempting[target] > 1:
                    self._attempting[target] -= 1
                else:
                    self._attempting.pop(target)  # in half the time that Counter's own del takes
                if target not in self.table:  # what is in the table was looked at when it changed
                    self.touched(target)

    @asynccontextmanager
    async def place(self, target: str) -> AsyncIterator[Place]:
        """An `attempt` in the place of this registration in the line for *target*: of several tasks, one is in the block.

        The others wait for it. Who goes before it has the target leaves the place to the next of them, or deletes it
        (within a second; else it goes with the lease).
        """
        place = self._places.setdefault(target, Place(target))
        with self.attempt((target,)):
            async with place.turn:
                try:
                    yield place
                finally:
                    if not place.turn.statistics().tasks_waiting:
                        await leave(self._committer, self.lease.tag, place)  # noqa: ASYNC102 - it shields itself

    @property
    def lines(self) -> list[str]:
        """The targets in whose lines a task of this registration stands, in their alphabetical order."""
        return sorted(target for target, place in self._places.items() if place.turn.locked())

    def reserve(self, targets: Iterable[str]) -> AbstractContextManager[Room]:
        """While the block runs, a commit may add *targets*; see `Reservations.reserve`."""
        record = self.lease.record
        return self._runtime.reservations.reserve(record.service_name, record.instance_id, targets)

    def take(self, targets: Iterable[str], *, keep: bool) -> list[Claim]:
        """Put what the view shows as acquired by this lease into the table; the claims that are new.

        Args:
            targets: What a commit of this registration acquired, folded into the view.
            keep: Claim it again when the lease is lost and the instance registers anew.
        """
        fresh: list[Claim] = []
        snapshot, clock = self._runtime.directory.snapshot, self._runtime.clock
        now = clock.now()
        for target in targets:
            record = snapshot.held(target)
            if record is None or record.lease != self.lease.tag:
                continue
            known = self.table.get(target)
            if known is not None and known.epoch == record.epoch:
                known.seen(record)
                known.keep = known.keep or keep
                continue
            claim = Claim(self._instance, self, record, keep=keep, clock=clock, now=now)
            if known is not None:
                self._drop(known, known.interrupted or EndReason.ERASED)
            if self.lease.ended is not None:
                claim.end(self.lease.ended)
            else:
                self.table[target] = claim
                self._given_up.pop(target, None)
                self._claimed[target] = self
                self._watch_limit(claim)
            fresh.append(claim)
        return fresh

    async def prepare(self, claims: Sequence[Claim]) -> None:
        """Make *claims* ready: run the service's ``on_acquire`` for each resource.

        Raises:
            LeaseLost: A claim ended meanwhile.
            Exception: As ``on_acquire`` raised it; the claims are not ready then, and the caller gives them up.
        """
        if len(claims) == 1:
            await self._prepare_one(claims[0])
        else:
            for failure in (await self.prepare_each(claims, stop=True)).values():
                raise failure

    async def prepare_each(self, claims: Sequence[Claim], *, stop: bool) -> dict[Claim, Exception]:
        """Make *claims* ready; what went wrong, by claim. With *stop* the first failure ends it."""
        failed: dict[Claim, Exception] = {}
        if self._instance.service.acquire_hook is None:
            for claim in claims:
                if claim.ended is None:
                    claim.set_ready()
                else:
                    failed[claim] = claim.lost()
            return failed
        waiting = iter(claims)

        async def prepare_some() -> None:
            for claim in waiting:
                await trio.lowlevel.checkpoint_if_cancelled()
                try:
                    await self._prepare_one(claim)
                except Exception as exc:  # noqa: BLE001 - the hook is user code; the caller tells whose failure it is
                    failed[claim] = exc
                    if stop:
                        nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for _ in range(min(_HOOKS_AT_ONCE, len(claims))):
                nursery.start_soon(prepare_some)
        return failed

    async def _prepare_one(self, claim: Claim) -> None:
        hook = self._instance.service.acquire_hook
        if hook is None or names.is_role(claim.resource_id):
            if claim.ended is not None:
                raise claim.lost()
            claim.set_ready()
            return
        # What is about to be somebody else's is not taken over before: that would hold the move up.
        while claim.moving and claim.ended is None:
            await claim.wait_moved()
        if claim.ended is not None:
            raise claim.lost()
        state: object = None
        with trio.CancelScope() as scope:
            claim.enter_hook(scope)
            try:
                state = await hook(claim)
            finally:
                claim.exit(scope)
        if scope.cancelled_caught or claim.ended is not None:
            raise claim.lost()
        claim.set_ready(state)

    def prepare_in_background(self, claims: Iterable[Claim]) -> None:
        """`prepare` for claims that nobody waits for: a failing ``on_acquire`` is logged and its claim given up."""
        waiting = deque(claims)
        if waiting:
            self._runtime.nursery.start_soon(self._prepare_in_turn, waiting)

    async def _prepare_in_turn(self, waiting: deque[Claim]) -> None:
        """Prepare what is *waiting*, all at once, but without a task for each of those whose hook waits for nothing."""
        is_followed = False
        while waiting:
            claim = waiting.popleft()
            if waiting and not is_followed:  # by one that goes on with the others when this one has to wait
                is_followed = True
                self._runtime.nursery.start_soon(self._prepare_in_turn, waiting)
            if claim.record.reason in OWN_ACTS:
                await self._prepare_alone(claim)
                continue
            await self._runtime.measure(
                "adopt",
                self._prepare_alone,
                claim,
                service_name=self.lease.record.service_name,
                instance_id=self.lease.record.instance_id,
                resource_ids=(claim.resource_id,),
                traceparent=self._runtime.trace_of(claim.record),
            )

    async def _prepare_alone(self, claim: Claim) -> Claim:
        """`prepare` for a claim that nobody waits for; it."""
        try:
            await self._prepare_one(claim)
        except LeaseLost:
            if claim.ended is None:  # the lease recovered, but the hook had been cancelled
                await self.give_up((claim,), until=self._runtime.clock.now())
        except Exception:  # noqa: BLE001 - the hook is user code; what it raised is logged
            _log.exception(
                "on_acquire of %s failed, the resource is released",
                claim.resource_id,
                extra={"resource_id": claim.resource_id, "instance_id": self._instance.instance_id},
            )
            await self.give_up((claim,), until=self._runtime.clock.now() + _LAST_CHANCE)
        return claim

    # -- what others did ----------------------------------------------------------------------------------------

    def touched(self, target: str) -> None:
        """The view of *target* changed: end its claim if it is lost, note what names this lease without a claim."""
        claim = self.table.get(target)
        if claim is not None and claim.relinquished:
            return  # our own doing: who moves it says how it ends
        record = self._runtime.directory.snapshot.held(target)
        mine = record is not None and record.lease == self.lease.tag
        if claim is not None:
            if record is None:
                self._drop(claim, EndReason.ERASED)
            elif not mine or record.epoch > claim.epoch:
                self._drop(claim, EndReason.FORCED)
            elif record is not claim.record:
                claim.seen(record)
                self._watch_limit(claim)
        if not mine:
            self._given_up.pop(target, None)
        elif target not in self.table and target not in self._attempting:
            self._suspects[target] = None
            self._suspected.set()

    def _is_unwanted(self, record: Ownership) -> bool:
        """Whether a resource came by a transfer for a waiting block that waits no more, and nobody else here takes it over."""
        hook = self._instance.service.acquire_hook
        return record.reason == "transferred" and hook is None and not names.is_role(record.target)

    async def settle_suspects(self) -> None:
        """For ever: adopt what others gave this lease, delete strays of its own abandoned attempts."""
        while True:
            await self._suspected.wait()
            self._suspected = trio.Event()
            suspects, self._suspects = self._suspects, {}
            strays: list[str] = []
            adopted: list[Claim] = []
            for target in suspects:
                record = self._stray(target)
                if record is None:
                    continue
                if record.reason in OWN_ACTS or self._given_up.get(target) == record.epoch or self._is_unwanted(record):
                    strays.append(target)
                    continue
                adopted += self.take((target,), keep=not names.is_role(target))
            self.prepare_in_background(adopted)
            if strays:
                await self._delete_strays(strays)

    def _stray(self, target: str) -> Ownership | None:
        """The record of *target* if it names this lease, and nobody here has it or is about to."""
        record = self._runtime.directory.snapshot.held(target)
        if record is None or record.lease != self.lease.tag or target in self.table or target in self._attempting:
            return None
        return record

    async def _delete_strays(self, targets: Sequence[str]) -> None:
        """Delete the records of *targets*, as far as they are strays still when that is decided; what fails, again later."""
        timeout = self._runtime.settings.request_timeout
        told = await self._deletions.delete_strays(targets, timeout=timeout, asked=False)
        done = [target for target, is_deleted in told.items() if is_deleted]
        if done:
            shown = ", ".join(map(names.describe_target, done))
            fields = {"instance_id": self._instance.instance_id}
            _log.warning("an attempt or a release that had been given up left %s: released now", shown, extra=fields)
        if None in told.values():
            await self._committer.pause(_RETRY)
        for target in targets:
            self.touched(target)

    # -- claims go ----------------------------------------------------------------------------------------------

    async def give_up(
        self, claims: Iterable[Claim], *, until: float, reason: EndReason = EndReason.RELEASED
    ) -> list[Claim]:
        """Hand *claims* over to nobody: let work finish until *until* (node clock), run hooks, delete the records.

        Returns those that this call ended; for what somebody else moves, it waits. If the store does not answer they
        end all the same, and the records are deleted when it does.

        Cancelled before the records are deleted, it leaves *claims* as `wind_down` does: a node that closes
        winds them down with the rest, who gave them a limited time calls `abandon`.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        asked = tuple(claims)
        ended: list[Claim] = []
        while left := [claim for claim in asked if claim.ended is None]:
            mine = self.begin(left)
            await self.wind_down(mine, until=until, reason=reason)
            for claim in mine:
                claim.deleted = None
            try:
                timeout = max(_LAST_CHANCE, until - self._runtime.clock.now())
                timeout = min(timeout, self._runtime.settings.request_timeout)
                told = await self._deletions.delete(dict.fromkeys(mine), timeout=timeout)
                for claim in mine:
                    claim.deleted = told[claim.resource_id]
            finally:
                for claim in mine:
                    self.finish(claim, reason)
            ended += mine
            for claim in left:
                if claim.ended is None:
                    await claim.wait_moved()
        return ended

    def abandon(self, claims: Iterable[Claim], reason: EndReason = EndReason.RELEASED) -> None:
        """End those of *claims* that a `give_up` without the time it needed has let be."""
        for claim in claims:
            if claim.ended is None and not claim.moving:
                self.finish(claim, reason)

    def begin(self, claims: Iterable[Claim]) -> list[Claim]:
        """Mark those of *claims* that nobody else is moving as leaving; the caller moves them now."""
        mine = [claim for claim in dict.fromkeys(claims) if claim.ended is None and not claim.moving]
        for claim in mine:
            claim.leave()
            if claim.body is not None:
                self._instance.role_moved()
        return mine

    async def wind_down(self, claims: Sequence[Claim], *, until: float, reason: EndReason) -> None:
        """Let what runs under *claims* finish until *until*, cancel the rest, then run ``on_release``.

        Cancelled, nobody moves *claims* any more: they stay, to be wound down again.
        """
        try:
            await self._unwind(claims, until, reason)
        except BaseException:
            for claim in claims:
                if claim.ended is None:
                    claim.stay()
            raise
        for claim in claims:
            claim.relinquish(reason)

    async def _unwind(self, claims: Sequence[Claim], until: float, reason: EndReason) -> None:
        busy = [claim for claim in claims if claim.busy]
        if busy:
            async with trio.open_nursery() as nursery:
                for claim in busy:
                    nursery.start_soon(self._wind_down_one, claim, until, reason)
        if self._instance.service.release_hook is not None:
            limiter = trio.CapacityLimiter(_HOOKS_AT_ONCE)
            async with trio.open_nursery() as nursery:
                for claim in claims:
                    if claim.is_ready and claim.held and not claim.released and not names.is_role(claim.resource_id):
                        nursery.start_soon(self._run_release_hook, claim, until, limiter)

    async def _wind_down_one(self, claim: Claim, until: float, reason: EndReason) -> None:
        clock = self._runtime.clock
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_body, claim, until, reason)
            with trio.CancelScope(deadline=clock.trio_time(until)):
                await claim.wait_idle()
            claim.interrupt(reason, body=False)
        with trio.CancelScope(deadline=clock.trio_time(max(until, clock.now()) + _LAST_CHANCE)) as last:
            await claim.wait_unwound()
        if last.cancelled_caught:
            _log.error("work under the claim of %s does not end", claim.resource_id)

    async def _end_body(self, claim: Claim, until: float, reason: EndReason) -> None:
        """Let an ``own`` body go on for its grace, then cancel it."""
        if claim.body is None:
            return
        clock = self._runtime.clock
        with trio.CancelScope(deadline=clock.trio_time(min(until, clock.now() + claim.body_grace))):
            await claim.wait_body()
            return
        claim.interrupt(reason, body=True)

    async def _run_release_hook(self, claim: Claim, until: float, limiter: trio.CapacityLimiter) -> None:
        hook = self._instance.service.release_hook
        assert hook is not None
        clock = self._runtime.clock
        async with limiter:
            if not claim.held:
                return  # nothing may be written any more
            limit = max(until, clock.now() + _LAST_CHANCE)
            with trio.CancelScope(deadline=clock.trio_time(limit)) as scope:
                claim.enter_hook(scope)
                try:
                    await hook(claim)
                except Exception:  # noqa: BLE001 - the hook is user code; what it raised is logged
                    _log.exception(
                        "on_release of %s failed", claim.resource_id, extra={"resource_id": claim.resource_id}
                    )
                finally:
                    claim.exit(scope)
            claim.released = True
            if scope.cancelled_caught:
                _log.error("on_release of %s did not end in time and was cancelled", claim.resource_id)

    def finish(self, claim: Claim, reason: EndReason) -> None:
        """The move of *claim* is over: it ends with *reason*. If its record stands still, it is deleted, never adopted."""
        self._given_up[claim.resource_id] = claim.epoch
        self._drop(claim, reason)
        self.touched(claim.resource_id)

    def settle(self, claim: Claim, reason: EndReason) -> None:
        """A move of *claim* that needed no winding down is over: it ends, unless its record still names this lease."""
        record = self._runtime.directory.snapshot.held(claim.resource_id)
        if record is not None and record.epoch == claim.epoch and record.lease == self.lease.tag:
            claim.stay()
        else:
            self.finish(claim, reason)

    def is_recorded(self, target: str) -> bool:
        """Whether the record of *target* in the view names this lease."""
        record = self._runtime.directory.snapshot.held(target)
        return record is not None and record.lease == self.lease.tag

    def is_taken(self, target: str, moving: Collection[Claim]) -> bool:
        """Whether somebody here has *target*, or is about to, other than by those claims that the caller is *moving*."""
        claim = self.table.get(target)
        return target in self._attempting if claim is None else claim not in moving

    async def release_records(self, targets: Sequence[str], *, asked: bool = False) -> Deleted:
        """Delete the records of *targets* that still name this lease; if the store does not answer, later.

        Only those that nobody here has taken, or is taking, meanwhile: what is believed must not be deleted. For *asked*
        and what is told see `Deletions.delete_strays`.
        """
        marked: list[str] = []
        for target in targets:
            record = self._runtime.directory.snapshot.held(target)
            if record is not None and self._given_up.get(target) != record.epoch:
                self._given_up[target] = record.epoch  # nor is it to be adopted meanwhile
                marked.append(target)
        told: Deleted = {}
        try:
            told = await self._deletions.delete_strays(
                targets, timeout=self._runtime.settings.request_timeout, asked=asked
            )
        finally:
            for target in marked:
                if told.get(target) is False:  # somebody here is about to have it: who asked is told that it stays
                    self._given_up.pop(target, None)
            for target in targets:
                self.touched(target)
        return told

    async def expire(self, claim: Claim) -> None:
        """End *claim* because the resource's own time to live has passed, and delete its record."""
        mine = self.begin((claim,))
        if not mine:
            return
        await self.wind_down(mine, until=self._runtime.clock.now(), reason=EndReason.RESOURCE_TTL)
        audit = self._instance.audit(reason="its time to live has passed")

        def decide(view: Snapshot) -> Decision[bool]:
            return resources.expire(view, claim.resource_id, epoch=claim.epoch, audit=audit, at=self._runtime.wall())

        try:
            timeout = self._runtime.settings.request_timeout
            await self._committer.decide(decide, timeout=timeout, what="the end of a resource's time to live")
        except AegisError as exc:
            _log.warning("the end of %s is not recorded yet: %s", claim.resource_id, exc)
        finally:
            self.finish(claim, EndReason.RESOURCE_TTL)

    def lose(self, reason: EndReason) -> list[Claim]:
        """The lease ended: end every claim with *reason*; those to be claimed again are returned."""
        self._lost = list(self.table.values())
        for claim in self._lost:
            self._drop(claim, reason)
        return [claim for claim in self._lost if claim.keep and not claim.moving]

    @property
    def is_unwound(self) -> bool:
        """Whether nothing runs any more under what was lost with the lease."""
        return not any(claim.busy for claim in self._lost)

    def _drop(self, claim: Claim, reason: EndReason) -> None:
        if self.table.get(claim.resource_id) is claim:
            del self.table[claim.resource_id]
            if self._claimed.get(claim.resource_id) is self:
                del self._claimed[claim.resource_id]
        if claim.ended is None:
            claim.end(reason)
            if claim.body is not None:
                self._instance.role_moved()
            if claim.busy:
                self._runtime.nursery.start_soon(watch_overrun, self._runtime, claim)
