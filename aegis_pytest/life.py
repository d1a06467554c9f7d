"""One life of one node of a test's cluster: from when it is opened to when it is closed, or killed.

A life is a nursery with everything that belongs to the node: the block of `open_node`, those of `serve`, background tasks,
an application's own ``main``. What runs there finds the node's defaults in `aegis_core.config.ambient`, so that a bare
``open_node()`` opens this node.

It ends in one of two ways. *Closed*, what works in it is cancelled first, then instances leave their blocks as in a program
that ends (they drain and deregister), then the node does. *Killed*, its store, transport and clock are dead before
anything else happens, so that whatever its tasks do while they unwind, nobody hears of it.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, TypedDict

import attrs
import pytest
import trio

from aegis_core.config import NodeDefaults, ambient
from aegis_core.models import Role
from aegis_core.node.claims import Claim
from aegis_core.node.instance import Instance
from aegis_core.node.node import Node, open_node
from aegis_core.node.service import Service
from aegis_pytest.faults.kinds import STORE
from aegis_pytest.traces import leaves

__all__ = ["Crew", "Life", "Main", "ServeOptions", "Serving", "Task", "check_name", "check_options"]

Asynchronous = Callable[..., Awaitable[object]]

_OPEN_WITHIN: Final = 30.0  # on the real clock the test itself has 60, and says less of it
_BARE: Final = "an application's node is the one that it opens by open_node() without a backend (AEGIS_BACKEND names that elsewhere)"


def check_name(name: object) -> None:
    """Refuse what is no name of a node.

    Raises:
        pytest.UsageError: It is the store's, no text, or cannot be read in a message.
    """
    if name == STORE:
        raise pytest.UsageError(f"{name!r} is the store's name; give the node another one")
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise pytest.UsageError(f"a node of a cluster goes by a name of letters, 'a' or 'node-1', not {name!r}")


class ServeOptions(TypedDict, total=False):
    """The options of `Node.serve`."""

    instance_id: str | None
    role: Role | None
    group: str | None
    ttl: float | None
    heartbeat_interval: float | None
    priority: int
    metadata: Mapping[str, object] | None
    register: bool


def check_options(options: Mapping[str, object]) -> None:
    """Refuse what is no option of `Node.serve`.

    Raises:
        TypeError: One is none; says which are.
    """
    __tracebackhide__ = True
    known = list(ServeOptions.__annotations__)
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]}=?" if close else f"there are {', '.join(known)}"
            raise TypeError(f"serve() has no option {name!r}: {hint}")


@attrs.frozen(eq=False)
class Serving:
    """An instance that the cluster serves."""

    service: Service
    options: ServeOptions


@attrs.frozen(eq=False)
class Task:
    """A background task of the node."""

    fn: Asynchronous
    args: tuple[object, ...]


@attrs.frozen(eq=False)
class Main:
    """An application that opens the node itself."""

    fn: Asynchronous
    args: tuple[object, ...]


class Crew:
    """Tasks of one kind, each in a cancel scope of its own."""

    def __init__(self) -> None:
        self._scopes: dict[trio.CancelScope, str] = {}
        self._gone = trio.Event()
        self._gone.set()

    @property
    def names(self) -> tuple[str, ...]:
        """What still runs."""
        return tuple(self._scopes.values())

    @contextmanager
    def work(self, name: str) -> Iterator[None]:
        """The block is work of the current task, which `cancel` cancels."""
        with trio.CancelScope() as scope:
            if not self._scopes:
                self._gone = trio.Event()
            self._scopes[scope] = name
            try:
                yield
            finally:
                del self._scopes[scope]
                if not self._scopes:
                    self._gone.set()

    def cancel(self) -> None:
        """Cancel all of it."""
        for scope in self._scopes:
            scope.cancel()

    async def wait_gone(self) -> None:
        """Wait until nothing of it runs."""
        await self._gone.wait()


class Life:
    """See the module's docstring. Made, and run as a task, by `aegis_pytest.cluster.Cluster`.

    Args:
        name: The node's name.
        defaults: What a bare ``open_node()`` means in it; its `opened` is told of each node, once this knows it.
    """

    def __init__(self, name: str, defaults: NodeDefaults) -> None:
        self.name: Final = name
        self.steps: list[tuple[Serving | Task | Main, object]] = []
        self.killed = False
        self.ended = trio.Event()
        self.tasks = Crew()
        self.mains = Crew()
        self.blocks = Crew()
        self._leave_blocks = trio.Event()
        self._close_node = trio.Event()
        self._defaults = attrs.evolve(defaults, opened=self._node_opened)
        self._tell_opened = defaults.opened
        self._node: Node | None = None
        self._was_open = False
        self._on_open: Callable[[], None] | None = None
        self._task: trio.lowlevel.Task | None = None
        self._nursery: trio.Nursery

    def __repr__(self) -> str:
        return f"<Life of node {self.name!r}: {self.state}>"

    @property
    def state(self) -> str:
        """In one word: opening, open, closed (its application ended), killed."""
        if self.killed:
            return "killed"
        if self.node is not None:
            return "open"
        return "closed" if self._was_open else "opening"

    @property
    def node(self) -> Node | None:
        """The node while it is open; of several that an application opened, the last."""
        node = self._node
        if node is None or self.ended.is_set() or node.runtime.closed:
            return None
        return node

    @property
    def last_node(self) -> Node | None:
        """The node that was opened last, whatever became of it."""
        return self._node

    @property
    def instances(self) -> tuple[Instance, ...]:
        """The instances that the node serves."""
        node = self.node
        return () if node is None else tuple(node.hosted.values())

    def holds(self, task: trio.lowlevel.Task | None) -> bool:
        """Whether *task* is one of this life's, and so is cancelled with it."""
        while task is not None:
            if task is self._task:
                return True
            task = None if task.parent_nursery is None else task.parent_nursery.parent_task
        return False

    def foreign_bodies(self) -> list[Claim]:
        """Claims of this node whose ``own`` block runs in a task of somebody else: the test's."""
        return [
            claim
            for instance in self.instances
            for claim in instance.claims.values()
            if claim.body_runs and not self.holds(claim.body_task)
        ]

    # -- the life itself --------------------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Live until `end` or `kill`. What a task of the life raises is raised, unless it was killed."""
        self._task = trio.lowlevel.current_task()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await self._close_node.wait()
        except* Exception:
            # How the tasks of a dead process unwind tells nothing.
            if not self.killed:
                raise
        finally:
            self.ended.set()

    def cancel_tasks(self) -> None:
        """Cancel the background tasks."""
        self.tasks.cancel()

    def cancel_mains(self) -> None:
        """Cancel the application."""
        self.mains.cancel()

    def leave_blocks(self) -> None:
        """Let the instances that the cluster serves leave their blocks."""
        self._leave_blocks.set()

    async def kill(self) -> None:
        """Cancel everything, and wait until it has unwound. Whoever calls has cut the node off before."""
        self.killed = True
        self._nursery.cancel_scope.cancel()
        await self.ended.wait()

    async def end(self) -> None:
        """Close the node, in whose life nothing runs any more."""
        self._close_node.set()
        await self.ended.wait()

    # -- starting ---------------------------------------------------------------------------------------------

    async def open(self) -> Node:
        """Open the node in a task of this life."""
        node: Node = await self._nursery.start(self._hold_node, name=f"{self.name}: open_node")
        return node

    async def start(self, step: Serving | Task | Main) -> object:
        """Carry *step* out: returns the `Instance`, what the task said when it had started, or the application's `Node`."""
        started: object
        _check_step(step)
        match step:
            case Serving():
                started = await self._nursery.start(self._serve, step, name=f"{self.name}: serve({step.service.name})")
            case Task():
                started = await self._start_task(step)
            case Main():
                started = await self._start_main(step)
        self.steps.append((step, started))
        return started

    # Every task below begins by setting `ambient`: a task inherits the context of whoever starts it, the test's here.

    async def _hold_node(self, task_status: trio.TaskStatus[Node]) -> None:
        ambient.set(self._defaults)
        async with open_node() as node:
            task_status.started(node)
            try:
                await self._close_node.wait()
            finally:
                # In a program the blocks of serve lie within that of open_node; here they are tasks beside it, which nobody
                # cancels with it when the node crashes.
                if not self._close_node.is_set():
                    self.blocks.cancel()
                with trio.CancelScope(shield=True):
                    await self.blocks.wait_gone()

    async def _serve(self, step: Serving, task_status: trio.TaskStatus[Instance]) -> None:
        ambient.set(self._defaults)
        assert self.node is not None
        with self.blocks.work(step.service.name):
            async with self.node.serve(step.service, **step.options) as instance:
                task_status.started(instance)
                await self._leave_blocks.wait()

    async def _start_task(self, step: Task) -> object:
        name = f"{self.name}: {_name(step.fn)}"

        async def run(**status: object) -> None:
            ambient.set(self._defaults)
            with self.tasks.work(name), _naming(name):
                await step.fn(*step.args, **status)

        if _tells_start(step.fn):
            started: object = await self._nursery.start(run, name=name)
            return started
        self._nursery.start_soon(run, name=name)
        return None

    async def _start_main(self, step: Main) -> Node:
        called = f"{_name(step.fn)}() of node {self.name!r}"
        name = f"{self.name}: {_name(step.fn)}"

        async def run(task_status: trio.TaskStatus[None]) -> None:
            told = False

            def started(_value: object = None) -> None:
                nonlocal told
                if self.node is None:
                    raise RuntimeError(f"{called} says that it has started, and has not opened the node: {_BARE}")
                told = True
                task_status.started()

            ambient.set(self._defaults)
            with self.mains.work(name), _naming(name):
                if _tells_start(step.fn):
                    await step.fn(*step.args, task_status=_Status(started))
                else:
                    self._on_open = started
                    await step.fn(*step.args)
            if not told:
                raise RuntimeError(f"{called} ended before it had started: {_BARE}")

        with trio.move_on_after(_OPEN_WITHIN) as patience:
            await self._nursery.start(run, name=name)
        if patience.cancelled_caught:
            raise RuntimeError(f"{called} did not start within {_OPEN_WITHIN:g} s: {_BARE}")
        assert self._node is not None
        return self._node

    def _node_opened(self, node: Node) -> None:
        self._node = node
        self._was_open = True
        if self._tell_opened is not None:
            self._tell_opened(node)
        tell, self._on_open = self._on_open, None
        if tell is not None:
            tell()


