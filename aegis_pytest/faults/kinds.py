"""The faults that can be in force."""

from __future__ import annotations

import math
import random
from typing import Final, Literal

import attrs

__all__ = [
    "STORE",
    "Counted",
    "Cut",
    "Delay",
    "Doubling",
    "Doubt",
    "Drift",
    "Fault",
    "Jitter",
    "Lag",
    "Loss",
    "LostLease",
    "Noted",
    "Relapse",
    "Reset",
    "Stop",
]

STORE: Final = "store"
"""The name of the store, beside those of the nodes."""


@attrs.define(eq=False)
class Cut:
    """Nothing passes between *groups*; one group alone is cut from everybody else."""

    groups: tuple[frozenset[str], ...]

    def __str__(self) -> str:
        sides = [", ".join(sorted(group)) for group in self.groups]
        return f"partition {' | '.join(sides if len(sides) > 1 else [*sides, 'all others'])}"

    def separates(self, one: str, other: str) -> bool:
        """Whether a message between the two is lost by this cut."""
        sides = [next((n for n, group in enumerate(self.groups) if name in group), None) for name in (one, other)]
        return sides[0] != sides[1] and (len(self.groups) == 1 or None not in sides)


@attrs.define(eq=False)
class Delay:
    """What passes between two names takes *seconds*, either way; of one name alone, all that it says and hears."""

    ends: frozenset[str]
    seconds: float

    def __str__(self) -> str:
        return f"slow {' - '.join(sorted(self.ends))} by {self.seconds:g} s"

    def concerns(self, one: str, other: str) -> bool:
        """Whether a message between the two takes longer by it."""
        return self.ends <= {one, other}


@attrs.define(eq=False)
class Jitter:
    """Each message between two names takes up to *seconds* more, as *chance* draws: some overtake those sent before them."""

    ends: frozenset[str]
    seconds: float
    chance: random.Random

    def __str__(self) -> str:
        return f"jitter {' - '.join(sorted(self.ends))} of up to {self.seconds:g} s"


@attrs.define(eq=False)
class Loss:
    """Messages from *sender* to *receiver* are lost, *left* of them."""

    sender: str
    receiver: str
    left: float = math.inf

    def __str__(self) -> str:
        return f"drop from {self.sender} to {self.receiver}{_count(self.left)}"

    @property
    def target(self) -> str:
        """What it hits, in words."""
        return f"message from {self.sender} to {self.receiver}"


@attrs.define(eq=False)
class Doubling:
    """Messages from *sender* to *receiver* arrive twice, *left* of them, for the second time *after* seconds later."""

    sender: str
    receiver: str
    left: float = math.inf
    after: float = 0.0

    def __str__(self) -> str:
        return f"duplicate from {self.sender} to {self.receiver}{_count(self.left)}"

    @property
    def target(self) -> str:
        """What it hits, in words."""
        return f"{'commit' if self.receiver == STORE else 'request'} from {self.sender} to {self.receiver}"


@attrs.define(eq=False)
class Doubt:
    """Commits of *node* that write a key beginning with *prefix* end as indeterminate, *left* of them.

    Args:
        applied: Whether they were carried out; ``"later"``: *after* seconds later.
    """

    node: str
    applied: bool | Literal["later"]
    prefix: str = ""
    after: float = 0.0
    left: float = math.inf

    def __str__(self) -> str:
        fate = "applied later" if self.applied == "later" else "applied" if self.applied else "not applied"
        return f"indeterminate commits of {self.node}, {fate}{_count(self.left)}"

    @property
    def target(self) -> str:
        """What it hits, in words."""
        keys = f" that writes a key beginning with {self.prefix!r}" if self.prefix else ""
        return f"commit of {self.node}{keys}"


@attrs.define(eq=False)
class LostLease:
    """The registrations under *keys* cannot be written."""

    keys: frozenset[str]

    def __str__(self) -> str:
        return f"lose_lease of {', '.join(sorted(self.keys))}"


@attrs.define(eq=False)
class Stop:
    """*node* is stopped, as by SIGSTOP."""

    node: str

    def __str__(self) -> str:
        return f"pause of {self.node}"


@attrs.define(eq=False)
class Reset:
    """The connections of *node* to its servers are reset."""

    node: str

    def __str__(self) -> str:
        return f"reset of {self.node}"


@attrs.define(eq=False)
class Drift:
    """The clock of *node* gains *rate* seconds a second."""

    node: str
    rate: float

    def __str__(self) -> str:
        return f"drift of {self.node} by {self.rate:g}"


@attrs.define(eq=False)
class Noted:
    """A fault that was put in force, for those who ask later: what, from when to when (None: it still is)."""

    what: str
    began: float
    ended: float | None = None


@attrs.define(eq=False)
class Lag:
    """What the watch of *node* tells comes one piece after the other, *seconds* apart; requests are as quick as ever."""

    node: str
    seconds: float

    def __str__(self) -> str:
        return f"lag of the watch of {self.node} by {self.seconds:g} s"


@attrs.define(eq=False)
class Relapse:
    """Renewals of *node* that come with less than *share* of their TTL left are acknowledged, and the key expires all the same.

    So does a store whose servers agree on an expiry while the renewal is on its way.
    """

    node: str
    share: float

    def __str__(self) -> str:
        return f"renewals of {self.node} with less than {self.share:g} of their TTL left do not count"


Fault = Cut | Delay | Jitter | Loss | Doubling | Doubt | LostLease | Stop | Drift | Reset | Lag | Relapse
"""Any of them."""

Counted = Loss | Doubling | Doubt
"""Those that hit so many things, and no more."""


def _count(left: float) -> str:
    return "" if left == math.inf else f", {left:g} at most"
