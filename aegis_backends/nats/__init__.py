"""The NATS backend, ``nats://host:4222``: our own client on Trio, the bucket that is the store, and the transport.

A node loads this module even where it uses another backend, so that it holds no more than the offer.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from aegis_core.backend import Backend, BackendAddress
from aegis_core.hookspecs import BackendRegistrar as _BackendRegistrar
from aegis_core.hookspecs import hookimpl as _hookimpl

__all__ = ["aegis_register_backends", "open_nats", "remove_bucket"]


@_hookimpl
def aegis_register_backends(register: _BackendRegistrar) -> None:
    """Offer ``nats://``."""
    register("nats", open_nats)


def open_nats(address: BackendAddress) -> AbstractAsyncContextManager[Backend]:
    """Open ``nats://host:4222,host2:4222?bucket=service-registry&storage=file&replicas=3``.

    Connects, makes the bucket if it is not there, upgrades it in place if it is an old one, and reads it.

    Raises:
        ConfigError: A parameter is wrong, a server refuses our credentials, or cannot hold a registry; says what to do.
        StoreUnavailable: No server is there, or none answers for the bucket.
    """
    from aegis_backends.nats import opening  # noqa: PLC0415 - the client is not loaded before it is used

    return opening.open_nats(address)


async def remove_bucket(address: BackendAddress) -> None:
    """Remove the bucket that *address* names from its server, and that of its routers' messages; none is fine.

    For what makes a bucket of its own, as a test does. Nodes that still use it lose everything.

    Raises:
        ConfigError: A parameter is wrong, or the server refuses our credentials.
        StoreUnavailable: No server is there, none answers, or it has no JetStream.

    After that, or when cancelled, the bucket may still be there.
    """
    from aegis_backends.nats import opening  # noqa: PLC0415 - as above

    await opening.remove_bucket(address)
