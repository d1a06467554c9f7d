"""One message, carried out once, whichever routers it comes to.

Theory of operation
-------------------
The first router puts the message's record where there is none, with the instance that it chose, and then sends; when
another instance has to be chosen, it writes that first. At the end it writes how that was. Everything is one
compare-and-set, so a router that was believed dead loses the message to the one that took it over, and stops.

Whoever gets the message meanwhile waits for the end that is written, and answers that. If the first router has died (it
listens no more, or its lease is gone from the view), or lives and carries the message out no more (it could not write the
end), he takes the message over:

- the instance lives and remembers what it answered to whom, as those of nodes do: it gets the message once more;
- it does not, or is gone: nobody can know, and that is written, and answered: MAYBE_EXECUTED.

A message that failed before anything was executed is carried out when it comes again.

An id is bound to who used it first, and for what: nobody gets the answer to a call that he did not make.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Final, NoReturn, TypeVar

import attrs
import trio

from aegis_core import codec
from aegis_core.backend import ABSENT, Conflict
from aegis_core.engine.routing import Route
from aegis_core.errors import (
    AegisError,
    CallTimeout,
    InvalidRequest,
    NotFound,
    Overloaded,
    RemoteError,
    StoreUnavailable,
    TransportUnavailable,
    Unavailable,
)
from aegis_core.models import Outcome, ServiceInstance
from aegis_core.node.errands import has_scopes
from aegis_core.principals import Principal
from aegis_core.router.messages import Kept, Messages
from aegis_core.router.requests import RouteRequest
from aegis_core.router.router import Router

__all__ = ["Admit", "Once"]

T = TypeVar("T")

_FIRST_LOOK: Final = 0.02
_LONGEST_PAUSE: Final = 0.5
_SETTLED_WITHIN: Final = 2.0
_ABANDONED_AFTER: Final = 5.0
"""Seconds after which a message is in nobody's hands whose sender has stopped waiting, if its end is not recorded."""

Admit = Callable[[Route], Awaitable[None]]
Forward = Callable[[Admit, Route | None], Awaitable[tuple[object, ServiceInstance]]]
"""Sends the message: waits for the first argument before each attempt, and goes to the second alone, where there is one."""


class _Taken(Exception):
    """Another router has, or had, the message."""


