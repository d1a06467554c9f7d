"""Orders and the file that holds them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from exchange.audit import compare_expected, run_sequentially
from exchange.orders import (
    COLUMNS,
    HIGHEST,
    InvalidOrder,
    Kind,
    Order,
    OrdersFileError,
    Side,
    read_orders,
    write_orders,
)
from generate_orders import DATA, SYMBOLS, generate, main

LIMIT: dict[str, Any] = {
    "order_id": "ord-1",
    "symbol": "GOLD",
    "kind": Kind.LIMIT,
    "side": Side.BUY,
    "quantity": 5,
    "price": 100,
}
MARKET = {**LIMIT, "kind": Kind.MARKET, "price": 0}
CANCEL = {**LIMIT, "kind": Kind.CANCEL, "price": 0, "quantity": 0, "target": "ord-0"}


@pytest.mark.parametrize("fields", [LIMIT, MARKET, CANCEL], ids=["limit", "market", "cancel"])
def test_each_kind_of_order_can_be_made(fields: dict[str, Any]) -> None:
    """The fields of a kind make an order of that kind."""
    assert Order(**fields).kind is fields["kind"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({**LIMIT, "order_id": ""}, "order_id"),
        ({**LIMIT, "order_id": "a b"}, "order_id"),
        ({**LIMIT, "order_id": "a\n"}, "order_id"),
        ({**LIMIT, "order_id": 7}, "order_id"),
        ({**LIMIT, "order_id": "x" * 41}, "order_id"),
        ({**LIMIT, "symbol": "../GOLD"}, "symbol"),
        ({**LIMIT, "kind": "limit"}, "kind"),
        ({**LIMIT, "side": None}, "side"),
        ({**LIMIT, "quantity": 0}, "quantity"),
        ({**LIMIT, "quantity": -1}, "quantity"),
        ({**LIMIT, "quantity": True}, "quantity"),
        ({**LIMIT, "quantity": 1.5}, "quantity"),
        ({**LIMIT, "quantity": HIGHEST + 1}, "quantity"),
        ({**LIMIT, "price": 0}, "price"),
        ({**LIMIT, "target": "ord-0"}, "target"),
        ({**MARKET, "price": 100}, "price"),
        ({**CANCEL, "quantity": 1}, "quantity"),
        ({**CANCEL, "target": ""}, "target"),
    ],
)
def test_an_order_that_breaks_a_rule_names_its_field(fields: dict[str, Any], field: str) -> None:
    """A wrong field is refused when the order is made, and the error says which one and for whom."""
    with pytest.raises(InvalidOrder) as caught:
        Order(**fields)
    assert caught.value.field == field
    assert repr(fields["order_id"]) in str(caught.value)


def test_written_orders_are_read_back(tmp_path: Path) -> None:
    """Reading gives what was written, and equal orders give equal bytes."""
    orders = [Order(**LIMIT), Order(**{**MARKET, "order_id": "ord-2"})]
    orders.append(Order(**{**CANCEL, "order_id": "ord-3"}))
    write_orders(tmp_path / "a.csv.gz", orders)
    write_orders(tmp_path / "b.csv.gz", orders)
    assert read_orders(tmp_path / "a.csv.gz") == tuple(orders)
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()


def test_a_plain_file_can_be_read(tmp_path: Path) -> None:
    """A file without .gz is text."""
    lines = [",".join(COLUMNS), "ord-1,GOLD,limit,buy,5,100,"]
    (tmp_path / "orders.csv").write_text("\n".join(lines))
    assert read_orders(tmp_path / "orders.csv") == (Order(**LIMIT),)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("ord-1,GOLD,limit,buy,5,100", "line 3: 6 columns"),
        ("ord-1,GOLD,limits,buy,5,100,", "line 3: 'limits' is not a valid Kind"),
        ("ord-1,GOLD,limit,buy,5,high,", "line 3: invalid literal"),
        ("ord-1,GOLD,limit,buy,0,100,", "line 3: order 'ord-1': quantity"),
        ("ord-0,GOLD,limit,buy,5,100,", "line 3: order id 'ord-0' comes a second time"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, row: str, message: str) -> None:
    """The error names the file, the line and what is wrong there."""
    path = tmp_path / "orders.csv"
    path.write_text("\n".join([",".join(COLUMNS), "ord-0,GOLD,limit,buy,5,100,", row]))
    with pytest.raises(OrdersFileError, match=message) as caught:
        read_orders(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("missing.csv", None),
        ("empty.csv", b""),
        ("columns.csv", b"id,price\n"),
        ("binary.csv", b"\xff\xfe"),
        ("not-gzip.csv.gz", b"order_id"),
        ("half.csv.gz", gzip.compress(b"order_id" * 100, mtime=0)[:30]),
    ],
)
def test_a_file_that_holds_no_orders_is_refused(tmp_path: Path, name: str, data: bytes | None) -> None:
    """What is missing, cut, of another format or without the columns is named as such."""
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(OrdersFileError, match=name):
        read_orders(tmp_path / name)


def test_the_orders_that_come_with_the_example_are_real_input() -> None:
    """At least 20,000 orders of every kind, for every symbol, and their totals stand beside them."""
    orders = read_orders(DATA / "orders.csv.gz")
    assert len(orders) >= 20_000
    assert {order.symbol for order in orders} == set(SYMBOLS)
    for symbol in SYMBOLS:
        assert {order.kind for order in orders if order.symbol == symbol} == set(Kind)
    assert list(compare_expected(DATA / "expected.json", run_sequentially(orders))) == []


def test_the_generator_makes_the_same_orders_from_the_same_seed(tmp_path: Path) -> None:
    """The file in the repository is what the generator makes; another seed makes other orders."""
    main(["--folder", str(tmp_path)])
    assert read_orders(tmp_path / "orders.csv.gz") == read_orders(DATA / "orders.csv.gz")
    assert (tmp_path / "expected.json").read_text() == (DATA / "expected.json").read_text()
    assert list(generate(50, seed=1)) != list(generate(50, seed=2))


def test_totals_that_do_not_fit_are_named(tmp_path: Path) -> None:
    """A changed total shows under its symbol, and a file that holds none is refused."""
    run = run_sequentially(generate(200, seed=3))
    body = json.loads((DATA / "expected.json").read_text())
    (tmp_path / "expected.json").write_text(json.dumps(body))
    differing = [line.partition(":")[0] for line in compare_expected(tmp_path / "expected.json", run)]
    assert differing == sorted(["all symbols", *SYMBOLS])
    (tmp_path / "broken.json").write_text('{"symbols": {"GOLD": {}}}')
    with pytest.raises(OrdersFileError, match=r"broken\.json"):
        list(compare_expected(tmp_path / "broken.json", run))
