"""An instance of the exchange: the service it offers, and how it comes to own symbols."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import trio

from aegis_core import Call, Claim, Instance, LeaseLost, ResourceConflict, Role, Service
from exchange.audit import Receipt, journal_path
from exchange.ledger import Ledger
from exchange.orders import Order

SERVICE = "order-books"
_PREFIX = "symbol:"


def resource_of(symbol: str) -> str:
    """Return the resource id under which *symbol* is owned."""
    return f"{_PREFIX}{symbol}"


def symbol_of(resource_id: str) -> str:
    """Return the symbol that *resource_id* stands for."""
    return resource_id.removeprefix(_PREFIX)


@contextlib.contextmanager
def order_books(folder: Path, *, fsync: bool = False) -> Iterator[Service]:
    """The service of one instance, whose journals are in *folder*; they are closed when the block is left.

    Args:
        folder: Where the journals of all symbols are; all instances share it.
        fsync: Whether each order waits until the disk has it.
    """
    service = Service(SERVICE, version="1.0.0")
    turn = trio.Lock()
    with contextlib.ExitStack() as open_journals:

        @service.on_acquire
        async def replay(claim: Claim) -> Ledger:
            """Make the book from its journal, and fence whoever owned it before."""
            symbol = symbol_of(claim.resource_id)
            owner = claim.instance.instance_id
            # Blocks for some 30 µs a line: where journals are long, do it in a worker thread. One at a time, so that
            # an instance that inherits many symbols at once can renew its lease in between.
            async with turn:
                ledger = Ledger.open(journal_path(folder, symbol), symbol, epoch=claim.epoch, owner=owner, fsync=fsync)
            open_journals.callback(ledger.close)
            return ledger

        @service.on_release
        async def close(claim: Claim) -> None:
            """Close the journal while the claim still holds."""
            if isinstance(claim.state, Ledger):
                claim.state.close()

        @service.method
        async def submit(call: Call, order: Order) -> Receipt:
            """Execute one order, or find what was done with it before."""
            assert isinstance(call.state, Ledger)
            assert call.instance is not None
            repeated = order.order_id in call.state
            entry = call.state.execute(order)
            return Receipt(call.instance.instance_id, entry.epoch, entry.execution, repeated)

        yield service


async def keep(
    instance: Instance,
    symbol: str,
    priority: int,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Own *symbol* whenever it is this instance's turn, until cancelled; started once it has acquired it.

    Args:
        instance: Who stands in line.
        symbol: For what.
        priority: The place in the line: the highest comes first.
        task_status: Told when this has acquired it first.
    """
    resource_id = resource_of(symbol)
    told = False
    while True:
        try:
            async with instance.own(resource_id, role=Role.STANDBY, priority=priority):
                if not told:
                    task_status.started()
                    told = True
                await trio.sleep_forever()  # The service does the work: its calls run under this claim.
        except LeaseLost:
            pass  # The symbol was transferred, or the lease ran out: now somebody else has its turn.
        except ResourceConflict:
            # Transferred to this instance before it stood in line for it: owned without a block, then.
            if (claim := instance.claims.get(resource_id)) is not None:
                await claim.wait_ended()
