"""A node's way to a memory cluster on which a test can put any fault: a plug-in for URLs ``faulty://name``.

Each node of a test gets a `Faults` of its own. It joins the cluster ``memory://name``, with a clock that a test can
drift and set, and a store between the node and the cluster's that loses, delays and holds what a test wants.
"""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import attrs
import trio

from aegis_backends.memory import open_memory
from aegis_core.backend import (
    ANY,
    Backend,
    BackendAddress,
    Capabilities,
    Change,
    Delete,
    Entry,
    Feed,
    Indeterminate,
    Resync,
    Store,
    StoreUnavailable,
    Synced,
    Transaction,
)
from aegis_core.hookspecs import BackendRegistrar, hookimpl
from aegis_core.names import target_key
from aegis_core.node.node import Node, open_node

__all__ = ["Faults", "SlantedClock", "erase", "names_key"]

Wanted = Callable[[Transaction], bool]
Items = Sequence[Change | Synced | Resync]


def names_key(prefix: str) -> Wanted:
    """Transactions with an operation on a key that begins with *prefix*."""
    return lambda transaction: any(op.key.startswith(prefix) for op in transaction.operations)


async def erase(node: Node, target: str) -> None:
    """Delete the record of *target* behind everybody's back, as with other tools."""
    await node.runtime.store.commit(Transaction(id="erase", operations=(Delete(target_key(target), ANY),)))


def _any(_transaction: Transaction) -> bool:
    return True


class SlantedClock:
    """Trio's clock, running *rate* times as fast, and set by *offset* seconds.

    While `running` is not set, who sleeps on it does not wake: the process is stopped, time goes on.
    """

    def __init__(self, rate: float = 1.0, offset: float = 0.0) -> None:
        self.rate = rate
        self.offset = offset
        self.running = trio.Event()
        self.running.set()

    def now(self) -> float:
        """Seconds on this clock."""
        return trio.current_time() * self.rate + self.offset

    def trio_time(self, at: float) -> float:
        """*at* on Trio's clock."""
        return (at - self.offset) / self.rate

    async def sleep_until(self, at: float) -> None:
        """Wait until `now` is *at*."""
        await trio.sleep_until(self.trio_time(at))
        while self.now() < at:  # by a rounding error  # noqa: ASYNC110 - a clock of its own
            await trio.sleep_until(math.nextafter(trio.current_time(), math.inf))
        if not self.running.is_set():
            await self.running.wait()


@attrs.define(eq=False)
class Rule:
    """What happens to the next transactions that are wanted."""

    wanted: Wanted
    act: Callable[[Store, Transaction], object]
    times: int
    seen: int = 0
    met: trio.Event = attrs.field(factory=trio.Event)


