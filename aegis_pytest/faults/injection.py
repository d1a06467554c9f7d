"""The faults that a test can put in force, each for the length of a block: the fixture ``aegis_faults``."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Final, Literal

import pytest

from aegis_core.backend import Conflict, Put, Store, Transaction
from aegis_pytest.faults.kinds import STORE, Cut, Delay, Doubling, Doubt, Drift, Fault, Loss, LostLease, Reset, Stop
from aegis_pytest.faults.member import Member
from aegis_pytest.faults.plane import FaultPlane

__all__ = ["FAULTS", "Faults"]

FAULTS: Final = (
    "partition",
    "pause",
    "skew",
    "drift",
    "slow",
    "drop",
    "duplicate",
    "indeterminate",
    "lose_lease",
    "reset",
)
"""Everything that can go wrong, by the names of the methods."""


class Faults:
    """What goes wrong in a cluster. Every method is a context manager: the fault is in force in its block, and healed after.

    Names are those of nodes, and ``"store"``. A node may be named before it is there; one that never came by the end of the
    block is a usage error, because a fault that hit nobody proves nothing.

    They are the same on every backend: what goes wrong does so between a node and its store and transports. Where nodes are
    connected to servers that the plugin started, a node that is cut off from everybody is cut off by its connections, which
    fall silent; a delay of all that it says and hears is one of its connections; and `reset` breaks them.

    Args:
        plane: The cluster's.
    """

    def __init__(self, plane: FaultPlane) -> None:
        self.plane = plane

    def __repr__(self) -> str:
        return f"<Faults on {self.plane!r}>"

    @contextmanager
    def partition(self, *groups: Collection[str]) -> Iterator[None]:
        """Nothing passes between *groups*; within one, and with nodes that none names, all is well.

        A single group is cut from everybody else. Requests wait, and arrive if the cut heals within their timeout.
        The store's answers stay away: what was committed last is indeterminate, after that the store is unavailable.
        Watches are silent, and catch up when the cut heals.

        Args:
            groups: Names, e.g. ``{"a"}, {"b", "store"}``.
        """
        sides = tuple(frozenset([group] if isinstance(group, str) else group) for group in groups)
        with self._during(Cut(sides), *(name for side in sides for name in sorted(side))):
            yield

    @contextmanager
    def pause(self, name: str) -> Iterator[None]:
        """Node *name* is stopped, as by SIGSTOP or a long garbage collection: it hears and says nothing, and its clock stands.

        When it goes on, what was sent to it meanwhile arrives in order, and its clock shows the time that it is by then.
        Tasks of yours that use neither the node nor its clock are not stopped.
        """
        with self._during(Stop(name), name):
            yield

    @contextmanager
    def skew(self, name: str, seconds: float) -> Iterator[None]:
        """The clock of node *name* jumps by *seconds*, as when a machine was suspended; after the block it jumps back.

        A clock never goes back: set back, it stands still until the time that it showed has come again.
        """
        member = self._known(name)
        with self.plane.noting(f"skew of {name} by {seconds:g} s"):
            member.clock.jump(seconds)
            try:
                yield
            finally:
                member.clock.jump(-seconds)

    @contextmanager
    def drift(self, name: str, rate: float) -> Iterator[None]:
        """The clock of node *name* gains *rate* seconds every second (loses, if negative), e.g. 0.01.

        After the block it runs as it should, but keeps what it gained.
        """
        if rate <= -1:
            raise pytest.UsageError(f"a clock cannot lose {-rate:g} seconds a second")
        with self._during(Drift(name, rate), name):
            yield

    @contextmanager
    def slow(self, way: tuple[str, str] | str, seconds: float) -> Iterator[None]:
        """What passes between the two names of *way* takes *seconds*, in either direction.

        Args:
            way: Two names; or a node, for all that it says and hears.
            seconds: How long each message takes.
        """
        ends = (way,) if isinstance(way, str) else way
        with self._during(Delay(frozenset(ends), seconds), *ends):
            yield

    @contextmanager
    def reset(self, name: str) -> Iterator[None]:
        """The connections of node *name* to its servers are reset, as by a firewall or a balancer; in the block, new ones, too.

        An empty block resets them once.

        Raises:
            pytest.UsageError: The node has no such connections: says where it would, and what can go wrong here.
        """
        if self._known(name).cable is None:
            here = ", ".join(fault for fault in FAULTS if fault != "reset")
            raise pytest.UsageError(
                f"node {name!r} has no connections that could be reset: nodes have some on the backends nats and http, to "
                f"servers that the plugin starts (marker aegis_needs('network')). What can go wrong here: {here}"
            )
        with self._during(Reset(name), name):
            yield

    @contextmanager
    def drop(self, way: tuple[str, str], *, times: int | None = None) -> Iterator[None]:
        """Messages from the first name of *way* to the second are lost.

        A message is a request, or the answer to one; from a node to the store, a commit or a read; from the store to a
        node, the answer to one (watches lose nothing, they are only late).

        Args:
            way: From whom, to whom.
            times: How many are lost; None for all in the block.
        """
        with self._during(Loss(*way, left=_times(times)), *way):
            yield

    @contextmanager
    def duplicate(self, way: tuple[str, str], *, times: int | None = None) -> Iterator[None]:
        """Requests, or commits, from the first name of *way* to the second arrive twice. An answer counts once anyway.

        Args:
            way: From whom, to whom.
            times: How many arrive twice; None for all in the block.
        """
        with self._during(Doubling(*way, left=_times(times)), *way):
            yield

    @contextmanager
    def indeterminate(
        self,
        name: str,
        *,
        applied: bool | Literal["later"],
        times: int | None = 1,
        prefix: str = "",
        after: float = 14.0,
    ) -> Iterator[None]:
        """The next commits of node *name* get no answer.

        Args:
            name: The node.
            applied: Whether they are carried out: True, False, or ``"later"``.
            times: How many; None for all in the block.
            prefix: Only commits that write a key that begins so, e.g. ``"resources."``.
            after: Seconds until those that are applied later are applied, also if the block has been left by then.
        """
        doubt = Doubt(name, applied, prefix=prefix, after=after, left=_times(times))
        with self._during(doubt, name):
            yield

    @contextmanager
    def lose_lease(self, who: str) -> Iterator[None]:
        """The registration of *who* expires in the store as if nobody had renewed it, and cannot be written in the block.

        Args:
            who: An instance id, or a node, for all instances that it has registered.

        Raises:
            pytest.UsageError: Nothing of that name is registered.
        """
        member = self.plane.member(who) or self.plane.member_with(who)
        if member is None or member.store is None or not member.instances:
            raise pytest.UsageError(f"there is neither an instance nor a node with instances named {who!r}")
        keys = list(member.instances.values()) if member.name == who else [member.instances[who]]
        with self._during(LostLease(frozenset(keys))):
            for key in keys:
                self.plane.send(_expire, member.store, key)
            yield

    @contextmanager
    def _during(self, fault: Fault, *names: str) -> Iterator[None]:
        with self.plane.noting(str(fault)):
            self.plane.begin(fault)
            try:
                yield
            finally:
                self.plane.end(fault)
        for name in names:
            if name != STORE:
                self._known(name)

    def _known(self, name: str) -> Member:
        member = self.plane.member(name)
        if member is None:
            raise pytest.UsageError(f"there is no node {name!r} that the fault could have hit")
        return member


def _times(times: int | None) -> float:
    return math.inf if times is None else times


async def _expire(store: Store, key: str) -> None:
    """Let *key* expire in the shortest time that *store* knows."""
    limits = store.capabilities
    ttl = max(limits.min_ttl, limits.ttl_resolution, 0.001)
    entry = await store.get(key)
    while entry is not None:
        put = Put(key, entry.value, entry.revision, ttl)
        try:
            await store.commit(Transaction(f"lost-lease-{key}-{entry.revision}", (put,)))
            return
        except Conflict:
            # A renewal was under way: it was the last.
            entry = await store.get(key)
