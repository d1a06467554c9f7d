"""Keys, tokens and certificates, as an operator's tools issue them, made up anew by each test."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs
import nkeys
import trustme

_FILE: Final = """-----BEGIN NATS USER JWT-----
{jwt}
------END NATS USER JWT------

*************************** IMPORTANT ***************************
-----BEGIN USER NKEY SEED-----
{seed}
------END USER NKEY SEED------
"""


@attrs.frozen
class Keys:
    """An Ed25519 key pair."""

    seed: str
    public: str

    @classmethod
    def new(cls, prefix: int = nkeys.PREFIX_BYTE_USER) -> Keys:
        """A random one: a user's, unless *prefix* says another."""
        seed = nkeys.encode_seed(os.urandom(32), prefix).decode()
        return cls(seed, nkeys.from_seed(seed.encode()).public_key.decode())

    def issue(self, subject: Keys, kind: str, claims: Mapping[str, object], *, expires_in: int = 0) -> str:
        """A JWT in which this key's owner says *claims* of the *kind* *subject*; valid for so many seconds, 0 for ever."""
        now = int(time.time())
        body = {
            "jti": "made up",
            "iat": now,
            "iss": self.public,
            "sub": subject.public,
            "name": kind,
            "nats": {**claims, "type": kind, "version": 2},
            **({"exp": now + expires_in} if expires_in else {}),
        }
        signed = f"{_encoded({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{_encoded(body)}"
        signature = nkeys.from_seed(self.seed.encode()).sign(signed.encode())
        return f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def _encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


class Operator:
    """An operator with one account, which issues users."""

    def __init__(self) -> None:
        self._operator = Keys.new(nkeys.PREFIX_BYTE_OPERATOR)
        self._account = Keys.new(nkeys.PREFIX_BYTE_ACCOUNT)

    @property
    def settings(self) -> str:
        """What a server has to know."""
        account = self._operator.issue(self._account, "account", {"limits": _UNLIMITED})
        return (
            f"operator: {self._operator.issue(self._operator, 'operator', {})}\n"
            f"resolver: MEMORY\nresolver_preload {{ {self._account.public}: {account} }}\n"
        )

    def write_credentials(
        self, path: Path, *, expires_in: int = 0, publish: Sequence[str] = (), key: Keys | None = None
    ) -> None:
        """Write a new user's credentials file: valid for so many seconds, allowed to publish there only (() for all).

        With *key*, the seed is that one, whatever the token says.
        """
        user = Keys.new()
        claims = {"pub": {"allow": publish}, "sub": {}, "subs": -1, "data": -1, "payload": -1}
        jwt = self._account.issue(user, "user", claims, expires_in=expires_in)
        path.write_text(_FILE.format(jwt=jwt, seed=(key or user).seed), encoding="utf-8")


_UNLIMITED: Final = {
    **dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1),
    "wildcards": True,
}


class Certificates:
    """An authority, and what it has signed: a server's certificate for 127.0.0.1 and *names*, and a client's."""

    def __init__(self, folder: Path, *names: str) -> None:
        folder.mkdir(exist_ok=True)
        authority = trustme.CA()
        self.authority: Final = folder / "ca.pem"
        authority.cert_pem.write_to_path(self.authority)
        self._server: Final = folder / "server.pem"
        authority.issue_cert(*(names or ("127.0.0.1",))).private_key_and_cert_chain_pem.write_to_path(self._server)
        client = authority.issue_cert("robot@tests.example", common_name="robot")
        self.client: Final = folder / "client.pem"
        self.client_key: Final = folder / "client.key"
        client.cert_chain_pems[0].write_to_path(self.client)
        client.private_key_pem.write_to_path(self.client_key)

    def settings(self, more: str = "") -> str:
        """The servers' section on TLS, with *more* in it."""
        files = f'cert_file: "{self._server}", key_file: "{self._server}", ca_file: "{self.authority}"'
        return f"tls {{ {files}, timeout: 5, {more} }}\n"
