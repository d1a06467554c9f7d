"""The feeder: sends each order to the owner of its symbol, and sends again whatever was not answered."""

from __future__ import annotations

from collections.abc import Iterable

import trio

from aegis_core import Node, Outcome, Overloaded, RemoteError, ResourceNotFound, Unavailable
from exchange.audit import Receipt
from exchange.journal import Fenced
from exchange.orders import Order
from exchange.owner import SERVICE, resource_of
from exchange.progress import Progress

_PAUSE = 0.05  # seconds


async def feed(
    node: Node, orders: Iterable[Order], receipts: dict[str, Receipt], progress: Progress, *, timeout: float
) -> None:
    """Send the *orders* of one symbol in sequence, each when the one before it has been answered.

    Args:
        node: Sends the calls.
        orders: What to send.
        receipts: Where the answers go, by order id.
        progress: Is kept up to date.
        timeout: Seconds that one attempt may take.
    """
    last = trio.current_time()
    for order in orders:
        receipt = await _send(node, order, progress, timeout=timeout)
        now = trio.current_time()
        progress.longest_gap = max(progress.longest_gap, now - last)
        last = now
        receipts[order.order_id] = receipt
        progress.count(receipt.instance, repeated=receipt.repeated)


async def _send(node: Node, order: Order, progress: Progress, *, timeout: float) -> Receipt:
    while True:
        try:
            return await node.call(
                SERVICE,
                "submit",
                {"order": order},
                resource_id=resource_of(order.symbol),
                idempotency_key=order.order_id,
                timeout=timeout,
                returns=Receipt,
            )
        except Unavailable as exc:
            # MAYBE_EXECUTED is as good as any other here: the journal knows the order's id, so whoever
            # owns the symbol next answers a repetition with what was done.
            if exc.outcome is Outcome.MAYBE_EXECUTED:
                progress.resent += 1
        except RemoteError as exc:
            # Replaced, and not aware of it yet: the journal knew better than the lease.
            if exc.kind != Fenced.__name__:
                raise
        except (ResourceNotFound, Overloaded):
            pass  # Nobody owns the symbol at this moment, or its owner has too much to do.
        await trio.sleep(_PAUSE)
