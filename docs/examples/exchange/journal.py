"""The journal of one symbol: every order and what became of it, on disk before anybody is told.

Theory of operation
-------------------
The file grows by whole lines, each ``<crc32 of the rest, 8 hex digits> <JSON>``:

- a *tenure* ``{"epoch": 7, "owner": "exchange-1"}`` opens the time of one owner;
- an *entry* ``{"epoch": 7, "order": [...], "execution": [...]}`` is one executed order.

The epoch is the fence. A new owner writes its tenure before it executes anything, and each append looks,
under the file's lock, whether somebody else has written since: an owner that was replaced while it
was stopped, or that does not know yet, finds the higher epoch and is refused. So the file needs no
trust in leases or clocks: whatever their owners believe, its lines are in the order of the epochs.

A process that dies while it writes leaves a line without its end. Nobody has been told of that line, so
the next writer cuts it off. Any other line that does not read back as it was written is damage that
nobody should guess about: `JournalDamaged` names the file and the line.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import attrs

from exchange.matching import Execution, Trade
from exchange.orders import InvalidOrder, Kind, Order, Side

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

HIGHEST_EPOCH = 2**63 - 1
LONGEST_LINE = 4 * 1024 * 1024
"""Bytes; a line beyond this was not written by this program."""


class JournalError(Exception):
    """A journal cannot be used; the message names the file."""


class JournalDamaged(JournalError):
    """A line is not what this program writes: restore the file from a copy, nothing can be guessed.

    Attributes:
        path: The file.
        line: The line, from 1.
        reason: What is wrong with it.
    """

    def __init__(self, path: Path, line: int, reason: str) -> None:
        super().__init__(f"{path}: line {line}: {reason}")
        self.path = path
        self.line = line
        self.reason = reason


class Fenced(JournalError):
    """Somebody with a higher epoch owns the journal now: stop, the book is theirs.

    Attributes:
        path: The file.
        epoch: The epoch that was refused.
        holder: The tenure with the highest epoch in the file.
    """

    def __init__(self, path: Path, epoch: int, holder: Tenure) -> None:
        super().__init__(f"{path}: epoch {epoch} is refused: {holder.owner!r} holds epoch {holder.epoch}")
        self.path = path
        self.epoch = epoch
        self.holder = holder


@attrs.frozen
class Tenure:
    """The time of one owner.

    Attributes:
        epoch: The epoch of its claim; grows from tenure to tenure.
        owner: Who it is, for people.
    """

    epoch: int
    owner: str


@attrs.frozen
class Entry:
    """One executed order.

    Attributes:
        epoch: The epoch of the owner that executed it.
        order: The order.
        execution: What became of it.
    """

    epoch: int
    order: Order
    execution: Execution


Record = Tenure | Entry


def read_journal(path: Path) -> tuple[Record, ...]:
    """Read a journal that nobody owns, as an auditor does; changes nothing.

    Args:
        path: The file.

    Returns:
        Its records in order; a last line without its end is left out. Nothing when there is no file.

    Raises:
        JournalDamaged: When a line is not a record, or its epoch does not fit the lines before it.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return ()
    scan = _Scan(path)
    scan.feed(data)
    return tuple(scan.records)


