"""What changes the file: a transaction of ours is one of SQLite's, and ends first what is due."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import attrs

from aegis_core.backend import (
    ABSENT,
    ANY,
    Conflict,
    Delete,
    DeleteReason,
    Indeterminate,
    Operation,
    Put,
    StoreUnavailable,
    Transaction,
)
from aegis_core.errors import ConfigError
from aegis_sqlite.connection import Connection, why

__all__ = ["SETTLE_FOR", "Writer"]

SETTLE_FOR: Final = 600.0
"""Seconds for which a deletion is remembered."""

_APPLICATION: Final = 0x41454749
_VERSION: Final = 1

_TABLES: Final = (
    """
    CREATE TABLE entries (
        key TEXT PRIMARY KEY,
        value BLOB,                       -- NULL: it is gone
        reason TEXT,                      -- why, then
        revision INTEGER NOT NULL UNIQUE, -- of its last change
        writer TEXT NOT NULL,             -- the transaction that was last applied to it
        written INTEGER NOT NULL,         -- the revision that it had by that one
        lasts REAL,                       -- seconds of its TTL, or for which its deletion is remembered
        ends_at REAL,                     -- when that is over, by the monotonic clock
        CHECK ((value IS NULL) = (reason IS NOT NULL)),
        CHECK ((lasts IS NULL) = (ends_at IS NULL))
    ) STRICT
    """,
    "CREATE INDEX ends ON entries (ends_at) WHERE ends_at IS NOT NULL",
    "CREATE TABLE counters (revision INTEGER NOT NULL, forgotten INTEGER NOT NULL) STRICT",
)


class Writer(Connection):
    """The connection that changes the file."""

    def prepare(self) -> None:
        """Make the tables if the file is new, and see that it is one of ours, whole and writable.

        Raises:
            ConfigError: It is something else.
            Locked: Another connection is at it.
            StoreUnavailable: It is damaged, or cannot be written.
        """
        with self.translated():
            try:
                (application,) = self.sqlite.execute("PRAGMA application_id").fetchone()
            except sqlite3.DatabaseError as exc:
                if exc.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
                    raise self._refused("it is no SQLite database") from exc
                raise
            super().prepare()
            (version,) = self.sqlite.execute("PRAGMA user_version").fetchone()
            (tables,) = self.sqlite.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if application not in (0, _APPLICATION) or (tables and not application):
                raise self._refused("it is another program's database")
            if version > _VERSION:
                raise self._refused(
                    f"it was made by a newer aegis-sqlite (format {version}, this one knows {_VERSION}): update this one"
                )
            (mode,) = self.sqlite.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise self._refused("where it lies, SQLite cannot keep a write-ahead log: use a local disk")
            if tables:
                (verdict,) = self.sqlite.execute("PRAGMA quick_check(1)").fetchone()
                if verdict != "ok":
                    raise StoreUnavailable(reason=f"{self.path}: it is damaged: {verdict}")
        with self._writing() as step:
            if step is None:
                self._make_tables()
            else:
                self.sqlite.execute(
                    "UPDATE entries SET ends_at = :now + lasts WHERE ends_at > :now + lasts", {"now": step.now}
                )

    def commit(self, transaction: Transaction) -> tuple[int, ...]:
        """Apply *transaction*, whose form is right, or find that it was applied before.

        Raises:
            Conflict: An expectation did not hold; nothing was changed.
            Indeterminate: It failed when it was to be made permanent.
            Locked: Another connection is writing.
            StoreUnavailable: The file cannot be written.
        """
        with self._writing() as step:
            assert step is not None
            self._end_due(step)
            decided = self._apply(step, transaction)
        # What has expired is committed also where the transaction is refused: the reader shall see why.
        if isinstance(decided, str):
            raise Conflict(key=decided)
        return decided

    def end_due(self) -> None:
        """Delete what has expired, and drop what need not be remembered any more.

        Raises:
            Indeterminate, Locked, StoreUnavailable: As `commit`.
        """
        with self._writing() as step:
            assert step is not None
            self._end_due(step)

    def _refused(self, problem: str) -> ConfigError:
        return ConfigError(source="backend URL", key="backend", problem=f"{self.path}: {problem}")

    def _make_tables(self) -> None:
        for statement in _TABLES:
            self.sqlite.execute(statement)
        self.sqlite.execute("INSERT INTO counters VALUES (?, 0)", (_microseconds(),))
        self.sqlite.execute(f"PRAGMA application_id = {_APPLICATION}")
        self.sqlite.execute(f"PRAGMA user_version = {_VERSION}")

    @contextmanager
    def _writing(self) -> Iterator[_Step | None]:
        """A transaction of SQLite. Yields None while there are no tables yet."""
        with self.translated():
            self.insist_on_the_file()
            self.sqlite.execute("BEGIN IMMEDIATE")
            try:
                step = None
                if self.sqlite.execute("PRAGMA user_version").fetchone() != (0,):
                    revision, forgotten = self.counters()
                    step = _Step(time.monotonic(), max(revision, _microseconds()), forgotten)
                yield step
                if step is not None and step.has_changed:
                    self.sqlite.execute(
                        "UPDATE counters SET revision = ?, forgotten = ?", (step.revision, step.forgotten)
                    )
            except BaseException:
                self.roll_back()
                raise
            try:
                self.sqlite.execute("COMMIT")
            except sqlite3.Error as exc:
                self.roll_back()
                # It may be in the log all the same, and come to be when the file is opened the next time.
                code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
                raise Indeterminate(reason=f"{self.path}: {why(exc, code)}") from exc

    def _end_due(self, step: _Step) -> None:
        due = self.sqlite.execute(
            "SELECT key, value IS NULL, revision FROM entries WHERE ends_at <= ? ORDER BY ends_at, revision",
            (step.now,),
        ).fetchall()
        for key, is_gone, revision in due:
            if is_gone:
                self.sqlite.execute("DELETE FROM entries WHERE key = ?", (key,))
                step.forget(revision)
            else:
                # Its writer stays: who repeats that transaction is told that it was applied.
                self.sqlite.execute(
                    "UPDATE entries SET value = NULL, reason = ?, revision = ?, lasts = ?, ends_at = ? WHERE key = ?",
                    (DeleteReason.EXPIRED.value, step.next_revision(), SETTLE_FOR, step.now + SETTLE_FOR, key),
                )

    def _apply(self, step: _Step, transaction: Transaction) -> tuple[int, ...] | str:
        """The revisions of *transaction*, or the key whose expectation does not hold."""
        failed = None
        for op in transaction.operations:
            row = self.sqlite.execute(
                "SELECT writer, written, revision, value IS NULL FROM entries WHERE key = ?", (op.key,)
            ).fetchone()
            actual = ABSENT
            if row is not None:
                writer, written, revision, is_gone = row
                if writer == transaction.id:
                    return _numbered_by(transaction, op, written)
                actual = ABSENT if is_gone else revision
            if op.expect not in (actual, ANY) and failed is None:
                failed = op.key
        if failed is not None:
            return failed
        return tuple(self._write(step, op, transaction.id) for op in transaction.operations)

    def _write(self, step: _Step, op: Operation, transaction: str) -> int:
        if _is_check(op):
            return ABSENT
        revision = step.next_revision()
        if isinstance(op, Put):
            value, reason, lasts = op.value, None, op.ttl
        else:
            value, reason, lasts = None, DeleteReason.DELETED.value, SETTLE_FOR
        ends_at = None if lasts is None else step.now + lasts
        self.sqlite.execute(
            "REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (op.key, value, reason, revision, transaction, revision, lasts, ends_at),
        )
        return revision


@attrs.define
class _Step:
    """What one transaction of SQLite has come to."""

    now: float
    revision: int
    forgotten: int
    has_changed: bool = False

    def next_revision(self) -> int:
        self.has_changed = True
        self.revision += 1
        return self.revision

    def forget(self, revision: int) -> None:
        self.has_changed = True
        self.forgotten = max(self.forgotten, revision)


def _microseconds() -> int:
    return time.time_ns() // 1000


def _is_check(op: Operation) -> bool:
    return isinstance(op, Delete) and op.expect == ABSENT


def _numbered_by(transaction: Transaction, known: Operation, revision: int) -> tuple[int, ...]:
    """The revisions of *transaction*, which gave its operation *known* that *revision*: they are consecutive."""
    changing = [op for op in transaction.operations if not _is_check(op)]
    first = revision - changing.index(known)
    places = iter(range(first, first + len(changing)))
    return tuple(ABSENT if _is_check(op) else next(places) for op in transaction.operations)
