"""What a run has come to so far: kept by the program, shown by a view."""

from __future__ import annotations

import math

import attrs
import trio


@attrs.define
class Row:
    """One instance.

    Attributes:
        name: Its instance id.
        health: STARTING, ONLINE, DEAD (nobody knows it yet), LOST (its lease ended) or LEFT.
        owned: The symbols whose books it keeps.
        waiting: The symbols it stands by for.
        calls: Orders that it answered.
        fail_overs: Symbols that it took over from a lost instance.
    """

    name: str
    health: str = "ONLINE"
    owned: set[str] = attrs.field(factory=set)
    waiting: set[str] = attrs.field(factory=set)
    calls: int = 0
    fail_overs: int = 0


@attrs.define
class Progress:
    """The whole run.

    Args:
        total: Orders in the file.

    Attributes:
        answered: Orders that have their answer.
        resent: Orders that were sent again because nobody could say whether they had been executed.
        repeated: Orders that had been executed before, and were answered from the journal.
        transfers: Symbols that moved from one live instance to another.
        fail_overs: Symbols that moved because their owner was lost.
        hand_overs: Symbols that moved because their owner left.
        longest_gap: The longest time in seconds for which a symbol was without owner.
        rows: The instances, by instance id.
        notes: What happened, with the second at which it did.
    """

    total: int
    answered: int = 0
    resent: int = 0
    repeated: int = 0
    transfers: int = 0
    fail_overs: int = 0
    hand_overs: int = 0
    longest_gap: float = 0.0
    rows: dict[str, Row] = attrs.field(factory=dict)
    notes: list[tuple[float, str]] = attrs.field(factory=list)
    _started: float = attrs.field(factory=trio.current_time, init=False)
    _stopped: float | None = attrs.field(default=None, init=False)
    _milestones: dict[int, trio.Event] = attrs.field(factory=dict, init=False)

    def row(self, name: str) -> Row:
        """Return the row of instance *name*; it is made when it is new."""
        return self.rows.setdefault(name, Row(name))

    def note(self, text: str) -> None:
        """Write down that something happened now."""
        self.notes.append((self.elapsed, text))

    def count(self, instance: str, *, repeated: bool = False) -> None:
        """Note that *instance* answered one more order, *repeated* when its journal knew the answer."""
        self.answered += 1
        self.repeated += repeated
        self.row(instance).calls += 1
        milestone = self._milestones.pop(self.answered, None)
        if milestone is not None:
            milestone.set()

    async def wait_answered(self, share: float) -> None:
        """Wait until this *share* of the orders (0 to 1) has been answered."""
        wanted = math.ceil(share * self.total)
        if self.answered < wanted:
            await self._milestones.setdefault(wanted, trio.Event()).wait()

    def stop(self) -> None:
        """The run is over: `elapsed` stands still."""
        self._stopped = trio.current_time()

    @property
    def elapsed(self) -> float:
        """Seconds since the run began, until it ended."""
        return (trio.current_time() if self._stopped is None else self._stopped) - self._started

    @property
    def share(self) -> float:
        """The part of the orders that has been answered, 0 to 1."""
        return self.answered / self.total if self.total else 1.0

    @property
    def rate(self) -> float:
        """Orders answered per second, over the whole run."""
        return self.answered / self.elapsed if self.elapsed > 0 else 0.0
