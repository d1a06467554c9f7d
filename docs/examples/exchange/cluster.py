"""The instances of the exchange that run in this process, each with a node of its own."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import attrs
import trio

from aegis_core import AegisError, Instance, open_node
from exchange.mortality import CONFIG, Mortality
from exchange.owner import keep, order_books, resource_of, symbol_of
from exchange.progress import Progress

LAST_BREATH = 0.02
"""Seconds that a dying instance goes on to execute orders without being able to answer them."""


@attrs.frozen
class _Running:
    instance: Instance
    mortality: Mortality
    scope: trio.CancelScope
    leave: trio.Event


class Cluster:
    """Starts instances, moves symbols between them, and kills them.

    Args:
        nursery: Where the instances run.
        backend: Where they meet.
        folder: The journals, which all instances reach.
        symbols: What there is to own.
        seed: Decides who stands before whom in the lines.
        ttl: Seconds that a lease lives without renewal: how long a dead instance goes unnoticed.
        progress: Is told what is done here.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        *,
        backend: str,
        folder: Path,
        symbols: Sequence[str],
        seed: int,
        ttl: float,
        progress: Progress,
    ) -> None:
        self._nursery = nursery
        self._backend = backend
        self._folder = folder
        self._symbols = symbols
        self._seed = seed
        self._ttl = ttl
        self._progress = progress
        self._running: dict[str, _Running] = {}
        self._settled = trio.Event()

    @property
    def names(self) -> tuple[str, ...]:
        """Who lives."""
        return tuple(self._running)

    def owned(self, name: str) -> tuple[str, ...]:
        """The symbols that *name* owns by its own word."""
        claims = self._running[name].instance.claims
        return tuple(symbol for symbol in self._symbols if resource_of(symbol) in claims)

    async def start(self, name: str, *, home: Iterable[str] = ()) -> None:
        """Start an instance that owns the symbols of its *home* at once and waits in line for all others."""
        self._running[name] = await self._nursery.start(self._run, name, frozenset(home))

    def settle(self) -> None:
        """Let the instances join the lines: every symbol has its owner."""
        self._settled.set()

    async def transfer(self, symbols: Sequence[str], *, source: str, target: str) -> None:
        """Move *symbols*, at least one, from one live instance to another, while orders for them keep coming."""
        self._progress.note(f"moving {', '.join(symbols)} from {source} to {target}, under load")
        try:
            reply = await self._running[source].instance.transfer(
                *map(resource_of, symbols), to=target, reason="order book demo"
            )
        except AegisError as exc:  # Perhaps the source has just lost them: the demo goes on without.
            self._progress.note(f"not moved: {exc}")
        else:
            for resource_id, reason in reply.failed.items():
                self._progress.note(f"{symbol_of(resource_id)} was not moved: {reason}")

    async def kill(self, name: str) -> None:
        """Let *name* die without a word, in the worst moment: what it just executed is written, but not answered."""
        self._progress.note(f"killed {name}, which owned {', '.join(self.owned(name)) or 'nothing'}")
        self._progress.row(name).health = "DEAD"
        victim = self._running.pop(name)
        victim.mortality.die()
        await trio.sleep(LAST_BREATH)
        victim.scope.cancel()

    def dismiss(self, name: str) -> None:
        """Let *name* leave in peace: it hands its symbols over and deregisters."""
        self._progress.note(f"{name} leaves in peace and hands over {', '.join(self.owned(name)) or 'nothing'}")
        self._running.pop(name).leave.set()

    async def _run(
        self,
        name: str,
        home: frozenset[str],
        *,
        task_status: trio.TaskStatus[_Running] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        mortality, leave = Mortality(), trio.Event()
        with trio.CancelScope() as scope, order_books(self._folder) as service:
            async with (
                open_node(self._backend, config=CONFIG, plugins=[mortality]) as node,
                node.serve(service, instance_id=name, ttl=self._ttl) as instance,
                trio.open_nursery() as nursery,
            ):
                for symbol in sorted(home):
                    await nursery.start(keep, instance, symbol, self._priority(name, symbol))
                task_status.started(_Running(instance, mortality, scope, leave))
                await self._settled.wait()
                for symbol in self._symbols:
                    if symbol not in home:
                        nursery.start_soon(keep, instance, symbol, self._priority(name, symbol))
                await leave.wait()
                nursery.cancel_scope.cancel()

    def _priority(self, name: str, symbol: str) -> int:
        # Drawn for each symbol, so that the books of a dead instance spread over those who stay.
        return random.Random(f"{self._seed}/{name}/{symbol}").randrange(1000)
