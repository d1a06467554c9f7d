"""The ledger of one symbol: its book in memory and its journal on disk, always saying the same."""

from __future__ import annotations

from pathlib import Path

from exchange.journal import Entry, Journal, JournalDamaged, Record
from exchange.matching import Book
from exchange.orders import InvalidOrder, Order


class Ledger:
    """What the owner of a symbol works on: executes each order once, however often it is sent.

    Made by `open` when the symbol is acquired, closed by `close` when it is given up.
    """

    def __init__(self, book: Book, journal: Journal) -> None:
        self.book = book
        self._journal = journal
        self._executed: dict[str, Entry] = {}

    def __repr__(self) -> str:
        """Show the book and the journal."""
        return f"<Ledger {self.book!r} {self._journal!r}>"

    @classmethod
    def open(cls, path: Path, symbol: str, *, epoch: int, owner: str, fsync: bool = False) -> Ledger:
        """Take over the journal at *path* and replay it into a book.

        Blocks while it reads the file: run it in a worker thread.

        Args:
            path: The journal of the symbol.
            symbol: The symbol.
            epoch: The epoch of the claim.
            owner: Who takes over, for people who read the journal.
            fsync: Whether each order waits until the disk has it (see `Journal.open`).

        Raises:
            Fenced: When the journal knows a higher epoch.
            JournalDamaged: When the journal cannot have been written by this program.
            OSError: When the file cannot be opened, read or written.
        """
        journal = Journal.open(path, epoch=epoch, owner=owner, fsync=fsync)
        try:
            ledger = cls(Book(symbol), journal)
            ledger._executed = replay(path, ledger.book, journal.records)
        except BaseException:
            journal.close()
            raise
        return ledger

    def __contains__(self, order_id: object) -> bool:
        """Say whether the order of this id was executed, by whichever owner."""
        return order_id in self._executed

    def execute(self, order: Order) -> Entry:
        """Execute *order* and write it down; for one that was executed before, find what was written.

        There is no checkpoint in here: no cancellation comes between book and disk.

        Raises:
            InvalidOrder: When the order is for another symbol, or its id was that of another order.
            Fenced: When somebody with a higher epoch owns the journal; nothing was executed.
            JournalError: When the journal cannot be used; nothing was executed.
            OSError: When the disk refuses; nothing was executed.
        """
        known = self._executed.get(order.order_id)
        if known is not None:
            if known.order != order:
                raise InvalidOrder(order.order_id, "order_id", "was used for a different order")
            return known
        execution = self.book.match(order)
        self._journal.append(order, execution)
        self.book.apply(order, execution)
        entry = Entry(self._journal.epoch, order, execution)
        self._executed[order.order_id] = entry
        return entry

    def close(self) -> None:
        """Close the journal; closing twice does nothing."""
        self._journal.close()


def replay(path: Path, book: Book, records: tuple[Record, ...]) -> dict[str, Entry]:
    """Execute the entries of a journal again, in a new *book*, and compare each with what was recorded.

    Args:
        path: The journal, named in errors.
        book: A book without orders.
        records: What `read_journal` or `Journal.records` gave.

    Returns:
        The entries by order id, in order.

    Raises:
        JournalDamaged: When an order comes twice, is not for this book, or was executed otherwise
            than the rules say.
    """
    executed: dict[str, Entry] = {}
    for line, record in enumerate(records, start=1):
        if not isinstance(record, Entry):
            continue
        order = record.order
        if order.order_id in executed:
            raise JournalDamaged(path, line, f"order {order.order_id!r} was executed a second time")
        try:
            execution = book.match(order)
        except InvalidOrder as exc:
            raise JournalDamaged(path, line, str(exc)) from exc
        if execution != record.execution:
            reason = f"order {order.order_id!r} gave {record.execution}, but the rules give {execution}"
            raise JournalDamaged(path, line, reason)
        book.apply(order, execution)
        executed[order.order_id] = record
    return executed