class Journal:
    """The journal of one symbol, held by one owner. Made by `open`, closed by `close`.

    Its methods block for the time of a small file operation and have no checkpoints: nothing can come
    between the look at the fence and the write.
    """

    def __init__(self, path: Path, descriptor: int, epoch: int, *, fsync: bool) -> None:
        self.path = path
        self.epoch = epoch
        self._descriptor = descriptor
        self._fsync = fsync
        self._scan = _Scan(path)

    def __repr__(self) -> str:
        """Show the file, the epoch and how much of the file is known."""
        state = "closed" if self._descriptor < 0 else f"{self._scan.end} bytes"
        return f"<Journal {self.path.name} epoch {self.epoch} {state}>"

    @classmethod
    def open(cls, path: Path, *, epoch: int, owner: str, fsync: bool = False) -> Journal:
        """Take over the journal at *path* for the owner of *epoch*; a missing file is made.

        Reads the whole file, cuts off a torn last line and writes the tenure, which fences every
        owner with a lower epoch from here on.

        Args:
            path: The file; its folder exists.
            epoch: The epoch of the claim, 1 or more.
            owner: Who takes over, for people who read the file.
            fsync: Whether each write waits until the disk has it. Without it the entries survive the
                death of the process; with it that of the machine too.

        Raises:
            Fenced: When the file knows a higher epoch, or the same of another owner.
            JournalDamaged: When a line is not a record.
            OSError: When the file cannot be opened, read or written.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        journal = cls(path, os.open(path, flags, 0o644), epoch, fsync=fsync)
        try:
            with journal._locked():
                journal._catch_up()
                journal._take_over(owner)
        except BaseException:
            journal.close()
            raise
        return journal

    @property
    def records(self) -> tuple[Record, ...]:
        """What the file held when it was opened, and what was appended since."""
        return tuple(self._scan.records)

    def append(self, order: Order, execution: Execution) -> None:
        """Write one executed order; on return it is in the file.

        Raises:
            Fenced: When a higher epoch has been written; nothing was added.
            JournalDamaged: When what was written is not a record; nothing was added.
            JournalError: When another program writes under the same epoch; nothing was added.
            OSError: When the disk refuses; what was written of the entry is taken back.
            ValueError: When the journal has been closed.
        """
        if self._descriptor < 0:
            raise ValueError(f"{self.path}: the journal is closed")
        with self._locked():
            known = len(self._scan.records)
            self._catch_up()
            latest = self._scan.tenure
            if latest is not None and latest.epoch > self.epoch:
                raise Fenced(self.path, self.epoch, latest)
            if len(self._scan.records) != known:
                raise JournalError(f"{self.path}: somebody else writes under epoch {self.epoch} too")
            self._write(Entry(self.epoch, order, execution))

    def close(self) -> None:
        """Close the file; closing twice does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _take_over(self, owner: str) -> None:
        """Write the tenure of *owner*, unless it is there already."""
        tenure, latest = Tenure(self.epoch, owner), self._scan.tenure
        if latest == tenure:
            return
        if latest is not None and latest.epoch >= self.epoch:
            raise Fenced(self.path, self.epoch, latest)
        self._write(tenure)

    def _catch_up(self) -> None:
        """Read what was written since the last look, and cut off a last line that has no end."""
        size = os.fstat(self._descriptor).st_size
        if size == self._scan.end:
            return
        os.lseek(self._descriptor, self._scan.end, os.SEEK_SET)
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            self._scan.feed(file.read())
        if self._scan.end != size:
            os.ftruncate(self._descriptor, self._scan.end)

    def _write(self, record: Record) -> None:
        line = _format(record)
        try:
            written = 0
            while written < len(line):  # A full disk or a signal may take a part only.
                written += os.write(self._descriptor, line[written:])
            if self._fsync:
                os.fsync(self._descriptor)
        except OSError:
            # Whoever gets this error may try again: the file must not know what he was not told.
            os.ftruncate(self._descriptor, self._scan.end)
            raise
        self._scan.add(record, len(line))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep every other process and handle out of the file, for less than a millisecond."""
        if sys.platform == "win32":
            # Locks a byte far behind the end: Windows locks bytes, and forbids others to read them.
            os.lseek(self._descriptor, 2**62, os.SEEK_SET)
            msvcrt.locking(self._descriptor, msvcrt.LK_LOCK, 1)
            try:
                yield
            finally:
                os.lseek(self._descriptor, 2**62, os.SEEK_SET)
                msvcrt.locking(self._descriptor, msvcrt.LK_UNLCK, 1)
        else:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)


class _Scan:
    """What has been read of a file so far: its records, where the whole lines end, and who owns it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[Record] = []
        self.end = 0
        self.tenure: Tenure | None = None

    def feed(self, data: bytes) -> None:
        """Take the bytes that follow `end`; a last line without its end is left."""
        start = 0
        while (newline := data.find(b"\n", start)) >= 0:
            line = len(self.records) + 1
            try:
                record = _parse(data[start:newline])
                self._check(record)
            except ValueError as exc:
                raise JournalDamaged(self.path, line, str(exc)) from exc
            self.add(record, newline + 1 - start)
            start = newline + 1

    def add(self, record: Record, length: int) -> None:
        """Note a record of *length* bytes that stands at `end`."""
        self.records.append(record)
        self.end += length
        if isinstance(record, Tenure):
            self.tenure = record

    def _check(self, record: Record) -> None:
        known = 0 if self.tenure is None else self.tenure.epoch
        if isinstance(record, Tenure):
            if record.epoch <= known:
                raise ValueError(f"a tenure of epoch {record.epoch} comes after one of epoch {known}")
        elif record.epoch != known:
            raise ValueError(f"an entry of epoch {record.epoch} stands in the tenure of epoch {known}")


