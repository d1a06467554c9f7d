"""Publish and subscribe within one process.

A message is handed over at once, in the task of its publisher; what receivers publish meanwhile waits for its turn, so
that everybody hears messages in the order in which they were published, and an exchange of any length needs no stack.
"""

from __future__ import annotations

import contextvars
import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Final

import attrs
import trio

from aegis_backends.memory.transport import MAX_PAYLOAD
from aegis_core.backend import Message

__all__ = ["MemoryBus"]

_SUBJECT: Final = re.compile(r"[^\s.*>]+(?:\.[^\s.*>]+)*")
_PATTERN: Final = re.compile(r"(?:\*|[^\s.*>]+)(?:\.(?:\*|[^\s.*>]+))*(?:\.>)?|>")


@attrs.define(eq=False)
class _Subscription:
    pattern: tuple[str, ...]
    receive: Callable[[Message], None]
    queue: str
    context: contextvars.Context

    def matches(self, subject: tuple[str, ...]) -> bool:
        """Whether it is subscribed to *subject*."""
        pattern = self.pattern
        if pattern[-1] == ">":
            pattern = pattern[:-1]
            if len(subject) <= len(pattern):
                return False
        elif len(subject) != len(pattern):
            return False
        return all(wanted in ("*", token) for wanted, token in zip(pattern, subject, strict=False))


class MemoryBus:
    """The subjects of one memory cluster, used by all of its nodes; see `aegis_core.backend.Bus`."""

    def __init__(self) -> None:
        self._subscriptions: dict[_Subscription, None] = {}
        self._pending: deque[Message] = deque()
        self._delivering = False

    def __repr__(self) -> str:
        return f"<MemoryBus with {len(self._subscriptions)} subscriptions>"

    @property
    def max_payload(self) -> int:
        """That of the transport: one MiB."""
        return MAX_PAYLOAD

    @asynccontextmanager
    async def subscribe(
        self, subject: str, receive: Callable[[Message], None], *, queue: str = ""
    ) -> AsyncIterator[None]:
        """Hand what is published on *subject* to *receive*, in the context variables of the subscriber.

        Raises:
            ValueError: *subject* is none.
        """
        if not _PATTERN.fullmatch(subject):
            raise ValueError(f"{subject!r} is not a subject to subscribe to")
        await trio.lowlevel.checkpoint()
        subscription = _Subscription(tuple(subject.split(".")), receive, queue, contextvars.copy_context())
        self._subscriptions[subscription] = None
        try:
            yield
        finally:
            del self._subscriptions[subscription]

    def publish(self, subject: str, payload: bytes, reply: str = "", headers: Mapping[str, str] | None = None) -> None:
        """Hand *payload* to who has subscribed, before this returns unless a message is being handed over.

        Raises:
            ValueError: A larger payload than `max_payload`, or no subject.
        """
        if len(payload) > MAX_PAYLOAD:
            raise ValueError(f"a message has at most {MAX_PAYLOAD} bytes, this one {len(payload)}")
        for name in (subject, reply) if reply else (subject,):
            if not _SUBJECT.fullmatch(name):
                raise ValueError(f"{name!r} is not a subject to publish on")
        told = MappingProxyType(dict(headers or {}))
        self._pending.append(Message(subject=subject, payload=bytes(payload), reply=reply, headers=told))
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._pending:
                self._deliver(self._pending.popleft())
        finally:
            self._delivering = False

    def _deliver(self, message: Message) -> None:
        tokens = tuple(message.subject.split("."))
        chosen: list[_Subscription] = []
        groups: dict[str, _Subscription] = {}
        for subscription in self._subscriptions:
            if not subscription.matches(tokens):
                continue
            if not subscription.queue:
                chosen.append(subscription)
            else:
                groups.setdefault(subscription.queue, subscription)
        for first in groups.values():
            # To the end, so that the members of a queue take turns.
            del self._subscriptions[first]
            self._subscriptions[first] = None
        for subscription in (*chosen, *groups.values()):
            subscription.context.run(subscription.receive, message)
        if not chosen and not groups and message.reply:
            self._pending.append(Message(subject=message.reply, payload=b"", unheard=True))
