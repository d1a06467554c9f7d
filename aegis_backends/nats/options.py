"""How to connect: names, credentials, TLS, patience, sizes."""

from __future__ import annotations

import math
import ssl
from pathlib import Path
from typing import Any

import attrs

from aegis_backends.certificates import told_with_files
from aegis_backends.nats.auth import Credentials

__all__ = ["ConnectOptions", "TLSOptions"]


def _optional_path(path: Path | str | None) -> Path | None:
    return None if path is None else Path(path)


@attrs.frozen(kw_only=True)
class TLSOptions:
    """What to show to a server, and what it has to show.

    Args:
        ca_file: Certificates (PEM) of who may sign a server's; None for those that the system trusts.
        certificate_file: Our own certificate (PEM), for servers that ask for one.
        key_file: Its private key, where it is in a file of its own.
        server_hostname: The name that the server's certificate must be for; None for the host of its URL.
        handshake_first: Speak TLS from the first byte, to servers that are configured so. Otherwise the server
            speaks first, in the clear, and says whether it wants TLS.
    """

    ca_file: Path | None = attrs.field(default=None, converter=_optional_path)
    certificate_file: Path | None = attrs.field(default=None, converter=_optional_path)
    key_file: Path | None = attrs.field(default=None, converter=_optional_path)
    server_hostname: str | None = None
    handshake_first: bool = False

    def context(self) -> ssl.SSLContext:
        """The standard library's form of this: certificates and host names are verified.

        Raises:
            ConfigError: A file cannot be read, or is not what it should be.
        """
        with told_with_files({"tls_ca": self.ca_file}, "certificates (PEM)"):
            context = ssl.create_default_context(cafile=self.ca_file)
        if self.certificate_file is not None:
            files = {"tls_cert": self.certificate_file, "tls_key": self.key_file}
            with told_with_files(files, "a certificate and its key (PEM)"):
                context.load_cert_chain(self.certificate_file, self.key_file)
        return context


def _positive(_instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if not value > 0:
        raise ValueError(f"{attribute.name} must be positive, got {value}")


@attrs.frozen(kw_only=True)
class ConnectOptions:
    """What holds for a connection, whichever server it is to.

    Args:
        name: Shown in the server's monitoring.
        credentials: Who we are; those in a server's URL take precedence.
        tls: How TLS is used where a URL says ``tls`` or a server asks for it. Given, a server without TLS is refused.
        connect_timeout: Seconds for one server to become usable: TCP, TLS, log-in.
        connect_attempts: Rounds through all servers until the first connect fails.
        reconnect_attempts: Rounds through all servers until a lost connection is given up.
        backoff: Seconds between the first two rounds, half of them random; doubles with each round.
        max_backoff: Where doubling ends.
        ping_interval: Seconds between questions whether the server is there.
        max_missed_pings: Intervals in a row without a byte from the server, after which it counts as dead.
        high_water: Bytes waiting to be sent from which on `Connection.ready` waits.
        max_pending: Bytes that may wait to be sent; beyond them, publishing raises.
        drain_timeout: Seconds for what was received to be dealt with, when draining or moving to another server.
        close_timeout: Seconds for what was published to leave, when the connection's block ends without an error.
        echo: Whether our own subscriptions get what we publish.
        inbox_prefix: First tokens of the subjects that replies come to, for servers that permit only some.
    """

    name: str = "aegis"
    credentials: Credentials | None = None
    tls: TLSOptions | None = None
    connect_timeout: float = attrs.field(default=2.0, validator=_positive)
    connect_attempts: int = attrs.field(default=3, validator=_positive)
    reconnect_attempts: float = attrs.field(default=math.inf, validator=_positive)
    backoff: float = attrs.field(default=0.05, validator=_positive)
    max_backoff: float = attrs.field(default=2.0, validator=_positive)
    ping_interval: float = attrs.field(default=5.0, validator=_positive)
    max_missed_pings: int = attrs.field(default=2, validator=_positive)
    high_water: int = attrs.field(default=1 << 20, validator=_positive)
    max_pending: int = attrs.field(default=16 << 20, validator=_positive)
    drain_timeout: float = attrs.field(default=30.0, validator=_positive)
    close_timeout: float = attrs.field(default=2.0, validator=_positive)
    echo: bool = True
    inbox_prefix: str = "_INBOX"

    def delay(self, completed_rounds: int, chance: float) -> float:
        """Seconds to wait after so many rounds without success; *chance*, in [0, 1), takes away up to a half."""
        longest = min(self.max_backoff, self.backoff * math.ldexp(1.0, min(completed_rounds - 1, 30)))
        return longest * (1.0 - chance / 2)
