"""Plug-ins that a test names in AEGIS_PLUGINS_ENABLED, for what a healthy backend does not show."""

from __future__ import annotations

from aegis_core.backend import Capabilities, Transaction
from aegis_core.errors import Forbidden
from aegis_core.hookspecs import hookimpl
from aegis_core.models import ServiceInstance
from tests.node.faulty import Faults, names_key

__all__ = ["frugal", "narrow", "shut", "silent", "slow"]

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
