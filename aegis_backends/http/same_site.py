"""Keeps pages of other sites from acting on what asks for no token, through the browser of who looks at them.

A browser says whose page asks: in ``Origin``, and, where a page made its own name point to this machine, in ``Host``. Where
tokens are asked for nothing of this is needed: no page has one, because there are no cookies.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Container

from aegis_backends.http.asgi import Scope, header
from aegis_core.errors import Forbidden

__all__ = ["check_same_site"]


def check_same_site(scope: Scope, names: Container[str] = ()) -> None:
    """Let requests pass that name this machine, and come from a page of this very server or from none.

    Args:
        scope: The request.
        names: What this machine is called elsewhere, in lower case, beside the address that the request came to.

    Raises:
        Forbidden: It is another.
    """
    host = header(scope, b"host").decode("latin-1").lower()
    origin = header(scope, b"origin").decode("latin-1").lower()
    operation = f"{scope['method']} {scope['path'][:200]}"
    if host and not _is_this_machine(_name(host), scope, names):
        reason = (
            "without a token only requests to 'localhost', to a loopback address or to the server's own are answered"
        )
        raise Forbidden(operation=operation, target=host, reason=reason)
    if origin and origin != f"{scope['scheme']}://{host}":
        raise Forbidden(operation=operation, target=origin, reason="a page of another site asks")


def _name(host: str) -> str:
    """*host* without a port."""
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    return name[1:-1] if name.startswith("[") and name.endswith("]") else name


def _is_this_machine(name: str, scope: Scope, names: Container[str]) -> bool:
    own = scope["server"]
    if name == "localhost" or name in names or (own is not None and name == own[0]):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
