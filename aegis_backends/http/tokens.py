"""Who a client of the router is, by the bearer token that it shows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from aegis_core.errors import Unauthorized
from aegis_core.hookspecs import Principal

__all__ = ["EVERYBODY", "Tokens"]

EVERYBODY = Principal("token", "everybody", is_admin=True)
"""Who asks a router that knows no tokens, which serves this machine alone."""


class Tokens:
    """The tokens that a router knows, and whose they are. Only their hashes are kept.

    Args:
        principals: By token; none at all: everybody is let in, as `EVERYBODY`.
    """

    def __init__(self, principals: Mapping[str, Principal] | None = None) -> None:
        self._principals = {_hash(token.encode()): who for token, who in (principals or {}).items()}

    def __repr__(self) -> str:
        return f"<Tokens of {', '.join(str(who) for who in self._principals.values()) or 'nobody'}>"

    def __bool__(self) -> bool:
        return bool(self._principals)

    def principal(self, authorization: bytes, operation: str) -> Principal:
        """Who sends this ``Authorization`` header.

        Raises:
            Unauthorized: It names no token that is known.
        """
        if not self._principals:
            return EVERYBODY
        scheme, _, token = authorization.partition(b" ")
        # Compared by hash: how long it takes tells nothing of a token.
        found = self._principals.get(_hash(token.strip())) if scheme.lower() == b"bearer" else None
        if found is None:
            raise Unauthorized(operation=operation)
        return found


def _hash(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
