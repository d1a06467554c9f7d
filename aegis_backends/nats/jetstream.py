"""The few requests to JetStream that a store needs: JSON on ``$JS.API.>``, acknowledgements of what was published.

Every request may be lost without a word (right after a cluster started, while a leader changes), so that each has a
time-out and is repeated; all of them may be, because none does more when it is done twice.
"""

from __future__ import annotations

import base64
import json
import random
import re
from collections.abc import Mapping
from typing import ClassVar, Final

import attrs
import trio

from aegis_backends.nats.connection import Connection
from aegis_backends.nats.errors import Disconnected, NatsError, NoResponders, PendingFull
from aegis_backends.nats.headers import Headers
from aegis_core.errors import StoreUnavailable

__all__ = [
    "Acknowledgement",
    "Consumer",
    "Delivery",
    "JetStream",
    "JetStreamError",
    "StoredMessage",
    "StreamInfo",
    "parse_acknowledgement",
    "parse_delivery",
]

NO_STREAM: Final = 10059
NO_MESSAGE: Final = 10037
NAME_IN_USE: Final = 10058
WRONG_LAST: Final = 10071
"""A message's expectation of its subject (or of another one) did not hold; nothing was stored."""
IN_FLIGHT: Final = 10164
"""Another write of the subject is on its way through the cluster: the same again, a moment later."""
UNDECIDED: Final = frozenset({10175, 10176})
"""Part of a batch was lost with a leader, or with a connection: what became of it only the view can tell."""
NO_CLUSTER: Final = 10074
"""More than one replica, on a server that is in no cluster."""
NOT_ENABLED: Final = frozenset({10039, 10076})

# Codes of the 400s that time mends: no peers yet, no leader yet.
_PASSING: Final = frozenset({10005, 10008, IN_FLIGHT})
# No revision has more digits, and no server may make us read as many as it likes.
_LAST: Final = re.compile(r".: ([0-9]{1,20})\Z")
# What the answer to a message that was stored is nearly always: a tenth of the time that it takes to read it as JSON.
_STORED: Final = re.compile(rb'\{"stream":"[A-Za-z0-9_-]++", ?"seq":([1-9][0-9]{0,18})\}')
_ONE_TRY: Final = 2.0
_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 0.25


@attrs.define(eq=False, repr=False, slots=False, kw_only=True)
class JetStreamError(NatsError):
    """JetStream refused a request. `status` is like HTTP's, `number` says exactly what, `description` says it in words."""

    code: ClassVar[str] = "NATS_JETSTREAM_ERROR"
    status: int
    number: int
    description: str

    @property
    def message(self) -> str:
        """What JetStream said, with its numbers."""
        return f"JetStream: {self.description} ({self.status}/{self.number})"

    @property
    def passes(self) -> bool:
        """Whether the same request may succeed a moment later."""
        return self.status in (429, 503) or self.number in _PASSING

    @property
    def last(self) -> int:
        """The revision that a failed expectation should have named: 0 for a subject without message, -1 if not told."""
        found = _LAST.search(self.description)
        return int(found[1]) if found else -1


@attrs.frozen
class Acknowledgement:
    """A message, or a batch of `count`, was stored; the last has the revision `sequence`."""

    sequence: int
    count: int = 1


# Not frozen, as it is made for each message: freezing would triple what that costs.
@attrs.define
class Delivery:
    """Where a message that a consumer delivers stands. Nobody changes it.

    Args:
        stream: Its revision.
        consumer: Its number among those that this consumer delivered, from 1 on.
        stored_at: When it was stored, nanoseconds since 1970 on the clock of the server that led then.
        pending: How many the consumer is still going to deliver, as far as the server knew.
    """

    stream: int
    consumer: int
    stored_at: int
    pending: int


@attrs.frozen(kw_only=True)
class StreamInfo:
    """What JetStream tells of a stream.

    Args:
        config: Its configuration, whole, as a later update must send it.
        created: When it was made; tells one stream from its successor of the same name.
        last: The revision of its last message.
        current: The servers that have all of it, by its leader's word; none of them if who answers knows of no leader.
            None: it is on one server only.
    """

    config: Mapping[str, object]
    created: str
    last: int
    current: frozenset[str] | None


@attrs.frozen(kw_only=True)
class Consumer:
    """A consumer that was made.

    Args:
        pending: How many messages it is going to deliver at once.
        server: Where it lives; "" without a cluster.
    """

    pending: int
    server: str


