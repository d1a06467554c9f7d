"""Orders: what a trader may ask of a book, and the file that holds a day of them.

Prices are whole ticks and quantities whole lots, so that two runs can be compared to the last digit.
"""

from __future__ import annotations

import csv
import enum
import gzip
import io
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs

HIGHEST = 1_000_000_000
"""The highest price (in ticks) and the largest quantity (in lots) of one order."""

_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


class InvalidOrder(ValueError):
    """An order breaks a rule of its kind: the sender's mistake, and sending it again will not help.

    Attributes:
        order_id: The order as its sender named it.
        field: The field that is wrong.
        reason: What is wrong with it, and what would be right.
    """

    def __init__(self, order_id: object, field: str, reason: str) -> None:
        super().__init__(f"order {order_id!r}: {field} {reason}")
        self.order_id = order_id
        self.field = field
        self.reason = reason


class Side(enum.Enum):
    """Which side of the book an order stands on."""

    BUY = "buy"
    SELL = "sell"

    @property
    def opposite(self) -> Side:
        """The side that this one trades with."""
        return Side.SELL if self is Side.BUY else Side.BUY


class Kind(enum.Enum):
    """What an order asks for."""

    LIMIT = "limit"
    """Trade at `Order.price` or better; what is left waits in the book."""
    MARKET = "market"
    """Trade at any price; what is left is cancelled."""
    CANCEL = "cancel"
    """Take what is left of the order `Order.target` out of the book."""


@attrs.frozen
class Order:
    """One order, checked when it is made.

    Attributes:
        order_id: Unique over the whole file: the key under which an order is executed once.
        symbol: The book it is for.
        kind: What it asks for.
        side: The side it is on; for a cancel, the side of its target.
        quantity: Lots, 1 to `HIGHEST`; 0 for a cancel.
        price: Limit in ticks, 1 to `HIGHEST`; 0 for all but limit orders.
        target: The order that a cancel takes away; empty for all others.

    Raises:
        InvalidOrder: When a field does not fit the kind.
    """

    order_id: str
    symbol: str
    kind: Kind
    side: Side
    quantity: int = 0
    price: int = 0
    target: str = ""

    def __attrs_post_init__(self) -> None:
        _check_identifier(self, "order_id", self.order_id)
        _check_identifier(self, "symbol", self.symbol)
        if not isinstance(self.kind, Kind):
            raise InvalidOrder(self.order_id, "kind", f"must be a Kind, not {self.kind!r}")
        if not isinstance(self.side, Side):
            raise InvalidOrder(self.order_id, "side", f"must be a Side, not {self.side!r}")
        trades = self.kind is not Kind.CANCEL
        _check_number(self, "quantity", self.quantity, wanted=trades)
        _check_number(self, "price", self.price, wanted=self.kind is Kind.LIMIT)
        if not trades:
            _check_identifier(self, "target", self.target)
        elif self.target:
            raise InvalidOrder(self.order_id, "target", f"belongs to a cancel, not to a {self.kind.value} order")


def _check_identifier(order: Order, field: str, value: object) -> None:
    if not isinstance(value, str) or not _IDENTIFIER.fullmatch(value):
        reason = f"must be 1 to 40 letters, digits, '.', '_' or '-', not {value!r}"
        raise InvalidOrder(order.order_id, field, reason)


def _check_number(order: Order, field: str, value: object, *, wanted: bool) -> None:
    lowest, highest = (1, HIGHEST) if wanted else (0, 0)
    # bool is an int to Python, but True lots are a mistake of the sender.
    if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
        allowed = f"a whole number from 1 to {HIGHEST}" if wanted else "0"
        raise InvalidOrder(order.order_id, field, f"of a {order.kind.value} order must be {allowed}, not {value!r}")


COLUMNS = ("order_id", "symbol", "kind", "side", "quantity", "price", "target")
"""The columns of an orders file, in order; numbers that do not apply are empty."""


class OrdersFileError(ValueError):
    """An orders file cannot be used; the message names the file, the line and what would be right."""


def read_orders(path: Path) -> tuple[Order, ...]:
    """Read a whole file of orders (CSV, compressed with gzip when its name ends in ``.gz``).

    Args:
        path: The file; its first line names the `COLUMNS`.

    Returns:
        The orders in the sequence of the file.

    Raises:
        OrdersFileError: When the file cannot be read, a line does not hold a valid order, or an
            order id comes twice.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        text = data.decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as exc:
        raise OrdersFileError(f"{path}: cannot be read: {exc}") from exc
    rows = csv.reader(io.StringIO(text, newline=""))
    if tuple(next(rows, ())) != COLUMNS:
        raise OrdersFileError(f"{path}: line 1 must be {','.join(COLUMNS)!r}")
    orders = tuple(_parse_rows(path, rows))
    seen: set[str] = set()
    for line, order in enumerate(orders, start=2):
        if order.order_id in seen:
            raise OrdersFileError(f"{path}: line {line}: order id {order.order_id!r} comes a second time")
        seen.add(order.order_id)
    return orders


def _parse_rows(path: Path, rows: Iterable[list[str]]) -> Iterator[Order]:
    for line, row in enumerate(rows, start=2):
        if len(row) != len(COLUMNS):
            raise OrdersFileError(f"{path}: line {line}: {len(row)} columns, but {len(COLUMNS)} are wanted")
        order_id, symbol, kind, side, quantity, price, target = row
        try:
            yield Order(
                order_id,
                symbol,
                Kind(kind),
                Side(side),
                int(quantity or 0),
                int(price or 0),
                target,
            )
        except ValueError as exc:
            raise OrdersFileError(f"{path}: line {line}: {exc}") from exc


def write_orders(path: Path, orders: Iterable[Order]) -> None:
    """Write *orders* as a compressed file that `read_orders` reads; equal orders give equal bytes.

    Args:
        path: The file to make or replace.
        orders: What to write, in sequence.
    """
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for order in orders:
        numbers = (order.quantity or "", order.price or "")
        rows.writerow(
            (
                order.order_id,
                order.symbol,
                order.kind.value,
                order.side.value,
                *numbers,
                order.target,
            )
        )
    # Without a time stamp in its head the file changes only when the orders do.
    path.write_bytes(gzip.compress(text.getvalue().encode(), compresslevel=9, mtime=0))
