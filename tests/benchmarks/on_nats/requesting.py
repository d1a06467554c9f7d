"""Requests by the client alone, 64 in flight, beside nats-py's and a minimal client on Trio.

All ask one responder of bare sockets, so that what differs is the client. The goal beside the minimal client is judged by the
one that has a timeout for each request, as ours and nats-py have; what timeouts cost shows in the line of the other.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Final

from aegis_backends.nats.server import open_servers
from tests.benchmarks.measuring import Arena, at_least
from tests.benchmarks.on_nats.bare_socket import RESPONDER
from tests.benchmarks.parts.contests import AT_ONCE, contestant
from tests.benchmarks.parts.processes import open_process

__all__ = ["MEASURED", "measure"]

MEASURED: Final = ("nats-request-1", "nats-request-64")

_SIZE: Final = 64
_TITLES: Final = {
    "floor": "floor: blocking sockets",
    "nats-py": "peer: nats-py",
    "minimal-bare": "peer: minimal Trio client without timeouts",
    "minimal": "peer: minimal Trio client",
    "request": "request",
}


async def measure(arena: Arena) -> None:
    """64 B, one at a time and 64 in flight."""
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(open_servers())
        parts: dict[str, tuple[str, dict[str, object]]] = {
            "floor": ("on_nats.bare_socket:ask", {}),
            "nats-py": ("on_nats.calls_parts:ask_micro", {"subject": RESPONDER}),
            "minimal-bare": ("on_nats.requests_parts:ask_minimal", {"with_timeout": False}),
            "minimal": ("on_nats.requests_parts:ask_minimal", {"with_timeout": True}),
            "request": ("on_nats.requests_parts:ask_ours", {}),
        }
        await stack.enter_async_context(open_process("on_nats.bare_socket:respond", url=servers.url))
        clients = {
            name: await stack.enter_async_context(
                open_process(part, profiled=arena.watch.profiled, url=servers.url, **settings)
            )
            for name, (part, settings) in parts.items()
        }
        found = await arena.compete(
            *(
                contestant(f"nats-{name}-{together}", many, client, {"together": together, "size": _SIZE})
                for together, many in ((1, 300), (AT_ONCE, 3840))
                for name, client in clients.items()
            )
        )
    for together, suffix in ((1, ""), (AT_ONCE, ", 64 in flight")):
        for name, title in _TITLES.items():
            times = found[f"nats-{name}-{together}"]
            checks = []
            if name == "request" and together == AT_ONCE:
                peer, minimal = found["nats-nats-py-64"], found["nats-minimal-64"]
                checks.append(at_least(peer.each / times.each, 1.3, "{:.2f} x nats-py's rate, goal 1.3"))
                checks.append(at_least(minimal.each / times.each, 0.9, "{:.2f} x the minimal client's, goal 0.9"))
            arena.line(f"{title}{suffix}", times, *checks)
            arena.line("  its cpu", found[f"nats-{name}-{together} cpu"])
