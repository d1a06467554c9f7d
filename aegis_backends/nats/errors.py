"""What can go wrong between this client and NATS servers, in one tree.

::

    NatsError                   (an AegisError)
    ├── ProtocolError           bytes that are not the NATS protocol
    │   ├── LocalProtocolError  you asked to send something that cannot be sent (also a ValueError)
    │   │   └── PayloadTooLarge     larger than the server takes; send less
    │   └── RemoteProtocolError     the other side is no NATS server, or a broken one; the connection is given up
    ├── ConnectionFailed        no server could be reached; says why of each
    ├── AuthorizationFailed     a server refuses who we say we are; waiting does not help
    ├── PermissionDenied        the server knows us, and this subject is not ours to use
    ├── NoResponders            nobody listens on the subject of a request; nothing was executed
    ├── PendingFull             more is waiting to be sent than may wait; wait for `Connection.ready`
    └── Disconnected            the connection broke; `sent` says whether the request may have been executed
        └── ConnectionClosed    and it will not come back: closed by its user, or for good

The store and the transport translate these once, at their edge, into the errors of the ports.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import attrs

from aegis_core.errors import AegisError

__all__ = [
    "AuthorizationFailed",
    "ConnectionClosed",
    "ConnectionFailed",
    "Disconnected",
    "LocalProtocolError",
    "NatsError",
    "NoResponders",
    "PayloadTooLarge",
    "PendingFull",
    "PermissionDenied",
    "ProtocolError",
    "RemoteProtocolError",
]


@attrs.define(eq=False, repr=False, slots=False)
class NatsError(AegisError):
    """Base of every error of the NATS client."""

    code: ClassVar[str] = "NATS_ERROR"


@attrs.define(eq=False, repr=False, slots=False)
class ProtocolError(NatsError):
    """Bytes that are not the NATS protocol. Whose doing it was, the children say."""

    code: ClassVar[str] = "NATS_PROTOCOL_ERROR"
    problem: str = ""

    @property
    def message(self) -> str:
        """What does not fit."""
        return self.problem


@attrs.define(eq=False, repr=False, slots=False)
class LocalProtocolError(ProtocolError, ValueError):
    """You asked to send something that the protocol cannot carry. Nothing was sent; the connection is unharmed."""


@attrs.define(eq=False, repr=False, slots=False)
class PayloadTooLarge(LocalProtocolError):
    """Headers and payload are larger than the server takes. `size` and `limit` are bytes."""

    code: ClassVar[str] = "NATS_PAYLOAD_TOO_LARGE"
    size: int = attrs.field(default=0, kw_only=True)
    limit: int = attrs.field(default=0, kw_only=True)

    @property
    def message(self) -> str:
        """Both sizes."""
        return f"headers and payload have {self.size} bytes, the server takes at most {self.limit}"


@attrs.define(eq=False, repr=False, slots=False)
class RemoteProtocolError(ProtocolError):
    """The other side sent something that is not the NATS protocol, or is past a limit. Give the connection up."""


@attrs.define(eq=False, repr=False, slots=False)
class ConnectionFailed(NatsError):
    """No server could be reached. `reasons` maps each server's address to why; nothing was sent."""

    code: ClassVar[str] = "NATS_CONNECTION_FAILED"
    reasons: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def message(self) -> str:
        """Each server with its reason."""
        return "no NATS server could be reached: " + "; ".join(f"{s}: {why}" for s, why in self.reasons.items())


@attrs.define(eq=False, repr=False, slots=False)
class AuthorizationFailed(ConnectionFailed):
    """A server was reached and refused who we say we are. Mend the credentials; waiting does not help.

    `refused_by` are the addresses of those that did; `reasons` has them, and the servers that could not be reached.
    """

    code: ClassVar[str] = "NATS_AUTHORIZATION_FAILED"
    refused_by: frozenset[str] = attrs.field(factory=frozenset)

    @property
    def message(self) -> str:
        """Each server with its reason, those that refuse first."""
        refused, others = (
            "; ".join(f"{s}: {why}" for s, why in self.reasons.items() if (s in self.refused_by) is refusing)
            for refusing in (True, False)
        )
        rest = f"; and no other server could be reached: {others}" if others else ""
        return f"the NATS credentials were refused: {refused}{rest}"


@attrs.define(eq=False, repr=False, slots=False)
class PermissionDenied(NatsError):
    """The server allows us no such `operation` ("publish" or "subscribe") on `subject`. Nothing was executed."""

    code: ClassVar[str] = "NATS_PERMISSION_DENIED"
    operation: str
    subject: str

    @property
    def message(self) -> str:
        """What was asked."""
        return f"the NATS server does not allow this user to {self.operation} {self.subject!r}"


@attrs.define(eq=False, repr=False, slots=False)
class NoResponders(NatsError):
    """Nobody listens on `subject`: the server itself answered, nothing was executed. Try again later, or elsewhere."""

    code: ClassVar[str] = "NATS_NO_RESPONDERS"
    subject: str

    @property
    def message(self) -> str:
        """Which subject."""
        return f"nobody listens on {self.subject!r}"


@attrs.define(eq=False, repr=False, slots=False)
class PendingFull(NatsError):
    """`size` bytes are waiting to be sent, `limit` may. Nothing was added: wait for `Connection.ready`, or drop it."""

    code: ClassVar[str] = "NATS_PENDING_FULL"
    size: int
    limit: int

    @property
    def message(self) -> str:
        """Both sizes."""
        return f"{self.size} bytes are waiting to be sent, at most {self.limit} may"


@attrs.define(eq=False, repr=False, slots=False)
class Disconnected(NatsError):
    """The connection that carried this broke. `sent` False: it never left; True: the other side may have acted on it."""

    code: ClassVar[str] = "NATS_DISCONNECTED"
    reason: str
    sent: bool = attrs.field(default=False, kw_only=True)

    @property
    def message(self) -> str:
        """Why, and whether it had been sent."""
        return f"not connected to a NATS server ({'sent' if self.sent else 'not sent'}): {self.reason}"


@attrs.define(eq=False, repr=False, slots=False)
class ConnectionClosed(Disconnected):
    """The connection was closed, by its user or for good, and will not come back."""

    code: ClassVar[str] = "NATS_CONNECTION_CLOSED"
