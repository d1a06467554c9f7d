"""What metrics and traces are told of a node's work beside its events: each operation, call and commit.

Instruments are made when a node opens, by its settings. Without any, the node has none to tell (`Runtime.instruments` is
None), and what would tell them is left out where the node's parts are put together: it costs nothing then.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import attrs
import trio

from aegis_core.backend import Transaction
from aegis_core.errors import (
    AegisError,
    ConfigError,
    Conflict,
    Held,
    Indeterminate,
    StoreUnavailable,
    Unavailable,
    VersionConflict,
)
from aegis_core.models import Value

if TYPE_CHECKING:
    from aegis_core.config import Settings
    from aegis_core.node.node import Node

__all__ = ["OPERATIONS", "CallStart", "End", "Instrument", "Instruments", "Operation", "make_instruments", "status_of"]

R = TypeVar("R")

OPERATIONS: Final = (
    "register",
    "heartbeat",
    "deregister",
    "disconnect",
    "set_health",
    "drain",
    "list_services",
    "get_service",
    "list_roles",
    "set_role",
    "claim",
    "release",
    "bulk_register",
    "bulk_release",
    "transfer",
    "rebalance",
    "query_resources",
    "get_owner",
    "explain",
)
"""The operations of `aegis_core.node.registry.Registry`, by the names of its methods."""

End = Callable[[object, BaseException | None], None]
"""Told how something ended: its answer, or what it raised."""


@attrs.frozen(eq=False, repr=False)
class Operation(Value):
    """A registry operation that begins.

    Args:
        name: One of `OPERATIONS`; ``promote``: taking what fell free, as the next in line; ``adopt``: taking over what
            somebody else gave; ``bulk_batch``: a batch of a bulk operation.
        service_name: The service that it concerns, or "".
        instance_id: The instance that it concerns, or "".
        resource_ids: The resources that it concerns.
        traceparent: W3C trace context of who asks for it from elsewhere, or "".
        asked: Somebody else asks for it, another node or the client of a router: it is counted where it is done.
    """

    name: str
    service_name: str = ""
    instance_id: str = ""
    resource_ids: Sequence[str] = ()
    traceparent: str = ""
    asked: bool = False


@attrs.frozen(eq=False, repr=False)
class CallStart(Value):
    """A call that begins: `resource_id` is None where none is called."""

    service_name: str
    method: str
    resource_id: str | None = None


class Instrument:
    """One that is told. Each method is called in the node's tasks, must return at once and must not raise; here they do nothing."""

    def opened(self, node: Node) -> None:
        """The node is there; called once, before anything else."""

    def begin(self, operation: Operation) -> End | None:
        """*operation* begins; what is returned is told how it ended."""

    def begin_call(self, call: CallStart) -> End | None:
        """A call of this node begins, with all its attempts."""

    def attempt_failed(self, service_name: str, error: AegisError) -> None:
        """An attempt of a call failed with *error*, after which another one may be made."""

    def retried(self, reason: str) -> None:
        """A call or a commit is tried again after *reason*, which is an error code in lower case."""

    def committed(self, status: str, seconds: float) -> None:
        """The store was asked to commit once: ``success``, ``conflict``, ``indeterminate``, ``unavailable`` or ``refused``."""

    def looked_up(self, service_name: str, *, found: bool) -> None:
        """An owner was looked up; *service_name* is his, or that of who was expected."""

    def client_cut(self, reason: str) -> None:
        """A client of the router's HTTP server was cut off or refused, for one of the few reasons that the server has."""

    def traceparent(self) -> str:
        """W3C trace context of what is going on, "" if this one knows of none."""
        return ""

    def trace_id(self) -> str:
        """The trace that it is part of, 32 hex digits, or ""."""
        return ""


