"""What the library logged during a test."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["CapturedLogs", "capture_logs"]

_LOGGER: Final = "aegis"


class CapturedLogs:
    """The records of the loggers ``aegis`` and below, oldest first, whatever the levels of the program's loggers are."""

    def __init__(self) -> None:
        self.records: list[logging.LogRecord] = []

    def __repr__(self) -> str:
        return f"<CapturedLogs of {len(self.records)} records>"

    @property
    def messages(self) -> list[str]:
        """The records' messages, formatted."""
        return [record.getMessage() for record in self.records]

    def at_least(self, level: int | str) -> list[logging.LogRecord]:
        """The records of *level* (``logging.WARNING``, or ``"WARNING"``) and above."""
        least = logging.getLevelNamesMapping()[level] if isinstance(level, str) else level
        return [record for record in self.records if record.levelno >= least]

    def with_fields(self, **fields: object) -> list[logging.LogRecord]:
        """The records that carry all of *fields*, e.g. ``resource_id="account:42"`` or ``levelname="INFO"``."""
        return [
            record
            for record in self.records
            if all(name in vars(record) and vars(record)[name] == value for name, value in fields.items())
        ]

    def clear(self) -> None:
        """Forget what came so far."""
        self.records.clear()


class _Keep(logging.Handler):
    def __init__(self, captured: CapturedLogs) -> None:
        super().__init__(logging.DEBUG)
        self._captured = captured

    def emit(self, record: logging.LogRecord) -> None:
        self._captured.records.append(record)


@contextmanager
def capture_logs() -> Iterator[CapturedLogs]:
    """Capture while the block runs, everything from DEBUG on."""
    captured = CapturedLogs()
    logger = logging.getLogger(_LOGGER)
    handler = _Keep(captured)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield captured
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
