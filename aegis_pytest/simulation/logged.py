"""What the library logs in the runs of a simulation: withheld, as hundreds of runs with faults would bury what a test says."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import attrs
import trio

__all__ = ["Logged", "tell_last", "withheld"]


@attrs.frozen
class Logged:
    """A record that was logged in a run, *at* so many virtual seconds."""

    at: float
    record: logging.LogRecord

    def __str__(self) -> str:
        record = self.record
        return f"{self.at:>13.6f} s  {record.levelname}  {record.name}: {record.getMessage()}"


class _Keep(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.logged: list[Logged] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            at = trio.current_time()
        except RuntimeError:  # by another thread, or between two runs
            at = self.logged[-1].at if self.logged else 0.0
        self.logged.append(Logged(at, record))


@contextmanager
def withheld() -> Iterator[list[Logged]]:
    """Within the block nothing is shown of what the library logs; the list takes it.

    It comes to the handlers of the library's own logger, and so to ``aegis_logs``: a test that counts on it must not be deceived.
    """
    logger = logging.getLogger("aegis")
    kept = _Keep()  # for lack of any handler, Python would print it
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(kept)
    try:
        yield kept.logged
    finally:
        logger.removeHandler(kept)
        logger.propagate = propagates


def tell_last(logged: Sequence[Logged], *, until: float, most: int) -> list[str]:
    """The last warnings and errors up to *until* seconds, a line for each, *most* of them; of those that differ in numbers only, one."""
    told: dict[str, str] = {}
    for it in reversed(logged):
        if it.at <= until and it.record.levelno >= logging.WARNING:
            first, *_ = str(it).splitlines()
            told.setdefault(re.sub(r"\d+", "#", it.record.getMessage()), first)
    return list(reversed([*told.values()][:most]))
