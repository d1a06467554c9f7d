"""Opening ``sqlite:///path?parameter=...``.

The path is absolute after three slashes, ``sqlite:///var/lib/app/registry.db``, relative after two, ``sqlite://registry.db``;
what a URL cannot hold is percent-encoded. Parameters:

- ``max_size``: the most MiB that the file may come to have, 1024 by default;
- ``timeout``: seconds to wait while others have the file locked, 5 by default;
- ``listen``, ``advertise``, ``call_token_file``, ``ca_file``, ``cert_file``, ``key_file``: how this node's instances are
  served and others called, as on HTTP.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import trio

from aegis_backends.http import open_http_transport
from aegis_core.backend import Backend, BackendAddress
from aegis_core.config import check_parameters
from aegis_core.errors import ConfigError
from aegis_sqlite.file import open_file
from aegis_sqlite.store import SqliteStore, in_turn

__all__ = ["open_sqlite"]

_PARAMETERS: Final = (
    "max_size", "timeout", "listen", "advertise", "call_token_file", "ca_file", "cert_file", "key_file",
)  # fmt: skip
_PAGES_OF_A_MIB: Final = 256


@asynccontextmanager
async def open_sqlite(address: BackendAddress) -> AsyncIterator[Backend]:
    """Open the file that *address* names, which is made if it is not there.

    Raises:
        ConfigError: The URL says what cannot be, or the file is not one of this backend's.
        StoreUnavailable: The file is damaged, or locked, or cannot be written.
    """
    check_parameters(address, _PARAMETERS)
    if sqlite3.sqlite_version_info < (3, 37):
        raise _refused("backend", f"SQLite 3.37 or later is needed, this Python has {sqlite3.sqlite_version}")
    location = unquote(address.location)
    if not location or location.endswith("/"):
        raise _refused("backend", "expected sqlite:///PATH-OF-A-FILE")
    max_size = _number(address, "max_size", "1024")
    patience = _number(address, "timeout", "5")
    opening = trio.CapacityLimiter(1)
    pages = max(1, int(max_size * _PAGES_OF_A_MIB))
    writer, reader, watcher = await in_turn(opening, patience, open_file, Path(location), pages)
    store = SqliteStore(writer, reader, watcher, patience=patience)
    body: BaseException | None = None
    try:
        async with open_http_transport(address) as transport, trio.open_nursery() as nursery:
            following = trio.CancelScope(shield=True)
            nursery.start_soon(_follow, store, following)
            try:
                yield Backend(store=store, transports=(transport,))
            except BaseException as exc:  # noqa: BLE001, ASYNC103 - raised again below, where no nursery wraps it
                body = exc
            following.cancel()
    finally:
        await store.aclose()
    if body is not None:
        raise body


async def _follow(store: SqliteStore, scope: trio.CancelScope) -> None:
    # Shielded: a node whose program is cancelled still commits on its way out, and needs to see what came of that.
    with scope:
        await store.follow()


def _number(address: BackendAddress, name: str, default: str) -> float:
    text = address.parameters.get(name, default)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise _refused(name, f"expected a number above 0, got {text!r}")
    return number


def _refused(key: str, problem: str) -> ConfigError:
    return ConfigError(source="backend URL", key=key, problem=problem)
