"""The HTTP backend, ``http://router:8700``: a router's store, and calls from instance to instance, over HTTP.

A node loads this module even where it uses another backend, so that it holds no more than the offer.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from aegis_core.backend import Backend, BackendAddress
from aegis_core.errors import ConfigError
from aegis_core.hookspecs import BackendRegistrar as _BackendRegistrar
from aegis_core.hookspecs import hookimpl as _hookimpl

__all__ = ["aegis_register_backends", "open_http"]


@_hookimpl
def aegis_register_backends(register: _BackendRegistrar) -> None:
    """Offer ``http://`` and ``https://``."""
    register("http", open_http)
    register("https", open_http)


def open_http(address: BackendAddress) -> AbstractAsyncContextManager[Backend]:
    """Open ``http://router:8700`` or ``https://r1:8700,r2:8700?token_file=...``; see `aegis_backends.http.opening`.

    Raises:
        ConfigError: The URL says what cannot be, or the packages that this backend needs are not installed.
        StoreUnavailable: No router answers.
    """
    try:
        from aegis_backends.http import opening  # noqa: PLC0415 - the client is not loaded before it is used
    except ModuleNotFoundError as exc:
        problem = f"{exc}; install it with: pip install 'aegis-ipc[http]'"
        raise ConfigError(source="backend URL", key="backend", problem=problem) from exc
    return opening.open_http(address)
