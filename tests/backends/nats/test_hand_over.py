"""An owner hands over while calls come at a steady rate: each is answered, each is executed once, none is told to try again."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
import trio

from aegis_backends.nats.server import NatsServers
from aegis_core import Call, Claim, Instance, Node, Role, Service, open_node

KEY = "book:1"
RATE = 1000  # calls per second, as far as the machine keeps up
MOST = 200  # calls on their way at once
MOVES = 10
BETWEEN = 100  # calls that are answered from one hand-over to the next
PATIENCE = 60.0

_numbers = itertools.count(1)


@pytest.fixture(scope="module", params=[1, pytest.param(3, marks=pytest.mark.thorough)], ids=["one", "cluster"])
def servers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServers]:
    """One server, or three."""
    servers = NatsServers(request.param, tmp_path_factory.mktemp("nats"))
    trio.run(servers.start)
    yield servers
    trio.run(servers.stop)


@pytest.fixture
def url(servers: NatsServers) -> str:
    """A bucket of the test's own, in memory."""
    return f"{servers.url}?bucket=hand-over-{next(_numbers)}&storage=memory&replicas={len(servers.servers)}"


class Load:
    """Calls to the owner of `KEY`, one each millisecond. None of them may fail.

    Args:
        node: Sends them.
    """

    def __init__(self, node: Node) -> None:
        self.sent = 0
        self.epochs: list[int] = []
        self.gaps: list[float] = []
        self._longest = 0.0
        self._node = node
        self._answered = trio.lowlevel.ParkingLot()

    async def run(self) -> None:
        """Send until cancelled; then wait for what is on its way."""
        limiter = trio.CapacityLimiter(MOST)
        last = trio.current_time()

        async def send(number: int) -> None:
            nonlocal last
            try:
                answer = await self._node.call(
                    "books", "add", {"number": number}, resource_id=KEY, timeout=PATIENCE, returns=int
                )
            finally:
                limiter.release_on_behalf_of(number)
            now = trio.current_time()
            self._longest = max(self._longest, now - last)
            last = now
            self.epochs.append(answer)
            self._answered.unpark_all()

        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as sending:
                self.stop: Callable[[], None] = sending.cancel
                while True:
                    await limiter.acquire_on_behalf_of(self.sent)
                    nursery.start_soon(send, self.sent)
                    self.sent += 1
                    await trio.sleep(1 / RATE)

    async def wait_answered(self, more: int) -> None:
        """Wait until that many more calls have been answered."""
        wanted = len(self.epochs) + more
        with trio.fail_after(PATIENCE):
            while len(self.epochs) < wanted:
                await self._answered.park()

    @asynccontextmanager
    async def hand_over(self) -> AsyncIterator[None]:
        """The block hands `KEY` over; after it, wait until the new owner has answered, and note how long none did."""
        await self.wait_answered(BETWEEN)
        owners, self._longest = len(set(self.epochs)), 0.0
        yield
        while len(set(self.epochs)) == owners:
            await self.wait_answered(1)
        self.gaps.append(self._longest)

    def __str__(self) -> str:
        gaps = sorted(1000 * gap for gap in self.gaps)
        return (
            f"{len(gaps)} hand-overs under {self.sent} calls: without an answer for {gaps[len(gaps) // 2]:.0f} ms (median), "
            f"at most {gaps[-1]:.0f} ms"
        )

    async def wait_in_line(self, name: str) -> None:
        """Wait until *name* is a standby."""
        with trio.fail_after(PATIENCE):
            while name not in (await self._node.explain(KEY)).standbys:  # noqa: ASYNC110 - it is another node's
                await trio.sleep(0.01)


class Books:
    """The service of one instance, and what all of them have executed."""

    def __init__(self) -> None:
        self.executed: Counter[int] = Counter()

    def service(self) -> Service:
        """A service that notes each call."""
        service = Service("books")

        @service.on_acquire
        async def open_book(claim: Claim) -> str:
            await trio.sleep(0.002)  # as one that reads a file would
            return "open"

        @service.method
        async def add(call: Call, number: int) -> int:
            await trio.sleep(0.001)  # so that some are always being executed
            assert call.state == "open"
            self.executed[number] += 1
            return call.epoch

        return service


@asynccontextmanager
async def under_load(url: str, books: Books) -> AsyncIterator[Load]:
    """Calls from a node of its own while the block runs, and after it a look at what became of them."""
    async with open_node(url) as node:
        load = Load(node)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load.run)
            await load.wait_answered(1)
            yield load
            await load.wait_answered(BETWEEN)
            load.stop()
    assert len(load.epochs) == load.sent
    assert books.executed == dict.fromkeys(range(load.sent), 1)


@asynccontextmanager
async def instance(url: str, books: Books, name: str) -> AsyncIterator[Instance]:
    """An instance on a node of its own."""
    async with open_node(url) as node, node.serve(books.service(), instance_id=name) as served:
        yield served


async def test_no_call_fails_while_a_resource_is_transferred(
    url: str, record_property: Callable[[str, object], None]
) -> None:
    """There and back, ten times: what was begun is finished, and what comes meanwhile lands at the new owner."""
    books = Books()
    async with instance(url, books, "one") as one, instance(url, books, "two") as two:
        await one.claim(KEY)
        async with under_load(url, books) as load:
            for source, target in itertools.islice(itertools.cycle([(one, two), (two, one)]), MOVES):
                async with load.hand_over():
                    reply = await source.transfer(KEY, to=target.instance_id)
                assert reply.transferred == (KEY,)
    assert len(set(load.epochs)) == MOVES + 1
    record_property("counted", str(load))


async def test_no_call_fails_while_owners_leave_one_after_the_other(
    url: str, record_property: Callable[[str, object], None]
) -> None:
    """Each owner in its turn leaves its block; the standby has the resource next."""
    books = Books()

    async def own(name: str, leave: trio.Event, *, task_status: trio.TaskStatus[None]) -> None:
        async with instance(url, books, name) as served, served.own(KEY, role=Role.STANDBY):
            task_status.started()
            await leave.wait()

    async with trio.open_nursery() as nursery:
        leave = trio.Event()
        await nursery.start(own, "owner-0", leave)
        async with under_load(url, books) as load:
            for number in range(1, MOVES + 1):
                following = trio.Event()
                async with trio.open_nursery() as joining:
                    joining.start_soon(nursery.start, own, f"owner-{number}", following)
                    await load.wait_in_line(f"owner-{number}")
                    async with load.hand_over():
                        leave.set()
                leave = following
        leave.set()
    assert len(set(load.epochs)) == MOVES + 1
    record_property("counted", str(load))