@attrs.frozen
class _Status:
    """What an application is given as its ``task_status``."""

    started: Callable[..., None]


@contextmanager
def _naming(task: str) -> Iterator[None]:
    """Note on what the block raises which task raised it: the traceback does not say of which node."""
    try:
        yield
    except Exception as exc:
        for leaf in leaves(exc):
            leaf.add_note(f"raised in the background of the test, by {task}")
        raise


def _check_step(step: Serving | Task | Main) -> None:
    """Refuse what cannot be called, here where the caller is told, and not in the background.

    A synchronous function passes: what it returns may well be awaitable. If not, the task of the step fails.
    """
    given: object = step.service if isinstance(step, Serving) else step.fn
    if inspect.iscoroutine(given):
        given.close()
        raise pytest.UsageError(
            f"expected an async function and its arguments, got what {given.__name__}(...) returns: write "
            f"'{given.__name__}, ...' instead of '{given.__name__}(...)'"
        )
    if isinstance(step, Serving) and not isinstance(given, Service):
        raise pytest.UsageError(f"expected a Service, got {given!r}")
    if not isinstance(step, Serving) and not callable(given):
        raise pytest.UsageError(f"expected an async function, got {given!r}")


def _name(fn: Asynchronous) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return getattr(fn, "__name__", repr(fn))


def _tells_start(fn: Asynchronous) -> bool:
    return "task_status" in inspect.signature(fn).parameters
