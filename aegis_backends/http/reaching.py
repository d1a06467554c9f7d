"""What ``aegis serve`` calls instances of nodes on HTTP by, whatever it offers itself."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import trio

from aegis_backends.http.opening import read_secret
from aegis_backends.http.transport import HttpCaller
from aegis_core.errors import ConfigError

__all__ = ["reach_instances"]


async def reach_instances(
    nursery: trio.Nursery, reach: Callable[[str, HttpCaller], None], *, call_token: Path | None, ca: Path | None
) -> None:
    """Be able to call instances that listen on HTTP, for as long as *nursery* is open.

    Args:
        nursery: Where the calls run.
        reach: Called with each scheme that instances may listen on here, and with what calls them.
        call_token: A file with the token that instances ask of who calls them.
        ca: Certificates to trust where instances are called by TLS; None for the system's.

    Raises:
        ConfigError: A file cannot be used.
    """
    token = "" if call_token is None else read_secret(call_token, source="aegis serve", key="call_token")
    caller = HttpCaller(nursery, token=token, tls=_client_tls(ca))
    await nursery.start(caller.run)
    for scheme in ("http", "https"):
        reach(scheme, caller)


def _client_tls(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(source="aegis serve", key="ca", problem=f"{ca}: {exc}") from exc
