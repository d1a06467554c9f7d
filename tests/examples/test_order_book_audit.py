"""The audit: what is lost, doubled or different shows, order by order."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
from exchange.audit import Audit, Receipt, audit, journal_path, run_sequentially, total
from exchange.journal import Journal, Tenure
from exchange.ledger import Ledger
from exchange.matching import Book, Execution, Trade
from exchange.orders import Kind, Order, Side
from generate_orders import generate

ORDERS = tuple(generate(120, seed=5))
RUN = run_sequentially(ORDERS)
RECEIPTS = {
    order_id: Receipt("owner-1", 1, execution) if execution.sequence <= 3 else Receipt("owner-2", 2, execution)
    for order_id, execution in RUN.executions.items()
}
SEVENTH = ORDERS[6].order_id


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Journals of a run in which each symbol had two owners, one after the other."""
    for symbol in RUN.by_symbol:
        orders = [order for order in ORDERS if order.symbol == symbol]
        for epoch, part in ((1, orders[:3]), (2, orders[3:])):
            path = journal_path(tmp_path, symbol)
            ledger = Ledger.open(path, symbol, epoch=epoch, owner=f"owner-{epoch}")
            for order in part:
                ledger.execute(order)
            ledger.close()
    return tmp_path


def judge(folder: Path, changed: str | None = None, receipt: Receipt | None = None) -> Audit:
    """Audit the journals with true receipts, but for one order with another *receipt* or none."""
    receipts = dict(RECEIPTS)
    if changed is not None:
        del receipts[changed]
    if changed is not None and receipt is not None:
        receipts[changed] = receipt
    return audit(ORDERS, RUN, receipts, folder)


def test_a_run_that_equals_the_sequential_one_passes(folder: Path) -> None:
    """No difference; every order is in a journal once; the owners of each symbol are named."""
    found = judge(folder)
    assert (found.differences, found.executed) == ((), len(ORDERS))
    assert found.tenures["GOLD"] == (Tenure(1, "owner-1"), Tenure(2, "owner-2"))


def test_an_order_without_an_answer_was_lost(folder: Path) -> None:
    """It is named with its symbol."""
    (difference,) = judge(folder, SEVENTH).differences
    assert difference == f"{ORDERS[6].symbol}: order ord-000007 was lost: nobody answered it"


def test_a_wrong_answer_differs(folder: Path) -> None:
    """What was answered and what should have been stand side by side."""
    wrong = attrs.evolve(RUN.executions[SEVENTH], cancelled=99)
    receipt = attrs.evolve(RECEIPTS[SEVENTH], execution=wrong)
    (difference,) = judge(folder, SEVENTH, receipt).differences
    assert f"order ord-000007 was answered {wrong}, but a sequential run gives" in difference


def test_an_order_that_two_owners_executed_shows(folder: Path) -> None:
    """The caller was answered by one owner, and the journal has the entry of another."""
    receipt = attrs.evolve(RECEIPTS[SEVENTH], instance="owner-9", epoch=9)
    (difference,) = judge(folder, SEVENTH, receipt).differences
    assert "answered under epoch 9" in difference
    assert difference.endswith("two owners executed it")


def test_an_order_that_was_not_sent_shows(folder: Path) -> None:
    """A journal that holds more than the file is a difference."""
    ledger = Ledger.open(journal_path(folder, "TIN"), "TIN", epoch=3, owner="owner-3")
    ledger.execute(Order("ghost", "TIN", Kind.MARKET, Side.BUY, 1))
    ledger.close()
    assert judge(folder).differences == ("TIN: the journal holds order ghost, which was not sent",)


def test_orders_missing_from_a_journal_show(folder: Path) -> None:
    """An answer alone is not enough: what is not on disk was not executed."""
    journal_path(folder, "TIN").unlink()
    differences = judge(folder).differences
    missing = [order.order_id for order in ORDERS if order.symbol == "TIN"]
    assert differences == tuple(f"TIN: order {o} is not in the journal" for o in missing)


def test_another_sequence_shows(folder: Path) -> None:
    """Orders that were executed in another order than they were sent differ from the sequential run."""
    path = journal_path(folder, "TIN")
    path.unlink()
    ledger = Ledger.open(path, "TIN", epoch=1, owner="owner-1")
    for order in reversed([order for order in ORDERS if order.symbol == "TIN"]):
        ledger.execute(order)
    ledger.close()
    assert "is in the journal as" in judge(folder).differences[0]


def test_an_order_executed_twice_shows(folder: Path) -> None:
    """A second entry of one order is damage that names the line."""
    order = next(order for order in ORDERS if order.symbol == "TIN")
    journal = Journal.open(journal_path(folder, "TIN"), epoch=3, owner="owner-3")
    journal.append(order, RUN.executions[order.order_id])
    journal.close()
    (difference,) = judge(folder).differences
    assert difference.startswith("TIN: ")
    assert f"order '{order.order_id}' was executed a second time" in difference


def test_totals_add_up() -> None:
    """Trades, lots and value are sums over the executions; the whole is the sum of the symbols."""
    book = Book("GOLD")
    executions = [
        Execution("a", 1, (Trade("x", 10, 2), Trade("y", 11, 1)), resting=4),
        Execution("b", 2, cancelled=3),
    ]
    totals = total(book, executions)
    assert (totals.orders, totals.trades, totals.volume, totals.notional) == (2, 2, 3, 31)
    assert totals.digest != total(book, executions[::-1]).digest
    assert RUN.overall.orders == len(ORDERS)
    assert RUN.overall.trades == sum(row.trades for row in RUN.by_symbol.values())
    assert run_sequentially([]).overall.orders == 0
