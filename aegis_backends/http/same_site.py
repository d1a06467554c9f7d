"""Keeps pages of other sites from acting on a router that asks for no token, through the browser of who looks at them.

A browser says whose page asks: in ``Origin``, and, where a page made its own name point to this machine, in ``Host``. Where
tokens are asked for nothing of this is needed: no page has one, because there are no cookies.
"""

from __future__ import annotations

import ipaddress

from aegis_backends.http.asgi import Scope, header
from aegis_core.errors import Forbidden

__all__ = ["check_same_site"]


def check_same_site(scope: Scope) -> None:
    """Let requests pass that name this machine, and come from a page of this very server or from none.

    Raises:
        Forbidden: It is another.
    """
    host = header(scope, b"host").decode("latin-1").lower()
    origin = header(scope, b"origin").decode("latin-1").lower()
    operation = f"{scope['method']} {scope['path'][:200]}"
    if host and not _is_this_machine(host):
        reason = "without tokens a router answers to 'localhost' and loopback addresses alone"
        raise Forbidden(operation=operation, target=host, reason=reason)
    if origin and origin != f"{scope['scheme']}://{host}":
        raise Forbidden(operation=operation, target=origin, reason="a page of another site asks")


def _is_this_machine(host: str) -> bool:
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False
