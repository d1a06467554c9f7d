"""The subjects on which clients of any language speak to routers: ``ipc.*``, MessagePack, request and reply.

Each subject has a queue group, so that of all routers one gets each message. Whoever can publish there is trusted: an
instance is believed by its id where it shows no lease.

A message is answered in a task of its own, so that one whose instance is mute delays nobody else, and always: also what
cannot be read. What comes without a reply subject is carried out all the same. Leaving, a router first gives its subjects
up, takes what is on the way, and ends what it has begun.

What a router has under way is limited by number and by size, for each queue group by itself: a call may wait for minutes
for an instance that is mute, and however many do, heartbeats are taken.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final

import attrs
import trio

from aegis_core import codec
from aegis_core.backend import Bus, Message, TransportUnavailable
from aegis_core.errors import AegisError, InvalidRequest, Overloaded, RemoteError
from aegis_core.models import Value
from aegis_core.router import shapes
from aegis_core.router.operations import OPERATIONS, Operation
from aegis_core.router.router import Router
from aegis_core.router.shapes import Failed, Shape

__all__ = ["SUBJECTS", "Subject", "serve_subjects"]

_log: Final = logging.getLogger("aegis.router")

MOST_AT_ONCE: Final = 10_000
"""Requests of one queue group that one router has under way; what comes on top is answered `Overloaded`."""

MOST_BYTES: Final = 256 * 1024 * 1024
"""What these may take together, as they were sent; what comes on top is answered `Overloaded`."""

_MOST_RESTING: Final = 100
_MOST_VALUES: Final = 1_000_000


@attrs.frozen(eq=False, repr=False)
class Subject(Value):
    """What is served on one subject, ``ipc.`` and the operation's name.

    Args:
        operation: What is done.
        queue: The queue group.
        shape: How failures are told.
    """

    operation: Operation[Any, Any]
    queue: str
    shape: Shape = shapes.plainly

    @property
    def name(self) -> str:
        """The subject."""
        return f"ipc.{self.operation.name}"


SUBJECTS: Final = (
    Subject(OPERATIONS["service.register"], "service-registry"),
    Subject(OPERATIONS["service.unregister"], "service-registry"),
    Subject(OPERATIONS["service.heartbeat"], "service-registry", shapes.heartbeats),
    Subject(OPERATIONS["route.request"], "service-router", shapes.calls),
    Subject(OPERATIONS["message.status"], "service-router"),
    Subject(OPERATIONS["resource.register"], "resource-registry"),
    Subject(OPERATIONS["resource.release"], "resource-registry", shapes.releases),
    Subject(OPERATIONS["resource.bulk_register"], "bulk-resource-registry"),
    Subject(OPERATIONS["resource.bulk_release"], "bulk-resource-registry"),
    Subject(OPERATIONS["resource.transfer"], "resource-registry"),
    Subject(OPERATIONS["resource.query"], "resource-registry"),
)
"""All of them."""


@attrs.define(eq=False)
class _Room:
    """What is under way of one queue group.

    Args:
        requests: How many.
        size: Bytes of all of them.
    """

    requests: int = 0
    size: int = 0

    def refusal(self, size: int) -> Overloaded | None:
        """Why a request of so many bytes is not taken; None where it is."""
        asked = self.requests + 1
        if asked > MOST_AT_ONCE:
            return Overloaded(limit=MOST_AT_ONCE, asked=asked, what="the router")
        if self.requests and self.size + size > MOST_BYTES:
            what = f"the router, by their size of {self.size} bytes,"
            return Overloaded(limit=self.requests, asked=asked, what=what)
        return None


@asynccontextmanager
async def serve_subjects(router: Router, bus: Bus) -> AsyncIterator[None]:
    """Answer on all subjects while the block runs.

    Left normally, requests under way are answered first, within the drain time; cancelled, they are not.

    Raises:
        TransportUnavailable: There is no connection, or a subject is not allowed.
    """
    _log.warning(
        "ipc.* is trusted: whoever may publish there can act in the name of each instance that shows no lease id; "
        "let the permissions of the server say who may"
    )
    wire = _Wire(router, bus)
    try:
        async with AsyncExitStack() as stack:
            for subject in SUBJECTS:
                receive = partial(wire.receive, subject)
                await stack.enter_async_context(bus.subscribe(subject.name, receive, queue=subject.queue))
            yield
        with trio.move_on_after(router.node.runtime.settings.drain):
            await wire.wait_idle()
    finally:
        wire.dismiss()


class _Wire:
    """One router's answers."""

    def __init__(self, router: Router, bus: Bus) -> None:
        self._router = router
        self._bus = bus
        self._nursery = router.node.runtime.nursery
        self._rooms = {subject.queue: _Room() for subject in SUBJECTS}
        self._under_way = 0
        self._idle = trio.Event()
        self._resting: list[trio.lowlevel.Task] = []
        self._handed: dict[trio.lowlevel.Task, tuple[Subject, Message]] = {}

    async def wait_idle(self) -> None:
        """Wait until nothing is under way."""
        while self._under_way:
            self._idle = trio.Event()
            await self._idle.wait()

    def receive(self, subject: Subject, message: Message) -> None:
        """Begin to answer *message*."""
        room, size = self._rooms[subject.queue], len(message.payload)
        error = room.refusal(size)
        if error is not None:
            self._refuse(message, subject.shape, error, {}, trio.current_time())
            return
        room.requests += 1
        room.size += size
        self._under_way += 1
        if self._resting:
            worker = self._resting.pop()
            self._handed[worker] = (subject, message)
            trio.lowlevel.reschedule(worker)
        else:
            self._nursery.start_soon(self._work, subject, message)

    def dismiss(self) -> None:
        """Let the tasks end that have nothing to do."""
        while self._resting:
            trio.lowlevel.reschedule(self._resting.pop())

    async def _work(self, subject: Subject, message: Message) -> None:
        """Answer one message after the other: waking a task takes half as long as making one."""
        task = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._resting.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        while True:
            await self._answer(subject, message)
            if len(self._resting) >= _MOST_RESTING:
                return
            self._resting.append(task)
            await trio.lowlevel.wait_task_rescheduled(abort)
            handed = self._handed.pop(task, None)
            if handed is None:
                return
            subject, message = handed

    async def _answer(self, subject: Subject, message: Message) -> None:
        began, shape = trio.current_time(), subject.shape
        try:
            raw = _fields(message.payload)
        except AegisError as exc:
            self._refuse(message, shape if shape is shapes.releases else shapes.plainly, exc, {}, began)
            self._end(subject, message)
            return
        # Not one try around another: each coroutine and block around a wait costs every call.
        try:
            request = subject.operation.read(raw)
            traceparent = message.headers.get("traceparent", "")
            reply = await subject.operation.carry_out(self._router, request, None, traceparent=traceparent)
            self._publish(message, codec.encode_plain(reply))
        except AegisError as exc:
            self._refuse(message, shape, exc, raw, began)
        except ValueError as exc:
            self._refuse(message, shape, RemoteError(kind="AnswerNotSent", remote_message=str(exc)), raw, began)
        except Exception as exc:  # noqa: BLE001 - an error of ours must neither end the router nor let its client wait
            _log.error("%s failed", subject.name, exc_info=exc)
            self._refuse(message, shape, RemoteError(kind=type(exc).__name__), raw, began)
        finally:
            self._end(subject, message)

    def _end(self, subject: Subject, message: Message) -> None:
        """*message* is no longer under way."""
        room = self._rooms[subject.queue]
        room.requests -= 1
        room.size -= len(message.payload)
        self._under_way -= 1
        if not self._under_way:
            self._idle.set()

    def _refuse(
        self, message: Message, shape: Shape, error: AegisError, raw: Mapping[object, object], began: float
    ) -> None:
        trace_id = raw.get("trace_id")
        failed = Failed(
            error=error,
            raw=raw,
            trace_id=trace_id if isinstance(trace_id, str) and trace_id else self._router.node.runtime.new_id(16),
            at=self._router.shown_now(),
            duration_ms=(trio.current_time() - began) * 1000,
        )
        level = logging.DEBUG if message.reply else logging.WARNING
        _log.log(level, "%s is refused: %s", message.subject, error, extra={"trace_id": failed.trace_id})
        bare = attrs.evolve(failed, error=_bare(error), raw={})
        for each in (failed, bare):
            try:
                self._publish(message, codec.encode_plain(shape(each)))
            except (TypeError, ValueError) as exc:  # it repeats what the client sent, or an instance answered
                _log.debug("%s is not answered so: %s", message.subject, exc)
            else:
                return

    def _publish(self, message: Message, payload: bytes) -> None:
        """Answer *message*, if an answer is wanted and somebody can get it.

        Raises:
            ValueError: The answer is too large, or is to go where nothing can be published.
        """
        if message.reply:
            try:
                self._bus.publish(message.reply, payload)
            except TransportUnavailable as exc:
                _log.debug("%s is not answered: %s", message.subject, exc)


def _fields(payload: bytes) -> dict[object, object]:
    """The fields of the request that *payload* is.

    Raises:
        InvalidRequest: It is none.
    """
    try:
        raw = codec.decode_plain(payload, most=_MOST_VALUES)
    except codec.DecodeError as exc:
        raise InvalidRequest.at("$", str(exc)) from exc
    if not isinstance(raw, dict):
        raise InvalidRequest.at("$", f"expected a map, got {type(raw).__name__}")
    return raw


def _bare(error: AegisError) -> AegisError:
    """What can always be sent of *error*."""
    return RemoteError(remote_code=error.code, remote_message=ascii(error.message)[:1000], kind=type(error).__name__)
