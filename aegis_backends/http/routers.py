"""The routers of one store, and how to ask one: any of several, each of which can go at any time.

Requests go to one router until it fails; then to the next. A request that never left is sent again at once.

httpx is the client, with a limiter of our own before it: its pool loses connections when tasks that queue in it are
cancelled, and never has a queue so. Watches have connections of their own.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Sequence
from typing import Final
from urllib.parse import urlsplit

import httpx  # noqa: ASYNC127 - the fork has its interface, and may be put in its place
import trio

from aegis_backends.http import wire
from aegis_backends.http.stream import HttpStream, open_stream
from aegis_core.backend import Indeterminate, StoreUnavailable
from aegis_core.errors import AegisError, Overloaded, TransportUnavailable, Unauthorized
from aegis_core.models import Outcome

__all__ = ["Routers"]

_AT_ONCE: Final = 8
_CONNECT_WITHIN: Final = 2.0
_CLOSE_WITHIN: Final = 1.0
_MOST: Final = 1 << 24
_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


class _Content(httpx.AsyncByteStream):
    """The body of a request. Not as bytes: httpx would read them by a generator, which a cancelled request leaves behind."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Part(self._content)


class _Part:
    """*content*, once."""

    def __init__(self, content: bytes) -> None:
        self._left = [content]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop()


class Routers:
    """The routers of one store, and how to ask one.

    Args:
        client: How requests are sent: TLS, proxies and timeouts are its own affair.
        urls: Of the routers, e.g. ``http://127.0.0.1:8700``; the first is asked first.
        headers: Sent with each request.
        tls: For watches, which have connections of their own; None for the system's certificates.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        urls: Sequence[str],
        headers: dict[str, str],
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._client = client
        self._tls = tls
        self._urls = tuple(url.rstrip("/") for url in urls)
        self._headers = headers
        self._at = 0
        self.reconnects = 0
        self._limiter = trio.CapacityLimiter(_AT_ONCE)

    def __repr__(self) -> str:
        return f"<Routers {', '.join(self._urls)}, now {self.current}>"

    def __len__(self) -> int:
        return len(self._urls)

    @property
    def current(self) -> str:
        """The router that is asked now."""
        return self._urls[self._at]

    def leave(self, url: str) -> None:
        """The router at *url* failed: ask the next, unless somebody else has noticed before."""
        if url == self.current:
            self._at = (self._at + 1) % len(self._urls)

    async def open_stream(self, url: str, path: str) -> HttpStream:
        """Begin to read from *path* of the router at *url*, over a connection of its own.

        Raises:
            BROKEN: There is no connection.
        """
        return await open_stream(url, "GET", path, self._headers, tls=self._tls, timeout=_CONNECT_WITHIN)

    async def ask(self, method: str, path: str, content: bytes | None = None) -> bytes:
        """Ask the current router, or the next ones as far as nothing has been sent; the body of its answer.

        Raises:
            Indeterminate: The request was sent, and its answer was lost.
            StoreUnavailable: No router could be reached, or it has no store (NOT_SENT).
            AegisError: What the router answered.
        """
        failure: AegisError | None = None
        for _ in self._urls:
            url = self.current
            try:
                async with self._limiter:
                    status, body = await self._answer(self._request(method, url + path, content))
            except _NOT_SENT as exc:
                self.leave(url)
                failure = StoreUnavailable(reason=f"{url}: {_why(exc)}")
                continue
            except httpx.HTTPError as exc:
                self.leave(url)
                raise Indeterminate(reason=f"{url}: {_why(exc)}") from exc
            if 200 <= status < 300:
                return body
            error = wire.error_from_problem(body, status)
            if isinstance(error, (Overloaded, TransportUnavailable)):  # its server is full; nothing was done
                error = StoreUnavailable(reason=f"{url}: {error}")
            if isinstance(error, StoreUnavailable) and error.outcome is Outcome.NOT_SENT:
                self.leave(url)
                failure = error
                continue
            raise self._told(error, status, url)
        assert failure is not None
        raise failure

    async def _answer(self, request: httpx.Request) -> tuple[int, bytes]:
        """Status and body of the answer, which is not unpacked: a few bytes may be packed gigabytes.

        Raises:
            httpx.HTTPError: There is none, or it is longer than any that routers give.
        """
        response = await self._client.send(request, stream=True)
        parts: list[bytes] = []
        size = 0
        try:
            # Cancelled where it reads, because httpx leaves generators behind of what is not read to its end.
            with trio.CancelScope() as reading:
                async for part in response.aiter_raw():
                    parts.append(part)
                    size += len(part)
                    if size > _MOST:
                        reading.cancel()
        finally:
            with trio.move_on_after(_CLOSE_WITHIN, shield=True):
                await response.aclose()
        if size > _MOST:
            raise httpx.RemoteProtocolError(f"an answer of more than {_MOST} bytes")
        return response.status_code, b"".join(parts)

    def _request(self, method: str, url: str, content: bytes | None) -> httpx.Request:
        if content is None:
            return self._client.build_request(method, url, headers={"accept-encoding": "identity", **self._headers})
        headers = {
            "host": urlsplit(url).netloc,
            "content-length": str(len(content)),
            "content-type": "application/msgpack",
            **self._headers,
        }
        extensions = {"timeout": self._client.timeout.as_dict()}
        return httpx.Request(method, url, headers=headers, stream=_Content(content), extensions=extensions)

    def _told(self, error: AegisError, status: int, url: str) -> AegisError:
        """What an answer that is no success means to who uses the store."""
        if isinstance(error, Unauthorized):
            asks = "asks for a token: name a file with one, by token_file=PATH in the URL"
            return StoreUnavailable(reason=f"{url} {'does not know this token' if self._headers else asks}")
        if error.code == "REMOTE_ERROR":
            reason = f"{url} answered {status}: {error}"
            if status in (429, 502, 503):
                return StoreUnavailable(reason=reason)
            return Indeterminate(reason=reason)
        return error


def _why(exc: BaseException) -> str:
    """What *exc* says, or, where it says too little, what led to it: httpx tells of TLS, and Trio of each address, only so."""
    said = ""
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(exc, httpx.ConnectError) and isinstance(cause, BaseExceptionGroup):
            return "; ".join(map(str, cause.exceptions))
        said, cause = said or str(cause), cause.__cause__ or cause.__context__
    return said or type(exc).__name__
