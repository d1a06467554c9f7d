"""The ports: what a backend must offer. This file is all that a backend author reads.

A **backend** is opened from a URL and yields a `Backend`: a `Store` (an ordered map of keys to bytes with revisions, TTL, atomic compare-and-set, and one ordered watch), one or more `Transport` s (request and reply to an endpoint), and the `Clock` and random generator by which a node lives. `aegis_core.validation` checks what a store is given, `aegis_pytest.conformance` proves an implementation.

Life of a commit::

    tx = Transaction(id="7c2f", operations=(Put(key, value, expect=ABSENT, ttl=30.0),))
    try:                 revisions = await store.commit(tx)       # all of it, or nothing
    except Conflict:     ...                                      # nothing was changed; an expectation did not hold
    except Indeterminate: ...                                     # fate unknown: commit(tx) again, the very same tx
    except StoreUnavailable: ...                                  # nothing was sent

**Repeating.** A store remembers which transaction wrote each key (and, for at least `Capabilities.settle_for` seconds, which deleted it). `commit` of a transaction that is found to have been applied returns its revisions and changes nothing.
A read that shows nothing proves nothing: only repeating settles a commit. A `Conflict` in answer to a *repeat* settles nothing either: a store forgets who wrote a key when others write it, so the first try may have been applied, and written over since.

**Revisions** are positive integers that grow over the whole store, one per operation, in the order of the operations within a transaction, and never return, not even when a store is made anew.

**Reading.** A consistent read is ``await store.sync()`` and then one's own view, once a `Synced` of its watch has reached the revision that it returned. `get` is for diagnosis: a backend may answer it from a lagging replica.

**Cancellation.** Cancelling `commit` leaves its fate open, as `Indeterminate` does. Cancelling anything else leaves nothing behind.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import MappingProxyType
from typing import Final, Protocol, runtime_checkable

import attrs

from aegis_core.clock import TrioClock
from aegis_core.errors import Conflict, Indeterminate, StoreUnavailable, TransportUnavailable
from aegis_core.models import ABSENT, Value
from aegis_core.served import Served

__all__ = [
    "ABSENT",
    "ANY",
    "Backend",
    "BackendAddress",
    "Bus",
    "Capabilities",
    "Change",
    "Clock",
    "Conflict",
    "Delete",
    "DeleteReason",
    "Entry",
    "Feed",
    "Inbound",
    "Indeterminate",
    "Message",
    "OpenBackend",
    "Operation",
    "Put",
    "Resync",
    "Store",
    "StoreUnavailable",
    "Synced",
    "Transaction",
    "Transport",
    "TransportUnavailable",
    "TrioClock",
]

ANY: Final = -1
"""An expectation that always holds."""


def _expectation(_instance: object, _attribute: object, value: int) -> None:
    if value < ANY:
        raise ValueError(f"expect must be a revision, ABSENT or ANY, got {value}")


@attrs.frozen(eq=False, repr=False)
class Put(Value):
    """Write *value* under *key* if its revision is *expect* (ABSENT: not there; ANY: whatever it is).

    Args:
        key: Tokens of ``[A-Za-z0-9_=/-]`` joined by dots, at most 3,500 characters.
        value: At most `Capabilities.max_value` bytes.
        expect: Revision, `ABSENT` or `ANY`.
        ttl: Seconds from the commit until the store deletes the key, more than 0, at least `Capabilities.min_ttl`; None for never, also where it had one.
    """

    key: str
    value: bytes
    expect: int = attrs.field(validator=_expectation)
    ttl: float | None = None


@attrs.frozen(eq=False, repr=False)
class Delete(Value):
    """Delete *key* if its revision is *expect*. `ABSENT` only checks that it is not there; `ANY` takes a revision even then."""

    key: str
    expect: int = attrs.field(validator=_expectation)


Operation = Put | Delete


def _in_order(operations: Iterable[Operation]) -> tuple[Operation, ...]:
    return tuple(operations)


def _distinct_keys(_instance: object, _attribute: object, operations: tuple[Operation, ...]) -> None:
    if not operations:
        raise ValueError("a transaction needs at least one operation")
    if len({op.key for op in operations}) != len(operations):
        raise ValueError("a transaction may name each key only once")


@attrs.frozen(eq=False, repr=False)
class Transaction(Value):
    """Operations that happen together or not at all. `id`, 1 to 128 visible ASCII characters, is unique per decision, and the same when it is repeated."""

    id: str
    operations: tuple[Operation, ...] = attrs.field(converter=_in_order, validator=_distinct_keys)
    proofs: tuple[str, ...] = attrs.field(default=(), repr=False)  # the lease ids in whose name it is: secrets


class DeleteReason(enum.Enum):
    """Why a key went: by a `Delete`, or because its TTL ended."""

    DELETED = "DELETED"
    EXPIRED = "EXPIRED"


@attrs.frozen(eq=False, repr=False)
class Entry(Value):
    """A key's value, its revision, and the seconds of TTL it has left (None: permanent)."""

    value: bytes
    revision: int
    ttl_left: float | None = None


