"""The audit of a finished run: totals, and the comparison with a sequential run, order by order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import attrs

from exchange.journal import Entry, JournalError, Tenure, read_journal
from exchange.ledger import replay
from exchange.matching import Book, Execution
from exchange.orders import Order, OrdersFileError


@attrs.frozen
class Totals:
    """What a run comes to, for one symbol or for all.

    Attributes:
        orders: Orders executed.
        trades: Trades made.
        volume: Lots traded.
        notional: Ticks times lots traded.
        resting_orders: Orders that wait in the end.
        resting_quantity: Lots that wait in the end.
        digest: SHA-256 over every execution in its order, in hex.
    """

    orders: int
    trades: int
    volume: int
    notional: int
    resting_orders: int
    resting_quantity: int
    digest: str


@attrs.frozen
class Receipt:
    """The answer to one order.

    Attributes:
        instance: Who answered.
        epoch: Under which epoch the order was executed, perhaps by an earlier owner.
        execution: What became of it.
        repeated: Whether it had been executed before, and the journal answered.
    """

    instance: str
    epoch: int
    execution: Execution
    repeated: bool = False


@attrs.frozen
class SequentialRun:
    """What the orders come to when one program executes them one after the other.

    Attributes:
        executions: What became of each order, by order id.
        by_symbol: The totals of each symbol.
    """

    executions: Mapping[str, Execution]
    by_symbol: Mapping[str, Totals]

    @property
    def overall(self) -> Totals:
        """The totals over all symbols; the digest is one over the symbols' digests."""
        return combine(self.by_symbol)


def run_sequentially(orders: Iterable[Order]) -> SequentialRun:
    """Execute *orders* in sequence, in one book per symbol, without any network, disk or task."""
    books: dict[str, Book] = {}
    by_book: dict[str, list[Execution]] = {}
    executions: dict[str, Execution] = {}
    for order in orders:
        book = books.setdefault(order.symbol, Book(order.symbol))
        execution = book.match(order)
        book.apply(order, execution)
        by_book.setdefault(order.symbol, []).append(execution)
        executions[order.order_id] = execution
    totals = {symbol: total(books[symbol], by_book[symbol]) for symbol in sorted(books)}
    return SequentialRun(executions, totals)


def total(book: Book, executions: Iterable[Execution]) -> Totals:
    """Add up the *executions* that led to *book*."""
    orders = trades = volume = notional = 0
    digest = hashlib.sha256()
    for execution in executions:
        orders += 1
        trades += len(execution.trades)
        volume += execution.filled
        notional += sum(trade.price * trade.quantity for trade in execution.trades)
        digest.update(json.dumps(attrs.astuple(execution)).encode())
    return Totals(
        orders=orders,
        trades=trades,
        volume=volume,
        notional=notional,
        resting_orders=book.resting_orders,
        resting_quantity=book.resting_quantity,
        digest=digest.hexdigest(),
    )


def combine(by_symbol: Mapping[str, Totals]) -> Totals:
    """Add up the totals of several symbols."""
    rows = [by_symbol[symbol] for symbol in sorted(by_symbol)]
    sums = [sum(column) for column in zip(*(attrs.astuple(row)[:-1] for row in rows), strict=True)]
    digest = hashlib.sha256("".join(row.digest for row in rows).encode()).hexdigest()
    orders, trades, volume, notional, resting_orders, resting_quantity = sums or [0] * 6
    return Totals(orders, trades, volume, notional, resting_orders, resting_quantity, digest)


def write_expected(path: Path, run: SequentialRun) -> None:
    """Write the totals of *run* as JSON, for `compare_expected`."""
    totals = {symbol: attrs.asdict(row) for symbol, row in run.by_symbol.items()}
    body = {"overall": attrs.asdict(run.overall), "symbols": totals}
    path.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")


