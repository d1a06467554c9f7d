"""Make the orders of the order book example, and the totals that a run of them must come to.

Run ``python docs/examples/generate_orders.py`` to make ``docs/examples/data`` anew; the same seed gives the same
orders. Prices walk at random, with quiet and lively hours; most orders wait near the market, some
cross it, and traders change their minds.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from exchange.audit import run_sequentially, write_expected
from exchange.matching import Book
from exchange.orders import Kind, Order, Side, write_orders

DATA = Path(__file__).parent / "data"
SEED = 2026
COUNT = 24_000
# Where each price starts, in ticks. The more often a symbol trades, the nearer to the top it stands.
SYMBOLS = {
    "GOLD": 265_340,
    "SILVER": 30_885,
    "COPPER": 9_412,
    "CORN": 43_225,
    "WHEAT": 54_850,
    "COFFEE": 32_410,
    "SUGAR": 2_137,
    "COCOA": 78_260,
    "COTTON": 7_019,
    "NICKEL": 15_930,
    "ZINC": 3_027,
    "TIN": 28_915,
}


class Trader:
    """Everybody who trades one symbol.

    Args:
        symbol: What is traded.
        price: Where the price starts, in ticks.
        random: Where all chance comes from. Only its whole numbers are used, because they are the
            same on every machine.
    """

    def __init__(self, symbol: str, price: int, random: random.Random) -> None:
        self.symbol = symbol
        self._price = price
        self._random = random
        self._book = Book(symbol)
        self._placed: list[tuple[str, Side]] = []
        self._step = 1

    def order(self, order_id: str) -> Order:
        """Return the next order, with this id."""
        self._walk()
        chance = self._random.randrange(100)
        if chance < 18 and self._placed:
            order = self._cancel(order_id)
        elif chance < 30:
            order = Order(order_id, self.symbol, Kind.MARKET, self._side(), self._quantity())
        else:
            order = self._limit(order_id)
        execution = self._book.match(order)
        self._book.apply(order, execution)
        if execution.resting:
            self._placed.append((order_id, order.side))
        return order

    def _walk(self) -> None:
        if self._random.randrange(150) == 0:  # The market falls asleep or wakes up.
            self._step = self._random.choice((1, 1, 2, 3, 6))
        move = self._random.choice((-1, 0, 0, 0, 0, 1)) * self._step
        self._price = max(50, self._price + move)

    def _side(self) -> Side:
        return self._random.choice((Side.BUY, Side.SELL))

    def _quantity(self) -> int:
        return self._random.choice((1, 1, 2, 2, 3, 5, 5, 10, 10, 20, 25, 50, 100))

    def _limit(self, order_id: str) -> Order:
        side = self._side()
        # Two of the twelve distances reach over the spread; the far ones wait long.
        distance = self._random.choice((-2, -1, 1, 1, 1, 2, 2, 3, 4, 6, 9, 15))
        price = self._price - distance if side is Side.BUY else self._price + distance
        return Order(order_id, self.symbol, Kind.LIMIT, side, self._quantity(), max(1, price))

    def _cancel(self, order_id: str) -> Order:
        # Some have been filled meanwhile: such a cancel comes too late, as in life.
        target, side = self._placed.pop(self._random.randrange(len(self._placed)))
        return Order(order_id, self.symbol, Kind.CANCEL, side, target=target)


def generate(count: int, seed: int) -> Iterator[Order]:
    """Yield *count* orders over all symbols; equal arguments give equal orders."""
    chance = random.Random(seed)
    traders = [Trader(symbol, price, chance) for symbol, price in SYMBOLS.items()]
    weights = range(2 * len(traders), len(traders), -1)
    for number in range(1, count + 1):
        (trader,) = chance.choices(traders, weights)
        yield trader.order(f"ord-{number:06}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the orders and their totals.

    Args:
        arguments: The command line; the program's own when None.
    """
    parser = argparse.ArgumentParser(description="Make the orders of the order book example.")
    parser.add_argument("--count", type=int, default=COUNT, help=f"orders (default {COUNT})")
    parser.add_argument("--seed", type=int, default=SEED, help=f"default {SEED}")
    parser.add_argument("--folder", type=Path, default=DATA, help=f"default {DATA}")
    options = parser.parse_args(arguments)
    orders = tuple(generate(options.count, options.seed))
    run = run_sequentially(orders)
    options.folder.mkdir(parents=True, exist_ok=True)
    write_orders(options.folder / "orders.csv.gz", orders)
    write_expected(options.folder / "expected.json", run)
    totals = run.overall
    print(
        f"{totals.orders} orders, {totals.trades} trades, {totals.volume} lots, {totals.resting_orders} orders resting"
    )


if __name__ == "__main__":
    main()
