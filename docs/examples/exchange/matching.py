"""The book of one symbol: better prices trade first, and at one price earlier orders do.

Theory of operation: `Book.match` only decides and `Book.apply` only carries out, so that a caller can
write the decision to disk between the two. When writing fails, the book has not changed.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable

import attrs

from exchange.orders import InvalidOrder, Kind, Order, Side


@attrs.frozen
class Trade:
    """One meeting of an incoming order with a waiting one.

    Attributes:
        maker: Id of the order that waited; its price is the price of the trade.
        price: Ticks.
        quantity: Lots.
    """

    maker: str
    price: int
    quantity: int


@attrs.frozen
class Execution:
    """What became of one order.

    Attributes:
        order_id: The order.
        sequence: Its place among all orders of its book, from 1.
        trades: Its trades, in the order in which they happened.
        resting: Lots that now wait in the book.
        cancelled: Lots taken away: the unfilled rest of a market order, or what was left of a
            cancel's target (0 when that had been filled, cancelled or never seen).
    """

    order_id: str
    sequence: int
    trades: tuple[Trade, ...] = ()
    resting: int = 0
    cancelled: int = 0

    @property
    def filled(self) -> int:
        """Lots traded."""
        return sum(trade.quantity for trade in self.trades)


class Book:
    """The waiting orders of one symbol.

    Args:
        symbol: The only symbol whose orders are taken.
    """

    def __init__(self, symbol: str) -> None:
        self.symbol = symbol
        self._executed = 0
        # One level per price: ids in order of arrival (dicts keep it) with the lots left of each.
        self._levels: dict[Side, dict[int, dict[str, int]]] = {Side.BUY: {}, Side.SELL: {}}
        # The prices of the levels, ascending.
        self._prices: dict[Side, list[int]] = {Side.BUY: [], Side.SELL: []}
        self._resting: dict[str, tuple[Side, int]] = {}

    def __repr__(self) -> str:
        """Show the symbol, the best prices and how much waits."""
        return (
            f"<Book {self.symbol} bid {self.best(Side.BUY)} ask {self.best(Side.SELL)} "
            f"resting {self.resting_orders} executed {self._executed}>"
        )

    @property
    def executed(self) -> int:
        """How many orders have been applied."""
        return self._executed

    @property
    def resting_orders(self) -> int:
        """How many orders wait."""
        return len(self._resting)

    @property
    def resting_quantity(self) -> int:
        """Lots that wait, on both sides together."""
        return sum(
            quantity for levels in self._levels.values() for level in levels.values() for quantity in level.values()
        )

    def best(self, side: Side) -> int | None:
        """Return the best price (ticks) on *side*: the highest bid or the lowest ask; None when nobody waits."""
        return next(iter(self._by_priority(side)), None)

    def resting(self, order_id: str) -> int:
        """Return the lots of *order_id* that wait; 0 when it is not in the book."""
        where = self._resting.get(order_id)
        return 0 if where is None else self._levels[where[0]][where[1]][order_id]

    def match(self, order: Order) -> Execution:
        """Decide what becomes of *order*, changing nothing.

        Raises:
            InvalidOrder: For an order of another symbol, or one whose id waits in the book already.
        """
        if order.symbol != self.symbol:
            raise InvalidOrder(order.order_id, "symbol", f"is {order.symbol!r}, but this book is {self.symbol!r}")
        if order.order_id in self._resting:
            raise InvalidOrder(order.order_id, "order_id", "waits in the book already")
        sequence = self._executed + 1
        if order.kind is Kind.CANCEL:
            where = self._resting.get(order.target)
            known = where is not None and where[0] is order.side
            return Execution(order.order_id, sequence, cancelled=self.resting(order.target) if known else 0)
        left = order.quantity
        trades: list[Trade] = []
        for price in self._by_priority(order.side.opposite):
            if left == 0 or not _crosses(order, price):
                break
            for maker, available in self._levels[order.side.opposite][price].items():
                quantity = min(left, available)
                trades.append(Trade(maker, price, quantity))
                left -= quantity
                if left == 0:
                    break
        if order.kind is Kind.MARKET:
            return Execution(order.order_id, sequence, tuple(trades), cancelled=left)
        return Execution(order.order_id, sequence, tuple(trades), resting=left)

    def apply(self, order: Order, execution: Execution) -> None:
        """Carry out what `match` decided for *order*, before any other order is matched."""
        for trade in execution.trades:
            self._take(trade.maker, trade.quantity)
        if order.kind is Kind.CANCEL and execution.cancelled:
            self._take(order.target, execution.cancelled)
        if execution.resting:
            self._place(order, execution.resting)
        self._executed = execution.sequence

    def _by_priority(self, side: Side) -> Iterable[int]:
        prices = self._prices[side]
        return reversed(prices) if side is Side.BUY else prices

    def _place(self, order: Order, quantity: int) -> None:
        levels = self._levels[order.side]
        if order.price not in levels:
            levels[order.price] = {}
            bisect.insort(self._prices[order.side], order.price)
        levels[order.price][order.order_id] = quantity
        self._resting[order.order_id] = (order.side, order.price)

    def _take(self, order_id: str, quantity: int) -> None:
        side, price = self._resting[order_id]
        level = self._levels[side][price]
        level[order_id] -= quantity
        if level[order_id] == 0:
            del level[order_id], self._resting[order_id]
        if not level:
            del self._levels[side][price]
            prices = self._prices[side]
            del prices[bisect.bisect_left(prices, price)]


def _crosses(order: Order, price: int) -> bool:
    """Say whether *order* may trade at *price*, the price of an order on the other side."""
    if order.kind is Kind.MARKET:
        return True
    return price <= order.price if order.side is Side.BUY else price >= order.price