def compare_expected(path: Path, run: SequentialRun) -> Iterator[str]:
    """Yield what differs between *run* and the totals in the file that came with the orders.

    Raises:
        OrdersFileError: When the file cannot be read.
    """
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        expected = {symbol: Totals(**row) for symbol, row in body["symbols"].items()}
        expected["all symbols"] = Totals(**body["overall"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise OrdersFileError(f"{path}: cannot be read as totals: {exc!r}") from exc
    actual = {**run.by_symbol, "all symbols": run.overall}
    for symbol in sorted(expected.keys() | actual.keys()):
        if expected.get(symbol) != actual.get(symbol):
            yield f"{symbol}: expected {expected.get(symbol)}, but a sequential run gives {actual.get(symbol)}"


def journal_path(folder: Path, symbol: str) -> Path:
    """Return where the journal of *symbol* stands in *folder*."""
    return folder / f"{symbol}.journal"


@attrs.frozen
class Audit:
    """What the audit of a run found.

    Attributes:
        differences: One line for people per difference from the sequential run; none is a pass.
        tenures: The owners of each symbol, one after the other, as its journal names them.
        executed: How many orders the journals hold.
    """

    differences: tuple[str, ...]
    tenures: Mapping[str, tuple[Tenure, ...]]
    executed: int


def audit(
    orders: Iterable[Order],
    run: SequentialRun,
    receipts: Mapping[str, Receipt],
    folder: Path,
) -> Audit:
    """Compare what callers were told and what the journals hold with the sequential *run*.

    Proves that no order was lost (each has a receipt and an entry), none was executed twice (one entry
    per id) and none by two owners (the epochs of the tenures grow, and the receipt of an order shows the
    epoch under which its entry stands).

    Args:
        orders: The orders that were sent, in sequence.
        run: The sequential run of the same orders.
        receipts: What the caller of each order was told, by order id.
        folder: Where the journals are.
    """
    sent: dict[str, list[Order]] = {symbol: [] for symbol in run.by_symbol}
    for order in orders:
        sent[order.symbol].append(order)
    differences: list[str] = []
    tenures: dict[str, tuple[Tenure, ...]] = {}
    executed = 0
    for symbol, wanted in sent.items():
        differences.extend(_compare_receipts(wanted, run, receipts))
        path = journal_path(folder, symbol)
        try:
            records = read_journal(path)
            entries = replay(path, Book(symbol), records)
        except JournalError as exc:
            differences.append(f"{symbol}: {exc}")
            continue
        tenures[symbol] = tuple(record for record in records if isinstance(record, Tenure))
        executed += len(entries)
        differences.extend(_compare_journal(symbol, wanted, run, receipts, entries))
    return Audit(tuple(differences), tenures, executed)


def _compare_receipts(orders: Iterable[Order], run: SequentialRun, receipts: Mapping[str, Receipt]) -> Iterator[str]:
    for order in orders:
        receipt = receipts.get(order.order_id)
        expected = run.executions[order.order_id]
        if receipt is None:
            yield f"{order.symbol}: order {order.order_id} was lost: nobody answered it"
        elif receipt.execution != expected:
            yield (
                f"{order.symbol}: order {order.order_id} was answered {receipt.execution}, "
                f"but a sequential run gives {expected}"
            )


def _compare_journal(
    symbol: str,
    orders: Iterable[Order],
    run: SequentialRun,
    receipts: Mapping[str, Receipt],
    entries: Mapping[str, Entry],
) -> Iterator[str]:
    unsent = dict(entries)
    for order in orders:
        entry = unsent.pop(order.order_id, None)
        receipt = receipts.get(order.order_id)
        expected = run.executions[order.order_id]
        if entry is None:
            yield f"{symbol}: order {order.order_id} is not in the journal"
        elif entry.order != order or entry.execution != expected:
            yield (
                f"{symbol}: order {order.order_id} is in the journal as {entry.order} with "
                f"{entry.execution}, but a sequential run gives {expected}"
            )
        elif receipt is not None and receipt.epoch != entry.epoch:
            yield (
                f"{symbol}: order {order.order_id} was answered under epoch {receipt.epoch}, "
                f"but is in the journal under epoch {entry.epoch}: two owners executed it"
            )
    for order_id in unsent:
        yield f"{symbol}: the journal holds order {order_id}, which was not sent"
