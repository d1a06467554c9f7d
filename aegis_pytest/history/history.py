"""A history: the records of all processes, and what they are found guilty of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

from aegis_pytest.history.linearizability import DEFAULT_LIMIT
from aegis_pytest.history.operations import tell
from aegis_pytest.history.records import Record, from_line
from aegis_pytest.history.rules import violations_of
from aegis_pytest.history.violation import Violation

__all__ = ["History"]


class History:
    """Records of what processes did and believed, in any order."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._records = list(records)

    def __repr__(self) -> str:
        return f"<History of {len(self._records)} records>"

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(tuple(self._records))

    def append(self, record: Record) -> None:
        """Add *record*."""
        self._records.append(record)

    @classmethod
    def read(cls, *paths: Path) -> Self:
        """The records of all files, each written through `record_to`; a last line that was cut off is left out.

        Raises:
            ValueError: A line is no record; names file and line.
        """
        records: list[Record] = []
        for path in paths:
            whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
            for number, line in enumerate(whole.split("\n") if whole else (), start=1):
                try:
                    records.append(from_line(line))
                except ValueError as exc:
                    raise ValueError(f"{path}, line {number}: {exc}") from exc
        return cls(records)

    def check(self, *, limit: int = DEFAULT_LIMIT) -> tuple[Violation, ...]:
        """What breaks a rule, in the order in which it showed; for each resource at most the first of each rule.

        Resources are judged one by one: that an operation on several took effect at one instant for all is not checked.
        An operation of unknown outcome counts as one that may take effect at any later time, or never.

        Args:
            limit: How many configurations the search for an order may keep at once; see `TooManyConfigurations`.

        Raises:
            TooManyConfigurations: The outcomes of too many operations on one resource are unknown. Nothing was shown.
            ValueError: The records contradict each other.
        """
        found = [violation for story in tell(self._records) for violation in violations_of(story, limit=limit)]
        return tuple(sorted(found, key=lambda violation: violation.at))
