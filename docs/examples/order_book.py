"""Order books: the owner of each symbol keeps its book, whatever happens to the owners.

Run it with ``aegis demo``, or with ``aegis demo --backend nats`` for a process per instance. Several instances share the
symbols, and a feeder sends every order to whoever owns its symbol. Meanwhile symbols move from one instance to another,
an instance dies without warning and another one starts. In the end each order is compared with a sequential run of the
same file: none may be lost, doubled, or executed by two owners.

Read ``exchange/owner.py`` first (the service, and how an instance comes to own symbols) and then ``exchange/feeder.py``
(how orders find their owner): an application has both. The rest of the folder is the books themselves (``orders``,
``matching``, ``journal``, ``ledger``) and what a demonstration needs: instances that run as tasks or as processes
(``life``, ``tasks``, ``mortality``, ``processes``, ``instance``, ``meeting``, ``children``), what happens to them
(``cluster``), and what people see of it (``chronicle``, ``progress``, ``view``, ``audit``, ``failures``).
"""

from __future__ import annotations

import contextlib
import random
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import trio
from exchange.audit import Receipt, audit, compare_expected, run_sequentially
from exchange.chronicle import Chronicle
from exchange.cluster import Cluster
from exchange.failures import FAILURES, sentences
from exchange.feeder import feed
from exchange.journal import JournalError
from exchange.meeting import MeetingPlace, open_meeting_place
from exchange.orders import Order, read_orders
from exchange.processes import Processes
from exchange.progress import Progress
from exchange.tasks import Tasks
from exchange.view import View, open_view, print_problems, print_summary, save_picture
from rich.console import Console

from aegis_core import open_node

DATA = Path(__file__).parent / "data"
INSTANCES = ("exchange-1", "exchange-2", "exchange-3")
NEWCOMER = "exchange-4"
TTL = 2.0
"""Seconds that a lease lives without renewal. Short, so that a fail-over can be watched; 30 is the default."""
CALL_TIMEOUT = 5.0
"""Seconds that one attempt to send an order may take."""
FRAME = 0.125
"""Seconds from one look at the progress to the next."""


async def run_demo(
    *,
    orders: Path | None = None,
    seed: int = 1,
    backend: str = "memory",
    journal: Path | None = None,
    plain: bool = False,
    save_svg: Path | None = None,
) -> int:
    """Run the demonstration, and print what it shows.

    Args:
        orders: A file of orders; the one beside this program when None.
        seed: Decides who moves and who dies.
        backend: Where the instances meet: ``memory``, ``nats`` or ``nats://host:port``, see `open_meeting_place`.
        journal: The folder of the journals, which are kept; a temporary one when None.
        plain: Print lines instead of a live table.
        save_svg: Where to draw what the screen shows in the end.

    Returns:
        0 when every order was executed as in the sequential run, else 1.
    """
    console = Console()
    problems: list[str] = []
    try:
        sent = read_orders(orders or DATA / "orders.csv.gz")
        expected = run_sequentially(sent)
        if orders is None:
            problems.extend(compare_expected(DATA / "expected.json", expected))
        with _journals(journal) as folder:
            async with open_meeting_place(backend) as place:
                progress = Progress(len(sent))
                with open_view(progress, console, plain=plain) as view:
                    receipts = await perform(sent, seed=seed, place=place, folder=folder, progress=progress, view=view)
                    progress.stop()
            found = audit(sent, expected, receipts, folder)
        await trio.lowlevel.checkpoint()  # The audit takes a moment: Ctrl-C in it ends the program here.
        problems.extend(found.differences)
        print_summary(console, progress, expected, found)
        if save_svg is not None:
            command = "aegis demo" if backend.startswith("memory") else "aegis demo --backend nats"
            save_picture(save_svg, command, progress, expected, found)
    except* FAILURES as errors:
        problems.extend(sentences(errors))
    print_problems(console, problems)
    return 1 if problems else 0


async def perform(
    orders: Sequence[Order], *, seed: int, place: MeetingPlace, folder: Path, progress: Progress, view: View
) -> dict[str, Receipt]:
    """Send all *orders* to instances that come, go and die; return what became of each, by order id.

    Args:
        orders: What to send.
        seed: Decides who moves and who dies.
        place: Where the instances meet.
        folder: Where the journals are.
        progress: Is kept up to date.
        view: Is asked to show it.
    """
    receipts: dict[str, Receipt] = {}
    by_symbol: dict[str, list[Order]] = {}
    for order in orders:
        by_symbol.setdefault(order.symbol, []).append(order)
    if not place.in_process:
        progress.note(f"the instances meet at {place}")
    async with open_node(place.url) as node, trio.open_nursery() as nursery:
        nursery.start_soon(_show, view)
        await nursery.start(Chronicle(progress).follow, node)
        cluster = Cluster(
            Tasks(nursery) if place.in_process else Processes(nursery, lifelines=place.lifelines),
            node,
            backend=place.url,
            folder=folder,
            symbols=tuple(by_symbol),
            seed=seed,
            ttl=TTL,
            progress=progress,
        )
        async with trio.open_nursery() as starting:
            for number, name in enumerate(INSTANCES):
                starting.start_soon(partial(cluster.start, name, home=tuple(by_symbol)[number :: len(INSTANCES)]))
        await cluster.settle()
        async with trio.open_nursery() as work:
            work.start_soon(unrest, cluster, progress, random.Random(seed))
            for part in by_symbol.values():
                work.start_soon(partial(feed, node, part, receipts, progress, timeout=CALL_TIMEOUT))
        nursery.cancel_scope.cancel()
    return receipts


async def unrest(cluster: Cluster, progress: Progress, chance: random.Random) -> None:
    """Move symbols, kill an instance, start one and let it have a share, and dismiss one; all while orders come."""
    await progress.wait_answered(0.1)
    source = _richest(cluster)
    others = [name for name in cluster.names if name != source]
    await _move(cluster, chance, 2, source=source, target=chance.choice(others) if others else "")

    await progress.wait_answered(0.3)
    await cluster.kill(_richest(cluster))
    await cluster.start(NEWCOMER)

    await progress.wait_answered(0.6)
    await _move(cluster, chance, 3, source=_richest(cluster, but=NEWCOMER), target=NEWCOMER)

    await progress.wait_answered(0.8)
    if len(cluster.names) > 1:
        await cluster.dismiss(_richest(cluster))


async def _move(cluster: Cluster, chance: random.Random, most: int, *, source: str, target: str) -> None:
    owned = cluster.owned(source)
    if owned and target in cluster.names:  # Anybody can kill a process, so that one of them may be gone.
        symbols = sorted(chance.sample(owned, min(most, len(owned))))
        await cluster.transfer(symbols, source=source, target=target)


def _richest(cluster: Cluster, *, but: str = "") -> str:
    return max((name for name in cluster.names if name != but), key=lambda name: len(cluster.owned(name)), default="")


async def _show(view: View) -> None:
    while True:
        view.update()
        await trio.sleep(FRAME)


@contextlib.contextmanager
def _journals(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as exc:
            raise JournalError(f"the journals need a folder, but {folder} is a file, or lies in one") from exc
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="aegis-demo-", ignore_cleanup_errors=True) as temporary:
        yield Path(temporary)