@attrs.define(eq=False)
class Faults:
    """What is wrong with one node's way to the store; a plug-in for ``open_node(plugins=...)``."""

    clock: SlantedClock = attrs.field(factory=SlantedClock)
    seed: int = 0
    capabilities: Capabilities | None = None
    commits: list[tuple[float, Transaction]] = attrs.field(factory=list)
    syncs: list[float] = attrs.field(factory=list)
    latency: float = 0.0
    lag: float = 0.0
    refusing: bool = False
    sync_refused: bool = False
    deaf: bool = False
    watch_error: BaseException | None = None
    on_commit: Callable[[Transaction], object] | None = None
    receiving: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    _cut: bool = False
    _healed: trio.Event = attrs.field(factory=trio.Event)
    _resync: bool = False
    _rules: list[Rule] = attrs.field(factory=list)

    # -- the plug-in ------------------------------------------------------------------------------

    @hookimpl
    def aegis_register_backends(self, register: BackendRegistrar) -> None:
        """Offer ``faulty://``."""
        register("faulty", self._open)

    @asynccontextmanager
    async def _open(self, address: BackendAddress) -> AsyncIterator[Backend]:
        inner = attrs.evolve(address, url=f"memory://{address.location}", scheme="memory")
        async with open_memory(inner) as opened:
            assert opened.store is not None
            store = FaultyStore(opened.store, self)
            yield attrs.evolve(opened, store=store, clock=self.clock, random=random.Random(self.seed))

    @asynccontextmanager
    async def node(self, name: str = "test", **config: object) -> AsyncIterator[Node]:
        """A node of the cluster *name* behind these faults."""
        async with open_node(f"faulty://{name}", plugins=[self], config=config) as node:
            yield node

    # -- what a test can do -----------------------------------------------------------------------

    def cut(self) -> None:
        """From now on nothing comes through, in either direction, and nobody says so."""
        self._cut = True
        self._healed = trio.Event()

    def heal(self) -> None:
        """It comes through again."""
        self._cut = False
        self._healed.set()

    def stop(self) -> None:
        """The node's process is stopped: nothing comes through, and nobody who sleeps wakes."""
        self.cut()
        self.clock.running = trio.Event()

    def go_on(self) -> None:
        """The node's process goes on."""
        self.clock.running.set()
        self.heal()

    def resync(self) -> None:
        """The watch has lost the thread: it begins anew with a snapshot."""
        self.deaf = False
        self._resync = True
        self.receiving.cancel()

    def lose(self, wanted: Wanted = _any, *, times: int = 1) -> Rule:
        """Wanted commits are never applied, and nobody is told: `Indeterminate`."""

        async def act(store: Store, transaction: Transaction) -> tuple[int, ...]:
            await trio.lowlevel.checkpoint()
            raise Indeterminate(reason="lost")

        return self._rule(wanted, act, times)

    def unanswered(self, wanted: Wanted = _any, *, times: int = 1) -> Rule:
        """Wanted commits are applied, but the answer is lost: `Indeterminate`."""

        async def act(store: Store, transaction: Transaction) -> tuple[int, ...]:
            await store.commit(transaction)
            raise Indeterminate(reason="the answer was lost")

        return self._rule(wanted, act, times)

    def late(self, seconds: float, wanted: Wanted = _any, *, times: int = 1) -> Rule:
        """Wanted commits are reported lost at once, and applied *seconds* later."""

        async def act(store: Store, transaction: Transaction) -> tuple[int, ...]:
            async def apply() -> None:
                await trio.sleep(seconds)
                try:
                    await store.commit(transaction)
                except Exception:  # noqa: BLE001 - it came too late for anybody
                    return

            trio.lowlevel.spawn_system_task(apply)
            await trio.lowlevel.checkpoint()
            raise Indeterminate(reason="on its way")

        return self._rule(wanted, act, times)

    def slow(self, seconds: float, wanted: Wanted = _any, *, times: int = 1) -> Rule:
        """Wanted commits are applied at once, and acknowledged *seconds* later; who is cancelled meanwhile never knows."""

        async def act(store: Store, transaction: Transaction) -> tuple[int, ...]:
            revisions = await store.commit(transaction)
            await trio.sleep(seconds)
            return revisions

        return self._rule(wanted, act, times)

    def hold(self, until: trio.Event, wanted: Wanted = _any, *, times: int = 1) -> Rule:
        """Wanted commits are applied once *until* is set."""

        async def act(store: Store, transaction: Transaction) -> tuple[int, ...]:
            await until.wait()
            return await store.commit(transaction)

        return self._rule(wanted, act, times)

    def break_down(self, error: Exception, wanted: Wanted = _any, *, times: int = 1) -> Rule:
        """Wanted commits raise *error*."""

        async def act(store: Store, transaction: Transaction) -> tuple[int, ...]:
            await trio.lowlevel.checkpoint()
            raise error

        return self._rule(wanted, act, times)

    def heal_commits(self) -> None:
        """No rule holds any more."""
        self._rules.clear()

    def times_of(self, prefix: str) -> list[float]:
        """When transactions on keys that begin with *prefix* were sent, on Trio's clock."""
        wanted = names_key(prefix)
        return [at for at, transaction in self.commits if wanted(transaction)]

    def _rule(self, wanted: Wanted, act: Callable[[Store, Transaction], object], times: int) -> Rule:
        rule = Rule(wanted, act, times)
        self._rules.append(rule)
        return rule

    # -- for the store ----------------------------------------------------------------------------

    async def pass_through(self) -> None:
        """Wait while the way is cut."""
        while self._cut:
            await self._healed.wait()

    def rule_for(self, transaction: Transaction) -> Rule | None:
        """The rule that *transaction* falls under."""
        for rule in self._rules:
            if rule.seen < rule.times and rule.wanted(transaction):
                rule.seen += 1
                rule.met.set()
                return rule
        return None

    def take_resync(self) -> bool:
        """Whether the watch is to begin anew now."""
        wanted, self._resync = self._resync, False
        return wanted


class FaultyStore:
    """The cluster's store, as it looks from behind the faults."""

    def __init__(self, store: Store, faults: Faults) -> None:
        self._store = store
        self._faults = faults

    @property
    def capabilities(self) -> Capabilities:
        """The limits."""
        return self._faults.capabilities or self._store.capabilities

    async def commit(self, transaction: Transaction) -> tuple[int, ...]:
        """As the store's, if nothing is wrong."""
        faults = self._faults
        faults.commits.append((trio.current_time(), transaction))
        if faults.on_commit is not None:
            faults.on_commit(transaction)
        if faults.refusing:
            await trio.lowlevel.checkpoint()
            raise StoreUnavailable(reason="refused by the test")
        await faults.pass_through()
        await trio.sleep(faults.latency)
        rule = faults.rule_for(transaction)
        if rule is not None:
            return await rule.act(self._store, transaction)  # type: ignore[misc,no-any-return]
        revisions = await self._store.commit(transaction)
        await trio.sleep(faults.latency)
        await faults.pass_through()
        return revisions

    async def sync(self) -> int:
        """As the store's, if nothing is wrong."""
        self._faults.syncs.append(trio.current_time())
        if self._faults.refusing or self._faults.sync_refused:
            await trio.lowlevel.checkpoint()
            raise StoreUnavailable(reason="refused by the test")
        await self._faults.pass_through()
        await trio.sleep(self._faults.latency)
        return await self._store.sync()

    async def get(self, key: str) -> Entry | None:
        """As the store's."""
        return await self._store.get(key)

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[Feed]:
        """As the store's, if nothing is wrong."""
        async with AsyncExitStack() as stack:
            feed = await stack.enter_async_context(self._store.watch())
            yield FaultyFeed(self._store, feed, self._faults, stack)


class FaultyFeed:
    """The cluster's feed, as it looks from behind the faults."""

    def __init__(self, store: Store, feed: Feed, faults: Faults, stack: AsyncExitStack) -> None:
        self._store = store
        self._feed = feed
        self._faults = faults
        self._stack = stack

    async def receive(self) -> Items:
        """As the feed's, if nothing is wrong."""
        while True:
            items: Items = ()
            with trio.CancelScope() as self._faults.receiving:
                items = await self._feed.receive()
            await self._faults.pass_through()
            if self._faults.lag:
                await trio.sleep(self._faults.lag)
            if self._faults.watch_error is not None:
                raise self._faults.watch_error
            if self._faults.take_resync():
                self._feed = await self._stack.enter_async_context(self._store.watch())
                return [Resync("by the test"), *(await self._feed.receive())]
            if items and not self._faults.deaf:
                return items
