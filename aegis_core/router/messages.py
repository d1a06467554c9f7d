"""What became of messages: one record for each message id, in a store that all routers share.

A record says who carries the message out: the router (by the lease of its own instance) and the instance that was chosen
(by its lease), and later how it ended. A router writes it before it sends anything, so whoever gets the same message
again, here or at another router, knows whom to wait for, or what to answer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Final, Literal

import attrs
import trio

from aegis_core import codec
from aegis_core.backend import ABSENT, Indeterminate, Put, Store, StoreUnavailable, Transaction
from aegis_core.errors import AegisError, NotFound
from aegis_core.models import Value
from aegis_core.names import escape
from aegis_core.node.runtime import Runtime

__all__ = ["Kept", "MessageNotFound", "Messages"]

MOST_KNOWN: Final = 10_000
"""Messages of other routers of which one remembers since when it has known them."""

_PAUSE: Final = 0.05
# Of a record's size, what everything but the answer may take.
_REST: Final = 16_384
_MOST_VALUES: Final = 1_000_000


@attrs.define(eq=False, repr=False, slots=False, kw_only=True)
class MessageNotFound(NotFound):
    """No router knows the message: it never came, it was asked for without an id, or it has been forgotten."""

    message_id: str

    @property
    def message(self) -> str:
        """Which message."""
        return f"message {self.message_id!r} is not known"


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Kept(Value):
    """The record of one message.

    Args:
        message_id: As its sender named it.
        service_name: Which service it calls.
        method: Which method.
        resource_id: Which resource, or nil.
        asked: A digest of who asked for it, and with which parameters; "" where an older router wrote it.
        router: Tag of the lease of the router that carries it out.
        token: Of that router, as of `aegis_core.router.inboxes.Inboxes.hears`; "" where it has no subjects.
        instance_id: Who was chosen.
        lease: Tag of that instance's lease.
        epoch: Of the resource, as it was sent.
        state: ``pending`` until it has ended.
        result: What the method returned.
        unkept: Its result was too large to be kept.
        error: What it ended in, as it travels, or nil.
        again: It failed before anything was executed, so that it may be carried out after all.
        retry_count: How often it was given to another instance, or taken over by another router.
        created_at: When it first came.
        updated_at: When this was written.
        ack_deadline: When its sender stops waiting.
    """

    message_id: str
    service_name: str
    method: str
    resource_id: str | None = None
    asked: str = ""
    router: str
    token: str = ""
    instance_id: str
    lease: str
    epoch: int = ABSENT
    state: Literal["pending", "acknowledged", "failed"] = "pending"
    result: object = None
    unkept: bool = False
    error: object = None
    again: bool = False
    retry_count: int = 0
    created_at: datetime
    updated_at: datetime
    ack_deadline: datetime


class Messages:
    """The records, as one router reads and writes them.

    Args:
        runtime: The router's node.
        store: Where they are kept.
    """

    def __init__(self, runtime: Runtime, store: Store) -> None:
        self._runtime = runtime
        self._store = store
        self._retention = max(runtime.settings.message_retention, store.capabilities.min_ttl)
        self._carried: dict[str, int] = {}
        self._known: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Messages in {self._store!r}>"

    @contextmanager
    def carrying(self, message_id: str) -> Iterator[None]:
        """Show in `is_carried` that this router has the message under way, or tries to, while the block runs."""
        self._carried[message_id] = self._carried.get(message_id, 0) + 1
        try:
            yield
        finally:
            self._carried[message_id] -= 1
            if not self._carried[message_id]:
                del self._carried[message_id]

    def is_carried(self, message_id: str) -> bool:
        """Whether this router has the message under way."""
        return message_id in self._carried

    def known_for(self, message_id: str, revision: int) -> float:
        """Seconds since this router was first asked this about the message's record at *revision*."""
        now = self._runtime.clock.now()
        known = self._known.get(message_id)
        if known is None or known[0] != revision:
            known = self._known[message_id] = revision, now
            self._known.move_to_end(message_id)
            if len(self._known) > MOST_KNOWN:
                self._known.popitem(last=False)
        return now - known[1]

    async def find(self, message_id: str) -> tuple[Kept | None, int]:
        """The record of a message and its revision; None and `ABSENT` where there is none. Perhaps a moment behind.

        Raises:
            StoreUnavailable: The store does not answer, or what is there cannot be read.
        """
        entry = await self._store.get(_key(message_id))
        if entry is None:
            return None, ABSENT
        try:
            return codec.structure_request(codec.decode_plain(entry.value, most=_MOST_VALUES), Kept), entry.revision
        except (codec.DecodeError, AegisError) as exc:
            raise StoreUnavailable(reason=f"the record of message {message_id!r} cannot be read: {exc}") from exc

    async def put(self, kept: Kept, expect: int, *, until: float) -> int:
        """Write *kept* where the revision is *expect*; the new one. *until* is Trio's time to give up at.

        Raises:
            Conflict: Another router wrote it.
            StoreUnavailable: It did not answer in time. What was written may stand.
        """
        value = codec.encode_plain(kept)
        if len(value) > self._store.capabilities.max_value - _REST:
            value = codec.encode_plain(attrs.evolve(kept, result=None, unkept=True))
        write = Put(_key(kept.message_id), value, expect, ttl=self._retention)
        transaction = Transaction(self._runtime.new_id(16), (write,))
        while True:
            try:
                (revision,) = await self._store.commit(transaction)
            except Indeterminate as exc:
                if trio.current_time() + _PAUSE >= until:
                    raise StoreUnavailable(reason=f"the record of a message: {exc}") from exc
                await trio.sleep(_PAUSE)
            else:
                return revision


def _key(message_id: str) -> str:
    return f"messages.{escape(message_id)}"
