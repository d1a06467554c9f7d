"""What a connection has done so far, in numbers."""

from __future__ import annotations

import attrs

__all__ = ["ConnectionStatistics", "Counters"]


@attrs.define(eq=False)
class Counters:
    """What the parts of one connection count together. Bytes are of payloads and header blocks."""

    in_messages: int = 0
    in_bytes: int = 0
    out_messages: int = 0
    out_bytes: int = 0
    dropped: int = 0
    server_errors: int = 0


@attrs.frozen(kw_only=True)
class ConnectionStatistics:
    """A snapshot.

    Attributes:
        in_messages: Messages received, and `in_bytes` of them.
        in_bytes: Bytes of their payloads and headers.
        out_messages: Messages published, requests among them, and `out_bytes` of them.
        out_bytes: Bytes of their payloads and headers.
        dropped: Messages that were received and dropped, because a subscription's reader was slow; or
            that were to be published, and are larger than another server takes.
        server_errors: Errors that servers told of and that did not end a connection.
        connects: Successful connects.
        subscriptions: Those open now.
        requests: Requests that wait for an answer now.
        pending_bytes: Bytes that wait to be sent now.
    """

    in_messages: int
    in_bytes: int
    out_messages: int
    out_bytes: int
    dropped: int
    server_errors: int
    connects: int
    subscriptions: int
    requests: int
    pending_bytes: int
