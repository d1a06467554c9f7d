"""The backend ``sqlite:///path``: the registry of one machine in one SQLite file, which any number of processes share.

It survives what a file survives: processes that are killed, and a loss of power. Calls from instance to instance go over
HTTP on loopback. `aegis_sqlite.file` tells how the file is used, `aegis_sqlite.store` the port.
"""

from __future__ import annotations

from aegis_core.hookspecs import BackendRegistrar as _BackendRegistrar
from aegis_core.hookspecs import hookimpl as _hookimpl
from aegis_sqlite.opening import open_sqlite
from aegis_sqlite.store import CAPABILITIES, SqliteFeed, SqliteStore

__all__ = ["CAPABILITIES", "SqliteFeed", "SqliteStore", "aegis_register_backends", "open_sqlite"]


@_hookimpl
def aegis_register_backends(register: _BackendRegistrar) -> None:
    """Offer ``sqlite://``."""
    register("sqlite", open_sqlite)
