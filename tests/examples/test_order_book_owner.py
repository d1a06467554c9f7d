"""The service of the order books, on nodes of the memory backend."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from exchange.audit import Receipt, journal_path
from exchange.journal import Fenced, JournalDamaged, Tenure, read_journal
from exchange.ledger import Ledger
from exchange.orders import Kind, Order, Side
from exchange.owner import SERVICE, keep, order_books, resource_of, symbol_of

from aegis_core import Instance, InvalidRequest, Node, RemoteError, open_node

ORDERS = [
    Order("ord-1", "GOLD", Kind.LIMIT, Side.BUY, 5, 100),
    Order("ord-2", "GOLD", Kind.LIMIT, Side.SELL, 3, 100),
    Order("ord-3", "GOLD", Kind.CANCEL, Side.BUY, target="ord-1"),
]


@asynccontextmanager
async def owner(folder: Path, name: str) -> AsyncIterator[tuple[Node, Instance]]:
    """An instance whose journals are in *folder*."""
    with order_books(folder) as service:
        async with open_node("memory://") as node, node.serve(service, instance_id=name) as instance:
            yield node, instance


async def submit(node: Node, order: Order, *, key: str | None = None) -> Receipt:
    """Send *order* to the owner of its symbol."""
    resource_id = resource_of(order.symbol)
    params = {"order": order}
    return await node.call(
        SERVICE, "submit", params, resource_id=resource_id, idempotency_key=key, returns=Receipt, timeout=5.0
    )


def owners(folder: Path) -> Sequence[str]:
    """Who has owned GOLD, by its journal."""
    return [record.owner for record in read_journal(journal_path(folder, "GOLD")) if isinstance(record, Tenure)]


def test_a_symbol_and_its_resource_id_name_each_other() -> None:
    """One is made from the other, both ways."""
    assert resource_of("GOLD") == "symbol:GOLD"
    assert symbol_of(resource_of("GOLD")) == "GOLD"


async def test_an_order_is_executed_once_however_often_it_is_sent(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """With its own key, with another, with none: the receipt is the first one's."""
    async with owner(tmp_path, "one") as (node, instance):
        (claim,) = await instance.claim("symbol:GOLD")
        receipt = await submit(node, ORDERS[0], key="ord-1")
        assert receipt.epoch == claim.epoch
        assert receipt.execution.resting == 5
        assert not receipt.repeated
        assert await submit(node, ORDERS[0], key="ord-1") == receipt
        for key in ("other", None):
            assert await submit(node, ORDERS[0], key=key) == attrs.evolve(receipt, repeated=True)
    assert len(read_journal(journal_path(tmp_path, "GOLD"))) == 2


async def test_the_next_owner_goes_on_where_the_last_one_stopped(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """The book is made again from its journal, and what was executed before is known."""
    async with owner(tmp_path, "one") as (node, instance):
        await instance.claim("symbol:GOLD")
        first = await submit(node, ORDERS[0])
    async with owner(tmp_path, "two") as (node, instance):
        await instance.claim("symbol:GOLD")
        second = await submit(node, ORDERS[1])
        again = await submit(node, ORDERS[0])
        third = await submit(node, ORDERS[2])
    assert again == attrs.evolve(first, instance="two", repeated=True)
    assert (second.execution.filled, third.execution.cancelled) == (3, 2)
    assert second.epoch > first.epoch
    assert owners(tmp_path) == ["one", "two"]


async def test_an_owner_that_the_journal_knows_to_be_replaced_executes_nothing(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Though its claim still holds: the caller is told so, and can ask again for the real owner."""
    async with owner(tmp_path, "one") as (node, instance):
        (claim,) = await instance.claim("symbol:GOLD")
        heir = Ledger.open(journal_path(tmp_path, "GOLD"), "GOLD", epoch=claim.epoch + 1, owner="two")
        with pytest.raises(RemoteError) as caught:
            await submit(node, ORDERS[0])
        assert caught.value.kind == Fenced.__name__
        assert heir.execute(ORDERS[0]).execution.sequence == 1
        heir.close()


async def test_a_damaged_journal_is_not_owned(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """Whoever claims the symbol gets the error that names the line, and does not hold it."""
    journal_path(tmp_path, "GOLD").write_text("scribble\n")
    async with owner(tmp_path, "one") as (_, instance):
        with pytest.raises(JournalDamaged, match="line 1"):
            await instance.claim("symbol:GOLD")
        assert dict(instance.claims) == {}


@pytest.mark.parametrize(
    ("field", "value"), [("quantity", 0), ("quantity", "5"), ("kind", "swap"), ("order_id", "a b"), ("price", None)]
)
async def test_an_invalid_order_does_not_reach_the_book(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, field: str, value: object
) -> None:
    """A wrong field is refused as the caller's mistake, and nothing is written."""
    order: dict[str, Any] = {"order_id": "a", "symbol": "GOLD", "kind": "limit", "side": "buy", "quantity": 5}
    order |= {"price": 100, field: value}
    async with owner(tmp_path, "one") as (node, instance):
        await instance.claim("symbol:GOLD")
        with pytest.raises(InvalidRequest):
            await node.call(SERVICE, "submit", {"order": order}, resource_id="symbol:GOLD")
    assert len(read_journal(journal_path(tmp_path, "GOLD"))) == 1


async def test_who_loses_a_symbol_waits_for_its_next_turn(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """After a transfer the old owner stands by, and owns the symbol again when the new one leaves."""
    async with owner(tmp_path, "one") as (node, first):
        await nursery.start(keep, first, "GOLD", 1)
        async with owner(tmp_path, "two") as (_, second):
            await first.transfer("symbol:GOLD", to="two")
            await submit(node, ORDERS[0])
            assert "symbol:GOLD" in second.claims
        await submit(node, ORDERS[1])
        assert "symbol:GOLD" in first.claims
        nursery.cancel_scope.cancel()
    assert owners(tmp_path) == ["one", "two", "one"]


async def test_who_is_given_a_symbol_before_it_stands_in_line_waits_for_it_afterwards(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """A transfer may be quicker: the symbol is owned at once, and the next time in its turn."""
    async with owner(tmp_path, "one") as (node, first):
        await nursery.start(keep, first, "GOLD", 1)
        async with owner(tmp_path, "two") as (_, second):
            await first.transfer("symbol:GOLD", to="two")
            nursery.start_soon(keep, second, "GOLD", 2)
            await submit(node, ORDERS[0])
            await second.transfer("symbol:GOLD", to="one")
            await first.release("symbol:GOLD")
            await submit(node, ORDERS[1])
            assert "symbol:GOLD" in second.claims
            nursery.cancel_scope.cancel()
    assert owners(tmp_path) == ["one", "two", "one", "two"]
