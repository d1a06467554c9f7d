"""A connection to the file: its errors in the words of the contract, and the one moment in which it reads."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aegis_core.backend import StoreUnavailable

__all__ = ["Connection", "Locked", "why"]


class Locked(Exception):
    """Another connection has the file, for a moment as a rule. Nothing was done: try again."""


class Connection:
    """A connection to the file at *path*, used by one thread at a time."""

    def __init__(self, path: Path, max_pages: int) -> None:
        self.path = path
        with self.translated():
            self.sqlite = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        self._max_pages = max_pages
        self._identity = self._stat()

    def prepare(self) -> None:
        """Say how the file is to be used.

        Raises:
            Locked, StoreUnavailable: It cannot be read.
        """
        with self.translated():
            self.sqlite.execute("PRAGMA synchronous = FULL")  # what is acknowledged survives a loss of power, too
            self.sqlite.execute("PRAGMA cell_size_check = ON")
            self.sqlite.execute(f"PRAGMA max_page_count = {self._max_pages}")

    def close(self) -> None:
        """Give the file back; the last one to leave tidies up behind SQLite's log."""
        self.sqlite.close()

    @contextmanager
    def translated(self) -> Iterator[None]:
        """SQLite's errors as those of the contract. Here nothing was changed; of a COMMIT `_writing` judges."""
        try:
            yield
        except sqlite3.Error as exc:
            code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise Locked from exc
            raise StoreUnavailable(reason=f"{self.path}: {why(exc, code)}") from exc

    @contextmanager
    def reading(self) -> Iterator[None]:
        """One moment of the file for all that is read in the block."""
        with self.translated():
            self.sqlite.execute("BEGIN")
            try:
                yield
            finally:
                self.roll_back()

    def roll_back(self) -> None:
        """End the transaction that is open, if one is."""
        if self.sqlite.in_transaction:  # after some errors SQLite has done so itself
            self.sqlite.execute("ROLLBACK")

    def counters(self) -> tuple[int, int]:
        """The newest revision, and the highest that was forgotten.

        Raises:
            StoreUnavailable: They are not there.
        """
        rows = self.sqlite.execute("SELECT revision, forgotten FROM counters").fetchall()
        if len(rows) != 1:
            raise StoreUnavailable(reason=f"{self.path}: it is damaged: it has {len(rows)} rows of counters")
        revision, forgotten = rows[0]
        return int(revision), int(forgotten)

    def _stat(self) -> tuple[int, int]:
        try:
            found = self.path.stat()
        except OSError as exc:
            raise StoreUnavailable(reason=f"{self.path}: {exc.strerror}") from exc
        return found.st_dev, found.st_ino

    def insist_on_the_file(self) -> None:
        """Whoever opens the path now must get what this connection has, or there would be two stores of one name."""
        if self._stat() != self._identity:
            raise StoreUnavailable(reason=f"{self.path}: it was replaced by another file; open the node again")


def why(exc: sqlite3.Error, code: int) -> str:
    """What is wrong, in words that say what to do."""
    match code:
        case sqlite3.SQLITE_FULL:
            return f"no room is left, on the disk or within max_size ({exc})"
        case sqlite3.SQLITE_READONLY:
            return f"this program may not write it, or the folder it lies in ({exc})"
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return f"it is damaged: stop all who use it, and bring back a backup, or delete it ({exc})"
        case sqlite3.SQLITE_CANTOPEN:
            return f"it cannot be opened ({exc})"
        case _:
            return str(exc)
