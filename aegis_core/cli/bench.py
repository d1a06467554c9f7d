"""``aegis bench``: what a backend gives from here, in a few seconds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count
from typing import Annotated, Final

import attrs
import trio
from cyclopts import Parameter
from cyclopts.validators import Number

from aegis_core.cli.exit_statuses import ExitStatus
from aegis_core.cli.options import AsJson, BackendUrl, Timeout
from aegis_core.cli.output import print_json, print_rich, table, tell
from aegis_core.cli.progress import progress
from aegis_core.cli.session import connect
from aegis_core.errors import AegisError, InvalidRequest
from aegis_core.node.call import Call
from aegis_core.node.instance import Instance
from aegis_core.node.node import Node
from aegis_core.node.service import Service

__all__ = ["LOADS", "Measured", "bench"]

LOADS: Final = ("call", "call-owner", "claim", "read")
"""What is done over and over: a call to an instance, a call to a resource's owner, a claim with its release, a read of an owner."""

_SERVICE: Final = "aegis-bench"
_DRAWN_EVERY: Final = 0.1


@attrs.define
class Measured:
    """One load, as it went.

    Args:
        load: One of `LOADS`.
        seconds: How long it went.
        durations: Seconds that each operation took.
        errors: How many failed.
        first_error: What the first of them said.
    """

    load: str
    seconds: float = 0.0
    durations: list[float] = attrs.field(factory=list, repr=False)
    errors: int = 0
    first_error: str = ""

    def percentile(self, share: float) -> float | None:
        """Milliseconds that *share* of the operations took at most; None without any."""
        ordered = sorted(self.durations)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None

    def document(self) -> dict[str, object]:
        """As ``--json`` shows it."""
        return {
            "load": self.load,
            "operations": len(self.durations),
            "errors": self.errors,
            "first_error": self.first_error,
            "per_second": len(self.durations) / self.seconds,
            "p50_ms": self.percentile(0.5),
            "p95_ms": self.percentile(0.95),
            "p99_ms": self.percentile(0.99),
        }


async def bench(
    *loads: str,
    seconds: Annotated[float, Parameter(validator=Number(gt=0, lte=60))] = 2.0,
    concurrency: Annotated[int, Parameter(validator=Number(gte=1, lte=256))] = 16,
    backend: BackendUrl = None,
    timeout: Timeout = 5.0,
    as_json: AsJson = False,
) -> int:
    """Put a short load on a backend and show how many operations a second it carries out, and how long they take.

    It serves an instance of a service of its own, aegis-bench, on one connection and calls it on another. All that it
    claims is released. Exit status 1 if operations failed.

    Args:
        loads: What to do: call, call-owner, claim, read; all by default.
        seconds: How long each goes on, 60 at most.
        concurrency: So many at a time, 256 at most.
    """
    for load in loads:
        if load not in LOADS:
            raise InvalidRequest.at("loads", f"there is no load {load!r}, only {', '.join(LOADS)}")
    wanted = tuple(dict.fromkeys(loads)) or LOADS
    service = Service(_SERVICE)

    @service.method
    async def echo(call: Call, text: str) -> dict[str, object]:
        await trio.lowlevel.checkpoint()
        return {"text": text, "epoch": call.epoch}

    results: list[Measured] = []
    async with (
        connect(backend, timeout) as host,
        connect(backend, timeout) as caller,
        host.serve(service) as instance,
    ):
        owned = f"{_SERVICE}:{instance.instance_id}"
        await instance.claim(owned)
        await caller.registry.get_owner(owned)  # from here on both see the same
        with progress("measuring", seconds * len(wanted)) as done:
            for number, load in enumerate(wanted):
                before = number * seconds
                act = _acts(caller, instance, owned, timeout)[load]
                results.append(await _measure(load, act, seconds, concurrency, partial(_advance, done, before)))
    if as_json:
        print_json({"seconds": seconds, "concurrency": concurrency, "loads": [one.document() for one in results]})
    else:
        _print(results)
    return ExitStatus.FAILED if any(one.errors for one in results) else ExitStatus.DONE


def _acts(caller: Node, instance: Instance, owned: str, timeout: float) -> dict[str, Callable[[], Awaitable[object]]]:
    """One operation of each load."""
    numbers = count()

    async def call() -> object:
        return await caller.call(_SERVICE, "echo", {"text": "x"}, instance_id=instance.instance_id, timeout=timeout)

    async def call_owner() -> object:
        return await caller.call(_SERVICE, "echo", {"text": "x"}, resource_id=owned, timeout=timeout)

    async def claim() -> None:
        resource_id = f"{owned}:{next(numbers)}"
        await instance.claim(resource_id)
        await instance.release(resource_id)

    async def read() -> object:
        return await caller.registry.get_owner(owned)

    return dict(zip(LOADS, (call, call_owner, claim, read), strict=True))


def _advance(done: Callable[[float], None], before: float, since: float) -> None:
    done(before + since)


async def _measure(
    load: str,
    act: Callable[[], Awaitable[object]],
    seconds: float,
    concurrency: int,
    done: Callable[[float], None],
) -> Measured:
    """Do *act* over and over for *seconds*, *concurrency* at a time; what was begun is finished."""
    measured, start = Measured(load), trio.current_time()

    async def repeat() -> None:
        while (begun := trio.current_time()) < start + seconds:
            try:
                await act()
            except AegisError as exc:
                measured.errors += 1
                measured.first_error = measured.first_error or str(exc)
            else:
                measured.durations.append(trio.current_time() - begun)

    async def draw() -> None:
        while (now := trio.current_time()) < start + seconds:
            done(now - start)
            await trio.sleep(_DRAWN_EVERY)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(draw)
        for _ in range(concurrency):
            nursery.start_soon(repeat)
    measured.seconds = trio.current_time() - start
    return measured


def _print(results: list[Measured]) -> None:
    rows = []
    for one in results:
        percentiles = (one.percentile(share) for share in (0.5, 0.95, 0.99))
        shown = [f"{ms:.2f} ms" if ms is not None else "-" for ms in percentiles]
        rows.append((one.load, f"{len(one.durations) / one.seconds:,.0f}", *shown, one.errors))
        if one.errors:
            tell(f"{one.load}: {one.first_error}")
    print_rich(table(("load", "per second #", "median #", "95 % #", "99 % #", "errors #"), rows))
