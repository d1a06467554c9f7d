"""What a call does after an attempt that failed: wait and try again, elsewhere or there, or end.

- A result, or an error that the callee decided on (`InvalidRequest`, `RemoteError`, ...), ends the call and never gets here.
- *Nothing was executed* (NOT_SENT, REJECTED): try again after a jittered pause, elsewhere at once where there is
  somewhere else, while time is left. When it is over, the last failure is raised.
- *Nobody knows* (MAYBE_EXECUTED): try again only if that is harmless: anywhere, if the method is declared idempotent
  (by the bound function, or in the callee's own record); at the very same incarnation, if the call has an idempotency
  key and no answer came, because that one remembers what it answered. Whatever happens afterwards, such a call never
  ends as NOT_SENT or REJECTED. A message that was lost takes all the time there is, so that none is left for another.
- *Not here* (`Misdirected`): the view is behind, or the callee. If the callee knows a newer epoch than the view, wait
  for the view to reach it; else pause.
- *Nobody has it* is believed only when it was decided on a view that was synced after the call began.

A call's own time is Trio's, because deadlines that it inherits and hands on are those of cancel scopes.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn

import attrs
import trio

from aegis_core import names
from aegis_core.engine.requests import unknown_instance
from aegis_core.engine.routing import Route
from aegis_core.errors import (
    AegisError,
    CallTimeout,
    InvalidRequest,
    Misdirected,
    NoInstance,
    NotFound,
    Overloaded,
    StoreUnavailable,
    TransportUnavailable,
    Unavailable,
)
from aegis_core.models import ABSENT, Outcome, Shown
from aegis_core.observe.refusals import tell_unknown

if TYPE_CHECKING:
    from aegis_core.node.runtime import Runtime

__all__ = ["TRIED_AGAIN", "UNREGISTERED", "Order", "Retry"]

UNREGISTERED: Final = "unregistered"
"""Reason of a route to an instance that is not in the registry."""

TRIED_AGAIN: Final = (Misdirected, NotFound, Overloaded, Unavailable)
"""The errors after which another attempt may be made."""


@attrs.define(eq=False, repr=False)
class Order(Shown):
    """One call: what was asked, and what is known of its attempts.

    All times are Trio's: `now` is when the next attempt is made, `until` when the call's own time is over, `outer` when
    that of the scopes and the call around it is. Nobody in `barred` is chosen, and *admit* is asked before each attempt.
    """

    service_name: str
    method: str
    params: Mapping[str, object]
    resource_id: str | None
    instance_id: str | None
    timeout: float
    now: float
    until: float
    outer: float
    trace_id: str
    message_id: str
    idempotency_key: str | None = None
    idempotent: bool = False
    barred: tuple[str, ...] = ()
    admit: Callable[[Route], Awaitable[None]] | None = None
    traceparent: str = ""
    pause: float = 0.0
    attempts: int = 0
    fresh: bool = False
    excluded: tuple[str, ...] = ()
    sent: Route | None = None
    bound: Route | None = None
    uncertain: AegisError | None = None
    refused: AegisError | None = None

    def timed_out(self, outcome: Outcome) -> CallTimeout:
        """The error of a call whose own time is over."""
        return CallTimeout(timeout=self.timeout, what=f"{self.service_name}.{self.method}", outcome=outcome)

    def end(self, exc: AegisError) -> NoReturn:
        """Raise what the call ends in when *exc* was its last failure."""
        if self.uncertain is not None:
            raise self.uncertain
        if isinstance(exc, Misdirected):
            reason = f"its resource is on the move: {exc}"
            raise NoInstance(service_name=self.service_name, reason=reason, outcome=Outcome.REJECTED) from None
        if isinstance(exc, NoInstance) and self.refused not in (None, exc) and exc.reason not in ("draining", "wait"):
            # Nobody is left, because of what was met before.
            tried = "each of them was tried" if exc.reason == "excluded" else exc.reason
            raise NoInstance(
                service_name=self.service_name,
                reason=f"{tried}, and at last: {self.refused}",
                retry_after=exc.retry_after,
                outcome=exc.outcome,
            ) from self.refused
        raise exc


class Retry:
    """Decides, and waits, between two attempts of a call.

    Args:
        runtime: The node.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._clock = runtime.clock
        self._directory = runtime.directory
        self._pauses = runtime.settings.retry
        self._instruments = runtime.instruments

    async def prepare_next(self, order: Order, exc: AegisError) -> None:
        """Wait until another attempt is worth while after *exc*; raises what the call ends in when there is none."""
        if self._instruments is None:
            await self._prepare_next(order, exc)
            return
        self._instruments.attempt_failed(order.service_name, exc)
        await self._prepare_next(order, exc)
        self._instruments.retried(exc)

    async def _prepare_next(self, order: Order, exc: AegisError) -> None:
        if self._runtime.closed:
            # The call of somebody who kept the handle of a closed node, no view and no clock of which moves again.
            unknown = isinstance(exc, Unavailable) and exc.outcome is Outcome.MAYBE_EXECUTED
            order.end(exc if unknown else TransportUnavailable(reason="this node is closed", outcome=Outcome.NOT_SENT))
        sent, order.sent = order.sent, None
        if sent is not None:
            order.refused = exc
        unheard = isinstance(exc, TransportUnavailable) and exc.outcome is Outcome.NOT_SENT
        if sent is not None and sent.reason == UNREGISTERED and unheard:
            instance = sent.instance
            order.end(unknown_instance(self._runtime.directory.snapshot, instance.service_name, instance.instance_id))
        if isinstance(exc, NotFound):
            await self._look_again(order, exc)
            return
        if isinstance(exc, Unavailable) and exc.outcome is Outcome.MAYBE_EXECUTED and sent is not None:
            await self._doubt(order, exc, sent)
        elif order.bound is not None and (isinstance(exc, Misdirected) or not self._lives(order.bound)):
            order.end(exc)  # The only one that could know does not, or is gone.
        left = order.until - trio.current_time()
        if left <= 0:
            order.end(exc)
        if sent is None:
            if isinstance(exc, NoInstance) and exc.reason == "wait":
                await self._wait_for_promotion(order, exc)
                return
            order.excluded = ()  # Everybody was tried.
        elif order.resource_id is None and order.instance_id is None and order.bound is None:
            order.excluded += (sent.instance.instance_id,)
            return  # Somebody else, at once; the router says if there is nobody.
        elif isinstance(exc, Misdirected) and exc.epoch > self._known_epoch(order):
            await self._catch_up(order, exc)
            if order.attempts == 1:
                return
        await self._pause(order, exc)

    async def _look_again(self, order: Order, exc: NotFound) -> None:
        """Believe that something is not there only after a sync."""
        if exc.answered_by or order.fresh or order.bound is not None:
            problem = None if order.resource_id is None else names.resource_id_problem(order.resource_id)
            if problem is not None:
                raise InvalidRequest.at("$.resource_id", problem)
            tell_unknown(f"{order.service_name}.{order.method}", order.trace_id, exc)
            order.end(exc)
        failure = StoreUnavailable(reason="it did not say in time who there is", outcome=Outcome.NOT_SENT)
        with trio.move_on_at(order.until):
            try:
                await self._directory.sync()
                order.fresh = True
                return
            except StoreUnavailable as unknown:
                failure = unknown
        await self._pause(order, failure)

    async def _catch_up(self, order: Order, exc: Misdirected) -> None:
        """Wait for the view to know what the callee knew."""
        with trio.move_on_at(order.until) as scope, suppress(StoreUnavailable):  # where that is no revision any more
            await self._directory.wait_revision(exc.epoch)
        if scope.cancelled_caught:
            order.end(exc)

    async def _doubt(self, order: Order, exc: Unavailable, sent: Route) -> None:
        """Go on after an attempt whose fate is unknown, or end the call with *exc*."""
        order.uncertain = order.uncertain or exc
        if isinstance(exc, CallTimeout) and exc.answered_by and order.outer < math.inf:
            # The callee ran out of the time that an outer scope gives us: that is about to say so itself.
            await trio.sleep_until(order.outer)
        if order.idempotent or order.method in sent.instance.idempotent:
            return
        if order.idempotency_key is None or exc.answered_by or not self._lives(sent):
            order.end(exc)
        order.bound = sent

    def _lives(self, where: Route) -> bool:
        return self._directory.snapshot.by_lease(where.instance.lease) is not None

    def _known_epoch(self, order: Order) -> int:
        record = None if order.resource_id is None else self._directory.snapshot.held(order.resource_id)
        return ABSENT if record is None else record.epoch

    async def _pause(self, order: Order, exc: AegisError) -> None:
        """Sleep a little, or end the call with *exc* when its time would be over; a change of the owner ends the pause."""
        order.pause = min(2 * order.pause, self._pauses.maximum) or self._pauses.initial
        seconds = self._runtime.jitter(order.pause)
        if trio.current_time() + seconds >= order.until:
            order.end(exc)
        resume = self._clock.now() + seconds
        if order.resource_id is None:
            await self._clock.sleep_until(resume)
        else:
            with trio.move_on_at(self._clock.trio_time(resume)):
                await self._directory.watch_target(order.resource_id).wait()

    async def _wait_for_promotion(self, order: Order, exc: NoInstance) -> None:
        """Wait until somebody is promoted, or at least something changes."""
        with trio.move_on_at(order.until) as scope:
            if order.resource_id is None:
                await self._directory.wait_change()
            else:
                await self._directory.watch_target(order.resource_id).wait()
        if scope.cancelled_caught:
            order.end(exc)
