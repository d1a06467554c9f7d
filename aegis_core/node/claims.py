"""A claim: the exclusive right to work on one resource, as something that code can run under.

A claim is held while it has not ended and its lease is believed. Work that runs under it (handlers, an ``own`` body,
``on_acquire``) enters a cancel scope into it; when the claim ends, or is about to because the lease is running out, the
scopes are cancelled. What reaches no checkpoint (blocking or shielded code, a stopped process) is not stopped by that:
only the epoch, checked by the storage that it writes to, holds it off.

Life: acquired → ready → leaving → ended. `leaving` means that it is being handed over: requests that come now are sent
elsewhere, those that run may finish.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from aegis_core.backend import Clock
from aegis_core.errors import LeaseLost
from aegis_core.models import EndReason, Ownership, ResourceMetadata

if TYPE_CHECKING:
    from aegis_core.node.holdings import Holdings
    from aegis_core.node.instance import Instance
    from aegis_core.node.lease import Lease

__all__ = ["Claim"]


class Claim:
    """One acquisition of one resource by one instance of this node. Made by `Instance.claim` and `Instance.own`."""

    # An instance may have many, and what is made with each is what the garbage collector goes through.
    __slots__ = (
        *(
            "_acquired",
            "_awaited",
            "_clock",
            "_ended",
            "_instance",
            "_is_leaving",
            "_lease",
            "_record",
            "_relinquished",
        ),
        *(
            "_scopes",
            "body",
            "body_grace",
            "body_runs",
            "body_task",
            "calls",
            "deleted",
            "holdings",
            "interrupted",
            "is_ready",
        ),
        *("keep", "last_used", "moving", "released", "state"),
    )

    def __init__(
        self,
        instance: Instance,
        holdings: Holdings,
        record: Ownership,
        *,
        keep: bool,
        clock: Clock,
        now: float,
    ) -> None:
        self._instance = instance
        self._lease = holdings.lease
        self._record = record
        self._clock = clock
        self._scopes: dict[trio.CancelScope, trio.lowlevel.Task] = {}
        # By what is waited for, once somebody waits: most claims come and go without.
        self._awaited: dict[str, trio.Event] | None = None
        self._ended: EndReason | None = None
        self.holdings = holdings
        self.state: object = None
        self.keep = keep
        self.is_ready = False
        self.deleted: bool | None = False  # by a release; None: it may have been, or is later, nobody knows
        self.released = False
        self._is_leaving = False
        self.moving = False
        self._relinquished = False
        self.interrupted: EndReason | None = None
        self.body: trio.CancelScope | None = None
        self.body_task: trio.lowlevel.Task | None = None
        self.body_grace = 0.0
        self.body_runs = False
        self.calls = 0
        self.last_used = self._acquired = now

    def __repr__(self) -> str:
        if self._ended is not None:
            state = self._ended.value.lower()
        elif self.leaving:
            state = "leaving"
        else:
            state = "ready" if self.is_ready else "acquired"
        return f"<Claim {self.resource_id!r} epoch {self.epoch} {state}>"

    @property
    def resource_id(self) -> str:
        """What is held: a resource id (or, for a role group of ``serve``, its target name)."""
        return self._record.target

    @property
    def epoch(self) -> int:
        """The fencing number: grows with every change of owner. Give it to your storage with each write."""
        return self._record.epoch

    @property
    def metadata(self) -> ResourceMetadata:
        """The resource's metadata as last written or seen by this owner."""
        return self._record.metadata

    @property
    def record(self) -> Ownership:
        """The store record behind this claim, as last seen."""
        return self._record

    @property
    def instance(self) -> Instance:
        """The instance that holds it."""
        return self._instance

    @property
    def lease(self) -> Lease:
        """The lease that it lives by."""
        return self._lease

    @property
    def deadline(self) -> float:
        """When belief in this claim ends unless the lease is renewed, on Trio's clock; moves with each renewal."""
        return self._clock.trio_time(self._lease.deadline)

    @property
    def remaining(self) -> float:
        """Seconds until `deadline`; 0 when the claim ended."""
        return 0.0 if self._ended is not None else self._lease.remaining

    @property
    def ended(self) -> EndReason | None:
        """Why it ended, or None."""
        return self._ended

    @property
    def held(self) -> bool:
        """Whether it is held now. Synchronous, so true until the next checkpoint at most."""
        return self._ended is None and not self._relinquished and self._lease.believed

    @property
    def leaving(self) -> bool:
        """Whether it is being handed over (transfer, drain, release)."""
        return self._is_leaving

    def check(self) -> None:
        """Raise unless the claim is held. Call it right before a write that no storage fences.

        Raises:
            LeaseLost: It ended, or its lease is not believed any more.
        """
        if not self.held:
            raise self.lost()

    def lost(self) -> LeaseLost:
        """The error that says how this claim ended (EXPIRED when only belief in the lease did)."""
        reason = self._ended or self.interrupted or EndReason.EXPIRED
        return LeaseLost(resource_id=self.resource_id, epoch=self.epoch, reason=reason)

    def is_named_by(self, exc: LeaseLost) -> bool:
        """Whether *exc* says that this very claim ended."""
        return (exc.resource_id, exc.epoch) == (self.resource_id, self.epoch)

    def set_ready(self, state: object = None) -> None:
        """Let calls in, with *state* as their `Call.state`. For ``own(..., ready=False)``; the second call replaces the state."""
        self.state = state
        self.is_ready = True
        self._tell("ready")

    async def release(self) -> None:
        """Give the resource up: running calls finish (within the drain time), ``on_release`` runs, the record is deleted.

        An ``own`` body that still runs is cancelled and its block ends silently. Idempotent. Called by a handler that
        runs under the claim, it returns at once and the release follows the handler's end. Cancelled, the release
        goes on in the background.
        """
        await self._instance.give_up(self)

    async def wait_ready(self) -> None:
        """Wait until calls are let in, or the claim ended: check `held` afterwards."""
        await self._wait("ready", over=self.is_ready or self._ended is not None)

    async def wait_leaving(self) -> None:
        """Wait until the claim is being handed over or has ended: the moment to finish up."""
        await self._wait("leaving", over=self._is_leaving)

    async def wait_ended(self) -> EndReason:
        """Wait until the claim has ended, and why."""
        await self._wait("ended", over=self._ended is not None)
        assert self._ended is not None
        return self._ended

    # What follows is for the node's own parts.

    @property
    def relinquished(self) -> bool:
        """Whether a commit that may give it away is about to be sent, or was."""
        return self._relinquished

    @property
    def running(self) -> int:
        """How many scopes run under the claim."""
        return len(self._scopes)

    @property
    def busy(self) -> bool:
        """Whether a handler, a hook, or an ``own`` body runs under the claim."""
        return bool(self._scopes) or self.body_runs

    @property
    def expires_at(self) -> float | None:
        """When the resource's own time to live has passed, on the node's clock; None for never."""
        ttl = self.metadata.ttl_seconds
        return None if ttl is None else self._acquired + ttl

    @property
    def is_mine(self) -> bool:
        """Whether the current task is a handler that runs under the claim."""
        return trio.lowlevel.current_task() in self._scopes.values()

    def serves(self, epoch: int) -> bool:
        """Whether a request that shows *epoch* (0: none) may be served under it now, once it is ready."""
        return (
            (not epoch or epoch == self._record.epoch)
            and not self._is_leaving
            and not self._relinquished
            and self._ended is None
            and self._lease.believed_at(self._clock.now())
        )

    def enter(self, scope: trio.CancelScope) -> None:
        """Let a handler of the current task run under the claim: its *scope* is cancelled when the claim ends."""
        self._scopes[scope] = trio.lowlevel.current_task()
        self.calls += 1
        if self._ended is not None or self._lease.suspended:
            scope.cancel()

    def enter_hook(self, scope: trio.CancelScope) -> None:
        """`enter` for what is no call: ``on_acquire``, ``on_release``."""
        self.enter(scope)
        self.calls -= 1

    def exit(self, scope: trio.CancelScope) -> bool:
        """The work in *scope* is done; whether the claim is held still, as `held` would say."""
        self._scopes.pop(scope, None)
        now = self.last_used = self._clock.now()
        if not self._scopes:
            self._tell("idle")
        return self._ended is None and not self._relinquished and self._lease.believed_at(now)

    def leave(self) -> None:
        """Begin to hand over: no new work. Who does this moves the claim, until it calls `stay` or `end`."""
        self.moving = self._is_leaving = True
        self._tell("leaving")

    def relinquish(self, reason: EndReason) -> None:
        """Stop believing: the commit by which somebody else may have it is about to be sent."""
        self._relinquished = True
        self.interrupted = reason

    def stay(self) -> None:
        """The hand-over did not come to be, and nothing had been ended for it."""
        self.moving = self._relinquished = False
        self._tell("moved")
        if self._ended is None:
            self.interrupted = None
            self._is_leaving = False

    def interrupt(self, reason: EndReason, *, body: bool | None = None) -> None:
        """Cancel what runs under the claim, because of *reason*; it has not ended yet.

        Args:
            reason: Why.
            body: True for the ``own`` body alone, False for all else; None for everything.
        """
        self.interrupted = reason
        if body is not True:
            for scope in self._scopes:
                scope.cancel()
        if body is not False and self.body is not None:
            self.body.cancel()

    def resume(self) -> None:
        """The lease, which had run so low that everything was cancelled, has been renewed: new work may come."""
        if self.body is None and self.interrupted is EndReason.EXPIRED:
            self.interrupted = None

    def end(self, reason: EndReason) -> None:
        """End the claim, which has not ended yet, now and for good."""
        self._ended = reason
        self._is_leaving = True
        self.interrupt(reason)
        for what in ("ready", "leaving", "moved", "ended") if self._awaited else ():
            self._tell(what)

    def seen(self, record: Ownership) -> None:
        """A newer record of the same acquisition (metadata changed)."""
        self._record = record

    async def wait_idle(self) -> None:
        """Wait until nothing runs under the claim but an ``own`` body."""
        while self._scopes:
            await self._wait("idle", over=False)

    async def wait_moved(self) -> None:
        """Wait until who moves the claim has ended it, or let it be."""
        if self.moving:
            await self._wait("moved", over=self._ended is not None)

    async def wait_unwound(self) -> None:
        """Wait until nothing runs under the claim, an ``own`` body included."""
        await self.wait_idle()
        await self.wait_body()

    def begin_body(self, scope: trio.CancelScope, grace: float) -> None:
        """An ``own`` body of the current task begins in *scope*, which may go on for *grace* seconds when it has to leave."""
        self.body, self.body_grace, self.body_runs = scope, grace, True
        self.body_task = trio.lowlevel.current_task()

    def end_body(self) -> None:
        """The ``own`` body has ended."""
        self.body_runs = False
        self._tell("body")

    async def wait_body(self) -> None:
        """Wait until no ``own`` body runs under the claim."""
        if self.body_runs:
            await self._wait("body", over=False)

    async def _wait(self, what: str, *, over: bool) -> None:
        if over:
            await trio.lowlevel.checkpoint()
            return
        if self._awaited is None:
            self._awaited = {}
        await self._awaited.setdefault(what, trio.Event()).wait()

    def _tell(self, what: str) -> None:
        if self._awaited and (awaited := self._awaited.pop(what, None)) is not None:
            awaited.set()
