"""Who we say we are: the ways to show it to a NATS server, and the only place that knows ``nkeys``.

No secret is part of a repr; a server's challenge (its nonce) is signed, the seed never leaves.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeAlias

import attrs

from aegis_core.errors import ConfigError

__all__ = ["Credentials", "CredentialsFile", "NkeySeed", "Token", "UserPassword"]

_SECTION: Final = re.compile(r"-{3,}\s*BEGIN ([A-Z ]+?)\s*-{3,}\s*(\S+)\s*-{3,}\s*END \1\s*-{3,}")


@attrs.frozen
class UserPassword:
    """A user's name and password."""

    user: str
    password: str = attrs.field(repr=False)

    def fields(self, _nonce: str) -> Mapping[str, str]:
        """What a CONNECT says with these."""
        return {"user": self.user, "pass": self.password}


@attrs.frozen
class Token:
    """One secret that is the same for all."""

    token: str = attrs.field(repr=False)

    def fields(self, _nonce: str) -> Mapping[str, str]:
        """What a CONNECT says with this."""
        return {"auth_token": self.token}


@attrs.frozen
class NkeySeed:
    """The private half of an Ed25519 key pair, as ``nk`` writes it (``SU...``)."""

    seed: str = attrs.field(repr=False)

    def fields(self, nonce: str) -> Mapping[str, str]:
        """What a CONNECT says with this: the public key, and the server's *nonce* signed.

        Raises:
            ConfigError: The seed is none, or ``nkeys`` is not installed.
        """
        public_key, signature = _sign(self.seed, nonce)
        return {"nkey": public_key, "sig": signature}


@attrs.frozen
class CredentialsFile:
    """A file with a JWT and a seed, as ``nsc`` writes it. Read for each connect, so that a renewed one is used."""

    path: Path = attrs.field(converter=Path)

    def fields(self, nonce: str) -> Mapping[str, str]:
        """What a CONNECT says with this: the JWT, and the server's *nonce* signed.

        Raises:
            ConfigError: The file cannot be read, or lacks a part; or ``nkeys`` is not installed.
        """
        try:
            text = self.path.read_text(encoding="utf-8")
        except (OSError, ValueError) as exc:
            raise ConfigError(source=str(self.path), problem=f"the credentials file cannot be read: {exc}") from exc
        sections = {found[1]: found[2] for found in _SECTION.finditer(text)}
        jwt, seed = sections.get("NATS USER JWT"), sections.get("USER NKEY SEED")
        if jwt is None or seed is None:
            raise ConfigError(source=str(self.path), problem="it lacks a NATS USER JWT or a USER NKEY SEED section")
        _, signature = _sign(seed, nonce)
        return {"jwt": jwt, "sig": signature}


Credentials: TypeAlias = UserPassword | Token | NkeySeed | CredentialsFile


def _sign(seed: str, nonce: str) -> tuple[str, str]:
    """The public key that belongs to *seed*, and *nonce* signed with it."""
    try:
        import nkeys  # noqa: PLC0415 - an extra, which only those need who use it
    except ImportError as exc:
        raise ConfigError(problem="nkeys are needed for this: install aegis-ipc[nats]", key="nats") from exc
    try:
        pair = nkeys.from_seed(seed.strip().encode())
        public_key = bytes(pair.public_key).decode()
        signature = pair.sign(nonce.encode())
    except (nkeys.NkeysError, ValueError) as exc:
        # Without its cause, whose text may hold the seed.
        raise ConfigError(problem=f"the seed is not an nkey's: {type(exc).__name__}", key="nkey") from None
    return public_key, base64.urlsafe_b64encode(signature).rstrip(b"=").decode()