class Instruments:
    """The instruments of one node, in their order.

    Args:
        instruments: At least one.
    """

    def __init__(self, instruments: Iterable[Instrument]) -> None:
        self.all: Final = tuple(instruments)
        self._now = trio.current_time

    def __repr__(self) -> str:
        return f"<Instruments: {', '.join(type(one).__name__ for one in self.all)}>"

    def opened(self, node: Node) -> None:
        """The node is there: every operation that its registry is asked for is measured from now on, however it is asked."""
        self._now = node.runtime.clock.now
        for one in self.all:
            one.opened(node)
        for name in OPERATIONS:
            setattr(node.registry, name, self._measured(name, getattr(node.registry, name)))

    async def measure(self, operation: Operation, work: Callable[..., Awaitable[R]], *args: object) -> R:
        """Await ``work(*args)``, which is *operation*."""
        return await _told([one.begin(operation) for one in self.all], work, *args)

    async def measure_call(self, call: CallStart, work: Callable[..., Awaitable[R]], *args: object) -> R:
        """Await ``work(*args)``, which is *call*."""
        return await _told([one.begin_call(call) for one in self.all], work, *args)

    async def measure_commit(
        self, commit: Callable[[Transaction], Awaitable[tuple[int, ...]]], transaction: Transaction
    ) -> tuple[int, ...]:
        """Await ``commit(transaction)`` of a store."""
        began, status = self._now(), "cancelled"
        try:
            revisions = await commit(transaction)
            status = "success"
        except AegisError as exc:
            status = _commit_status(exc)
            raise
        finally:
            for one in self.all:
                one.committed(status, self._now() - began)
        return revisions

    def _measured(self, name: str, work: Callable[..., Awaitable[R]]) -> Callable[..., Awaitable[R]]:
        signature = inspect.signature(work)

        @functools.wraps(work)
        async def measured(*args: object, **kwargs: object) -> R:
            try:
                given = signature.bind(*args, **kwargs).arguments
            except TypeError:
                return await work(*args, **kwargs)  # which tells what is wrong with the arguments
            operation = Operation(
                name,
                _text(given.get("service_name")),
                _text(given.get("instance_id") or given.get("from_instance_id")),
                _texts(given.get("resource_ids") or given.get("resource_id")),
            )
            return await self.measure(operation, functools.partial(work, *args, **kwargs))

        return measured

    def attempt_failed(self, service_name: str, error: AegisError) -> None:
        """An attempt of a call failed."""
        for one in self.all:
            one.attempt_failed(service_name, error)

    def retried(self, error: AegisError) -> None:
        """A call or a commit is tried again after *error*."""
        reason = error.code.lower()
        for one in self.all:
            one.retried(reason)

    def looked_up(self, service_name: str, *, found: bool) -> None:
        """An owner was looked up."""
        for one in self.all:
            one.looked_up(service_name, found=found)

    def client_cut(self, reason: str) -> None:
        """A client of the router's HTTP server was cut off or refused."""
        for one in self.all:
            one.client_cut(reason)

    def traceparent(self) -> str:
        """W3C trace context of what is going on, or ""."""
        return next(filter(None, (one.traceparent() for one in self.all)), "")

    def trace_id(self) -> str:
        """The trace that it is part of, or ""."""
        return next(filter(None, (one.trace_id() for one in self.all)), "")


async def _told(ends: Sequence[End | None], work: Callable[..., Awaitable[R]], *args: object) -> R:
    try:
        answer = await work(*args)
    except BaseException as exc:
        for end in reversed(ends):
            if end is not None:
                end(None, exc)
        raise
    for end in reversed(ends):
        if end is not None:
            end(answer, None)
    return answer


def make_instruments(settings: Settings) -> Instruments | None:
    """The instruments that *settings* ask for, None without any; what they need is imported now.

    Raises:
        ConfigError: It is not installed; says what to install.
    """
    made: list[Instrument] = []
    if settings.tracing.enabled:
        try:
            from aegis_core.observe.tracing import Tracing  # noqa: PLC0415 - where it is asked for, and installed
        except ModuleNotFoundError as exc:
            problem = f"{exc}; install it with: pip install 'aegis-ipc[otel]'"
            raise ConfigError(key="tracing.enabled", problem=problem) from exc
        made.append(Tracing())
    if settings.metrics.enabled or settings.metrics.address is not None:
        try:
            from aegis_core.observe.metrics import Metrics  # noqa: PLC0415 - where it is asked for, and installed
        except ModuleNotFoundError as exc:
            problem = f"{exc}; install it with: pip install 'aegis-ipc[metrics]'"
            raise ConfigError(key="metrics.enabled", problem=problem) from exc
        made.append(Metrics(settings.metrics))
    if settings.log.level == "DEBUG" or logging.getLogger("aegis.operations").isEnabledFor(logging.DEBUG):
        from aegis_core.observe.operation_log import OperationLog  # noqa: PLC0415 - where it is asked for

        made.append(OperationLog())
    return Instruments(made) if made else None


def status_of(error: BaseException | None) -> str:
    """How something ended, in one word: ``success``, ``conflict``, ``unavailable``, ``refused``, ``cancelled`` or ``error``."""
    match error:
        case None:
            return "success"
        case Held() | Conflict() | VersionConflict():
            return "conflict"
        case Unavailable() | Indeterminate():
            return "unavailable"
        case AegisError():
            return "refused"
        case Exception():
            return "error"
        case _:
            return "cancelled"


def _commit_status(error: AegisError) -> str:
    match error:
        case Conflict():
            return "conflict"
        case Indeterminate():
            return "indeterminate"
        case StoreUnavailable():
            return "unavailable"
        case _:
            return "refused"


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(map(_text, value)) if isinstance(value, list | tuple) else ()