@attrs.define(eq=False, repr=False)  # frozen, it would take three times as long to make, for each key of the store
class Change(Value):
    """One key changed. `value` None is a deletion, with its `reason`. Nobody changes it."""

    key: str
    value: bytes | None
    revision: int
    reason: DeleteReason | None = None


@attrs.frozen(eq=False, repr=False)
class Synced(Value):
    """The feed is level: the view shows the whole store as it was at `revision`, or at a later moment.

    Comes after the snapshot, and at the end of every batch after which nothing is pending. A view's revision moves by this mark alone, never by a `Change`: while changes are pending, an older one of another key may have been merged into one of them, so that what was told so far is no state that the store was ever in.
    `generation` names the history that the revision is of, in at most 128 visible ASCII characters, the same for all who read it; "" where the store does not tell. After a set-back it is another one: whoever comes back sees that.
    """

    revision: int
    generation: str = ""


@attrs.frozen(eq=False, repr=False)
class Resync(Value):
    """The feed lost the thread: what follows is a new snapshot ending in `Synced`; keys that it lacks are gone.

    If `recounted`, told at once, the store is another one, or was set back: revisions of before mean nothing, lower ones may follow.
    """

    reason: str
    recounted: bool = False


class Feed(Protocol):
    """One reader's end of a watch."""

    async def receive(self) -> Sequence[Change | Synced | Resync]:
        """The next items, at least one, in growing order of revision; waits while there are none.

        A snapshot first (each key once), then `Synced`, then changes. Changes to a key that this reader has not yet
        taken may be merged to the newest. The changes of one transaction come in one batch where the store can. An
        expired TTL is a deletion with reason EXPIRED. Never raises because the server is away: it reconnects,
        catches up, and tells a gap by `Resync`.

        Raises:
            trio.ClosedResourceError: The watch's block has been left.
        """
        ...


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Capabilities(Value):
    """What a store can do, verified when it was opened.

    Args:
        min_ttl: Smallest TTL of a `Put`, seconds.
        ttl_resolution: A TTL is rounded up to a multiple of this, seconds; 0 for none.
        max_transaction: Most operations in one `Transaction`.
        max_value: Most bytes of one value.
        settle_for: Seconds during which a deletion is recognised as one's own when its transaction is repeated.
        durable: Whether what was acknowledged survives a restart of the store.
        guarded: Whether somebody judges each transaction by its `Transaction.proofs` before it is committed.
    """

    min_ttl: float = 0.0
    ttl_resolution: float = 0.0
    max_transaction: int = 1000
    max_value: int = 1 << 20
    settle_for: float = 600.0
    durable: bool = False
    guarded: bool = False


@runtime_checkable
class Store(Protocol):
    """An ordered map of keys to bytes. See the module's docstring for the contract."""

    @property
    def capabilities(self) -> Capabilities:
        """Fixed while the store is open."""
        ...

    async def commit(self, transaction: Transaction) -> tuple[int, ...]:
        """Apply *transaction* wholly, and return the revision of each operation in order (`ABSENT` for a check).

        Raises:
            Conflict, Forbidden, ResourceLimitExceeded: An expectation or a guard refuses; this call changed nothing.
            Indeterminate: The fate is unknown; repeat.
            StoreUnavailable: Nothing was sent.
            ValueError: No state of the store could take it; see `aegis_core.validation.validate_transaction`.
        """
        ...

    def watch(self) -> AbstractAsyncContextManager[Feed]:
        """A feed of the whole store, from a snapshot on."""
        ...

    async def sync(self) -> int:
        """A revision not below that of any commit acknowledged to anybody before this call.

        A view whose watch has reached it has seen them all.

        Raises:
            StoreUnavailable: The store does not answer.
        """
        ...

    async def get(self, key: str) -> Entry | None:
        """What is under *key*, possibly stale; for diagnosis only.

        Raises:
            StoreUnavailable: The store does not answer; never an empty answer instead.
        """
        ...


class Inbound(Protocol):
    """A request that arrived."""

    @property
    def payload(self) -> bytes:
        """The request's bytes, at most the transport's `max_payload`."""
        ...

    def respond(self, payload: bytes) -> None:
        """Send the answer. At most once; never blocks, never raises: an answer nobody can receive is dropped."""


