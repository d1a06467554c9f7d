"""Every hook that a plug-in can implement. This file is all that a plug-in author reads.

A plug-in is a module (or an object) with functions named as below and marked with `hookimpl`::

    from aegis_core.hookspecs import hookimpl

    @hookimpl
    def aegis_register_observers(register):
        register(MyObserver())

It is found under the entry point group ``aegis``, or named in the setting ``plugins.enabled``, or handed to
``open_node(plugins=...)``. Each node has plug-ins of its own, loaded when it opens.

Hooks are wiring. All are synchronous, and an ``async def`` is refused when the plug-in is loaded. The ``register``
hooks are called once per node, at its start, and hand over objects which may well have async methods; those are then
used directly. A hook may leave out parameters that it does not need. Unless its description says otherwise, a hook
that raises stops the node with a `ConfigError` that names the plug-in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Literal, Protocol

import attrs
import pluggy

from aegis_core.backend import OpenBackend
from aegis_core.engine import balancing
from aegis_core.events import Event
from aegis_core.models import ServiceInstance, Standby, Value
from aegis_core.principals import Principal, Target

if TYPE_CHECKING:
    from aegis_core.engine.view import View

__all__ = [
    "BackendRegistrar",
    "Balancer",
    "BalancerRegistrar",
    "CallInfo",
    "CommandRegistrar",
    "Middleware",
    "MiddlewareRegistrar",
    "Observer",
    "ObserverRegistrar",
    "Principal",
    "Target",
    "aegis_authorize",
    "aegis_check_registration",
    "aegis_plan_rebalance",
    "aegis_promote",
    "aegis_register_backends",
    "aegis_register_balancers",
    "aegis_register_cli",
    "aegis_register_middleware",
    "aegis_register_observers",
    "hookimpl",
    "hookspec",
]

hookspec = pluggy.HookspecMarker("aegis")
"""Marks what a plug-in may implement; used in this module only."""

hookimpl = pluggy.HookimplMarker("aegis")
"""Marks a plug-in's implementation of a hook. Its options (``tryfirst``, ``trylast``, ...) are pluggy's."""


# --- What hooks are told, and what they hand over ----------------------------------------------


@attrs.frozen(kw_only=True, eq=False, repr=False)
class CallInfo(Value):
    """A call, as middleware sees it.

    Args:
        side: ``sent`` around a request until its answer came (each attempt by itself), ``handled`` around a handler.
        service_name: The service that is called.
        method: The method's name, as the caller wrote it.
        instance_id: The instance that is called.
        resource_id: The resource that the call concerns, or None.
        trace_id: The same for all calls that one outermost call led to.
        message_id: The same in each attempt to deliver this call.
        carrier: Travels with the call. Middleware around a sent call may put ``traceparent`` here (W3C Trace Context)
            before the call starts; middleware around the handled call finds it.
    """

    side: Literal["sent", "handled"]
    service_name: str
    method: str
    instance_id: str
    resource_id: str | None = None
    trace_id: str = ""
    message_id: str = ""
    carrier: MutableMapping[str, str] = attrs.field(factory=dict, eq=False)


Balancer = balancing.Balancer
"""Chooses the instance for one call: ``choose(candidates, *, key, pending) -> ServiceInstance``, synchronous.

