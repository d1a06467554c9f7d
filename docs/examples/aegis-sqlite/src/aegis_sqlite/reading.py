"""What reads the file, and what waits until there is something to read."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Final

import attrs

from aegis_core.backend import Change, DeleteReason, Entry, Resync, Synced
from aegis_sqlite.connection import Connection

__all__ = ["Reader", "Sight", "Watcher"]

_LOOK_EVERY: Final = 0.005
_WAIT_AT_MOST: Final = 1.0


@attrs.frozen
class Sight:
    """How the file stands: its newest revision, and when the next row ends (None: none does)."""

    revision: int
    next_end: float | None


class Reader(Connection):
    """The connection that reads, which no writer ever holds up."""

    def look(self) -> Sight:
        """How the file stands now.

        Raises:
            Locked, StoreUnavailable: It cannot be read.
        """
        self.insist_on_the_file()
        with self.reading():
            revision, _ = self.counters()
            (next_end,) = self.sqlite.execute("SELECT min(ends_at) FROM entries").fetchone()
        return Sight(revision, next_end)

    def changes(self, after: int | None) -> tuple[list[Change | Synced | Resync], int]:
        """What a feed is to be told next, and the revision at which it is level then.

        Args:
            after: The revision at which it is level now; None if it has been told nothing yet.

        Raises:
            Locked, StoreUnavailable: It cannot be read.
        """
        told: list[Change | Synced | Resync] = []
        with self.reading():
            revision, forgotten = self.counters()
            if after is None or not forgotten <= after <= revision:
                if after is not None:
                    told.append(Resync("the file does not remember what was deleted since"))
                rows = self.sqlite.execute(
                    "SELECT key, value, revision, reason FROM entries WHERE value IS NOT NULL ORDER BY revision"
                )
            else:
                rows = self.sqlite.execute(
                    "SELECT key, value, revision, reason FROM entries WHERE revision > ? ORDER BY revision", (after,)
                )
            for key, value, at, reason in rows:
                told.append(Change(key, value, at, None if reason is None else DeleteReason(reason)))
        told.append(Synced(revision))
        return told, revision

    def get(self, key: str) -> Entry | None:
        """What is under *key*.

        Raises:
            Locked, StoreUnavailable: It cannot be read.
        """
        with self.translated():
            row = self.sqlite.execute("SELECT value, revision, ends_at FROM entries WHERE key = ?", (key,)).fetchone()
        if row is None or row[0] is None:
            return None
        value, revision, ends_at = row
        return Entry(value, revision, None if ends_at is None else max(0.0, ends_at - time.monotonic()))


class Watcher(Connection):
    """The connection that waits for others to change the file: a look at shared memory each time, some microseconds."""

    def __init__(self, path: Path, max_pages: int) -> None:
        super().__init__(path, max_pages)
        self._version: int | None = None
        self._left = threading.Event()

    def wait(self, until: float) -> None:
        """Wait for a commit of any other connection, of whatever process; no longer than a second, nor than *until*.

        Raises:
            Locked, StoreUnavailable: The file cannot be read.
        """
        until = min(until, time.monotonic() + _WAIT_AT_MOST)
        while time.monotonic() < until and not self._left.is_set():
            with self.translated():
                self.insist_on_the_file()
                (version,) = self.sqlite.execute("PRAGMA data_version").fetchone()
            if version != self._version:
                self._version = version
                return
            self._left.wait(min(_LOOK_EVERY, max(0.0, until - time.monotonic())))

    def leave(self) -> None:
        """Let whoever waits come back; called from any thread."""
        self._left.set()
