"""The composition root: `open_node` puts a node together from a backend, plug-ins and settings, and takes it apart.

How the block ends. What the user's code raises leaves ``open_node`` as itself, never in a group: the nursery with the
node's background tasks lies around the body, and a second one, with the reading of the view, around that; so the body's
exception is carried past them by hand. A background task that fails cancels the body, and the block raises `NodeCrashed`
from its cause.

It is a long file because everything is put together in one place.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from os import PathLike
from typing import TYPE_CHECKING, Final, TypeVar, overload

import trio

from aegis_core import names
from aegis_core.backend import Backend
from aegis_core.engine.instances import LONGEST_TTL
from aegis_core.engine.requests import Problems
from aegis_core.errors import ConfigError, NodeCrashed, NotOwner
from aegis_core.events import CircuitStateChanged, Event
from aegis_core.models import Explanation, Health, Resource, Role
from aegis_core.node.block import Block, block
from aegis_core.node.breaker import CircuitBreaker, CircuitState
from aegis_core.node.client import Client
from aegis_core.node.commit import Committer
from aegis_core.node.errands import Errands
from aegis_core.node.holdings import Holdings
from aegis_core.node.instance import Instance
from aegis_core.node.janitor import Janitor
from aegis_core.node.moves import Moves
from aegis_core.node.options import InstanceOptions
from aegis_core.node.reading import Reading
from aegis_core.node.registry import Registry
from aegis_core.node.releases import Releases
from aegis_core.node.role_changes import RoleChanges
from aegis_core.node.runtime import Runtime
from aegis_core.node.service import Service
from aegis_core.node.subscription import EventStream

if TYPE_CHECKING:
    from aegis_core.config import Settings
    from aegis_core.observe.instruments import Instruments
    from aegis_core.plugins import Plugins

__all__ = ["Node", "open_node"]


E = TypeVar("E", bound=Event)

DEFAULT_GROUP: Final = "default"
SHORTEST_TTL: Final = 1.0


class Node:
    """One member of a cluster: it serves instances, calls others, and sees the registry. Made by `open_node`."""

    if not TYPE_CHECKING:
        # For who looks at the class. A node has those of its client, without a frame of its own for each call.
        call = Client.call
        bind = Client.bind

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.hosted: dict[tuple[str, str], Instance] = {}
        self.leases: dict[str, Holdings] = {}
        self.claimed: dict[str, Holdings] = {}
        settings = runtime.settings.store_circuit
        breaker = CircuitBreaker(
            runtime.clock,
            threshold=settings.failures,
            cooldown=settings.cooldown,
            on_change=self._store_circuit_changed,
        )
        self.committer = Committer(runtime, breaker)
        self.client = Client(runtime)
        self.call = self.client.call
        self.bind = self.client.bind
        self.errands = Errands(self)
        self.moves = Moves(self)
        self.releases = Releases(self)
        self.roles = RoleChanges(self)
        self.janitor = Janitor(runtime, self.committer, self.hosted)
        self._registry = Registry(self)
        self._looked_up = None if runtime.instruments is None else runtime.instruments.looked_up
        runtime.touched.append(self.touched)

    def __repr__(self) -> str:
        return f"<Node on {self.runtime.settings.backend}: {len(self.hosted)} instances, {self.runtime.directory!r}>"

    @property
    def registry(self) -> Registry:
        """The registry operations; see `Registry`."""
        return self._registry

    @block
    @asynccontextmanager
    async def serve(
        self,
        service: Service,
        *,
        instance_id: str | None = None,
        role: Role | None = None,
        group: str | None = None,
        ttl: float | None = None,
        heartbeat_interval: float | None = None,
        priority: int = 0,
        metadata: Mapping[str, object] | None = None,
        register: bool = True,
    ) -> AsyncIterator[Instance]:
        """Serve *service* as one instance while the block runs: register, renew, answer calls, deregister.

        Leaving the block normally drains first (see `Instance.drain`). Cancelled, or with an exception, it deregisters at
        once, in at most two seconds.

        Args:
            service: What to serve.
            instance_id: Unique among the live instances of the service; ``{service}-{8 hex}`` by default.
            role: ACTIVE is refused when the group has an active already; STANDBY waits in line to become it.
            group: The role group, ``"default"`` when a role is given. With a group and no role: STANDBY.
            ttl: Seconds that the registration outlives a dead process; at least 1 and the store's `min_ttl`, at most a
                year.
            heartbeat_interval: Seconds between renewals, at most half of the TTL; a third of it by default.
            priority: Place in the line: higher first.
            metadata: The user's own, JSON-like, shown in the registry.
            register: With False it answers calls by its instance id only, is not in the registry, and cannot claim.

        Raises:
            ConfigError: TTL or interval cannot be, or a role without a registration; before anything is written.
            InvalidRequest: Instance id, role, group, priority or metadata are none; names each.
            InstanceConflict: A live instance has that id.
            RoleConflict: *role* is ACTIVE and another instance is.
            StoreUnavailable: No answer from the store in time.
        """
        options = self._options(
            service,
            instance_id=instance_id,
            role=role,
            group=group,
            ttl=ttl,
            heartbeat_interval=heartbeat_interval,
            priority=priority,
            metadata=metadata,
            register=register,
        )
        instance = Instance(self, service, options)
        finished = False
        await self.runtime.nursery.start(instance.membership.run)
        try:
            yield instance
            finished = True
        finally:
            await instance.membership.close(drain=finished)  # noqa: ASYNC102 - it shields what must be, in limited time

    def owner_of(self, resource_id: str) -> Resource | None:
        """Who owns *resource_id* as seen from here: local, quick, possibly a moment behind; None for nobody."""
        snapshot = self.runtime.directory.snapshot
        found = snapshot.owner(resource_id)
        if self._looked_up is not None:
            self._looked_up("" if found is None else found[1].service_name, found=found is not None)
        if found is None:
            return None
        record, owner = found
        return Resource(
            resource_id=resource_id,
            owner_instance_id=owner.instance_id,
            service_name=owner.service_name,
            epoch=record.epoch,
            registered_at=record.registered_at,
            metadata=record.metadata,
            is_healthy=snapshot.health(owner, self.runtime.clock.now()) is Health.ONLINE,
        )

    async def explain(self, resource_id: str) -> Explanation:
        """Everything known about *resource_id*: owner, epoch, lease, line, history, and what the owner says of its calls."""
        return await self.registry.explain(resource_id)

    @overload
    def events(self, *, service: str | None = None, resource_id: str | None = None) -> Block[EventStream[Event]]: ...

    @overload
    def events(
        self, kind: type[E], /, *more: type[E], service: str | None = None, resource_id: str | None = None
    ) -> Block[EventStream[E]]: ...

    @block
    @asynccontextmanager
    async def events(
        self, *types: type[E], service: str | None = None, resource_id: str | None = None
    ) -> AsyncIterator[EventStream[E]]:
        """The events from now on of any of *types* (none: all), while the block runs.

        Args:
            types: Event classes.
            service: Only events of this service.
            resource_id: Only events of this resource.
        """
        with self.runtime.subscriptions.open(*types, service=service, resource_id=resource_id) as stream:
            await trio.lowlevel.checkpoint()
            yield stream

    # -- for the node's own parts -------------------------------------------------------------------------------

    def touched(self, key: names.Key | None) -> None:
        """The view of *key* changed (None: it was made anew): tell whom of this node it concerns."""
        if key is None:
            for instance in tuple(self.hosted.values()):
                instance.membership.verify()
            for target, holdings in tuple(self.claimed.items()):
                holdings.touched(target)
        elif isinstance(key, names.InstanceKey):
            hosted = self.hosted.get((key.service_name, key.instance_id))
            if hosted is not None:
                hosted.membership.verify()
        elif isinstance(key, names.TargetKey):
            claimed, named = self._concerned(key.target)
            if claimed is not None:
                claimed.touched(key.target)
            if named is not None and named is not claimed:
                named.touched(key.target)

    def hosted_by(self, service_name: str, instance_id: str, lease: str | None) -> Instance | None:
        """The instance of that name, if this node serves it; *lease* is the tag of the lease that it showed, or None.

        Raises:
            NotOwner: It lives by another lease.
        """
        instance = self.hosted.get((service_name, instance_id))
        if instance is not None and lease is not None and instance.lease_tag != lease:
            raise NotOwner(operation="act for", target=instance_id, owner=instance_id)
        return instance

    def _concerned(self, target: str) -> tuple[Holdings | None, Holdings | None]:
        """Who of this node has a claim of *target*, and whom its record names."""
        record = self.runtime.directory.snapshot.held(target)
        return self.claimed.get(target), None if record is None else self.leases.get(record.lease)

    def _options(
        self,
        service: Service,
        *,
        instance_id: str | None,
        role: Role | None,
        group: str | None,
        ttl: float | None,
        heartbeat_interval: float | None,
        priority: int,
        metadata: Mapping[str, object] | None,
        register: bool,
    ) -> InstanceOptions:
        """What `serve` was given, checked and completed."""
        settings, source = self.runtime.settings, f"serve({service.name})"
        problems = Problems()
        if instance_id is None:
            instance_id = names.mint_instance_id(service.name, self.runtime.new_id(4))
        else:
            problems.note("$.instance_id", names.instance_id_problem(instance_id))
        if group is not None:
            problems.note("$.group", names.group_problem(group))
        if role is not None:
            problems.role("$.role", role)
        problems.priority("$.priority", priority)
        if metadata is not None:
            problems.mapping("$.metadata", metadata)
        problems.check()
        if role is not None and group is None:
            group = DEFAULT_GROUP
        elif group is not None and role is None:
            role = Role.STANDBY
        if role is not None and not register:
            raise ConfigError(source=source, key="role", problem="an instance that is not registered has no role")
        if heartbeat_interval is None and ttl is None:
            heartbeat_interval = settings.heartbeat_interval
        ttl = settings.ttl if ttl is None else _seconds(source, "ttl", ttl)
        if heartbeat_interval is None:
            heartbeat_interval = ttl / 3
        heartbeat_interval = _seconds(source, "heartbeat_interval", heartbeat_interval)
        shortest = max(SHORTEST_TTL, self.runtime.store.capabilities.min_ttl)
        if ttl < shortest:
            raise ConfigError(source=source, key="ttl", problem=f"{ttl:g} s is too short, the least is {shortest:g} s")
        if ttl > LONGEST_TTL:
            raise ConfigError(source=source, key="ttl", problem=f"{ttl:g} s is too long, the most is {LONGEST_TTL:g} s")
        if not 0 < heartbeat_interval <= ttl / 2:
            problem = f"{heartbeat_interval:g} s does not fit a TTL of {ttl:g} s: more than 0 and at most half of it"
            raise ConfigError(source=source, key="heartbeat_interval", problem=problem)
        return InstanceOptions(
            instance_id=instance_id,
            role=role,
            group=group,
            ttl=ttl,
            heartbeat_interval=heartbeat_interval,
            priority=priority,
            metadata=metadata or {},
            register=register,
        )

    def _store_circuit_changed(self, old: CircuitState, new: CircuitState) -> None:
        event = CircuitStateChanged(at=self.runtime.wall(), what="store", old=old.value, new=new.value)
        self.runtime.emit(event)


@block
@asynccontextmanager
async def open_node(
    backend: str | None = None,
    *,
    config: Settings | Mapping[str, object] | str | PathLike[str] | None = None,
    plugins: Sequence[object] = (),
) -> AsyncIterator[Node]:
    """Open a node, and close it when the block is left.

    Args:
        backend: URL of the backend, e.g. ``"memory://"``; its parameters may be settings (``?ttl=10``).
        config: Settings as a mapping, over those of the environment; or the path of a TOML file, which is read in the
            place of ``aegis.toml`` and ``pyproject.toml`` and counts less than the environment; or a `Settings` as it is.
        plugins: Plug-ins beside the installed ones: modules, objects, or dotted names.

    Raises:
        ConfigError: Nothing says which backend, or a setting or plug-in is wrong; says which, and what would be right.
        StoreUnavailable, TransportUnavailable: The backend has no server there.
        NodeCrashed: A background task failed; the body was cancelled.
        RuntimeError: There is no Trio run, e.g. under asyncio.

    What the body raises leaves the block as itself. Cancelled, the node closes at once.
    """
    if not trio.lowlevel.in_trio_task():
        raise RuntimeError("AegisIPC runs on Trio, and this is no Trio task: start the program with trio.run(main)")
    # With the first node: what finds settings and plug-ins takes a good part of the time of importing the library.
    from aegis_core.config import ambient, load_settings, parse_backend, told_with_source  # noqa: PLC0415
    from aegis_core.observe.instruments import make_instruments  # noqa: PLC0415
    from aegis_core.observe.logs import logging_to  # noqa: PLC0415
    from aegis_core.plugins import load_plugins  # noqa: PLC0415

    defaults = ambient.get()
    settings = load_settings(backend, config)
    if defaults is not None and settings.backend != defaults.backend:
        defaults = None
    if defaults is not None:
        plugins = (*defaults.plugins, *plugins)
    with told_with_source(settings):
        instruments = make_instruments(settings)
    loaded = load_plugins(settings, (*(instruments.all if instruments else ()), *plugins))
    async with AsyncExitStack() as stack:
        with told_with_source(settings):
            address = parse_backend(settings.backend)
            stack.enter_context(logging_to(settings.log))
            opened = await stack.enter_async_context(loaded.open_backend(address))
        body: BaseException | None = None
        try:
            # The view is read until the last of the other tasks is over: what they give up in the end is decided on it.
            async with trio.open_nursery() as around:
                with Reading(around) as reading:
                    async with trio.open_nursery() as nursery:
                        try:
                            with told_with_source(settings):
                                node = await _start(settings, loaded, opened, instruments, nursery, reading)
                            if defaults is not None and defaults.opened is not None:
                                defaults.opened(node)
                            yield node
                        except BaseException as exc:  # noqa: BLE001, ASYNC103 - raised again below
                            body = exc
                        nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:  # a background task failed, or two
            _, crashes = group.split(trio.Cancelled)
            if crashes is not None:
                body = _crash(crashes)
            elif body is None:
                raise  # cancelled from outside while it closed
        if body is not None:
            raise body


def _seconds(source: str, key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(source=source, key=key, problem=f"expected a number of seconds, got {value!r}")
    return value


async def _start(
    settings: Settings,
    plugins: Plugins,
    opened: Backend,
    instruments: Instruments | None,
    nursery: trio.Nursery,
    reading: Reading,
) -> Node:
    """The node, with its view level and its background tasks running."""
    store = opened.store
    if store is None:
        raise ConfigError(source="backend", problem=f"{settings.backend} offers no store")
    runtime = Runtime(
        settings=settings,
        plugins=plugins,
        clock=opened.clock,
        random=opened.random,
        nursery=nursery,
        store=store,
        transports={t.scheme: t for t in opened.transports},
        announce=opened.announce,
        reconnects=opened.reconnects,
        instruments=instruments,
        bus=opened.bus,
        open_messages=opened.open_messages,
    )
    node = Node(runtime)
    if instruments is not None:
        instruments.opened(node)
    await reading.start(runtime.directory)
    nursery.start_soon(runtime.sleepers.run)
    nursery.start_soon(node.janitor.run)
    if settings.metrics.address is not None:
        from aegis_core.observe.page import serve_page  # noqa: PLC0415 - where it is asked for, and installed

        await nursery.start(serve_page, node, settings.metrics.address)
    return node


def _crash(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What to raise for background tasks that failed with *group*: an interrupt as itself, else `NodeCrashed`."""
    interrupts, _ = group.split((KeyboardInterrupt, SystemExit))
    first: BaseException = group if interrupts is None else interrupts
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    if interrupts is not None:
        return first
    crashed = NodeCrashed(cause=f"{type(first).__name__}: {first}")
    crashed.__cause__ = first
    return crashed
