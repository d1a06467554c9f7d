"""The instances of the exchange, and what happens to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import trio

from aegis_core import Node
from exchange.children import ChildFailed
from exchange.life import Member, Plan
from exchange.owner import resource_of
from exchange.progress import Progress

_LOOK = 0.02
"""Seconds from one look at the progress to the next."""


class Host(Protocol):
    """Runs instances: as tasks of this process, or each as a process of its own."""

    async def start(self, plan: Plan, *, died: Callable[[], None]) -> Member:
        """Start an instance; returns when it is ready. It calls *died* if it is killed by somebody else."""
        ...


class Cluster:
    """Starts instances, moves symbols between them, and kills them.

    Args:
        host: Runs the instances.
        node: Knows who owns what.
        backend: Where they meet.
        folder: The journals, which all instances reach.
        symbols: What there is to own.
        seed: Decides who stands before whom in the lines.
        ttl: Seconds that a lease lives without renewal: how long a dead instance goes unnoticed.
        progress: Is told what is done here.
    """

    def __init__(
        self,
        host: Host,
        node: Node,
        *,
        backend: str,
        folder: Path,
        symbols: Sequence[str],
        seed: int,
        ttl: float,
        progress: Progress,
    ) -> None:
        self._host = host
        self._node = node
        self._backend = backend
        self._folder = folder
        self._symbols = symbols
        self._seed = seed
        self._ttl = ttl
        self._progress = progress
        self._members: dict[str, Member] = {}
        self._settled = False

    @property
    def names(self) -> tuple[str, ...]:
        """Who lives."""
        return tuple(self._members)

    def owned(self, name: str) -> tuple[str, ...]:
        """The symbols that *name* owns, as far as is known here."""
        owners = ((symbol, self._node.owner_of(resource_of(symbol))) for symbol in self._symbols)
        return tuple(symbol for symbol, owner in owners if owner is not None and owner.owner_instance_id == name)

    async def start(self, name: str, *, home: Iterable[str] = ()) -> None:
        """Start an instance that owns the symbols of its *home* at once and waits in line for all others."""
        self._progress.row(name).health = "STARTING"
        plan = Plan(
            name=name,
            backend=self._backend,
            folder=str(self._folder),
            symbols=tuple(self._symbols),
            home=tuple(home),
            seed=self._seed,
            ttl=self._ttl,
        )
        member = await self._host.start(plan, died=partial(self._died, name))
        if member.place:
            self._progress.note(f"{name} is ready, {member.place}")
        self._members[name] = member
        if self._settled:
            await member.settle()

    async def settle(self) -> None:
        """Let all instances join the lines, also those that come later: every symbol has its owner."""
        self._settled = True
        for member in self._members.values():
            await member.settle()

    async def transfer(self, symbols: Sequence[str], *, source: str, target: str) -> None:
        """Move *symbols*, at least one, from one living instance to another, while orders for them keep coming."""
        self._progress.note(f"moving {', '.join(symbols)} from {source} to {target}, under load")
        for trouble in await self._members[source].transfer(symbols, target):
            self._progress.note(trouble)

    async def kill(self, name: str) -> None:
        """Let *name* die without a word."""
        victim = self._members.pop(name)
        what = f"{name} ({victim.place}, kill -9)" if victim.place else name
        self._progress.note(f"killed {what}, which owned {self._holdings(name)}")
        self._progress.row(name).health = "DEAD"
        await victim.kill()

    async def dismiss(self, name: str) -> None:
        """Let *name* leave in peace: it hands its symbols over and deregisters. Returns when all of that is seen here."""
        self._progress.note(f"{name} leaves in peace and hands over {self._holdings(name)}")
        await self._members.pop(name).leave()
        while not self._seen_leaving(name):  # noqa: ASYNC110 - it is for people, who look a few times a second
            await trio.sleep(_LOOK)

    def _died(self, name: str) -> None:
        self._progress.note(f"{name} was killed, and not by this program: it owned {self._holdings(name)}")
        self._progress.row(name).health = "DEAD"
        self._members.pop(name, None)
        if not self._members:
            raise ChildFailed("all instances are dead: nobody is left to execute the orders")

    def _holdings(self, name: str) -> str:
        return ", ".join(self.owned(name)) or "nothing"

    def _seen_leaving(self, name: str) -> bool:
        rows = self._progress.rows
        owned = sum(len(row.owned) for row in rows.values())
        return rows[name].health in {"LEFT", "LOST"} and owned == len(self._symbols)