class Once:
    """One message, as one router carries it out.

    Args:
        router: The router.
        messages: Its records.
        request: The message; it has an id.
        forward: Sends it.
        principal: Who asks; None: whoever it is.

    Raises:
        InvalidRequest: The parameters have no form on the wire.
    """

    def __init__(
        self,
        router: Router,
        messages: Messages,
        request: RouteRequest,
        forward: Forward,
        principal: Principal | None = None,
    ) -> None:
        assert request.message_id is not None
        self._router = router
        self._messages = messages
        self._request = request
        self._message_id = request.message_id
        self._forward = forward
        self._asked = _digest(principal, request.params)
        self._until = trio.current_time() + request.timeout
        self._kept: Kept | None = None
        self._revision = ABSENT

    async def run(self) -> tuple[object, str]:
        """The result, and the instance that answered; of this router's own work, or as another router wrote it.

        Raises:
            AegisError: What the message ended in; `CallTimeout` (MAYBE_EXECUTED) where it has not ended in time.
        """
        bound: Route | None = None
        lost: Kept | None = None
        while True:
            try:
                if lost is not None:
                    await self._give_up(lost)
                with self._messages.carrying(self._message_id):
                    return await self._carry_out(bound)
            except _Taken:
                kept = await self._wait_turn()
            if kept is not None and kept.state == "acknowledged":
                return self._known(kept)
            bound = None if kept is None or kept.again else self._same_again(kept)
            lost = kept if bound is None and kept is not None and not kept.again else None

    async def _carry_out(self, bound: Route | None) -> tuple[object, str]:
        try:
            result, by = await self._forward(self._note, bound)
        except AegisError as exc:
            error = exc
        else:
            await self._settle(state="acknowledged", result=result)
            return result, by.instance_id
        if self._kept is None and (await self._find())[0] is not None:
            # That nobody can take it now is no answer where somebody may have taken it before.
            raise _Taken
        await self._settle(state="failed", error=codec.error_to_wire(error), again=_left_no_trace(error))
        raise error

    async def _note(self, where: Route) -> None:
        """Write to whom the message goes now."""
        request, now, before = self._request, self._router.shown_now(), self._kept
        kept = Kept(
            message_id=self._message_id,
            service_name=request.service_name,
            method=request.method,
            resource_id=request.resource_id,
            asked=self._asked,
            router=self._router.tag,
            token=self._router.token,
            instance_id=where.instance.instance_id,
            lease=where.instance.lease,
            epoch=where.epoch,
            retry_count=0 if before is None else before.retry_count + 1,
            created_at=now if before is None else before.created_at,
            updated_at=now,
            ack_deadline=now + timedelta(seconds=max(0.0, self._until - trio.current_time())),
        )
        await self._write(kept)

    async def _write(self, kept: Kept) -> None:
        try:
            self._revision = await self._messages.put(kept, self._revision, until=self._until)
        except Conflict:
            raise _Taken from None
        self._kept = kept

    async def _settle(self, **ended: object) -> None:
        """Write how it ended, if this router still has it; without the store, nobody will know."""
        if self._kept is None:
            return
        kept = attrs.evolve(self._kept, updated_at=self._router.shown_now(), **ended)  # type: ignore[arg-type]
        try:
            await self._messages.put(kept, self._revision, until=trio.current_time() + _SETTLED_WITHIN)
        except (Conflict, StoreUnavailable) as exc:
            self._not_recorded(exc)

    def _not_recorded(self, exc: AegisError) -> None:
        self._router.log.warning("the end of message %s is not recorded: %s", self._message_id, exc)

    async def _wait_turn(self) -> Kept | None:
        """Wait until another router has ended the message, or until it is this one's turn; the record, if there is one.

        Raises:
            CallTimeout: It has not ended in time (MAYBE_EXECUTED).
            AegisError: What it ended in.
            InvalidRequest: The id is another message's.
        """
        pause, refused = _FIRST_LOOK, self._revision
        while True:
            is_carried = self._messages.is_carried(self._message_id)
            self._kept, self._revision = kept, revision = await self._find()
            # What the store has refused to build on is not there any more: the answer is behind.
            if kept is not None and revision != refused:
                self._check_same(kept)
                if kept.state == "acknowledged" or kept.again:
                    return kept
                if kept.state == "failed":
                    raise codec.error_from_wire(kept.error)
                if kept.router == self._router.tag:
                    if not is_carried:
                        return kept
                elif self._is_abandoned(kept) or not await _told(self._router.lives(kept.router, kept.token)):
                    return kept
            if trio.current_time() + pause >= self._until:
                raise self._unknown("it is being carried out")
            await trio.sleep(pause)
            if kept is None:
                return None  # It has been forgotten meanwhile, or the store's answer was behind.
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _is_abandoned(self, kept: Kept) -> bool:
        """Whether the sender, too, of what was written has long stopped waiting.

        The record's times are of another machine, and say how long that was to wait; since when, this one's clock does.
        """
        patience = (kept.ack_deadline - kept.updated_at).total_seconds() + _ABANDONED_AFTER
        return self._messages.known_for(self._message_id, self._revision) > patience

    async def _find(self) -> tuple[Kept | None, int]:
        return await _told(self._messages.find(self._message_id))

    def _check_same(self, kept: Kept) -> None:
        request = self._request
        asked = (request.service_name, request.method, request.resource_id)
        if asked != (kept.service_name, kept.method, kept.resource_id):
            raise InvalidRequest.at("$.message_id", f"it is the id of a call of {kept.service_name}.{kept.method}")
        if kept.asked not in {"", self._asked}:
            raise InvalidRequest.at(
                "$.message_id", "it is the id of a call with other parameters, or of another caller"
            )

    def _same_again(self, kept: Kept) -> Route | None:
        """The way to the very incarnation that has the message, if it lives and executes no message twice."""
        instance = self._router.node.runtime.directory.snapshot.by_lease(kept.lease)
        if instance is None or not has_scopes(instance):
            return None
        return Route(instance, kept.epoch, "message")

    def _known(self, kept: Kept) -> tuple[object, str]:
        if kept.unkept:
            raise self._unknown("it was carried out, and its result is too large to be kept")
        return kept.result, kept.instance_id

    async def _give_up(self, kept: Kept) -> NoReturn:
        """Write that nobody knows what became of the message; raises that, or `_Taken` where somebody knows more."""
        error = self._unknown(f"its end is not recorded, and instance {kept.instance_id!r} cannot tell")
        ended = attrs.evolve(
            kept,
            updated_at=self._router.shown_now(),
            router=self._router.tag,
            state="failed",
            error=codec.error_to_wire(error),
        )
        try:
            await self._messages.put(ended, self._revision, until=trio.current_time() + _SETTLED_WITHIN)
        except Conflict:
            raise _Taken from None
        except StoreUnavailable as exc:
            self._not_recorded(exc)
        raise error

    def _unknown(self, why: str) -> CallTimeout:
        what = f"message {self._message_id!r} ({why})"
        return CallTimeout(timeout=self._request.timeout, what=what, outcome=Outcome.MAYBE_EXECUTED)


def _digest(principal: Principal | None, params: Mapping[str, object]) -> str:
    """What *principal* asks for with *params*, in whichever order they come.

    Raises:
        InvalidRequest: They have no form on the wire.
    """
    try:
        try:
            content = json.dumps(dict(params), sort_keys=True, default=_shown).encode()
        except (TypeError, ValueError, RecursionError):  # a map whose keys have no order, say
            content = codec.encode_plain(dict(params))
    except (TypeError, ValueError) as exc:
        raise InvalidRequest.at("$.params", str(exc)) from exc
    return hashlib.sha256(f"{principal or ''}\n".encode() + content).hexdigest()


def _shown(value: object) -> dict[str, str]:
    """What JSON does not know, as something that it does."""
    return {"": codec.encode_plain(value).hex()}


async def _told(asked: Awaitable[T]) -> T:
    """What *asked* gives; where that cannot be known, the message may have been executed all the same."""
    try:
        return await asked
    except (StoreUnavailable, TransportUnavailable) as exc:
        raise attrs.evolve(exc, outcome=Outcome.MAYBE_EXECUTED) from exc


def _left_no_trace(exc: AegisError) -> bool:
    """Whether nothing was executed of a call that ended in *exc*."""
    if isinstance(exc, Unavailable):
        return exc.outcome is not Outcome.MAYBE_EXECUTED
    # An instance that says so may have let its method say so, after it had done something.
    says_so_itself = isinstance(exc, NotFound | InvalidRequest) and not exc.answered_by
    return isinstance(exc, Overloaded) or (says_so_itself and not isinstance(exc, RemoteError))
