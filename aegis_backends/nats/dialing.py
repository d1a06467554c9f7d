"""From an address to a server that knows us: TCP, INFO, TLS, CONNECT, and the first PONG."""

from __future__ import annotations

import ssl
from typing import Final

import attrs
import trio

from aegis_backends.nats.errors import AuthorizationFailed, ConnectionFailed, RemoteProtocolError
from aegis_backends.nats.options import ConnectOptions, TLSOptions
from aegis_backends.nats.protocol import Connect, Error, Event, Info, Parser, Ping, Pong, encode
from aegis_backends.nats.servers import ServerAddress, ServerInfo
from aegis_backends.tcp import TcpStream
from aegis_core.errors import ConfigError

__all__ = ["Dialed", "Dialer", "is_refusal"]

_CHUNK: Final = 1 << 16


def is_refusal(text: str) -> bool:
    """Whether a server's error *text* says that it does not accept our credentials."""
    text = text.lower()
    return "authorization violation" in text or ("authentication" in text and "timeout" not in text)


@attrs.frozen
class Dialed:
    """A server that has let us in. The parser may hold what it sent after that."""

    address: ServerAddress
    stream: TcpStream | trio.SSLStream[trio.SocketStream]
    parser: Parser
    info: ServerInfo


class _Refused(Exception):
    """The server said no; why is the argument."""


class Dialer:
    """Connects to one server at a time, always with the same options.

    Raises:
        ConfigError: A certificate cannot be loaded.
    """

    def __init__(self, options: ConnectOptions) -> None:
        self._options: Final = options
        self._context = options.tls.context() if options.tls is not None else None

    async def dial(self, address: ServerAddress) -> Dialed:
        """Connect to *address* and log in.

        Raises:
            AuthorizationFailed: It refuses our credentials, or ours cannot be read.
            ConnectionFailed: Anything else; nothing is left open.
        """
        try:
            with trio.fail_after(self._options.connect_timeout):
                tcp = await trio.open_tcp_stream(address.host, address.port)
                try:
                    return await self._log_in(address, tcp)
                except BaseException:
                    await trio.aclose_forcefully(tcp)  # noqa: ASYNC102 - forcefully is without waiting
                    raise
        except _Refused as exc:
            reasons = {str(address): str(exc)}
            if is_refusal(str(exc)):
                raise AuthorizationFailed(reasons, frozenset(reasons)) from None
            raise ConnectionFailed(reasons) from None
        except ConfigError as exc:
            reasons = {str(address): str(exc)}
            raise AuthorizationFailed(reasons, frozenset(reasons)) from exc
        except trio.TooSlowError:
            reason = f"no answer within {self._options.connect_timeout:g} s"
            raise ConnectionFailed({str(address): reason}) from None
        except trio.BrokenResourceError as exc:
            raise ConnectionFailed({str(address): str(exc.__cause__ or exc) or "the connection broke"}) from exc
        except (OSError, ValueError, RemoteProtocolError) as exc:  # ValueError: the host cannot be a name
            raise ConnectionFailed({str(address): _flat(exc)}) from exc

    async def _log_in(self, address: ServerAddress, tcp: trio.SocketStream) -> Dialed:
        stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = tcp
        parser = Parser()
        tls = self._options.tls or TLSOptions()
        if tls.handshake_first:
            stream = await self._encrypt(address, tcp)
        first = await _receive(stream, parser)
        if not isinstance(first, Info):
            raise RemoteProtocolError("the server does not begin with an INFO")
        info = ServerInfo.from_fields(first.fields)
        if not info.headers:
            raise RemoteProtocolError("the server does not know headers: it takes nats-server 2.2 or newer")
        wanted = address.tls or self._options.tls is not None
        if stream is tcp and (wanted or info.tls_required):
            if not (info.tls_required or info.tls_available):
                raise RemoteProtocolError("TLS is wanted, and the server offers none")
            if parser.held:
                # Taken over into what is trusted, bytes that anybody can have put there would be, too.
                raise RemoteProtocolError("the server sent more before TLS than its INFO")
            stream = await self._encrypt(address, tcp)
        await stream.send_all(encode(self._connect(address, info, encrypted=stream is not tcp)) + encode(Ping()))
        while True:
            event = await _receive(stream, parser)
            if isinstance(event, Pong):
                return Dialed(
                    address, TcpStream(tcp) if isinstance(stream, trio.SocketStream) else stream, parser, info
                )
            if isinstance(event, Error):
                raise _Refused(event.text)
            if isinstance(event, Info):
                info = ServerInfo.from_fields(event.fields)
            elif isinstance(event, Ping):
                await stream.send_all(encode(Pong()))

    async def _encrypt(self, address: ServerAddress, tcp: trio.SocketStream) -> trio.SSLStream[trio.SocketStream]:
        if self._context is None:
            self._context = ssl.create_default_context()
        name = (self._options.tls.server_hostname if self._options.tls else None) or address.tls_name or address.host
        stream = trio.SSLStream(tcp, self._context, server_hostname=name, https_compatible=True)
        await stream.do_handshake()
        return stream

    def _connect(self, address: ServerAddress, info: ServerInfo, *, encrypted: bool) -> Connect:
        credentials = address.credentials or self._options.credentials
        return Connect(
            {
                "verbose": False,
                "pedantic": False,
                "tls_required": encrypted,
                "name": self._options.name,
                "lang": "python-trio",
                "version": "1",
                "protocol": 1,
                "echo": self._options.echo,
                "headers": True,
                "no_responders": True,
                **(credentials.fields(info.nonce) if credentials is not None else {}),
            }
        )


async def _receive(stream: trio.SocketStream | trio.SSLStream[trio.SocketStream], parser: Parser) -> Event:
    """The next event. What came behind it stays in *parser*."""
    while True:
        for event in parser.events():
            return event
        data = await stream.receive_some(_CHUNK)
        if not data:
            raise RemoteProtocolError("the server closed the connection")
        parser.receive_data(bytes(data))


def _flat(exc: BaseException) -> str:
    """What *exc* says; for a group of attempts at several addresses of one host, what each says."""
    cause = exc.__cause__
    if isinstance(cause, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(str(inner) for inner in cause.exceptions))
    return str(cause if isinstance(cause, OSError) else exc) or type(exc).__name__
