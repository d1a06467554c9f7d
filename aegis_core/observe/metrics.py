"""Metrics for Prometheus: what a node does and sees, counted from the moment it opens.

The one module that imports prometheus-client, and loaded only where the setting ``metrics.enabled`` is on. What is kept
are plain numbers (`aegis_core.observe.series`); prometheus-client writes them down, a slice at a time, because a page of
thousands of series takes a tenth of a second.

No label is made up by who calls: a service counts by its name while it is known here, a method once an instance has
answered well under its name, or one of a node with what the method raised, and reasons and outcomes are words of the library. All else is ``unknown`` or ``other``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

import attrs
import trio
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from aegis_core import events, names
from aegis_core.codec import metadata_size
from aegis_core.config import MetricsSettings
from aegis_core.engine.view import View
from aegis_core.errors import (
    AegisError,
    ConfigError,
    Misdirected,
    NotFound,
    Overloaded,
    RemoteError,
    ResourceConflict,
    ResourceNotFound,
    Unavailable,
)
from aegis_core.events import Event
from aegis_core.hookspecs import ObserverRegistrar, hookimpl
from aegis_core.models import BulkReply, ClaimReply, Ownership, Resource, Role, TransferReply
from aegis_core.observe.families import Families
from aegis_core.observe.gauges import SLICE, Gauge, gauges
from aegis_core.observe.instruments import CallStart, End, Instrument, Operation, status_of
from aegis_core.observe.series import MOST_SERIES, OTHER, Counts, Distribution, Sample

if TYPE_CHECKING:
    from aegis_core.node.node import Node

__all__ = ["CONTENT_TYPE", "Metrics", "exposition", "exposition_in_parts"]

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
"""What `exposition` answers, as an HTTP header says it."""

_UNKNOWN: Final = "unknown"
_MOST_FAILING_OVER: Final = 10_000
_REASONS: Final = frozenset({
    "activated", "assigned", "claimed", "deregistered", "erased", "expired", "forced", "joined", "lease_expired", "left",
    "promoted", "registered", "released", "transferred", "unreadable",
})  # fmt: skip


class Metrics(Instrument, Collector):
    """The metrics of one node.

    `registry` is a collector's registry of its own, for programs that write their metrics elsewhere too.

    Args:
        settings: What is counted.
    """

    def __init__(self, settings: MetricsSettings) -> None:
        self._told_apart: dict[str, None] = {}
        self._most_told_apart = settings.conflict_resource_ids
        self._services: dict[str, None] = {}
        self._methods: dict[tuple[str, str], None] = {}
        self._failing_over: dict[tuple[str, str], float] = {}
        self._now: Callable[[], float] = trio.current_time
        self._view = View()
        self._gauges: tuple[Gauge, ...] = ()
        self.counted: Final = Families(with_resource_ids=self._most_told_apart > 0)
        self.registry: Final = CollectorRegistry()
        self.registry.register(self)

    def __repr__(self) -> str:
        return f"<Metrics: {len(self.families)} families>"

    @hookimpl
    def aegis_register_observers(self, register: ObserverRegistrar) -> None:
        """Events are counted, too."""
        register(self)

    def opened(self, node: Node) -> None:
        """The node is there: what is looked up, is looked up there."""
        self._now = node.runtime.clock.now
        self._view = node.runtime.directory.snapshot
        self._gauges = gauges(node)

    @property
    def families(self) -> tuple[Counts | Distribution | Gauge, ...]:
        """Everything that there is to tell."""
        return (*self.counted, *self._gauges)

    # -- what is told -------------------------------------------------------------------------------------------

    def begin(self, operation: Operation) -> End | None:
        """An operation begins."""
        if operation.asked:
            return None
        began = self._now()

        def end(answer: object, error: BaseException | None) -> None:
            self._ended(operation, answer, error, self._now() - began)

        return end

    def begin_call(self, call: CallStart) -> End:
        """A call begins."""
        began = self._now()

        def end(_: object, error: BaseException | None) -> None:
            outcome = _outcome(error)
            service, method = self._named(call, proven=error is None or self._is_raised(call.service_name, error))
            self.counted.calls.add(service, method, outcome)
            self.counted.call_seconds.observe(self._now() - began, service)
            if call.resource_id is not None:
                self.looked_up(call.service_name, found=not isinstance(error, ResourceNotFound))

        return end

    def attempt_failed(self, service_name: str, error: AegisError) -> None:
        """An attempt of a call failed."""
        if isinstance(error, Misdirected):
            self.counted.misdirected.add(self._service(service_name))

    def retried(self, reason: str) -> None:
        """A call or a commit is tried again."""
        self.counted.retries.add(reason)

    def committed(self, status: str, seconds: float) -> None:
        """The store was asked to commit."""
        self.counted.store_commits.add(status)
        self.counted.commit_seconds.observe(seconds)

    def client_cut(self, reason: str) -> None:
        """A client of the router's HTTP server was cut off or refused."""
        self.counted.clients_cut.add(reason)

    def looked_up(self, service_name: str, *, found: bool) -> None:
        """An owner was looked up."""
        self.counted.resource_lookups.add(self._service(service_name), "true" if found else "false")

    def on_event(self, event: Event) -> None:
        """Something happened."""
        counted, service = self.counted, event.service_name
        match event:
            case events.ResourceReleased():
                counted.resource_releases.add(service, _reason(event.reason))
            case events.ResourceExpired():
                counted.resource_releases.add(service, "expired")
            case events.ResourceTransferred():
                counted.resource_releases.add(service, _reason(event.reason))
            case events.InstanceLost():
                counted.leases_lost.add(service, "expired")
            case events.LeaseEnded(reason="ERASED"):
                counted.leases_lost.add(service, "erased")
            case events.RoleChanged():
                old, new = ("none" if role is None else role.value for role in (event.old, event.new))
                counted.role_transitions.add(service, old, new, _reason(event.reason))
                self._time_failover(event)
            case _:
                pass

    def _time_failover(self, event: events.RoleChanged) -> None:
        what = event.service_name, event.resource_id or f"%{event.group}"
        if event.old is Role.ACTIVE and event.reason == "lease_expired":
            self._failing_over[what] = self._now()
            if len(self._failing_over) > _MOST_FAILING_OVER:  # nobody takes the oldest over
                del self._failing_over[next(iter(self._failing_over))]
        elif event.new is Role.ACTIVE and (began := self._failing_over.pop(what, None)) is not None:
            self.counted.failover_seconds.observe(self._now() - began)

    def _ended(self, operation: Operation, answer: object, error: BaseException | None, seconds: float) -> None:
        counted, status = self.counted, status_of(error)
        service = self._service(operation.service_name)
        counted.operation_seconds.observe(seconds, operation.name)
        match operation.name:
            case "register":
                counted.registrations.add(service, status)
            case "heartbeat":
                counted.heartbeats.add(service, status)
                counted.heartbeat_seconds.observe(seconds)
            case "claim" | "promote":
                self._claimed(operation, service, answer, error, status)
            case "bulk_register" | "bulk_release":
                self._bulk_ended(operation, service, answer, status)
            case "transfer" | "rebalance":
                self._moved(operation, service, answer, status)
            case "get_owner":
                owner = answer.service_name if isinstance(answer, Resource) else ""
                self.looked_up(owner, found=isinstance(answer, Resource))
            case _:
                pass

    def _claimed(
        self, operation: Operation, service: str, answer: object, error: BaseException | None, status: str
    ) -> None:
        held: Iterable[str] = ()
        if isinstance(answer, ClaimReply):
            held = answer.conflicts
        elif isinstance(error, ResourceConflict):
            held = error.conflicts or (error.resource_id,)
        held = frozenset(held)
        got = [one for one in operation.resource_ids if one not in held and not names.is_role(one)]
        if error is None:
            self._took(service, got)
        elif got:  # all or nothing: what nobody held was not got either
            why = "refused" if status == "conflict" else status
            self.counted.resource_registrations.add(service, why, amount=len(got))
        self._conflicted(service, held)

    def _took(self, service: str, resource_ids: Sequence[str]) -> None:
        if resource_ids:
            self.counted.resource_registrations.add(service, "success", amount=len(resource_ids))
        for resource_id in resource_ids:
            record: Ownership | None = self._view.held(resource_id)
            if record is not None:
                self.counted.metadata_bytes.observe(metadata_size(record.metadata), service)

    def _conflicted(self, service: str, resource_ids: Iterable[str]) -> None:
        for resource_id in resource_ids:
            self.counted.resource_registrations.add(service, "conflict")
            if not self._most_told_apart:
                self.counted.resource_conflicts.add(service)
                continue
            if len(self._told_apart) < self._most_told_apart:
                self._told_apart[resource_id] = None
            self.counted.resource_conflicts.add(service, resource_id if resource_id in self._told_apart else OTHER)

    def _bulk_ended(self, operation: Operation, service: str, answer: object, status: str) -> None:
        if isinstance(answer, BulkReply):
            if answer.failed:
                status = "partial" if answer.done else "failed"
            if operation.name == "bulk_register":
                held = [one.resource_id for one in answer.failed if one.error_code == ResourceConflict.code]
                self._took(service, answer.done)
                self._conflicted(service, held)
                if len(answer.failed) > len(held):
                    amount = len(answer.failed) - len(held)
                    self.counted.resource_registrations.add(service, "refused", amount=amount)
        self.counted.bulk_operations.add(operation.name, status)

    def _moved(self, operation: Operation, service: str, answer: object, status: str) -> None:
        replies = answer if isinstance(answer, tuple) else (answer,)
        add = self.counted.resource_transfers.add
        for reply in replies:
            if isinstance(reply, TransferReply):
                if reply.transferred:
                    add(service, service, "success", amount=len(reply.transferred))
                if reply.failed:
                    add(service, service, "failed", amount=len(reply.failed))
            elif operation.resource_ids:
                add(service, service, status, amount=len(operation.resource_ids))

    # -- labels -------------------------------------------------------------------------------------------------

    def _service(self, name: str) -> str:
        """*name*, if that is a service: one that lives, or did."""
        if name in self._services:
            return name
        if name and len(self._services) < MOST_SERIES and self._view.live(name):
            self._services[name] = None
            return name
        return _UNKNOWN

    def _is_raised(self, service_name: str, error: BaseException) -> bool:
        """Whether a method raised *error*. Instances of other programs say what they like of methods that they do not have."""
        if not isinstance(error, RemoteError):
            return False
        instance = self._view.instance(service_name, error.answered_by)
        return instance is not None and bool(instance.endpoints)

    def _named(self, call: CallStart, *, proven: bool) -> tuple[str, str]:
        service = self._service(call.service_name)
        known = service, call.method
        if known not in self._methods:
            if not proven or len(self._methods) >= MOST_SERIES:
                return service, OTHER
            self._methods[known] = None
        return known

    # -- telling ------------------------------------------------------------------------------------------------

    def collect(self) -> Iterator[Metric]:
        """All families at once, for prometheus-client."""
        for family in self.families:
            yield _metric(family, [sample for sample in family.samples() if sample is not None])

    async def expose(self) -> list[bytes]:
        """Everything in Prometheus's text format, with a checkpoint after each slice of work: a part of the page each."""
        parts: list[bytes] = []
        for family in self.families:
            samples, is_first, is_more = family.samples(), True, True
            while is_more:
                chunk, is_more = _slice(samples)
                text = generate_latest(_One(_metric(family, chunk)))
                # The name and kind of the family stand once, before its first sample.
                parts.append(text if is_first else text.split(b"\n", 2)[2])
                is_first = False
                await trio.lowlevel.checkpoint()
        return parts


