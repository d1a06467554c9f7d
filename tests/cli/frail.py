"""Plug-ins that a test names in AEGIS_PLUGINS_ENABLED, for what a healthy backend does not show."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from aegis_core.backend import Backend, BackendAddress, Capabilities, Transaction
from aegis_core.errors import Forbidden, StoreUnavailable
from aegis_core.hookspecs import BackendRegistrar, hookimpl
from aegis_core.models import ServiceInstance
from tests.node.faulty import Faults, names_key

__all__ = ["frugal", "late", "narrow", "shut", "silent", "slow"]

frugal = Faults(capabilities=Capabilities(min_ttl=60.0, durable=True))
"""Offers ``faulty://``: a durable store that keeps nothing for less than a minute."""

slow = Faults(latency=0.2)
"""Offers ``faulty://``: a store that takes its time."""

silent = Faults(sync_refused=True)
"""Offers ``faulty://``: a store that nobody can read."""


def _refuse_claims(transaction: Transaction) -> None:
    if names_key("resources.")(transaction):
        raise Forbidden(operation="write", target="resources", reason="read only")


narrow = Faults(on_commit=_refuse_claims)
"""Offers ``faulty://``: a store that lets nobody write who owns what."""


class Shut:
    """Nobody may register."""

    @hookimpl
    def aegis_check_registration(self, instance: ServiceInstance) -> None:
        """No."""
        raise Forbidden(operation="register", target=instance.instance_id, reason="it is shut")


shut = Shut()


class Late:
    """Offers ``late://``, which gives up in the end, as a server without JetStream has it do."""

    @hookimpl
    def aegis_register_backends(self, register: BackendRegistrar) -> None:
        """Offer it."""
        register("late", self._open)

    @asynccontextmanager
    async def _open(self, address: BackendAddress) -> AsyncIterator[Backend]:
        await self._give_up()
        yield Backend(store=None, transports=())

    async def _give_up(self) -> None:
        await trio.sleep(12)
        raise StoreUnavailable(reason="it is not enabled there")


late = Late()
