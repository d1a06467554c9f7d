"""A cluster of nodes in one test: they start, serve, die and come back as the test says.

Every node has a store, a transport and a clock of its own, which faults can spoil for it alone, on one backend that all
share. Each of its lives (`aegis_pytest.life`) is a nursery within the cluster's, so that what fails in the background
fails the test.

It is one long file because `Cluster` is one fixture, and each way in which a node lives, ends and comes back must know the others.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, TypeVar, Unpack, cast

import attrs
import pytest
import trio

from aegis_core.backend import Backend, BackendAddress
from aegis_core.config import NodeDefaults, load_settings
from aegis_core.hookspecs import BackendRegistrar, ObserverRegistrar, hookimpl
from aegis_core.node.claims import Claim
from aegis_core.node.instance import Instance
from aegis_core.node.node import Node
from aegis_core.node.service import Service
from aegis_pytest.cable import open_by_cable
from aegis_pytest.call_log import CallLog
from aegis_pytest.closing import close_lives, tell_leftovers
from aegis_pytest.cluster_state import describe_faults, describe_lives, describe_logs
from aegis_pytest.event_log import DEFAULT_WITHIN, EventLog
from aegis_pytest.faults import FaultPlane
from aegis_pytest.harness import Harness
from aegis_pytest.leftovers import Leftover
from aegis_pytest.life import Life, Main, ServeOptions, Serving, Task, check_name, check_options
from aegis_pytest.memory import MemoryHarness
from aegis_pytest.ownership import read_holders, tell_differences, tell_unknown
from aegis_pytest.state_dump import reporting
from aegis_pytest.tapped_transport import tap
from aegis_pytest.telling import first_lines, show_time
from aegis_pytest.verdict import left_by_exception, only_leaf

__all__ = ["Cluster", "open_cluster"]

_LOOKS: Final = 20
_MOMENT: Final = 0.05
_SHOWN: Final = 12
_LEAST_WITHIN: Final = 20.0

_SCHEME: Final = "cluster"
"""The scheme of the nodes' backend URLs: ``cluster://a`` is node a's own access to the shared backend."""

Found = TypeVar("Found")


class _Membership:
    """The plug-in that makes a node a member: its backend, and the observer of its events."""

    def __init__(
        self, open_backend: Callable[[BackendAddress], AbstractAsyncContextManager[Backend]], log: EventLog
    ) -> None:
        self._open_backend = open_backend
        self._log = log

    @hookimpl
    def aegis_register_backends(self, register: BackendRegistrar) -> None:
        """Offer the node's own access to the shared backend."""
        register(_SCHEME, self._open_backend)

    @hookimpl
    def aegis_register_observers(self, register: ObserverRegistrar) -> None:
        """Let the cluster know what happens."""
        register(self._log)


