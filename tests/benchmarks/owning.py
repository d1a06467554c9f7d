"""Claims, releases, bulk operations and transfers, with nothing else held and with 100,000 resources held."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import attrs

from aegis_core import Claim, Instance, Node, Service, open_node
from tests.benchmarks.floors import floor
from tests.benchmarks.measuring import Arena, Check, Contestant, Times, Watch, at_most

__all__ = [
    "HELD",
    "MEASURED_BULK",
    "MEASURED_CLAIMS",
    "MEASURED_TRANSFERS",
    "Member",
    "empty_and_full",
    "measure_bulk",
    "measure_claims",
    "measure_transfers",
    "not_slower",
]

HELD: Final = 100_000

MEASURED_CLAIMS: Final = ("claim", "release", "claim-full", "release-full")
MEASURED_BULK: Final = tuple(
    f"bulk-{what}-{size}{full}" for what in ("claim", "release") for size in (100, 1000) for full in ("", "-full")
)
MEASURED_TRANSFERS: Final = ("transfer-1", "transfer-100", "transfer-1-full", "transfer-100-full")

books = Service("book-service", version="1.0.0")


@books.on_acquire
async def load_book(claim: Claim) -> str:
    """Adopt what is transferred."""
    return claim.resource_id


plain = Service("plain-service", version="1.0.0")


@attrs.frozen
class Member:
    """A node with two instances of a service, in a cluster where nothing (``suffix`` empty) or much is held."""

    node: Node
    one: Instance
    other: Instance
    suffix: str


@asynccontextmanager
async def _member(name: str, service: Service, held: int, suffix: str) -> AsyncIterator[Member]:
    limits = {"max_resources_per_instance": held + 10_000}
    async with (
        open_node(f"memory://{name}", config=limits) as node,
        node.serve(plain) as keeper,
        node.serve(service) as one,
        node.serve(service) as other,
    ):
        if held:
            await keeper.bulk_claim([f"kept:{number}" for number in range(held)], batch_size=1000)
        yield Member(node, one, other, suffix)


@asynccontextmanager
async def empty_and_full(service: Service, *, quick: bool) -> AsyncIterator[tuple[Member, Member]]:
    """Two clusters of one node each: one without resources, one with `HELD` (a tenth of it if *quick*)."""
    async with (
        _member("empty", service, 0, "") as empty,
        _member("full", service, HELD // 10 if quick else HELD, "-full") as full,
    ):
        yield empty, full


async def _claim_and_release(operations: int, watch: Watch, *, member: Member) -> None:
    for number in range(operations):
        target = f"order:{number}"
        watch.start(f"claim{member.suffix}")
        await member.one.claim(target)
        watch.stop()
        watch.start(f"release{member.suffix}")
        await member.one.release(target)
        watch.stop()


async def _bulk(operations: int, watch: Watch, *, member: Member, size: int) -> None:
    ids = [f"order:{number}" for number in range(size)]
    for _ in range(operations):
        watch.start(f"bulk-claim-{size}{member.suffix}")
        await member.one.bulk_claim(ids)
        watch.stop()
        watch.start(f"bulk-release-{size}{member.suffix}")
        await member.one.bulk_release(ids)
        watch.stop()


async def _transfer(operations: int, watch: Watch, *, member: Member, size: int) -> None:
    ids = [f"order:{number}" for number in range(size)]
    source, target = member.one, member.other
    await source.claim(*ids)
    for _ in range(operations):
        watch.start(f"transfer-{size}{member.suffix}")
        reply = await source.transfer(*ids, to=target.instance_id)
        watch.stop()
        assert not reply.failed
        source, target = target, source
    await source.release(*ids)


def not_slower(full: Times, empty: Times) -> Check:
    """What is done while much is held takes hardly longer than while nothing is."""
    return at_most(full.p50 / empty.p50, 1.1, "{:.2f} x with none held, goal 1.1")


async def measure_claims(arena: Arena) -> None:
    """Claim and release, one resource at a time."""
    async with empty_and_full(plain, quick=arena.quick) as members:
        found = await arena.compete(
            floor(), *(Contestant(partial(_claim_and_release, member=member), 200) for member in members)
        )
    lowest = found["floor"]
    arena.line("floor", lowest)
    for what in ("claim", "release"):
        empty, full = found[what], found[f"{what}-full"]
        ceiling = at_most(empty.p99 * 1e3, 5.0, "p99 {:.2f} ms, ceiling 5", ceiling=True)
        arena.line(what, empty, at_most(empty.p50 / lowest.p50, 8.0, "{:.1f} x floor, goal 8"), ceiling)
        arena.line(f"{what}, {HELD:,} held", full, not_slower(full, empty))


async def measure_bulk(arena: Arena) -> None:
    """Claim and release of 100 and of 1000 resources in one operation."""
    async with empty_and_full(plain, quick=arena.quick) as members:
        found = await arena.compete(
            floor(200),
            *(Contestant(partial(_bulk, member=member, size=100), 10) for member in members),
            *(Contestant(partial(_bulk, member=member, size=1000), 2) for member in members),
        )
    for what in ("claim", "release"):
        for size in (100, 1000):
            empty, full = found[f"bulk-{what}-{size}"], found[f"bulk-{what}-{size}-full"]
            checks = [at_most(empty.p50 / size * 1e6, 20.0, "{:.1f} us per resource, goal 20")]
            if size == 100:
                checks.append(at_most(empty.p99 * 1e3, 50.0, "p99 {:.1f} ms, ceiling 50", ceiling=True))
            arena.line(f"bulk {what} of {size}", empty, *checks)
            arena.line(f"bulk {what} of {size}, {HELD:,} held", full, not_slower(full, empty))


async def measure_transfers(arena: Arena) -> None:
    """Transfer of one and of 100 resources between two instances whose service adopts them."""
    async with empty_and_full(books, quick=arena.quick) as members:
        found = await arena.compete(
            floor(200),
            *(Contestant(partial(_transfer, member=member, size=1), 50) for member in members),
            *(Contestant(partial(_transfer, member=member, size=100), 6) for member in members),
        )
    one, many = found["transfer-1"], found["transfer-100"]
    arena.line("transfer of 1", one, _transfer_ceiling(one))
    arena.line(f"transfer of 1, {HELD:,} held", found["transfer-1-full"], not_slower(found["transfer-1-full"], one))
    arena.line(
        "transfer of 100",
        many,
        at_most(many.p50 / one.p50, 10.0, "{:.1f} x a transfer of 1, goal 10"),
        _transfer_ceiling(many),
    )
    arena.line(
        f"transfer of 100, {HELD:,} held", found["transfer-100-full"], not_slower(found["transfer-100-full"], many)
    )


def _transfer_ceiling(times: Times) -> Check:
    return at_most(times.p99 * 1e3, 10.0, "p99 {:.2f} ms, ceiling 10", ceiling=True)