async def exposition(node: Node) -> bytes:
    """The metrics of *node* in Prometheus's text format (`CONTENT_TYPE`); other tasks run meanwhile.

    Raises:
        ConfigError: The setting ``metrics.enabled`` is off.
    """
    return b"".join(await exposition_in_parts(node))


async def exposition_in_parts(node: Node) -> Sequence[bytes]:
    """The same in parts, to be sent one after the other: putting many megabytes together keeps others waiting.

    Raises:
        ConfigError: The setting ``metrics.enabled`` is off.
    """
    instruments = node.runtime.instruments
    for one in () if instruments is None else instruments.all:
        if isinstance(one, Metrics):
            return await one.expose()
    raise ConfigError(key="metrics.enabled", problem="it is off, so that nothing is counted")


@attrs.frozen
class _One(Collector):
    """A registry of one metric."""

    metric: Metric

    def collect(self) -> Iterable[Metric]:
        """It."""
        return (self.metric,)


def _slice(samples: Iterator[Sample | None]) -> tuple[list[Sample], bool]:
    """The next of *samples*, as many as one slice of work has; and whether there may be more."""
    found: list[Sample] = []
    for sample in samples:
        if sample is None:
            return found, True
        found.append(sample)
        if len(found) == SLICE:
            return found, True
    return found, False


def _metric(family: Counts | Distribution | Gauge, samples: Iterable[Sample]) -> Metric:
    name = family.name.removesuffix("_total") if family.kind == "counter" else family.name
    metric = Metric(name, family.documentation, family.kind)
    for suffix, labels, value in samples:
        metric.add_sample(family.name + suffix, labels, value)
    return metric


def _reason(text: str) -> str:
    """A record may say anything."""
    return text if text in _REASONS else OTHER


def _outcome(error: BaseException | None) -> str:
    match error:
        case None:
            return "ok"
        case Unavailable():
            return error.outcome.value.lower()
        case NotFound() | Overloaded():
            return "rejected" if error.answered_by else "not_sent"
        case AegisError():
            return "error"
        case _:
            return "cancelled"
