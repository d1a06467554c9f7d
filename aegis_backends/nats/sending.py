"""Sending a transaction once, and what the answer means; both stores do the deciding around it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

import trio

from aegis_backends.nats.batch import encode_transaction
from aegis_backends.nats.connection import Connection
from aegis_backends.nats.errors import Disconnected, NatsError
from aegis_backends.nats.jetstream import UNDECIDED, JetStreamError, parse_acknowledgement
from aegis_core.backend import Indeterminate, StoreUnavailable, Transaction

__all__ = ["Sender", "refused"]

_ANSWER_WITHIN: Final = 3.0
# After so many bytes of a batch it is waited until few wait to be sent: not for each member, as they leave together.
_AT_ONCE: Final = 1 << 18


class Sender:
    """Publishes transactions, each attempt under a name of its own.

    Args:
        connection: The client.
        prefix: What the subjects of the bucket begin with.
        random: Where the names come from.
    """

    def __init__(self, connection: Connection, prefix: str, *, random: random.Random) -> None:
        self._connection = connection
        self._prefix = prefix
        self._nonce = f"{random.getrandbits(64):016x}"
        self._count = 0

    def __repr__(self) -> str:
        return f"<Sender, {self._count} sent>"

    async def send(self, transaction: Transaction, expected: Sequence[int]) -> int:
        """Publish *transaction* once; returns the revision of its last message.

        Args:
            transaction: What to publish.
            expected: For each operation the revision of its key's last message, deletions included; 0 for none.

        Raises:
            JetStreamError: It was refused; `refused` tells what that means, unless it is about what was expected.
            Indeterminate: There was no answer.
            StoreUnavailable: It was not sent.
        """
        self._count += 1
        nonce = f"{self._nonce}-{self._count}"
        *first, last = encode_transaction(transaction, expected, prefix=self._prefix, nonce=nonce)
        try:
            size = 0
            for message in first:
                size += len(message.subject) + len(message.payload)
                if size > _AT_ONCE:
                    await self._ready()
                    size = 0
                self._connection.publish(message.subject, message.payload, headers=message.head)
            answer = await self._connection.request(
                last.subject, last.payload, headers=last.head, timeout=_ANSWER_WITHIN
            )
        except trio.TooSlowError:
            raise Indeterminate(reason=f"no answer within {_ANSWER_WITHIN:g} s") from None
        except Disconnected as exc:
            if exc.sent:
                raise Indeterminate(reason=exc.message) from exc
            raise StoreUnavailable(reason=exc.message) from exc
        except NatsError as exc:
            # A batch without its last message is nothing.
            raise StoreUnavailable(reason=exc.message) from exc
        return parse_acknowledgement(answer.payload).sequence

    async def _ready(self) -> None:
        with trio.move_on_after(_ANSWER_WITHIN):
            await self._connection.ready()
            return
        raise StoreUnavailable(reason=f"the server took nothing for {_ANSWER_WITHIN:g} s")


def refused(exc: JetStreamError) -> StoreUnavailable | Indeterminate:
    """What a refusal means that is none of an expectation."""
    if exc.number in UNDECIDED or exc.status >= 500:
        return Indeterminate(reason=exc.message)
    return StoreUnavailable(reason=exc.message)
