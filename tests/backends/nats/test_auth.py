"""What a client shows to a server, and what it never shows to anybody else."""

from __future__ import annotations

import base64
import os
import sys
from pathlib import Path

import nkeys
import pytest

from aegis_backends.nats.auth import CredentialsFile, NkeySeed, Token, UserPassword
from aegis_core.errors import ConfigError

SEED = nkeys.encode_seed(b"\x07" * 32, nkeys.PREFIX_BYTE_USER).decode()


def verify(signature: str, nonce: str) -> None:
    """Raise if *signature* is not that of *nonce* by `SEED`."""
    padded = signature + "=" * (-len(signature) % 4)
    nkeys.from_seed(SEED.encode()).verify(nonce.encode(), base64.urlsafe_b64decode(padded))


def test_password_and_token_are_told_as_they_are() -> None:
    """They are the fields of CONNECT."""
    assert UserPassword("alice", "hunter2").fields("") == {"user": "alice", "pass": "hunter2"}
    assert Token("hunter2").fields("") == {"auth_token": "hunter2"}


def test_nonce_is_signed_with_the_seed() -> None:
    """The public key and a signature are told, the seed is not."""
    fields = NkeySeed(f" {SEED}\n").fields("nonce")
    verify(fields["sig"], "nonce")
    assert fields["nkey"].startswith("U")
    assert set(fields) == {"nkey", "sig"}


def test_credentials_file_is_read_each_time(tmp_path: Path) -> None:
    """A file that was renewed meanwhile is the one that counts."""
    path = tmp_path / "user.creds"
    credentials = CredentialsFile(path)
    for jwt in ("first.jwt.x", "second.jwt.y"):
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n*** IMPORTANT ***\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{SEED}\n------END USER NKEY SEED------\n"
        )
        fields = credentials.fields("nonce")
        assert fields["jwt"] == jwt
        verify(fields["sig"], "nonce")


def test_file_that_is_not_there_or_lacks_a_part_says_so(tmp_path: Path) -> None:
    """The error names the file."""
    with pytest.raises(ConfigError, match=r"gone\.creds.*cannot be read"):
        CredentialsFile(tmp_path / "gone.creds").fields("")
    half = tmp_path / "half.creds"
    half.write_text("-----BEGIN NATS USER JWT-----\na.b.c\n------END NATS USER JWT------\n")
    with pytest.raises(ConfigError, match=r"half\.creds.*USER NKEY SEED"):
        CredentialsFile(half).fields("")
    half.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="cannot be read"):
        CredentialsFile(half).fields("")


@pytest.mark.parametrize("seed", ["", "SUNONSENSE", "ä", "S" * 56, "A" * 58])
def test_what_is_no_seed_is_refused_without_being_shown(seed: str) -> None:
    """Neither the error nor its cause holds what was given."""
    with pytest.raises(ConfigError, match="seed") as caught:
        NkeySeed(seed).fields("nonce")
    assert not seed or seed not in str(caught.value)
    assert caught.value.__cause__ is None


def test_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only those who use nkeys need the package."""
    monkeypatch.setitem(sys.modules, "nkeys", None)
    with pytest.raises(ConfigError, match=r"aegis-ipc\[nats\]"):
        NkeySeed(SEED).fields("")


def test_no_secret_is_in_a_repr() -> None:
    """Logs and tracebacks show who, never how it is proved."""
    secret = os.urandom(8).hex()
    for credentials in (UserPassword("alice", secret), Token(secret), NkeySeed(secret)):
        assert secret not in repr(credentials)