@runtime_checkable
class Transport(Protocol):
    """Requests to endpoints, answers back. It neither retries nor interprets.

    A node's server bounds the requests that it holds at once, so a transport may buffer answers without limit of its own.
    """

    @property
    def scheme(self) -> str:
        """The URL scheme of this transport's endpoints, e.g. ``"memory"``."""
        ...

    @property
    def max_payload(self) -> int:
        """Most bytes of a request or an answer."""
        ...

    def endpoint(self, instance_id: str, tag: str) -> str:
        """The URL of *instance_id* with *tag*, whether anybody listens there or not; an address (HTTP) is this node's."""
        ...

    def listen(
        self, instance_id: str, tag: str, receive: Callable[[Inbound], None]
    ) -> AbstractAsyncContextManager[str]:
        """Serve requests for *instance_id* while the block runs; yields the endpoint's URL.

        Args:
            instance_id: The instance that is served.
            tag: Lease tag; another incarnation of the same id has another, and never gets this one's requests. Empty
                for an instance that is not registered.
            receive: Called once for each request, in the order of arrival of one sender; must not block nor raise.

        Raises:
            ValueError: This transport knows that somebody listens under that id and tag already.
        """
        ...

    async def request(self, endpoint: str, payload: bytes, *, timeout: float) -> bytes:
        """Send *payload* to *endpoint* and return the answer.

        Cancelled or timed out, the request may still be carried out, and a late answer is dropped.

        Raises:
            TransportUnavailable: With outcome NOT_SENT when nobody listens there (known at once) or nothing was
                sent; with MAYBE_EXECUTED when the connection broke after sending.
            trio.TooSlowError: No answer within *timeout* seconds.
            ValueError: *payload* is larger than `max_payload`, or *endpoint* is not one of this transport's.
        """
        ...


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Message(Value):
    """What came in on a subject. `reply` is where an answer goes; `unheard`: it stands for one, nobody had subscribed."""

    subject: str
    payload: bytes
    reply: str = ""
    headers: Mapping[str, str] = MappingProxyType({})
    unheard: bool = False


class Bus(Protocol):
    """Publish and subscribe by subject (tokens joined by dots), for whoever speaks without our endpoints."""

    @property
    def max_payload(self) -> int:
        """Most bytes of a message."""
        ...

    def subscribe(
        self, subject: str, receive: Callable[[Message], None], *, queue: str = ""
    ) -> AbstractAsyncContextManager[None]:
        """Hand what is published on *subject* while the block runs to *receive*, which must not block nor raise.

        A token ``*`` stands for any one, a last ``>`` for one or more; of each *queue* one member gets a message ("": all).
        """
        ...

    def publish(self, subject: str, payload: bytes, reply: str = "", headers: Mapping[str, str] | None = None) -> None:
        """Send in order, without waiting; *reply* is told when nobody subscribed. `TransportUnavailable` if unconnected, ValueError if wrong."""


class Clock(Protocol):
    """The time a node lives by. All deciding time of a node goes through it, so that tests can skew, drift or stop one node."""

    def now(self) -> float:
        """Monotonic seconds."""
        ...

    def trio_time(self, at: float) -> float:
        """The time *at* of this clock on Trio's, for deadlines of cancel scopes."""
        ...

    async def sleep_until(self, at: float) -> None:
        """Wait until `now` is at least *at*; a checkpoint in any case."""


def _read_only(parameters: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType(dict(parameters))


@attrs.frozen(eq=False, repr=False)
class BackendAddress(Value):
    """A parsed backend URL: ``scheme://location?parameter=…`` (the location as it is written), without the settings of the node."""

    url: str = attrs.field(repr=False)  # It may hold a password.
    scheme: str
    location: str = attrs.field(repr=lambda text: repr(text.rpartition("@")[2]))
    parameters: Mapping[str, str] = attrs.field(factory=dict, converter=_read_only, repr=lambda given: repr([*given]))


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Backend(Value):
    """What opening a backend yields; `store` is None where the registry is a router's. Routers need all of it."""

    store: Store | None
    transports: tuple[Transport, ...]
    bus: Bus | None = None
    # A second store that routers share and nobody mirrors: neither watch nor sync is used.
    open_messages: Callable[[], AbstractAsyncContextManager[Store]] | None = None
    announce: Callable[[Served], AbstractContextManager[None]] | None = None  # to the backend's own tools, while served
    clock: Clock = attrs.field(factory=TrioClock)
    random: random.Random = attrs.field(factory=random.Random)
    reconnects: Callable[[], int] = int  # how often a lost connection was made anew, for metrics


OpenBackend = Callable[[BackendAddress], AbstractAsyncContextManager[Backend]]
"""What a plug-in registers for a URL scheme: opened before the node, left after it.
Raise `ConfigError` for parameters that it does not know, `StoreUnavailable` or `TransportUnavailable` when there is no server.
"""
