"""A node's own page of metrics, for Prometheus to fetch where there is no router: ``GET /metrics``, and nothing else.

One answer per connection, of HTTP as small as it can be. Who dawdles is cut off, and holds up nobody: only so many pages
are written at once, but who has yet to ask, or to read, is not counted.

A page that is asked for at a loopback address is for this machine. A name that others made point here gets nothing, lest
a page of theirs read it in the browser of somebody who looks at them.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import trio

from aegis_core.errors import ConfigError
from aegis_core.observe.metrics import CONTENT_TYPE, exposition_in_parts

if TYPE_CHECKING:
    from aegis_core.node.node import Node

__all__ = ["serve_page"]

_MOST_HEAD: Final = 8192
_PATIENCE: Final = 10.0
_AT_ONCE: Final = 8


async def serve_page(
    node: Node, address: str, task_status: trio.TaskStatus[trio.SocketListener] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve the metrics of *node* on *address* (``HOST:PORT``) until cancelled; started, with the listener, once it does.

    Raises:
        ConfigError: The address is none, or cannot be used.
    """
    try:
        host, port = _host_and_port(address)
        (listener, *others) = await trio.open_tcp_listeners(port, host=host)
    except (ValueError, OSError) as exc:
        problem = f"expected HOST:PORT to serve the metrics on, got {address!r}: {exc}"
        raise ConfigError(key="metrics.address", problem=problem) from exc
    limiter = trio.CapacityLimiter(_AT_ONCE)

    async def answer(stream: trio.SocketStream) -> None:
        with trio.move_on_after(_PATIENCE):
            try:
                head = await _read_head(stream)
                async with limiter:
                    told = await _answer(node, head, stream.socket.getsockname()[0])
                for part in told:
                    await stream.send_all(part)
                await stream.send_eof()
                while await stream.receive_some():  # closed with data unread, the answer might be lost
                    pass
            except trio.BrokenResourceError:  # the client left
                pass

    async with trio.open_nursery() as nursery:
        task_status.started(listener)
        nursery.start_soon(trio.serve_listeners, answer, [listener, *others])


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not 0 <= int(port) < 65536:
        raise ValueError("no host, or no port; 0.0.0.0 stands for all addresses of this machine")
    return host.strip("[]"), int(port)


async def _read_head(stream: trio.SocketStream) -> bytes:
    """The request up to the end of its headers, or up to what is the most."""
    head = b""
    while b"\r\n\r\n" not in head and len(head) < _MOST_HEAD:
        part = await stream.receive_some()
        if not part:
            break
        head += part
    return head


async def _answer(node: Node, head: bytes, address: str) -> Sequence[bytes]:
    """What is answered to *head*, which came to *address*, in parts."""
    asked = _asked_host(head)
    # A machine's own name may stand for a loopback address, and is nobody's to point elsewhere.
    if _is_loopback(address) and not _is_loopback(asked) and asked != socket.gethostname().lower():
        return (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",)
    method, _, rest = head.partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0]
    if method not in {b"GET", b"HEAD"} or path != b"/metrics":
        return (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",)
    parts = await exposition_in_parts(node)
    size = sum(map(len, parts))
    told = f"Content-Type: {CONTENT_TYPE}\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
    return (b"HTTP/1.1 200 OK\r\n" + told.encode(), *(parts if method == b"GET" else ()))


def _asked_host(head: bytes) -> str:
    """Whom *head* asks for, without a port; who names nobody is no browser."""
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, _, value = line.partition(":")
        if name.strip().lower() == "host":
            host = value.strip().lower()
            return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return "localhost"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"