@attrs.frozen(kw_only=True)
class StoredMessage:
    """A message as it is stored; `stored_at` is RFC 3339."""

    subject: str
    sequence: int
    stored_at: str
    headers: Headers
    payload: bytes


def _read(payload: bytes) -> dict[str, object]:
    """The JSON object in *payload*.

    Raises:
        JetStreamError: It tells an error, or is none.
    """
    try:
        answer = json.loads(payload)
    except (ValueError, RecursionError) as exc:
        raise JetStreamError(status=500, number=0, description=f"an answer that is no JSON: {payload[:200]!r}") from exc
    if not isinstance(answer, dict):
        raise JetStreamError(status=500, number=0, description=f"an answer that is no object: {payload[:200]!r}")
    error = answer.get("error")
    if isinstance(error, dict):
        raise JetStreamError(
            status=_integer(error, "code"),
            number=_integer(error, "err_code"),
            description=_text(error, "description"),
        )
    return answer


def _integer(answer: Mapping[str, object], name: str) -> int:
    value = answer.get(name, 0)
    return value if isinstance(value, int) else 0


def _text(answer: Mapping[str, object], name: str) -> str:
    value = answer.get(name, "")
    return value if isinstance(value, str) else ""


def _object(answer: Mapping[str, object], name: str) -> dict[str, object]:
    value = answer.get(name)
    return value if isinstance(value, dict) else {}


def parse_acknowledgement(payload: bytes) -> Acknowledgement:
    """What the answer to a published message says.

    Raises:
        JetStreamError: It was refused, or the answer is no acknowledgement.
    """
    plain = _STORED.fullmatch(payload)
    if plain is not None:
        return Acknowledgement(int(plain[1]))
    answer = _read(payload)
    sequence = _integer(answer, "seq")
    if sequence <= 0:
        raise JetStreamError(status=500, number=0, description=f"no acknowledgement: {payload[:200]!r}")
    return Acknowledgement(sequence, max(1, _integer(answer, "count")))


def parse_delivery(reply: str) -> Delivery | None:
    """Where the message with this reply subject stands; None if that is no consumer's.

    Both forms are read: ``$JS.ACK.stream.consumer.…``, and the one with domain and account before the stream.
    """
    if not reply.startswith("$JS.ACK."):
        return None
    tokens = reply.split(".")
    if len(tokens) == 9:
        stream, consumer, at, pending = tokens[5:]
    elif len(tokens) >= 11:
        stream, consumer, at, pending = tokens[7:11]
    else:
        return None
    try:
        return Delivery(int(stream), int(consumer), int(at), int(pending))
    except ValueError:
        return None


