"""Is there an order of concurrent operations in which each answer is right? A search for it, with bounded memory.

Theory of operation
-------------------
An operation takes effect at one instant between its begin and its end. The history is linearizable if such instants
exist that, carried out one after the other in their order, the operations answer as they did.

The search goes through begins and ends in the order of time and keeps every *configuration* that the past allows: a
state, and which of the operations that have not ended have taken effect already. At each end, every configuration
lets pending operations take effect, one after the other, until the one that ends has: as late as possible, so that
nothing is decided before it must be. No configuration left: no order explains the answers.

Four things keep the configurations few. Equal ones are one (memoisation). Operations that change nothing take effect
as soon as they can, which never hinders another. Of two configurations that differ only in operations that never end
(whose callers gave up, so that they may take effect at any time or never), the one in which fewer of those have taken
effect can do whatever the other can: the other is dropped. And of operations that never end and are alike, the first
that began stands for all; one that can take effect no more counts as if it had.

One search looks at one object; linearizability is local, so a history of many is linearizable if that of each is.

See Wing and Gong, "Testing and verifying concurrent objects" (1993); Lowe, "Testing for linearizability" (2017), whose
just-in-time linearization this is; and Horn and Kroening, "Faster linearizability checking via P-compositionality"
(2015), whose cache of configurations the checker Porcupine made popular.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Final, Generic, Protocol, TypeVar

import attrs

__all__ = ["DEFAULT_LIMIT", "Model", "Stuck", "TooManyConfigurations", "search"]

DEFAULT_LIMIT: Final = 100_000
"""Configurations kept at once, at most: about 30 MB."""


class Interval(Protocol):
    """What happened between two times; an `ended` of `math.inf` says that it may still be to come, or never come."""

    @property
    def began(self) -> float:
        """Seconds."""
        ...

    @property
    def ended(self) -> float:
        """Seconds."""
        ...


S = TypeVar("S", bound=Hashable)
O = TypeVar("O", bound=Interval)  # noqa: E741 - of type parameters the initial is the name


O_contra = TypeVar("O_contra", bound=Interval, contravariant=True)


class Model(Protocol[S, O_contra]):
    """What operations do to the object, carried out one after the other."""

    def step(self, state: S, operation: O_contra, /) -> Iterable[S]:
        """The states to which *operation* may lead from *state*, if its answer is right there; none if it is not."""
        ...

    def drift(self, state: S, time: float, /) -> Iterable[S]:
        """The states to which *state* may have changed by itself by *time*."""
        ...

    def alike(self, operation: O_contra, /) -> Hashable:
        """Equal for operations without an end that do the same in every state."""
        ...

    def is_spent(self, state: S, operation: O_contra, /) -> bool:
        """Whether *operation*, which has no end, can do nothing in *state* nor in any that follows."""
        ...


@attrs.frozen
class Stuck(Generic[S, O]):
    """Where the search ended: no order explains the answer of `operation`.

    Args:
        operation: The one whose answer cannot be.
        states: The states that are possible at its end, given all earlier answers.
        pending: The operations that could have taken effect meanwhile.
    """

    operation: O
    states: tuple[S, ...]
    pending: tuple[O, ...]


class TooManyConfigurations(Exception):
    """The search would need more memory than allowed: too many operations of unknown outcome, or at once.

    Neither right nor wrong was shown. Check with a higher limit, or record a history with fewer resources per operation
    whose outcome is unknown.

    Args:
        limit: How many configurations were allowed.
        at: Seconds, how far the search came.
        pending: How many operations were under way then.
        unknown: How many of them have an unknown outcome.
    """

    def __init__(self, limit: int, at: float, pending: int, unknown: int) -> None:
        super().__init__(
            f"more than {limit} configurations at {at:.3f} s, with {pending} operations under way "
            f"({unknown} of unknown outcome): check with a higher limit"
        )
        self.limit = limit
        self.at = at
        self.pending = pending
        self.unknown = unknown


def search(
    operations: Sequence[O],
    initial: S,
    model: Model[S, O],
    *,
    limit: int = DEFAULT_LIMIT,
) -> Stuck[S, O] | None:
    """Look for an order of *operations* that explains their answers; None if there is one.

    Args:
        operations: Of one object, in any order.
        initial: The object's state before all of them.
        model: What operations do to the object.
        limit: Most configurations kept at once.

    Raises:
        TooManyConfigurations: There is no answer within *limit*.
    """
    events = sorted(
        [(it.began, 0, at) for at, it in enumerate(operations)]
        + [(it.ended, 1, at) for at, it in enumerate(operations) if it.ended != math.inf]
    )
    running = _Search(model, limit)
    configurations: list[tuple[S, int]] = [(initial, 0)]
    for time, is_end, at in events:
        operation = operations[at]
        if not is_end:
            running.begin(at, operation)
            continue
        after = running.end(at, configurations, time)
        if not after:
            pending = tuple(it for it in running.pending.values() if it is not operation)
            return Stuck(operation, running.reached, pending)
        configurations = after
    return None


class _Search(Generic[S, O]):
    """The operations under way, each with a bit, and one end after the other."""

    def __init__(self, model: Model[S, O], limit: int) -> None:
        self._model = model
        self._limit = limit
        self._alike: dict[Hashable, int] = {}
        self._before: dict[int, int] = {}
        self.pending: dict[int, O] = {}
        self.reached: tuple[S, ...] = ()
        self._bits: dict[int, int] = {}
        self._free: list[int] = []
        self._all = 0
        self._endless = 0

    def begin(self, at: int, operation: O) -> None:
        bit = self._free.pop() if self._free else 1 << len(self.pending)
        self.pending[bit] = operation
        self._bits[at] = bit
        self._all |= bit
        if operation.ended == math.inf:
            # Of those that are alike, this one waits for the one that began before it.
            alike = self._model.alike(operation)
            self._before[bit] = self._alike.get(alike, 0)
            self._alike[alike] = bit
            self._endless |= bit

    def end(self, at: int, configurations: Iterable[tuple[S, int]], time: float) -> list[tuple[S, int]]:
        """The configurations in which the operation of that number has taken effect, without it."""
        bit = self._bits.pop(at)
        kept = _Undominated[S](self._endless)
        frontier = deque(it for it in map(self._settle, configurations) if kept.add(*it))
        done = _Undominated[S](self._endless)
        while frontier:
            state, effective = frontier.popleft()
            if effective & bit:
                done.add(state, effective ^ bit)
                continue
            for following in self._following(state, effective, time):
                settled = self._settle(following)
                if kept.add(*settled):
                    frontier.append(settled)
            if len(kept) > self._limit:
                unknown = self._endless.bit_count()
                raise TooManyConfigurations(self._limit, time, len(self.pending), unknown)
        if done:
            del self.pending[bit]
            self._free.append(bit)
            self._all ^= bit
        else:
            self.reached = tuple(dict.fromkeys(state for state, _ in kept))
        return list(done)

    def _following(self, state: S, effective: int, time: float) -> Iterable[tuple[S, int]]:
        for drifted in self._model.drift(state, time):
            yield drifted, effective
        for bit in _bits_of(self._all & ~effective):
            if self._before.get(bit, 0) & ~effective:
                continue
            for changed in self._model.step(state, self.pending[bit]):
                if changed != state or not bit & self._endless:
                    yield changed, effective | bit

    def _settle(self, configuration: tuple[S, int]) -> tuple[S, int]:
        """Let take effect whatever is right in the state as it is and leaves it so, and what can do nothing any more."""
        state, effective = configuration
        for bit in _bits_of(self._all & ~effective):
            operation = self.pending[bit]
            if bit & self._endless:
                if self._model.is_spent(state, operation):
                    effective |= bit
            elif tuple(self._model.step(state, operation)) == (state,):
                effective |= bit
        return state, effective


class _Undominated(Generic[S]):
    """Configurations, without those than which another can do as much."""

    def __init__(self, endless: int) -> None:
        self._endless = endless
        self._kept: dict[tuple[S, int], list[int]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[S, int]]:
        for (state, required), parts in self._kept.items():
            for part in parts:
                yield state, required | part

    def add(self, state: S, effective: int) -> bool:
        """Keep it, and drop what it dominates; False if it is dominated itself, or known."""
        endless = effective & self._endless
        parts = self._kept.setdefault((state, effective ^ endless), [])
        if any(part & ~endless == 0 for part in parts):
            return False
        left = [part for part in parts if endless & ~part != 0]
        self._count += 1 + len(left) - len(parts)
        parts[:] = [*left, endless]
        return True


def _bits_of(mask: int) -> Iterable[int]:
    while mask:
        bit = mask & -mask
        yield bit
        mask ^= bit