class Cluster:
    """Nodes by name; the fixture ``aegis_cluster``. Made by `open_cluster`.

    Whatever is started here runs in the background until the test is over, and fails the test if it raises. A node is
    opened when it is first named.
    """

    def __init__(
        self, nursery: trio.Nursery, harness: Harness, plane: FaultPlane, seed: str, ttl: float | None
    ) -> None:
        self.events: Final = EventLog(DEFAULT_WITHIN if ttl is None else max(_LEAST_WITHIN, 2 * ttl))
        self.calls: Final = CallLog()
        self.plane: Final = plane
        self.opened: Callable[[str, Node], None] = lambda _name, _node: None
        """Told of each node that is opened, with its name: an application may open several, one after the other."""
        self._nursery = nursery
        self._harness = harness
        self._seed = seed
        self._parameters = "" if ttl is None else f"?ttl={ttl:g}"
        self._lives: dict[str, Life] = {}
        self._opening: dict[str, trio.Lock] = {}
        self._began = trio.current_time()
        self._count = 0

    def __repr__(self) -> str:
        return f"<Cluster of {', '.join(f'{life.name} ({life.state})' for life in self._lives.values()) or 'no nodes'}>"

    @property
    def ttl(self) -> float:
        """Seconds that an instance's registration outlives a dead node, unless it was served with another TTL."""
        return load_settings(f"{_SCHEME}://{self._parameters}").ttl

    @property
    def nodes(self) -> Mapping[str, Node]:
        """The nodes that are open now, by name."""
        return {name: life.node for name, life in self._lives.items() if life.node is not None}

    def instances(self, name: str, /) -> tuple[Instance, ...]:
        """The instances that node *name* serves now, in the order in which they registered."""
        life = self._lives.get(name)
        return () if life is None else life.instances

    # -- life -------------------------------------------------------------------------------------------------

    async def node(self, name: str, /) -> Node:
        """The node *name*, opened in a task of the cluster if it is not there; after `kill`, a new one under that name.

        Raises:
            pytest.UsageError: An application was started as this node, and has closed it.
        """
        async with self._opening.setdefault(name, trio.Lock()):
            life = await self._living(name)
            if life.node is None and life.state == "closed":
                raise pytest.UsageError(f"the application that was started as node {name!r} has closed it")
            return life.node or await life.open()

    async def serve(self, name: str, service: Service, /, **options: Unpack[ServeOptions]) -> Instance:
        """Serve *service* on node *name* until the test is over.

        Args:
            name: The node, opened if it is not there.
            service: What to serve.
            options: As of `Node.serve`.

        Raises:
            AegisError: As `Node.serve` does.
            TypeError: It has no such option.
        """
        __tracebackhide__ = True
        check_options(options)
        await self.node(name)
        return cast(Instance, await self._lives[name].start(Serving(service, options)))

    async def run(self, name: str, fn: Callable[..., Awaitable[object]], /, *args: object) -> object:
        """Run ``fn(*args)`` as a background task of node *name*, which dies with the node.

        Started again by `restart`, it gets the node's new `Node` and `Instance` in the place of the old ones among *args*.

        Returns:
            What *fn* gave to ``task_status.started`` if it takes ``task_status``, when it did so; else None, at once.
        """
        await self.node(name)
        return await self._lives[name].start(Task(fn, args))

    async def start(self, name: str, main: Callable[..., Awaitable[object]], /, *args: object) -> Node:
        """Run the application ``main(*args)``, whose bare ``open_node()`` is node *name*.

        Returns:
            The node, once it is open; if *main* takes ``task_status``, once *main* has called ``started``.

        Raises:
            pytest.UsageError: The node is there already.
            RuntimeError: *main* ended, or was not done within 30 seconds, without having opened the node.
        """
        async with self._opening.setdefault(name, trio.Lock()):
            life = await self._living(name)
            if life.state != "opening":
                raise pytest.UsageError(
                    f"node {name!r} is {life.state} already: start the application first, or kill the node"
                )
            return cast(Node, await life.start(Main(main, args)))

    async def kill(self, name: str, /) -> None:
        """Let node *name* die, as a process does, and return when all that ran in it has unwound.

        From one moment to the next it sends and commits nothing more, and hears nothing. What its tasks raise as they
        unwind is dropped. Its leases live on in the store until they expire.

        Raises:
            pytest.UsageError: There is no such node alive; or the caller, or a block of ``own`` in the test's own tasks,
                would be cancelled with it, so that the rest of the test would not run.
        """
        __tracebackhide__ = True
        life = self._endable(name, "kill")
        if self.plane.member(name) is not None:
            self.plane.kill(name)
        await life.kill()

    async def stop(self, name: str, /) -> list[Leftover]:
        """Let node *name* end as a program does that is told to, and return what it left behind.

        What runs in it is cancelled, its instances hand over and deregister, and the node closes. It can be started again
        as after `kill`.

        Raises:
            pytest.UsageError: There is no such node alive; or it would cancel what `kill` would not.
        """
        __tracebackhide__ = True
        return await close_lives([self._endable(name, "stop")])

    async def restart(self, name: str, /) -> Node:
        """Start node *name* anew, killing it first if it lives: what `start`, `serve` and `run` began begins again, in order.

        An instance that was served under an id of its own can only come back once its old lease has expired.

        Raises:
            pytest.UsageError: There never was such a node; or as `kill`.
            Exception: As what is started raises. The node is dead then as before, and can be restarted later.
        """
        __tracebackhide__ = True
        old = self._lives.get(name)
        if old is None:
            raise pytest.UsageError(f"there is no node {name!r} to restart")
        if old.killed:  # perhaps by a `kill` that was cancelled as it waited
            await old.ended.wait()
        elif not old.ended.is_set():
            await self.kill(name)
        try:
            return await self._begin_again(name, old)
        except Exception:
            half = self._lives[name]
            if half is not old and not half.ended.is_set():
                await self.kill(name)  # noqa: ASYNC120 - then cancellation is what counts
            half.steps = old.steps
            raise

    # -- waiting ----------------------------------------------------------------------------------------------

    async def wait_owner(self, resource_id: str, name: str, /, *, within: float | None = None) -> Claim:
        """Wait until an instance of node *name* owns *resource_id*, and return its claim.

        Args:
            resource_id: The resource.
            name: The node.
            within: Seconds; by default what it takes at most after the death of another owner, and five more.

        Raises:
            AssertionError: It does not own it in time; tells who does.
        """
        __tracebackhide__ = True

        def look() -> Claim | None:
            for instance in self.instances(name):
                claim = instance.claims.get(resource_id)
                if claim is not None and claim.held and not claim.leaving:
                    return claim
            return None

        limit = self.ttl + 5.0 if within is None else within
        if (claim := await self._look_until(look, limit)) is not None:
            return claim
        holders = read_holders(self._lives, self.plane).get(resource_id)
        who = f"it is claimed by {' and '.join(map(str, holders))}" if holders else "nobody claims it"
        never = "" if name in self._lives else ", and there is no node of that name"
        raise AssertionError(f"{resource_id} is not owned by node {name!r} after {limit:g} s{never}: {who}")

    async def expect_claims(self, expected: Mapping[str, Collection[str]], /, *, within: float | None = None) -> None:
        """Wait until resources are claimed exactly by those named: by each of them exactly what stands there.

        A resource is claimed by one when the registry says so, the instance believes it, and nobody else does. What nodes claim
        that are not named does not matter, unless it is one of the resources that are. Who is named may come while this waits.

        Args:
            expected: By name of a node, or instance id: the ids of all resources that it claims, e.g.
                ``{"a": ["room:7", "room:8"], "b": []}``.
            within: Seconds; by default what it takes at most after the death of another owner, and five more.

        Raises:
            AssertionError: It is not so in time; tells of each resource who claims it, and which names are nobody's.
            pytest.UsageError: Nobody is named.
        """
        __tracebackhide__ = True
        exactly = {name: [ids] if isinstance(ids, str) else list(ids) for name, ids in expected.items()}
        if not exactly:
            raise pytest.UsageError(
                "expect_claims({}) expects nothing: name who claims what, {'a': ['room:7'], 'b': []}"
            )

        def differences() -> list[str]:
            unknown = tell_unknown(self._lives, self.calls.known.instance_ids, exactly)
            return [*unknown, *tell_differences(read_holders(self._lives, self.plane), exactly)]

        limit = self.ttl + 5.0 if within is None else within
        if await self._look_until(lambda: not differences() or None, limit):
            return
        found = first_lines(differences(), _SHOWN)
        raise AssertionError("\n".join([f"claims are not as expected after {limit:g} s:", *found]))

    async def _look_until(self, look: Callable[[], Found | None], limit: float) -> Found | None:
        """What *look* finds, looked for again whenever something has happened, for *limit* seconds."""
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.move_on_after(limit):
            while True:
                moved = self.events.moved
                for _ in range(_LOOKS):  # the event is told when the store has changed, the claim made a moment later
                    found = look()
                    if found is not None:
                        await trio.lowlevel.cancel_shielded_checkpoint()
                        return found
                    with trio.move_on_after(_MOMENT):
                        await moved.wait()
                        break
                await moved.wait()
        return None

    # -- showing ----------------------------------------------------------------------------------------------

    def describe(self) -> Iterator[str]:
        """How the cluster stands, in at most 14 lines."""
        yield f"cluster, {show_time(trio.current_time() - self._began)} after its start:"
        yield from describe_lives(self._lives.values())
        yield from describe_faults(self.plane.noted, self._began)

    def describe_latest(self) -> Iterator[str]:
        """What happened last, in at most 10 lines."""
        yield from describe_logs({"events": self.events, "calls": self.calls})

    # -- for open_cluster -------------------------------------------------------------------------------------

    async def close(self) -> list[Leftover]:
        """Close all nodes that live, and tell what was left behind."""
        self.plane.heal()
        return await close_lives([life for life in self._lives.values() if not life.ended.is_set()])

    def _alive(self, name: str) -> Life:
        __tracebackhide__ = True
        life = self._lives.get(name)
        if life is None or life.ended.is_set() or life.killed:
            living = ", ".join(n for n, other in self._lives.items() if not other.ended.is_set()) or "none"
            raise pytest.UsageError(f"there is no living node {name!r}; living: {living}")
        return life

    def _endable(self, name: str, how: str) -> Life:
        """The life of node *name*, which *how*, the method that the caller used, may end: no test may pass by being cancelled."""
        __tracebackhide__ = True
        life = self._alive(name)
        if life.holds(trio.lowlevel.current_task()):
            raise pytest.UsageError(
                f"{how}({name!r}) was called by a task of node {name!r}, which would be cancelled by it"
            )
        for claim in life.foreign_bodies():
            raise pytest.UsageError(
                f"{how}({name!r}) would cancel the test's own block of own({claim.resource_id!r}): what runs under a claim "
                f"ends with its node, so run that block by: await aegis_cluster.run({name!r}, ...)"
            )
        return life

    async def _living(self, name: str) -> Life:
        check_name(name)
        life = self._lives.get(name)
        if life is not None and not life.ended.is_set() and not life.killed:
            return life
        self._count += 1
        membership = _Membership(self._backend_of(name, self._count), self.events)
        url = f"{_SCHEME}://{name}{self._parameters}"
        life = Life(name, NodeDefaults(url, (membership,), opened=lambda node: self.opened(name, node)))
        await self._nursery.start(life.run, name=f"node {name}")
        self._lives[name] = life
        return life

    async def _begin_again(self, name: str, old: Life) -> Node:
        again: dict[int, object] = {}  # by the identity of an old node or instance: its successor
        for step, outcome in old.steps:
            match step:
                case Main():
                    fresh: object = await self.start(name, step.fn, *step.args)
                case Serving():
                    fresh = await self.serve(name, step.service, **step.options)
                case Task():
                    again[id(old.last_node)] = await self.node(name)
                    args = tuple(again.get(id(arg), arg) for arg in step.args)
                    fresh = await self.run(name, step.fn, *args)
            if isinstance(outcome, Node | Instance):
                again[id(outcome)] = fresh
        return await self.node(name)

    def _backend_of(self, name: str, number: int) -> Callable[[BackendAddress], AbstractAsyncContextManager[Backend]]:
        times = itertools.count(1)

        @asynccontextmanager
        async def open_backend(_address: BackendAddress) -> AsyncIterator[Backend]:
            member = self.plane.member(name)
            if member is not None and not member.is_dead:
                raise pytest.UsageError(
                    f"the application of node {name!r} opens a second node before it closed the first"
                )
            async with open_by_cable(self._harness, self._nursery) as (opened, cable):
                own = tap(self.plane.attach(name, opened, cable), self.calls, self.plane.member(name))
                time = next(times)  # each node of one life has ids of its own
                seed = f"{self._seed}:{name}:{number}" + (f":{time}" if time > 1 else "")
                try:  # ids and jitter are the same in every run of the test
                    yield attrs.evolve(own, random=random.Random(seed))
                finally:
                    self.plane.kill(name)

        return open_backend


