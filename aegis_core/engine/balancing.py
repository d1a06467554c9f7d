"""Who gets the next call, and how resources are spread evenly.

A `Balancer` chooses among the instances that take calls for a service. One object serves all services of a node, so it
keeps what it remembers per service. The candidates come as the same tuple until something changes: that is what those
that prepare (a ring, a heap) recognise it by.
"""

from __future__ import annotations

import bisect
import hashlib
import heapq
from collections.abc import Callable, Sequence
from typing import Protocol

import attrs

from aegis_core.engine.view import View
from aegis_core.models import Health, Ownership, ServiceInstance, Shown, Value
from aegis_core.names import is_role

__all__ = [
    "Balancer",
    "ConsistentHash",
    "HashRing",
    "LeastPending",
    "Move",
    "RoundRobin",
    "Weighted",
    "plan_rebalance",
    "rendezvous",
]


class Balancer(Protocol):
    """Chooses the instance for one call. Synchronous; called for each call without a resource."""

    def choose(
        self,
        candidates: Sequence[ServiceInstance],
        *,
        key: str | None,
        pending: Callable[[ServiceInstance], int],
    ) -> ServiceInstance:
        """One of *candidates*.

        Args:
            candidates: At least one, all of one service, by id.
            key: What calls that belong together have in common, or None.
            pending: How many calls of this node an instance has not answered yet.
        """
        ...


class RoundRobin:
    """Each in turn."""

    def __init__(self) -> None:
        self._turns: dict[str, int] = {}

    def choose(
        self,
        candidates: Sequence[ServiceInstance],
        *,
        key: str | None,
        pending: Callable[[ServiceInstance], int],
    ) -> ServiceInstance:
        """The next one."""
        del key, pending
        service = candidates[0].service_name
        turn = self._turns.get(service, 0)
        self._turns[service] = turn + 1
        return candidates[turn % len(candidates)]


class LeastPending:
    """The one with the fewest calls under way from here; among equals each in turn."""

    def __init__(self) -> None:
        self._turns: dict[str, int] = {}

    def choose(
        self,
        candidates: Sequence[ServiceInstance],
        *,
        key: str | None,
        pending: Callable[[ServiceInstance], int],
    ) -> ServiceInstance:
        """The least busy one."""
        del key
        service = candidates[0].service_name
        turn = self._turns.get(service, 0)
        self._turns[service] = turn + 1
        count = len(candidates)
        start = turn % count
        best = candidates[start]
        least = pending(best)
        for at in range(start + 1, start + count):
            if not least:
                break
            other = candidates[at % count]
            waiting = pending(other)
            if waiting < least:
                best, least = other, waiting
        return best


class Weighted:
    """In proportion to weights, spread evenly over time.

    The weight is the number ``weight`` in an instance's metadata, else ``priority`` there, else the instance's priority;
    1 where none of them is positive. (Stride scheduling: each choice costs an instance 1 / weight; the cheapest is next.)
    """

    def __init__(self) -> None:
        self._states: dict[str, _Strides] = {}

    def choose(
        self,
        candidates: Sequence[ServiceInstance],
        *,
        key: str | None,
        pending: Callable[[ServiceInstance], int],
    ) -> ServiceInstance:
        """The one whose turn has come."""
        del key, pending
        service = candidates[0].service_name
        state = self._states.get(service)
        if state is None:
            state = self._states[service] = _Strides()
        if candidates is not state.candidates and candidates != state.candidates:
            state.prepare(candidates)
        return state.next()


@attrs.define(eq=False, repr=False)
class _Strides(Shown):
    """Turns of one service: `passes` is how much each instance has cost so far, `heap` who is next."""

    candidates: Sequence[ServiceInstance] = ()
    passes: dict[str, float] = attrs.field(factory=dict)
    heap: list[tuple[float, int]] = attrs.field(factory=list)
    strides: list[float] = attrs.field(factory=list)

    def prepare(self, candidates: Sequence[ServiceInstance]) -> None:
        """Go on with other candidates; whoever is new starts level with the cheapest."""
        floor = min((p for p in self.passes.values()), default=0.0)
        self.candidates = candidates
        self.strides = [1.0 / weight(i) for i in candidates]
        self.passes = {
            i.instance_id: self.passes.get(i.instance_id, floor + stride)
            for i, stride in zip(candidates, self.strides, strict=True)
        }
        self.heap = [(self.passes[i.instance_id], at) for at, i in enumerate(candidates)]
        heapq.heapify(self.heap)

    def next(self) -> ServiceInstance:
        """The cheapest, which pays for it."""
        cost, at = self.heap[0]
        chosen = self.candidates[at]
        paid = cost + self.strides[at]
        self.passes[chosen.instance_id] = paid
        heapq.heapreplace(self.heap, (paid, at))
        return chosen


