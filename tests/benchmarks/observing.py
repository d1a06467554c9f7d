"""What observability costs: nothing where it is off, and how much where it is on.

Off is compared with a call path that has no observability at all: the same functions, out of whose source each line that
asks for an instrument, for middleware or for a logger's level has been cut.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping
from functools import partial
from types import FunctionType, MethodType
from typing import Final

import trio

from aegis_core import Instance, Node, Service, open_node
from aegis_core.node.client import Client
from aegis_core.node.server import Server
from tests.benchmarks.calling import accounts
from tests.benchmarks.floors import PARAMS
from tests.benchmarks.measuring import Arena, Contestant, Times, Watch, at_most
from tests.benchmarks.scraping import Steps

__all__ = ["MEASURED", "measure"]

MEASURED: Final = ("absent", "off", "metrics", "traces", "page")

_METHOD, _PAGE_SERIES = "balance", 2000
_MODES: Final[Mapping[str, Mapping[str, object]]] = {
    "absent": {},
    "off": {},
    "metrics": {"metrics": {"enabled": True}},
    "traces": {"tracing": {"enabled": True}},
}


def _without(function: Callable[..., object], *cuts: tuple[str, str]) -> Callable[..., object]:
    """*function* made anew of its source, in which each first text is replaced by the second."""
    source = textwrap.dedent(inspect.getsource(function))
    for old, new in cuts:
        if old not in source:
            raise SystemExit(f"{function.__qualname__} has no {old!r} any more: say here what is to be cut out of it")
        source = source.replace(old, new)
    assert isinstance(function, FunctionType)
    made: dict[str, Callable[..., object]] = {}
    exec(compile(source, inspect.getfile(function), "exec"), function.__globals__, made)
    return made[function.__name__]


def _cut_out(node: Node, instance: Instance) -> None:
    """Leave observability out of the call path between *node* and *instance*."""
    client, incarnation = node.client, instance.incarnation
    assert incarnation is not None
    call = _without(
        Client._call,
        (" and not self._is_watched()", ""),
        ("self._origin()", "_origin(self)"),
    )
    call.__globals__["_origin"] = _without(
        Client._origin,
        ("message_id if self._instruments is None else self._instruments.trace_id() or message_id", "message_id"),
    )
    vars(client)["_begin"] = MethodType(call, client)
    run = _without(
        Server._run,
        (
            "    if self._has_middleware:\n        return self._run_in_middleware(job, method, call, arguments)\n",
            "",
        ),
    )
    vars(incarnation.server)["_run"] = MethodType(run, incarnation.server)


async def _calls(operations: int, watch: Watch, *, node: Node, name: str) -> None:
    for _ in range(operations):
        watch.start(name)
        await node.call("account-service", _METHOD, PARAMS, resource_id="account:42")
        watch.stop()


async def measure(arena: Arena) -> None:
    """Calls by resource with observability cut out, off, and on; and a long page of metrics."""
    found = await _measure_calls(arena, {name: config for name, config in _MODES.items() if _is_here(name)})
    absent = found["absent"]
    arena.line("call by resource, observability cut out", absent)
    ratio = found["off"].p50 / absent.p50
    arena.line("call by resource, observability off", found["off"], at_most(ratio, 1.03, "{:.3f} x cut out, goal 1.03"))
    for name, title in (("metrics", "metrics on"), ("traces", "traces on, spans dropped")):
        if name in found:
            more = (found[name].p50 - absent.p50) * 1e6
            arena.line(f"call by resource, {title}", found[name], note=f"{more:.1f} us more than cut out")
        else:
            arena.line(f"call by resource, {title}", note="not installed: pip install 'aegis-ipc[metrics,otel]'")
    if _is_here("metrics"):
        await _measure_page(arena)


async def _measure_calls(arena: Arena, modes: Mapping[str, Mapping[str, object]]) -> dict[str, Times]:
    contestants: list[Contestant] = []
    async with trio.open_nursery() as nursery:
        for name, config in modes.items():
            node: Node = await nursery.start(_serve, name, config)
            contestants.append(Contestant(partial(_calls, node=node, name=name), 500))
        found = await arena.compete(*contestants)
        nursery.cancel_scope.cancel()
    return found


async def _serve(
    name: str, config: Mapping[str, object], task_status: trio.TaskStatus[Node] = trio.TASK_STATUS_IGNORED
) -> None:
    async with open_node(f"memory://{name}", config=config) as node, node.serve(accounts) as instance:
        await instance.claim("account:42")
        if name == "absent":
            _cut_out(node, instance)
        task_status.started(node)
        await trio.sleep_forever()


def _is_here(name: str) -> bool:
    needs = {"metrics": "prometheus_client", "traces": "opentelemetry"}.get(name)
    if needs is None:
        return True
    try:
        __import__(needs)
    except ModuleNotFoundError:
        return False
    return True


async def _measure_page(arena: Arena) -> None:
    """A page of thousands of samples: how long it takes, and how long it holds up everybody else at a time."""
    from aegis_core.observe.metrics import Metrics, exposition

    service = Service("account-service", version="1.0.0")
    async with open_node("memory://page", config={"metrics": {"enabled": True}}) as node, node.serve(service):
        assert node.runtime.instruments is not None
        (metrics,) = (one for one in node.runtime.instruments.all if isinstance(one, Metrics))
        for at in range(_PAGE_SERIES):
            metrics.counted.call_seconds.observe(0.001, f"service-{at}")
        longest: list[float] = []

        async def write(operations: int, watch: Watch) -> None:
            for _ in range(operations):
                steps = Steps()
                watch.start("page")
                trio.lowlevel.add_instrument(steps)
                await trio.lowlevel.checkpoint()
                await exposition(node)
                await trio.lowlevel.checkpoint()
                trio.lowlevel.remove_instrument(steps)
                watch.stop()
                longest.append(steps.longest)

        found = await arena.compete(Contestant(write, 3))
    title = f"a page of metrics, {_PAGE_SERIES:,} histograms"
    check = at_most(1000 * min(longest), 10.0, "{:.1f} ms at a time, goal 10")
    arena.line(title, found["page"], check)
