"""What is wrong in a test's cluster at a moment: between its nodes, with one of them, or on the way to the store.

A `FaultPlane` knows the nodes by name, and the faults that are in force. The ports that `FaultPlane.attach` puts between a node
and a backend ask it, message by message: a message is *carried* from one name to another, which takes the time that
the faults on that way say, or for ever. They use nothing but the ports themselves, so that any backend can be spoilt.

A way that is cut is a black hole, as a network is: the sender waits for its time-out, and what it waits with arrives if the
cut heals before that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, TypeVar, TypeVarTuple

import attrs
import trio

from aegis_core.backend import Backend, Store, Transaction
from aegis_core.errors import AegisError
from aegis_pytest.cable import Cable
from aegis_pytest.faults.bus import FaultyBus, faulty_messages
from aegis_pytest.faults.clock import NodeClock
from aegis_pytest.faults.kinds import (
    STORE,
    Counted,
    Cut,
    Delay,
    Doubling,
    Doubt,
    Drift,
    Fault,
    Jitter,
    Lag,
    Loss,
    LostLease,
    Noted,
    Relapse,
    Reset,
    Stop,
)
from aegis_pytest.faults.member import Member
from aegis_pytest.faults.store import FaultyStore
from aegis_pytest.faults.transport import FaultyTransport

__all__ = ["FaultPlane"]

_MOST_NOTED: Final = 16

Arguments = TypeVarTuple("Arguments")
FaultT = TypeVar("FaultT", bound=Fault)
CountedT = TypeVar("CountedT", bound=Counted)


class FaultPlane:
    """The nodes of one cluster, and the faults in force. `aegis_pytest.faults.Faults` is how a test uses it.

    Args:
        store_timeout: Seconds after which a node gives up waiting for an answer of the store.
        store: A connection of its own to the nodes' store, by which it is changed when theirs may be closed; None: it is not.
    """

    def __init__(self, *, store_timeout: float = 2.0, store: Store | None = None) -> None:
        self.store_timeout: Final = store_timeout
        self.store: Final = store
        self.noted: deque[Noted] = deque(maxlen=_MOST_NOTED)
        self.conflicts = 0
        """Commits of its nodes that the store refused, because what they expected did not hold."""
        self._faults: list[Fault] = []
        self._members: dict[str, Member] = {}
        self._endpoints: dict[str, Member] = {}
        self._couriers: dict[trio.CancelScope, None] = {}
        self._moved = trio.Event()

    def __repr__(self) -> str:
        return f"<FaultPlane of {list(self._members.values())} with {self._faults}>"

    # --- The nodes ---

    def attach(self, name: str, backend: Backend, cable: Cable | None = None) -> Backend:
        """*backend* as node *name* has it: its stores, transports, bus and clock go through this plane.

        With a *cable* between the node and its servers, cuts and delays that concern all that goes by it are the cable's.
        A node that was killed may be attached again, for its next life; what is wrong with its name is so at once.

        Raises:
            ValueError: *name* is the store's, or a node of that name is alive.
        """
        living = self._members.get(name)
        if name == STORE or (living is not None and not living.is_dead):
            raise ValueError(f"{name!r} is taken: nodes need names of their own")
        clock = NodeClock(backend.clock)
        member = self._members[name] = Member(name, backend.store, clock, cable)
        self._settle()
        return attrs.evolve(
            backend,
            store=None if backend.store is None else FaultyStore(backend.store, self, member, later=self.store),
            transports=tuple(FaultyTransport(transport, self, member) for transport in backend.transports),
            bus=None if backend.bus is None else FaultyBus(backend.bus, member),
            open_messages=faulty_messages(backend.open_messages, self, member),
            clock=clock,
        )

    def kill(self, name: str) -> None:
        """From now on node *name* says and hears nothing: its process died.

        What it does in its ports fails at once, what it waits for there ends, and on its clock all time has passed, so that
        its tasks unwind quickly, however they are shielded.

        Raises:
            KeyError: There is no such node.
        """
        self._members[name].kill()
        self._settle()

    def member(self, name: str) -> Member | None:
        """The latest life of node *name*."""
        return self._members.get(name)

    def member_with(self, instance_id: str) -> Member | None:
        """The latest node that registered *instance_id*."""
        return next((m for m in reversed(self._members.values()) if instance_id in m.instances), None)

    # --- The faults ---

    def begin(self, fault: Fault) -> None:
        """Put *fault* in force."""
        self._faults.append(fault)
        self._settle()

    def end(self, fault: Fault) -> None:
        """Heal *fault*, if it is in force."""
        if fault in self._faults:
            self._faults.remove(fault)
            self._settle()

    def heal(self) -> None:
        """Heal all faults, and lose what is still under way. The dead stay dead."""
        self._faults.clear()
        for scope in tuple(self._couriers):
            scope.cancel()
        self._settle()

    @contextmanager
    def noting(self, what: str) -> Iterator[None]:
        """The block is one in which *what* is wrong: it is told to those who ask for `noted`."""
        noted = Noted(what, trio.current_time())
        self.noted.append(noted)
        try:
            yield
        finally:
            noted.ended = trio.current_time()

    def in_force(self, kind: type[FaultT]) -> list[FaultT]:
        """The faults of one kind, the oldest first."""
        return [fault for fault in self._faults if isinstance(fault, kind)]

    def take(self, kind: type[CountedT], wanted: Callable[[CountedT], bool]) -> CountedT | None:
        """Use one of a counted fault that is *wanted* here; None if there is none."""
        for fault in self.in_force(kind):
            if fault.left > 0 and wanted(fault):
                fault.left -= 1
                return fault
        return None

    def _settle(self) -> None:
        """Make every node what the faults in force say."""
        stopped = {fault.node for fault in self.in_force(Stop)}
        for member in self._members.values():
            if member.is_dead:
                continue
            if member.cable is not None:
                self._settle_cable(member, member.cable)
            rate = 1.0 + sum(fault.rate for fault in self.in_force(Drift) if fault.node == member.name)
            member.clock.set_rate(rate)
            if member.is_stopped and member.name not in stopped:
                member.resume()
            elif not member.is_stopped and member.name in stopped:
                member.stop()
        self.tell()

    def _settle_cable(self, member: Member, cable: Cable) -> None:
        """Let *cable*, which is all that the node has, be as the faults that concern the whole of it say."""
        others = [it.name for it in self._members.values() if it is not member and not it.is_dead]
        reached = [STORE, *others] if cable.carries_calls else [STORE]
        cable.be(
            cut=all(self._separations(member.name, other) for other in reached),
            delay=sum(delay.seconds for delay in self.in_force(Delay) if _is_whole(delay, member.name, cable)),
            reset=any(fault.node == member.name for fault in self.in_force(Reset)),
        )

    def _separations(self, one: str, other: str) -> list[Cut]:
        return [cut for cut in self.in_force(Cut) if cut.separates(one, other)]

    def _cables(self, one: str, other: str) -> Iterator[tuple[str, Cable]]:
        """The cables by which a message between the two goes, and whose they are."""
        for name in (one, other):
            member = self._members.get(name)
            if (
                member is not None
                and member.cable is not None
                and (STORE in (one, other) or member.cable.carries_calls)
            ):
                yield name, member.cable

    # --- For the ports ---

    def tell(self) -> None:
        """Let everybody who waits look again."""
        self._moved.set()
        self._moved = trio.Event()

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until *condition* holds; no checkpoint if it does."""
        while not condition():
            await self._moved.wait()

    async def wait_running(self, member: Member) -> None:
        """Wait while *member* is stopped."""
        await self.wait_until(lambda: member.is_dead or not member.is_stopped)

    def cuts(self, one: str, other: str) -> list[Cut]:
        """The cuts in force between the two; none, if it is a cable that is cut."""
        return [] if any(cable.is_cut for _, cable in self._cables(one, other)) else self._separations(one, other)

    def is_cut(self, one: str, other: str) -> bool:
        """Whether nothing passes between the two."""
        return bool(self.cuts(one, other))

    def delay(self, one: str, other: str) -> float:
        """The seconds that a message between the two takes, beside what it takes by cable."""
        cables = list(self._cables(one, other))
        return sum(
            delay.seconds
            for delay in self.in_force(Delay)
            if delay.concerns(one, other) and not any(_is_whole(delay, name, cable) for name, cable in cables)
        )

    def _jitter(self, one: str, other: str) -> float:
        """The seconds that the next message between the two takes by bad luck."""
        known = (it for it in self.in_force(Jitter) if it.ends == {one, other})
        return sum(it.chance.uniform(0.0, it.seconds) for it in known)

    async def carry(self, sender: str, receiver: str) -> None:
        """Return when a message that *sender* sends now arrives at *receiver*; never, if it is lost."""
        await self.wait_until(lambda: not self.is_cut(sender, receiver))
        if self.take(Loss, lambda loss: (loss.sender, loss.receiver) == (sender, receiver)):
            await trio.sleep_forever()
        seconds = self.delay(sender, receiver) + self._jitter(sender, receiver)
        if seconds:
            await trio.sleep(seconds)
            await self.wait_until(lambda: not self.is_cut(sender, receiver))

    def doubles(self, sender: str, receiver: str) -> Doubling | None:
        """How the message that *sender* sends now arrives twice, if it does."""
        return self.take(Doubling, lambda it: (it.sender, it.receiver) == (sender, receiver))

    def lag(self, node: str) -> float:
        """The seconds between two pieces of what the watch of *node* tells; 0 when it comes as it is."""
        return max((it.seconds for it in self.in_force(Lag) if it.node == node), default=0.0)

    def relapse(self, node: str) -> float:
        """With which share of its TTL left a renewal of *node* comes too late, although it is acknowledged."""
        return max((it.share for it in self.in_force(Relapse) if it.node == node), default=0.0)

    def is_lost(self, key: str) -> bool:
        """Whether the registration under *key* cannot be written."""
        return any(key in fault.keys for fault in self.in_force(LostLease))

    def doubt(self, node: str, transaction: Transaction) -> Doubt | None:
        """How the commit that *node* begins now becomes indeterminate, if it does."""

        def wanted(doubt: Doubt) -> bool:
            return doubt.node == node and any(op.key.startswith(doubt.prefix) for op in transaction.operations)

        return self.take(Doubt, wanted)

    def send(self, fn: Callable[[*Arguments], Awaitable[object]], *args: *Arguments, after: float = 0.0) -> None:
        """Have *fn* called *after* seconds by nobody in particular: what is under way belongs to no node any more."""
        scope = trio.CancelScope()
        self._couriers[scope] = None
        trio.lowlevel.spawn_system_task(self._courier, scope, fn, args, after)

    async def _courier(
        self,
        scope: trio.CancelScope,
        fn: Callable[[*Arguments], Awaitable[object]],
        args: tuple[*Arguments],
        after: float,
    ) -> None:
        try:
            # Nobody waits for the answer, or for the refusal; and whose connection it was may have closed it meanwhile.
            with scope, suppress(AegisError, ValueError, OSError, trio.TooSlowError, trio.ClosedResourceError):
                await trio.sleep(after)
                await fn(*args)
        finally:
            del self._couriers[scope]

    def listen_at(self, endpoint: str, member: Member) -> None:
        """Note who serves *endpoint*."""
        self._endpoints[endpoint] = member

    def leave(self, endpoint: str) -> None:
        """Note that nobody serves *endpoint* any more."""
        del self._endpoints[endpoint]

    def member_at(self, endpoint: str) -> Member | None:
        """Who serves *endpoint*."""
        return self._endpoints.get(endpoint)


def _is_whole(delay: Delay, name: str, cable: Cable) -> bool:
    """Whether *delay* concerns all that goes by *cable*, which is node *name*'s."""
    return delay.ends == {name} or (delay.ends == {name, STORE} and not cable.carries_calls)