def _format(record: Record) -> bytes:
    body: dict[str, object] = {"epoch": record.epoch}
    if isinstance(record, Tenure):
        body["owner"] = record.owner
    else:
        order, execution = record.order, record.execution
        body["order"] = [
            *(order.order_id, order.symbol, order.kind.value, order.side.value),
            *(order.quantity, order.price, order.target),
        ]
        trades = [[trade.maker, trade.price, trade.quantity] for trade in execution.trades]
        body["execution"] = [execution.sequence, trades, execution.resting, execution.cancelled]
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=True).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _parse(line: bytes) -> Record:
    """Read back one line; raise ValueError saying what is wrong with it."""
    if len(line) > LONGEST_LINE:
        raise ValueError(f"is {len(line)} bytes long, but {LONGEST_LINE} is the most that is written")
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        raise ValueError("its checksum does not fit")
    # The checksum keeps out accidents, not somebody who can compute one: so every type is checked.
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ValueError(f"is not JSON: {exc}") from exc
    match body:
        case {"epoch": int(epoch), "owner": str(owner), **rest} if not rest:
            return Tenure(_whole(epoch, "epoch", lowest=1), owner)
        case {"epoch": int(epoch), "order": list(order), "execution": list(execution), **rest} if not rest:
            parsed = _parse_order(order)
            done = _parse_execution(parsed.order_id, execution)
            return Entry(_whole(epoch, "epoch", lowest=1), parsed, done)
        case _:
            raise ValueError("is neither a tenure nor an entry")


def _parse_order(fields: list[object]) -> Order:
    match fields:
        case [
            str(order_id),
            str(symbol),
            str(kind),
            str(side),
            int(quantity),
            int(price),
            str(target),
        ]:
            try:
                return Order(order_id, symbol, Kind(kind), Side(side), quantity, price, target)
            except InvalidOrder as exc:
                raise ValueError(f"holds an invalid order: {exc}") from exc
        case _:
            raise ValueError("its order does not have the fields of an order")


def _parse_execution(order_id: str, fields: list[object]) -> Execution:
    match fields:
        case [int(sequence), list(trades), int(resting), int(cancelled)]:
            return Execution(
                order_id,
                _whole(sequence, "sequence", lowest=1),
                tuple(_parse_trade(trade) for trade in trades),
                _whole(resting, "resting"),
                _whole(cancelled, "cancelled"),
            )
        case _:
            raise ValueError("its execution does not have the fields of an execution")


def _parse_trade(fields: object) -> Trade:
    match fields:
        case [str(maker), int(price), int(quantity)]:
            return Trade(maker, _whole(price, "price", lowest=1), _whole(quantity, "quantity", lowest=1))
        case _:
            raise ValueError("one of its trades does not have the fields of a trade")


def _whole(value: int, name: str, *, lowest: int = 0) -> int:
    if isinstance(value, bool) or not lowest <= value <= HIGHEST_EPOCH:
        raise ValueError(f"its {name} must be a whole number from {lowest} on, not {value!r}")
    return value