def weight(instance: ServiceInstance) -> float:
    """The weight of *instance* for `Weighted`."""
    said = (instance.metadata.get("weight"), instance.metadata.get("priority"), instance.priority)
    for value in said:
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e9:
            return float(value)
    return 1.0


class ConsistentHash:
    """The same key to the same instance; when instances come or go, only their share of the keys moves.

    Calls without a key go to each in turn.
    """

    def __init__(self) -> None:
        self._rings: dict[str, HashRing] = {}
        self._keyless = RoundRobin()

    def choose(
        self,
        candidates: Sequence[ServiceInstance],
        *,
        key: str | None,
        pending: Callable[[ServiceInstance], int],
    ) -> ServiceInstance:
        """The one that *key* belongs to."""
        if key is None:
            return self._keyless.choose(candidates, key=key, pending=pending)
        service = candidates[0].service_name
        ring = self._rings.get(service)
        if ring is None or (ring.candidates is not candidates and ring.candidates != candidates):
            ring = self._rings[service] = HashRing(candidates)
        return ring.choose(key)


class HashRing:
    """Instances at many points each on a ring of hashes; a key belongs to the next point.

    Depends on instance ids alone, so every node has the same ring.
    """

    POINTS = 64

    def __init__(self, candidates: Sequence[ServiceInstance]) -> None:
        self.candidates = candidates
        points = sorted(
            (_hash(f"{instance.instance_id}#{n}"), at)
            for at, instance in enumerate(candidates)
            for n in range(self.POINTS)
        )
        self._hashes = [point for point, _ in points]
        self._owners = [at for _, at in points]

    def choose(self, key: str) -> ServiceInstance:
        """The instance that *key* belongs to."""
        at = bisect.bisect(self._hashes, _hash(key)) % len(self._hashes)
        return self.candidates[self._owners[at]]


def rendezvous(candidates: Sequence[ServiceInstance], key: str) -> ServiceInstance:
    """The one of *candidates* that *key* belongs to: the same everywhere, without anything prepared.

    Costs a hash for each candidate (highest random weight); for keys that come rarely.
    """
    return max(candidates, key=lambda i: (_hash(f"{i.instance_id}#{key}"), i.instance_id))


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Move(Value):
    """One resource that a rebalance moves."""

    resource_id: str
    from_instance_id: str
    to_instance_id: str


def plan_rebalance(view: View, service_name: str, max_moves: int, *, now: float) -> tuple[Move, ...]:
    """Which resources to move so that the healthy instances of a service hold equally many, give or take one.

    Draining instances give everything; UNHEALTHY ones are left alone. From each instance the resources of low priority
    move first, and among equals those acquired last. Resources with a role stay where they are active.

    Args:
        view: The view.
        service_name: The service.
        max_moves: At most so many moves; the largest differences are evened out first.
        now: The node's clock, monotonic seconds.
    """
    live = sorted(view.live(service_name), key=lambda i: i.instance_id)
    healthy = [i for i in live if view.health(i, now) is Health.ONLINE]
    takers = [i for i in healthy if not i.draining]
    if not takers:
        return ()
    movable = {i.instance_id: _movable(view, i) for i in healthy}
    counts = [(view.count(i.lease), i.instance_id) for i in takers]
    heapq.heapify(counts)
    givers = [(-view.count(i.lease), i.instance_id) for i in takers]
    givers += [(-(1 << 40), i.instance_id) for i in healthy if i.draining]
    heapq.heapify(givers)
    held = {i.instance_id: view.count(i.lease) for i in takers}
    moves: list[Move] = []
    while givers and len(moves) < max_moves:
        _, giver = givers[0]
        if not movable[giver]:
            heapq.heappop(givers)
            continue
        least, taker = counts[0]
        if least != held[taker]:
            heapq.heapreplace(counts, (held[taker], taker))
            continue
        if giver in held:
            if -givers[0][0] != held[giver]:
                heapq.heapreplace(givers, (-held[giver], giver))
                continue
            if held[giver] - held[taker] <= 1:
                break
            held[giver] -= 1
        held[taker] += 1
        resource = movable[giver].pop()
        moves.append(Move(resource_id=resource.target, from_instance_id=giver, to_instance_id=taker))
    return tuple(moves)


def _movable(view: View, instance: ServiceInstance) -> list[Ownership]:
    """What *instance* holds and may give away, the last to be moved first."""
    held = [
        r
        for r in view.held_by(instance.lease).values()
        if not is_role(r.target) and not r.as_role and not view.line(r.target)
    ]
    return sorted(held, key=lambda r: (-r.metadata.priority, r.epoch))
