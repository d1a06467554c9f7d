"""An instance's membership of its service: registered, kept so, registered anew when the lease is lost, drained, left."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Final

import trio

from aegis_core import events
from aegis_core.errors import AegisError, Forbidden, InstanceConflict, StoreUnavailable, Unavailable
from aegis_core.models import EndReason, Health, Outcome, ResourceMetadata, Role
from aegis_core.node.incarnation import Incarnation
from aegis_core.observe.outages import HEARD, Repeats

if TYPE_CHECKING:
    from aegis_core.node.claims import Claim
    from aegis_core.node.instance import Instance
    from aegis_core.node.node import Node

__all__ = ["Membership"]

_log = logging.getLogger("aegis.instance")

_TEARDOWN: Final = 2.0
_NOTICE: Final = 1.0


class Membership:
    """One instance's, from the first registration until it has left.

    Args:
        node: Where it is served.
        instance: The instance, which is told when its role may have changed.
    """

    def __init__(self, node: Node, instance: Instance) -> None:
        self._node = node
        self._runtime = node.runtime
        self._instance = instance
        self._options = instance.options
        self._registered = trio.Event()
        self._again: dict[str, ResourceMetadata] = {}
        self._closed = trio.Event()
        self._patience = trio.CancelScope()
        self._anew = trio.CancelScope()
        self.incarnation: Incarnation | None = None
        self.draining = False
        self.closing = False

    def __repr__(self) -> str:
        state = "closing" if self.closing else "draining" if self.draining else "staying"
        return f"<Membership of {self._options.instance_id} {state}>"

    # -- from joining to leaving --------------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Register, and stay registered until `close`; started once the first registration stands."""
        incarnation: Incarnation | None = None
        try:
            incarnation = await self._begin(self._options.role)
            task_status.started()
            while True:
                self._instance.role_moved()
                await incarnation.live(self._again)
                if self.closing:
                    return
                self.suspend()
                self._again = incarnation.kept()
                self._runtime.nursery.start_soon(incarnation.retire)
                self._instance.role_moved()
                self._tell_lease_ended(await incarnation.lease.wait_ended())
                since = self._runtime.clock.now()
                anew = await self._begin_anew()
                if anew is None:
                    return
                self._tell_registered_anew(self._runtime.clock.now() - since)
                incarnation = anew
                if (
                    self._instance.health is Health.OFFLINE
                ):  # the acknowledgement and the end of the block came together
                    return
        finally:
            if incarnation is not None:
                with trio.CancelScope(shield=True):
                    await incarnation.deregister(_TEARDOWN / 2)
                    await incarnation.stop()
            # Here rather than in `close`, to which a block that is cancelled before it began never comes.
            key = (self._instance.service.name, self._options.instance_id)
            if self._node.hosted.get(key) is self._instance:
                del self._node.hosted[key]
            self._closed.set()

    async def close(self, *, drain: bool) -> None:
        """Leave: hand over (with *drain*), and deregister in any case, in at most two further seconds."""
        try:
            # A node that was closed, or killed, under the block can hand nothing over.
            if drain and self.incarnation is not None and not self._runtime.closed:
                with self._patience:
                    await self.drain(self._runtime.settings.drain)
        finally:
            self.closing = True
            self._instance.tell_role()
            self._registered.set()
            self._anew.cancel()
            with trio.move_on_after(_TEARDOWN, shield=True):
                incarnation = self.incarnation
                if incarnation is not None:
                    await incarnation.deregister(_TEARDOWN / 2)
                await self._closed.wait()

    async def wait_closed(self) -> None:
        """Wait until the instance has left."""
        await self._closed.wait()

    async def _begin(self, role: Role | None, lease_id: str | None = None) -> Incarnation:
        """One registration. What was begun under a *lease_id* that nobody will use again is withdrawn when it fails."""
        mine = lease_id or self._runtime.new_id(16)
        try:
            incarnation = await self._runtime.measure(
                "register",
                functools.partial(Incarnation.begin, self._node, self._instance, role=role, lease_id=mine),
                service_name=self._instance.service.name,
                instance_id=self._options.instance_id,
            )
        except BaseException as exc:
            refused = isinstance(exc, AegisError) and not isinstance(exc, Unavailable)
            if self._options.register and lease_id is None and not refused:
                self._withdraw(mine)
            raise
        self.incarnation = incarnation
        self.resume()
        return incarnation

    async def _begin_anew(self) -> Incarnation | None:
        """Register until it succeeds, under one lease id; None when the instance is closed meanwhile."""
        role = None if self._options.role is None else Role.STANDBY
        lease_id, last, instance = self._runtime.new_id(16), self.incarnation, self._instance
        pause, repeats = 0.05, Repeats()
        try:
            with trio.CancelScope() as self._anew:
                while not self.closing:
                    try:
                        return await self._begin(role, lease_id)
                    except AegisError as exc:
                        why, fields = "cannot register %s anew yet, trying on: %s", instance.log_fields(**HEARD)
                        _log.log(repeats.level(exc), why, instance.instance_id, exc, extra=fields)
                        if isinstance(exc, InstanceConflict) and last is not None:
                            await last.bury()
                    await self._node.committer.pause(pause)
                    pause = min(2 * pause, 1.0)
        except BaseException:
            self._withdraw(lease_id)
            raise
        self._withdraw(lease_id)
        return None

    def _withdraw(self, lease_id: str) -> None:
        """In the background, take back what may have been registered under *lease_id*."""
        self._runtime.nursery.start_soon(Incarnation.withdraw, self._node, self._instance, lease_id)

    def _tell_lease_ended(self, reason: EndReason) -> None:
        self._runtime.emit(
            events.LeaseEnded(
                service_name=self._instance.service.name,
                instance_id=self._options.instance_id,
                at=self._runtime.wall(),
                reason=reason.value,
            )
        )

    def _tell_registered_anew(self, seconds: float) -> None:
        instance = self._instance
        why = "%s is registered anew, %.1f s after its lease ended"
        _log.warning(why, instance.instance_id, seconds, extra=instance.log_fields(**HEARD))

    # -- handing over -------------------------------------------------------------------------------------------

    async def drain(self, seconds: float) -> None:
        """`Instance.drain`, within *seconds*. Cancelled, it goes on in the background."""
        self._begin_draining()
        await self._runtime.shelter(self._drain, seconds, trio.Event())

    async def hand_over(self) -> None:
        """`drain` for a call that this instance itself serves: returns when all claims are released; the rest follows."""
        self._begin_draining()
        released = trio.Event()
        self._runtime.nursery.start_soon(self._drain, self._runtime.settings.drain, released)
        await released.wait()

    def hurry(self) -> None:
        """Cut short the draining with which the block of `Node.serve` ends, now or when it comes to that."""
        self._patience.cancel()

    def _begin_draining(self) -> None:
        self.draining = True
        self._instance.tell_role()

    async def _drain(self, seconds: float, released: trio.Event) -> None:
        incarnation, clock = self.incarnation, self._runtime.clock
        claims: list[Claim] = []
        until = clock.now() + seconds
        try:
            if incarnation is None or incarnation.lease.ended is not None:
                return
            with trio.move_on_after(seconds + _TEARDOWN) as last:
                incarnation.leave_lines()
                incarnation.server.stop_accepting()
                if self._options.register:
                    with trio.move_on_after(_NOTICE):  # callers and other nodes should know; but nothing hangs on it
                        await incarnation.lease.refresh()
                claims = list(incarnation.holdings.table.values())
                await incarnation.holdings.give_up(claims, until=until)
                released.set()
                with trio.CancelScope(deadline=clock.trio_time(until)):
                    await incarnation.server.drained()
                incarnation.server.cancel_all()
            if last.cancelled_caught:
                incarnation.holdings.abandon(claims)
        finally:
            released.set()

    # -- the lease to work under --------------------------------------------------------------------------------

    async def wait_registered(self) -> Incarnation:
        """The current incarnation, waiting for a registration under way, or for the renewal of a lease that runs out.

        Raises:
            Forbidden: The instance is closed, or was served with ``register=False``.
            StoreUnavailable: It could not register in time.
        """
        if not self._options.register:
            raise self.refusal("it was served with register=False")
        if self.closing:
            raise self.refusal("it is closed")
        if self.incarnation is not None and self.incarnation.lease.usable:
            return self.incarnation
        timeout = self._runtime.settings.request_timeout
        with trio.move_on_after(timeout):
            while self.incarnation is None or not self.incarnation.lease.usable:
                await self._registered.wait()
                await trio.lowlevel.checkpoint()
                if self.closing:
                    raise self.refusal("it is closed")
            return self.incarnation
        reason = f"{self._options.instance_id} could not register anew within {timeout:g} s"
        raise StoreUnavailable(reason=reason, outcome=Outcome.NOT_SENT)

    def refusal(self, reason: str, *, operation: str = "claim") -> Forbidden:
        """The error that refuses *operation* to the instance."""
        return Forbidden(operation=operation, target=self._options.instance_id, reason=reason)

    def suspend(self) -> None:
        """The lease has run so low that nothing new is begun under it, or has ended."""
        if self._registered.is_set():
            self._registered = trio.Event()

    def resume(self) -> None:
        """There is a lease to work under again."""
        self._registered.set()

    def verify(self) -> None:
        """The view of the instance's record changed."""
        incarnation = self.incarnation
        if incarnation is not None and incarnation.lease.ended is None and not self.closing:
            incarnation.lease.verify()
