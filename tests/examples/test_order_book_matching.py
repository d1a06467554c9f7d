"""The book of one symbol, by example and against a slow model."""

from __future__ import annotations

import attrs
import pytest
from exchange.matching import Book, Execution, Trade
from exchange.orders import InvalidOrder, Kind, Order, Side
from hypothesis import given
from hypothesis import strategies as st


def limit(order_id: str, side: Side, quantity: int, price: int) -> Order:
    """Return a limit order for GOLD."""
    return Order(order_id, "GOLD", Kind.LIMIT, side, quantity, price)


def market(order_id: str, side: Side, quantity: int) -> Order:
    """Return a market order for GOLD."""
    return Order(order_id, "GOLD", Kind.MARKET, side, quantity)


def cancel(order_id: str, side: Side, target: str) -> Order:
    """Return a cancel for GOLD."""
    return Order(order_id, "GOLD", Kind.CANCEL, side, target=target)


def execute(book: Book, *orders: Order) -> Execution:
    """Execute *orders* and return what became of the last."""
    execution = None
    for order in orders:
        execution = book.match(order)
        book.apply(order, execution)
    assert execution is not None
    return execution


def test_better_prices_trade_first_and_then_earlier_orders() -> None:
    """A buyer meets the lowest ask first, and at one price whoever came first, at the maker's price."""
    book = Book("GOLD")
    execute(
        book,
        limit("late", Side.SELL, 5, 101),
        limit("dear", Side.SELL, 5, 102),
        limit("later", Side.SELL, 5, 101),
        limit("best", Side.SELL, 5, 100),
    )
    execution = execute(book, limit("buyer", Side.BUY, 12, 101))
    assert execution.trades == (
        Trade("best", 100, 5),
        Trade("late", 101, 5),
        Trade("later", 101, 2),
    )
    assert (execution.filled, execution.resting, book.resting("later")) == (12, 0, 3)
    assert (book.best(Side.SELL), book.best(Side.BUY)) == (101, None)


def test_a_seller_meets_the_highest_bid_first() -> None:
    """The other side mirrors it; what does not cross waits in the book."""
    book = Book("GOLD")
    execute(book, limit("low", Side.BUY, 1, 98), limit("high", Side.BUY, 1, 99))
    execution = execute(book, limit("seller", Side.SELL, 3, 99))
    assert execution.trades == (Trade("high", 99, 1),)
    assert (execution.resting, book.best(Side.SELL), book.best(Side.BUY)) == (2, 99, 98)


def test_the_rest_of_a_market_order_is_cancelled() -> None:
    """A market order takes what is there, at any price, and never waits."""
    book = Book("GOLD")
    execute(book, limit("a", Side.SELL, 2, 100), limit("b", Side.SELL, 2, 900))
    execution = execute(book, market("m", Side.BUY, 10))
    assert (execution.filled, execution.cancelled, execution.resting) == (4, 6, 0)
    assert (book.resting_orders, book.resting_quantity) == (0, 0)


@pytest.mark.parametrize(
    ("side", "target", "cancelled"),
    [(Side.BUY, "a", 3), (Side.SELL, "a", 0), (Side.BUY, "unknown", 0)],
)
def test_a_cancel_takes_what_is_left_of_its_target(side: Side, target: str, cancelled: int) -> None:
    """The side must be the target's; an order that does not wait is cancelled by nothing."""
    book = Book("GOLD")
    execute(book, limit("a", Side.BUY, 5, 100), market("m", Side.SELL, 2))
    assert execute(book, cancel("c", side, target)).cancelled == cancelled
    assert book.resting("a") == 3 - cancelled


def test_deciding_changes_nothing() -> None:
    """Matching the same order twice gives the same answer, until it is applied."""
    book = Book("GOLD")
    execute(book, limit("a", Side.SELL, 5, 100))
    order = limit("b", Side.BUY, 3, 100)
    assert book.match(order) == book.match(order)
    assert (book.resting("a"), book.executed) == (5, 1)


def test_an_order_for_another_book_is_refused() -> None:
    """A wrong symbol, or an id that waits already, is the sender's mistake."""
    book = Book("SILVER")
    with pytest.raises(InvalidOrder, match="this book is 'SILVER'"):
        book.match(limit("a", Side.SELL, 5, 100))
    book = Book("GOLD")
    execute(book, limit("a", Side.SELL, 5, 100))
    with pytest.raises(InvalidOrder, match="waits in the book already"):
        book.match(limit("a", Side.SELL, 5, 100))


def test_the_book_shows_its_state() -> None:
    """The repr names the symbol, the best prices and the number of orders."""
    book = Book("GOLD")
    execute(book, limit("a", Side.SELL, 5, 100))
    assert repr(book) == "<Book GOLD bid None ask 100 resting 1 executed 1>"


@attrs.define
class Waiting:
    """An order in the slow model."""

    order: Order
    left: int


class SlowBook:
    """The same rules over one list that is sorted anew for each order."""

    def __init__(self) -> None:
        self.waiting: list[Waiting] = []
        self.executed = 0

    def execute(self, order: Order) -> Execution:
        """Execute *order* and say what became of it."""
        self.executed += 1
        if order.kind is Kind.CANCEL:
            found = [
                entry
                for entry in self.waiting
                if entry.order.order_id == order.target and entry.order.side is order.side
            ]
            self.waiting = [entry for entry in self.waiting if entry not in found]
            return Execution(order.order_id, self.executed, cancelled=sum(e.left for e in found))
        sign = 1 if order.side is Side.BUY else -1
        others = [entry for entry in self.waiting if entry.order.side is not order.side]
        if order.kind is Kind.LIMIT:
            others = [e for e in others if sign * e.order.price <= sign * order.price]
        left, trades = order.quantity, []
        for entry in sorted(others, key=lambda entry: sign * entry.order.price):  # stable
            quantity = min(left, entry.left)
            if quantity:
                trades.append(Trade(entry.order.order_id, entry.order.price, quantity))
                entry.left -= quantity
                left -= quantity
        self.waiting = [entry for entry in self.waiting if entry.left]
        if order.kind is Kind.MARKET:
            return Execution(order.order_id, self.executed, tuple(trades), cancelled=left)
        if left:
            self.waiting.append(Waiting(order, left))
        return Execution(order.order_id, self.executed, tuple(trades), resting=left)


steps = st.lists(
    st.tuples(
        st.sampled_from(Kind),
        st.sampled_from(Side),
        st.integers(1, 9),
        st.integers(1, 8),
        st.integers(0, 40),
    ),
    max_size=60,
)


@given(steps)
def test_the_book_agrees_with_a_slow_model(steps: list[tuple[Kind, Side, int, int, int]]) -> None:
    """Whatever is ordered, both books trade the same and keep the same, and prices never stay crossed."""
    book, slow = Book("GOLD"), SlowBook()
    for number, (kind, side, quantity, price, target) in enumerate(steps):
        if kind is Kind.LIMIT:
            order = limit(str(number), side, quantity, price)
        elif kind is Kind.MARKET:
            order = market(str(number), side, quantity)
        else:
            order = cancel(str(number), side, str(target))
        assert execute(book, order) == slow.execute(order)
        assert book.resting_orders == len(slow.waiting)
        assert book.resting_quantity == sum(entry.left for entry in slow.waiting)
        bid, ask = book.best(Side.BUY), book.best(Side.SELL)
        assert bid is None or ask is None or bid < ask