*candidates* are at least one, all of one service, and come as the same tuple until something changes. *key* is what
calls that belong together have in common, or None. ``pending(instance)`` is how many calls of this node it has not
answered yet. One object serves all services of a node.
"""


class Observer(Protocol):
    """Is told what happens."""

    def on_event(self, event: Event) -> None:
        """Take note of *event*; called in the node's own task, so return at once.

        What it raises is logged, once per kind of event, and stops neither other observers nor what is observed.
        """
        ...


Middleware = Callable[[CallInfo], AbstractAsyncContextManager[None]]
"""Makes the context in which one call runs. Its exit sees the error that the call ended in, and must not swallow it."""


class BackendRegistrar(Protocol):
    """Takes backends."""

    def __call__(self, scheme: str, open_backend: OpenBackend, /) -> None:
        """Open URLs of *scheme* with *open_backend*, see `aegis_core.backend`."""
        ...


class BalancerRegistrar(Protocol):
    """Takes balancers."""

    def __call__(self, name: str, make_balancer: Callable[[], Balancer], /) -> None:
        """Offer a balancer as *name* for the setting ``balancer``; *make_balancer* is called once per node that uses it."""
        ...


class ObserverRegistrar(Protocol):
    """Takes observers."""

    def __call__(self, observer: Observer, /) -> None:
        """Tell *observer* all events of this node."""
        ...


class MiddlewareRegistrar(Protocol):
    """Takes middleware."""

    def __call__(self, middleware: Middleware, /) -> None:
        """Enter ``middleware(info)`` around each call; what is registered first is outermost."""
        ...


class CommandRegistrar(Protocol):
    """Takes commands."""

    def __call__(self, name: str, command: Callable[..., object], /) -> None:
        """Add ``aegis NAME``: *command* is a sync or async function whose annotated parameters become its options."""
        ...


# --- At the start of a node --------------------------------------------------------------------


@hookspec
def aegis_register_backends(register: BackendRegistrar) -> None:
    """Offer backends under URL schemes.

    Called once per node, before anything is opened. Raising stops the node; so does a scheme that is taken.

    Args:
        register: Call as ``register("nats", open_nats)``. *open_nats* takes the parsed URL and returns an async
            context manager that yields an `aegis_core.backend.Backend`.
    """


@hookspec
def aegis_register_balancers(register: BalancerRegistrar) -> None:
    """Offer ways to choose among the instances that could take a call.

    Called once per node, before it joins its cluster. Raising stops the node; so does a name that is taken.

    Args:
        register: Call as ``register("cheapest", Cheapest)``; the setting ``balancer = "cheapest"`` then chooses it.
    """


@hookspec
def aegis_register_observers(register: ObserverRegistrar) -> None:
    """Offer observers: objects that are told every event of the node.

    Called once per node, before it joins its cluster. Raising stops the node.

    Args:
        register: Call as ``register(observer)`` with an object that has a method ``on_event(event)``.
    """


@hookspec
def aegis_register_middleware(register: MiddlewareRegistrar) -> None:
    """Offer async context managers to run calls in, those that are sent and those that are handled.

    Called once per node, before it joins its cluster. Raising stops the node. A node without middleware spends nothing on it.

    Args:
        register: Call as ``register(middleware)`` with a function that takes a `CallInfo` and returns an async context
            manager. Its entry may raise an `AegisError` to refuse the call, which then was not executed.
    """


@hookspec
def aegis_register_cli(register: CommandRegistrar) -> None:
    """Add commands to the command line ``aegis``.

    Called once, when the command line starts. Raising stops it.

    Args:
        register: Call as ``register("audit", audit)`` with a function; its parameters become options.
    """


# --- While a node runs -------------------------------------------------------------------------


@hookspec
def aegis_check_registration(instance: ServiceInstance) -> None:
    """Look at a registration before it is stored.

    Called each time an instance of this node registers, also after it lost its lease. Raise an `AegisError`, e.g.
    `Forbidden`, to refuse: that is what the registrant gets. Any other exception refuses as `Forbidden`, too.

    Args:
        instance: The record as it would be stored.
    """


@hookspec(firstresult=True)
def aegis_authorize(principal: Principal, operation: str, target: Target) -> bool | None:
    """Decide whether somebody may do something.

    Called before each operation that one does not do to one's own, and before each that is not done with one's own
    lease. The first answer that is not None counts; without any, an instance may do what concerns itself alone, everybody may
    read, an admin may do everything, and the rest (``force`` and other people's instances) is refused. Raising refuses.

    A router asks about its clients on HTTP also where they act for themselves, with the lease that they show: ``register``,
    ``claim`` and ``join_line`` of nodes, and what is asked for by REST. Without an answer they may. So refuse by False, and
    answer None where you have no objection: True would permit the same to who shows no lease.

    Args:
        principal: Who asks.
        operation: The name of the operation, e.g. ``transfer`` or ``drain``; ``force`` for a forced claim or transfer;
            ``watch`` for reading a router's whole store, as nodes on HTTP do.
        target: What it concerns.
    """


@hookspec(firstresult=True)
def aegis_promote(target: str, standbys: Sequence[Standby]) -> Sequence[str] | None:
    """Rank those who wait for a resource or a role that has just become free.

    Called on each node that has an instance in the line, so answer the same everywhere: where answers differ, the
    promotion takes a little longer, but two are never promoted. The first answer that is not None counts; without any, the line's
    own order does. Raising is logged, and the line's own order is used.

    Args:
        target: The resource id, or ``%service%group`` for a role group.
        standbys: Who waits, in the line's own order: higher priority first, then who came first.

    Returns:
        Instance ids, best first. Those left out come last, in the line's own order; others than *standbys* are ignored.
    """


@hookspec(firstresult=True)
def aegis_plan_rebalance(view: View, service_name: str, max_moves: int) -> Mapping[str, str] | None:
    """Plan which resources of a service move, and where.

    Called when a rebalance is asked for. The first answer that is not None counts; without any, counts are evened out and
    resources of high priority move last. Raising refuses the rebalance.

    Args:
        view: What this node knows of the store; read only.
        service_name: The service.
        max_moves: How many resources may move at most; of a longer plan the first are carried out.

    Returns:
        Resource ids and the instances that they should move to, most important first.
    """
