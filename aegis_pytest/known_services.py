"""Which services a test's cluster knows, so that a name which is misspelt can be told from one of which there is nothing."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

import pytest

from aegis_core.envelopes import RequestEnvelope
from aegis_core.served import Served

__all__ = ["KnownServices"]


class KnownServices:
    """The services of which a cluster ever had an instance, and those that calls name.

    Attributes:
        instance_ids: Of all instances that it ever had.
        served: The services of those.
    """

    def __init__(self) -> None:
        self.instance_ids: Final[set[str]] = set()
        self.served: Final[set[str]] = set()
        # By service: the methods that its instances have, and those that calls name.
        self._methods: dict[str, set[str]] = defaultdict(set)

    def __repr__(self) -> str:
        return f"<KnownServices {', '.join(sorted(self._methods)) or 'none'}>"

    def serve(self, served: Served) -> None:
        """Take note that the cluster has that instance, registered or not."""
        self.instance_ids.add(served.instance.instance_id)
        self.served.add(served.instance.service_name)
        self._methods[served.instance.service_name].update(served.statistics)

    def name(self, request: RequestEnvelope) -> None:
        """Take note that a call names that service and method."""
        self._methods[request.service_name].add(request.method)

    def check(self, service_name: str | None, method: str | None) -> None:
        """Refuse the name of a service or method that is none here: there could be no call of it, lost or not.

        Raises:
            pytest.UsageError: It is none; says which there are.
        """
        __tracebackhide__ = True
        known = sorted(self._methods)
        if service_name is not None and service_name not in known:
            raise pytest.UsageError(
                f"the cluster has had no instance of service {service_name!r}, and no call names it; known here: "
                f"{', '.join(known) or 'no service'}"
            )
        asked = known if service_name is None else [service_name]
        # What a service has that others serve, nobody here knows.
        if method is not None and all(it in self.served and method not in self._methods[it] for it in asked):
            methods = sorted({name for it in asked for name in self._methods[it]})
            who = "no service here has a" if service_name is None else f"service {service_name!r} has no"
            raise pytest.UsageError(
                f"{who} method {method!r}, and no call names it; known here: {', '.join(methods) or 'no method'}"
            )