class JetStream:
    """Requests over *connection*.

    Args:
        connection: The client.
        within: Seconds for one request with all of its repeats.
        random: Where jitter comes from.
    """

    def __init__(self, connection: Connection, *, within: float = 5.0, random: random.Random) -> None:
        self._connection = connection
        self._within = within
        self._random = random

    def __repr__(self) -> str:
        return f"<JetStream over {self._connection!r}>"

    async def account(self) -> Mapping[str, object]:
        """What this user may use, and the level of the API.

        Raises:
            JetStreamError: JetStream is not enabled.
            StoreUnavailable: No answer.
        """
        return await self.call("INFO")

    async def stream(self, name: str) -> StreamInfo:
        """What there is of stream *name*.

        Raises:
            JetStreamError: `NO_STREAM`: there is none.
            StoreUnavailable: No answer.
        """
        return _stream_info(await self.call(f"STREAM.INFO.{name}"))

    async def create_stream(self, config: Mapping[str, object]) -> StreamInfo:
        """Make a stream; one that has this very configuration is left as it is.

        Raises:
            JetStreamError: `NAME_IN_USE`: there is one with another configuration. Else: the server cannot do it.
            StoreUnavailable: No answer.
        """
        return _stream_info(await self.call(f"STREAM.CREATE.{config['name']}", config))

    async def update_stream(self, config: Mapping[str, object]) -> StreamInfo:
        """Give a stream the configuration *config*, which must be whole: what it lacks is reset.

        Raises:
            JetStreamError: The server cannot do it.
            StoreUnavailable: No answer.
        """
        return _stream_info(await self.call(f"STREAM.UPDATE.{config['name']}", config))

    async def delete_stream(self, name: str) -> None:
        """Remove a stream with all that is in it; none is fine.

        Raises:
            StoreUnavailable: No answer.
        """
        try:
            await self.call(f"STREAM.DELETE.{name}")
        except JetStreamError as exc:
            if exc.number != NO_STREAM:
                raise

    async def create_consumer(self, stream: str, config: Mapping[str, object]) -> Consumer:
        """Make a consumer.

        Raises:
            JetStreamError: The server cannot do it.
            StoreUnavailable: No answer.
        """
        subject = f"CONSUMER.CREATE.{stream}.{config['name']}"
        answer = await self.call(subject, {"stream_name": stream, "action": "create", "config": config})
        return Consumer(
            pending=_integer(answer, "num_pending"),
            server=_text(_object(answer, "cluster"), "leader"),
        )

    def delete_consumer(self, stream: str, name: str) -> None:
        """Ask that a consumer be removed, without waiting: the server removes it by itself some time after."""
        try:
            self._connection.publish(f"$JS.API.CONSUMER.DELETE.{stream}.{name}")
        except NatsError:
            return

    async def last_message(self, stream: str, subject: str) -> StoredMessage | None:
        """The newest message of *subject*, as the stream's leader knows it.

        Raises:
            StoreUnavailable: No answer.
        """
        return await self._message(stream, {"last_by_subj": subject})

    async def message(self, stream: str, sequence: int) -> StoredMessage | None:
        """The message with that revision, if it is still there.

        Raises:
            StoreUnavailable: No answer.
        """
        return await self._message(stream, {"seq": sequence})

    async def _message(self, stream: str, which: Mapping[str, object]) -> StoredMessage | None:
        try:
            found = _object(await self.call(f"STREAM.MSG.GET.{stream}", which), "message")
        except JetStreamError as exc:
            if exc.number == NO_MESSAGE:
                return None
            raise
        try:
            head, payload = (base64.b64decode(_text(found, name)) for name in ("hdrs", "data"))
        except ValueError as exc:
            raise JetStreamError(status=500, number=0, description=f"a message that is no base64: {exc}") from exc
        return StoredMessage(
            subject=_text(found, "subject"),
            sequence=_integer(found, "seq"),
            stored_at=_text(found, "time"),
            headers=Headers.parse(head),
            payload=payload,
        )

    async def call(self, operation: str, body: Mapping[str, object] | None = None) -> dict[str, object]:
        """Send one request, and again while it is lost or the server asks for patience.

        Raises:
            JetStreamError: It was refused for good.
            StoreUnavailable: There was no answer in time.
        """
        subject = f"$JS.API.{operation}"
        payload = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
        pause, why = _FIRST_PAUSE, "no answer"
        with trio.move_on_after(self._within):
            while True:
                try:
                    answer = await self._connection.request(subject, payload, timeout=_ONE_TRY)
                    return _read(answer.payload)
                except JetStreamError as exc:
                    if not exc.passes:
                        raise
                    why = exc.message
                except NoResponders:
                    why = (
                        "nobody answers for JetStream: it is not enabled there (nats-server -js), or has no leader now"
                    )
                except trio.TooSlowError:
                    why = "no answer"
                except (Disconnected, PendingFull) as exc:
                    why = exc.message
                await trio.sleep(pause * (0.5 + self._random.random()))
                pause = min(2 * pause, _LONGEST_PAUSE)
        raise StoreUnavailable(reason=f"{operation} did not succeed within {self._within:g} s: {why}")


def _stream_info(answer: Mapping[str, object]) -> StreamInfo:
    return StreamInfo(
        config=_object(answer, "config"),
        created=_text(answer, "created"),
        last=_integer(_object(answer, "state"), "last_seq"),
        current=_current(_object(answer, "cluster")),
    )


def _current(cluster: Mapping[str, object]) -> frozenset[str] | None:
    replicas = cluster.get("replicas")
    peers = [one for one in replicas if isinstance(one, dict)] if isinstance(replicas, list) else []
    if not peers:
        return None
    leader = _text(cluster, "leader")
    # Without a leader, whoever answers knows of none: it may be the one that is cut off.
    return frozenset((leader, *(_text(one, "name") for one in peers if one.get("current") is True)) if leader else ())
