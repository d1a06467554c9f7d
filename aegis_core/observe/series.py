"""Numbers by labels, counted in plain dictionaries: a tenth of a microsecond each, and no locks.

A family takes at most so many series. What would be one more is counted under the label values ``other``, so that
nobody's input makes a node's memory, or a page of metrics, grow without end.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Final

__all__ = ["MOST_SERIES", "SECONDS", "Counts", "Distribution", "Sample"]

MOST_SERIES: Final = 2000
"""Series of one family."""

SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds for times."""

OTHER: Final = "other"

Sample = tuple[str, dict[str, str], float]
"""Suffix of the family's name, labels, value."""


class Counts:
    """Numbers that only grow.

    Args:
        name: Of the family, with ``_total``.
        documentation: One sentence for people.
        labels: Names of the labels.
        most: How many series there may be.
    """

    kind: Final = "counter"

    def __init__(self, name: str, documentation: str, *labels: str, most: int = MOST_SERIES) -> None:
        self.name: Final = name
        self.documentation: Final = documentation
        self.labels: Final = labels
        self._most = most
        self._values: dict[tuple[str, ...], float] = {}

    def __repr__(self) -> str:
        return f"<Counts {self.name}: {len(self._values)} series>"

    def add(self, *labels: str, amount: float = 1) -> None:
        """Count *amount* for the label values *labels*, which come in the order of the family's labels."""
        key = _bounded(labels, self._values, self._most)
        self._values[key] = self._values.get(key, 0) + amount

    def samples(self) -> Iterator[Sample]:
        """What there is to tell."""
        for key, value in tuple(self._values.items()):
            yield "", dict(zip(self.labels, key, strict=True)), value


class Distribution:
    """How often values were how large.

    Args:
        name: Of the family.
        documentation: One sentence for people.
        labels: Names of the labels.
        bounds: Upper bounds of the buckets, rising.
        most: How many series there may be.
    """

    kind: Final = "histogram"

    def __init__(
        self, name: str, documentation: str, *labels: str, bounds: Sequence[float] = SECONDS, most: int = MOST_SERIES
    ) -> None:
        self.name: Final = name
        self.documentation: Final = documentation
        self.labels: Final = labels
        self._most = most
        self._bounds = tuple(bounds)
        self._texts = (*(f"{bound:g}" for bound in bounds), "+Inf")
        self._counted: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}

    def __repr__(self) -> str:
        return f"<Distribution {self.name}: {len(self._sums)} series>"

    def observe(self, value: float, *labels: str) -> None:
        """Count *value* for the label values *labels*."""
        key = _bounded(labels, self._sums, self._most)
        counted = self._counted.get(key)
        if counted is None:
            counted = self._counted[key] = [0] * len(self._texts)
        counted[bisect_left(self._bounds, value)] += 1
        self._sums[key] = self._sums.get(key, 0.0) + value

    def samples(self) -> Iterator[Sample]:
        """What there is to tell: cumulative buckets, count and sum of each series."""
        for key, total in tuple(self._sums.items()):
            labels = dict(zip(self.labels, key, strict=True))
            below = 0
            for text, count in zip(self._texts, tuple(self._counted[key]), strict=True):
                below += count
                yield "_bucket", {**labels, "le": text}, below
            yield "_count", labels, below
            yield "_sum", labels, total


def _bounded(labels: tuple[str, ...], known: dict[tuple[str, ...], float], most: int) -> tuple[str, ...]:
    if labels in known or len(known) < most:
        return labels
    return (OTHER,) * len(labels)
