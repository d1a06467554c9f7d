"""Calls to instances that other programs serve: they listen on their inbox subject, and answer by the correlation id.

A request goes to ``ipc.instance.{instance_id}.inbox``, with the reply subject ``ipc.response.{correlation_id}``; who does
not look at the reply subject makes the same one of the correlation id in the message. One subscription hears all answers
to one router.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import attrs
import trio

from aegis_core import codec
from aegis_core.backend import Bus, Message, TransportUnavailable

__all__ = ["Inboxes", "open_inboxes"]

_SCHEME: Final = "inbox"
_PROBE: Final = ".listening"
_HEARS_WITHIN: Final = 0.5


@attrs.define(eq=False)
class _Waiting:
    """Who waits for one answer."""

    done: trio.Event = attrs.field(factory=trio.Event)
    answer: Message | None = None


class Inboxes:
    """The way to instances by their inbox subjects; see `aegis_core.node.runtime.InboxWay`. Made by `open_inboxes`.

    Args:
        bus: Where they listen.
        token: Part of the subject of all answers; this router's own.
    """

    def __init__(self, bus: Bus, token: str) -> None:
        self._bus = bus
        self._token = token
        self._numbers = itertools.count()
        self._waiting: dict[str, _Waiting] = {}

    def __repr__(self) -> str:
        return f"<Inboxes of {self._token}: {len(self._waiting)} requests waiting>"

    @property
    def max_payload(self) -> int:
        """That of the bus, less what the correlation id may take."""
        return self._bus.max_payload - 64

    def endpoint(self, instance_id: str, tag: str) -> str:
        """``inbox:{instance_id}``, whatever its lease: who listens there is one instance at a time."""
        return f"{_SCHEME}:{instance_id}"

    @property
    def token(self) -> str:
        """By which other routers know whether this one listens; see `hears`."""
        return self._token

    def receive(self, message: Message) -> None:
        """Take an answer; one that nobody waits for any more is dropped. Who asks whether this router listens is told."""
        waiting = self._waiting.get(message.subject)
        if waiting is not None and not waiting.done.is_set():
            waiting.answer = message
            waiting.done.set()
        elif message.reply and message.subject.endswith(_PROBE):
            with suppress(TransportUnavailable, ValueError):
                self._bus.publish(message.reply, b"")

    async def hears(self, token: str) -> bool:
        """Whether the router with *token* listens: not, if it is known that nobody does. The dead are known at once.

        Raises:
            TransportUnavailable: There is no connection.
        """
        subject = f"ipc.response.{self._token}.{next(self._numbers)}"
        waiting = self._waiting[subject] = _Waiting()
        try:
            self._bus.publish(f"ipc.response.{token}{_PROBE}", b"", subject)
            with trio.move_on_after(_HEARS_WITHIN):
                await waiting.done.wait()
        finally:
            del self._waiting[subject]
        return waiting.answer is None or not waiting.answer.unheard

    async def request(self, endpoint: str, payload: bytes, *, timeout: float) -> bytes:
        """Publish *payload*, a request, to the inbox, and wait for its answer.

        Raises:
            TransportUnavailable: Nobody listens there, or there is no connection; nothing was executed.
            trio.TooSlowError: No answer within *timeout* seconds.
        """
        instance_id = endpoint.removeprefix(f"{_SCHEME}:")
        correlation_id = f"{self._token}.{next(self._numbers)}"
        subject = f"ipc.response.{correlation_id}"
        waiting = self._waiting[subject] = _Waiting()
        try:
            correlated = codec.with_correlation(payload, correlation_id)
            self._bus.publish(f"ipc.instance.{instance_id}.inbox", correlated, subject)
            with trio.fail_after(timeout):
                await waiting.done.wait()
        finally:
            del self._waiting[subject]
        answer = waiting.answer
        assert answer is not None
        if answer.unheard:
            raise TransportUnavailable(reason="nobody listens there", endpoint=f"ipc.instance.{instance_id}.inbox")
        return answer.payload


@asynccontextmanager
async def open_inboxes(bus: Bus, token: str) -> AsyncIterator[Inboxes]:
    """Hear the answers to one router while the block runs.

    Raises:
        TransportUnavailable: There is no connection, or the subject is not allowed.
    """
    inboxes = Inboxes(bus, token)
    async with bus.subscribe(f"ipc.response.{token}.*", inboxes.receive):
        yield inboxes