@asynccontextmanager
async def open_cluster(
    harness: Harness | None = None, *, ttl: float | None = None, seed: str = "", allow: Collection[str] = ()
) -> AsyncIterator[Cluster]:
    """A cluster of no nodes yet, closed when the block is left.

    Args:
        harness: Of the backend that its nodes share; by default memory.
        ttl: Of instances that are served without one, in seconds; None for the library's default.
        seed: What ids and jitter are made from.
        allow: What may be left behind; of `aegis_pytest.leftovers.LEFTOVERS`.

    Raises:
        AssertionError: The block was left normally, and left something behind that is not allowed.
        Exception: As a task of the cluster raised it; the block was cancelled.
    """
    __tracebackhide__ = True
    harness = harness or MemoryHarness()
    found: list[Leftover] = []
    failed: BaseException | None = None
    try:
        # Open throughout, so that the store outlives the death of all nodes.
        async with harness.open_backend() as backend, trio.open_nursery() as nursery:
            cluster = Cluster(nursery, harness, FaultPlane(store=backend.store), seed, ttl)
            with reporting(cluster):
                yield cluster
                found = await cluster.close()
    except BaseExceptionGroup as group:
        failed = only_leaf(group)
    if failed is not None:
        raise failed  # here, where it gets no context that it did not have
    left = [leftover for leftover in found if leftover.kind not in allow]
    if left and not left_by_exception():
        pytest.fail(tell_leftovers(left), pytrace=False)
