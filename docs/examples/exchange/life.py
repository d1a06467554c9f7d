"""The life of one instance, which is the same wherever it runs: as a task of the demo, or as a process of its own."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import attrs
import trio

from aegis_core import AegisError, Instance, open_node
from exchange.owner import keep, order_books, resource_of, symbol_of


@attrs.frozen
class Plan:
    """What an instance has to know when it starts. Holds nothing that JSON cannot.

    Attributes:
        name: Its instance id.
        backend: Where the instances meet.
        folder: The journals, which all instances reach.
        symbols: What there is to own.
        home: What it owns at once; for all others it waits in line.
        seed: Decides who stands before whom in the lines.
        ttl: Seconds that its lease lives without renewal: how long its death goes unnoticed.
    """

    name: str
    backend: str = attrs.field(repr=False)  # It may hold a password.
    folder: str
    symbols: Sequence[str]
    home: Sequence[str]
    seed: int
    ttl: float


class Member(Protocol):
    """A running instance, as the cluster sees it."""

    @property
    def place(self) -> str:
        """Where it runs, in the words of the view; empty for a task of this process."""
        ...

    async def settle(self) -> None:
        """Let it join the lines: every symbol has its owner."""
        ...

    async def transfer(self, symbols: Sequence[str], target: str) -> Sequence[str]:
        """Let it hand *symbols* over to *target*; returns a line for people per trouble."""
        ...

    async def leave(self) -> None:
        """Let it hand everything over and deregister; returns when it is gone."""
        ...

    async def kill(self) -> None:
        """Let it die without a word, in the middle of whatever it does."""
        ...


class Life:
    """Runs one instance; the other methods steer it while it runs.

    Args:
        plan: Who it is and what it has to do.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._settled = trio.Event()
        self._leaving = trio.Event()
        self._instance: Instance | None = None

    async def run(
        self,
        *,
        config: Mapping[str, object] | None = None,
        plugins: Sequence[object] = (),
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Live until told to leave; started once it owns its home.

        Args:
            config: Settings of its node.
            plugins: Plug-ins of its node.
            task_status: Told when it is ready.
        """
        plan = self._plan
        with order_books(Path(plan.folder)) as service:
            async with (
                open_node(plan.backend, config=config, plugins=plugins) as node,
                node.serve(service, instance_id=plan.name, ttl=plan.ttl) as instance,
                trio.open_nursery() as nursery,
            ):
                for symbol in sorted(plan.home):
                    await nursery.start(keep, instance, symbol, self._priority(symbol))
                self._instance = instance
                task_status.started()
                await self._settled.wait()
                for symbol in plan.symbols:
                    if symbol not in plan.home:
                        nursery.start_soon(keep, instance, symbol, self._priority(symbol))
                await self._leaving.wait()
                nursery.cancel_scope.cancel()

    def settle(self) -> None:
        """See `Member.settle`."""
        self._settled.set()

    def leave(self) -> None:
        """See `Member.leave`."""
        self._leaving.set()

    async def transfer(self, symbols: Sequence[str], target: str) -> Sequence[str]:
        """See `Member.transfer`."""
        assert self._instance is not None
        try:
            reply = await self._instance.transfer(*map(resource_of, symbols), to=target, reason="order book demo")
        except AegisError as exc:  # Perhaps it has just lost them: the demo goes on without.
            return (f"not moved: {exc}",)
        return tuple(f"{symbol_of(f.resource_id)} was not moved: {f.reason}" for f in reply.failed)

    def _priority(self, symbol: str) -> int:
        # Drawn for each symbol, so that the books of a dead instance spread over those who stay.
        return random.Random(f"{self._plan.seed}/{self._plan.name}/{symbol}").randrange(1000)
