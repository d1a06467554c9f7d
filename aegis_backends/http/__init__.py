"""The HTTP backend, ``http://router:8700``: a router's store, and calls from instance to instance, over HTTP.

A node loads this module even where it uses another backend, so that it holds no more than the offer.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from aegis_core.backend import Backend, BackendAddress, Transport
from aegis_core.errors import ConfigError
from aegis_core.hookspecs import BackendRegistrar as _BackendRegistrar
from aegis_core.hookspecs import hookimpl as _hookimpl

__all__ = ["aegis_register_backends", "open_http", "open_http_transport"]


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
        raise _missing(exc) from exc
    return opening.open_http(address)


def open_http_transport(address: BackendAddress) -> AbstractAsyncContextManager[Transport]:
    """Calls over HTTP, for a backend that brings a store and has no network of its own.

    Its parameters are those of *address* that say how instances are served and called: ``call_token_file``, ``ca_file``,
    ``cert_file``, ``key_file``, ``listen``, ``advertise``. What else is there is not looked at. Without ``listen`` instances
    are served on loopback. Endpoints are ``http:``, or ``https:`` with a ``cert_file``, so that nodes behind a router and
    nodes on such a backend call each other directly.

    Raises:
        ConfigError: A parameter says what cannot be, or the packages that this transport needs are not installed.
    """
    try:
        from aegis_backends.http import opening  # noqa: PLC0415 - as above
    except ModuleNotFoundError as exc:
        raise _missing(exc) from exc
    return opening.open_http_transport(address)


def _missing(exc: ModuleNotFoundError) -> ConfigError:
    problem = f"{exc}; install it with: pip install 'aegis-ipc[http]'"
    return ConfigError(source="backend URL", key="backend", problem=problem)
