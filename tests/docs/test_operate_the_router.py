"""The page on operating routers: they are upgraded, and their tokens changed, under work that must not notice."""

from __future__ import annotations

import gc
import os
import re
import secrets
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx  # noqa: ASYNC127 - the fork has its interface, and may be put in its place
import pytest
import trio

from aegis_backends.nats.server import NatsServers
from tests.conformance.test_nats import one_server
from tests.docs.balancer import open_balancer
from tests.docs.test_pages import OPERATE, programs
from tests.router.processes import PATIENCE, RouterProcess, free_port

__all__ = ["one_server"]

_TEXT = OPERATE.read_text(encoding="utf-8")
_OLD, _BOTH, _NEW = (
    '[seats]\ntoken = "old"\n',
    '[seats]\ntoken = "old"\n\n[seats_2]\ntoken = "new"\n',
    '[seats_2]\ntoken = "new"\n',
)
_CALLS = "/api/v1/admin/calls"


@pytest.fixture
async def routers(one_server: NatsServers, tmp_path: Path) -> AsyncIterator[tuple[RouterProcess, ...]]:
    """Two, on one bucket, with one file of tokens."""
    (tmp_path / "tokens.toml").write_text(_OLD)
    for name in ("old", "new"):
        (tmp_path / f"{name}.token").write_text(name)
    bucket = f"operated-{secrets.token_hex(4)}"
    backend = f"nats://{one_server.location}?bucket={bucket}&storage=memory&replicas=1"
    files = ("--tokens", str(tmp_path / "tokens.toml"))
    started: list[RouterProcess] = []
    try:
        for _ in range(2):
            router = RouterProcess("--backend", backend, "--http", f"127.0.0.1:{await free_port()}", *files)
            await router.start()
            started.append(router)
        yield tuple(started)
    finally:
        with trio.CancelScope(shield=True):
            for router in started:
                if router.process.returncode is None:
                    await router.kill()


async def restart(routers: tuple[RouterProcess, ...], client: httpx.AsyncClient) -> None:
    """One after the other, each in order, and waited for until it is ready."""
    for router in routers:
        router.process.terminate()
        assert await router.process.wait() == 0
        await router.start()
        assert (await client.get(f"{router.url}/health/ready")).status_code == 200


async def read_line(stream: trio.abc.ReceiveStream) -> str:
    """What a program says next, to the end of the line."""
    said = b""
    while not said.endswith(b"\n"):
        part = await stream.receive_some()
        assert part, f"it ended after {said!r}"
        said += part
    return said.decode()


@asynccontextmanager
async def steady(name: str, routers: tuple[RouterProcess, ...], folder: Path, token: str) -> AsyncIterator[None]:
    """Have the program of the page work while the block runs; nothing of its work has failed."""
    (program,) = programs(OPERATE)
    (folder / program.name).write_text(program.source, encoding="utf-8")
    hosts = ",".join(router.url.removeprefix("http://") for router in routers)
    process = await trio.lowlevel.open_process(
        [sys.executable, program.name, name],
        cwd=folder,
        env={**os.environ, "AEGIS_BACKEND": f"http://{hosts}?token_file={token}.token"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert await read_line(process.stdout) == "works\n"
        yield
        await process.stdin.aclose()
        assert f"```text\n{await read_line(process.stdout)}```" in _TEXT
        assert await process.wait() == 0
    finally:
        with trio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
                await process.wait()


async def test_token_is_changed_without_a_call_that_fails(routers: tuple[RouterProcess, ...], tmp_path: Path) -> None:
    """By restarting the routers one at a time, twice; the program with the new token takes over between."""
    with trio.fail_after(4 * PATIENCE):
        async with httpx.AsyncClient(timeout=PATIENCE) as client:
            async with steady("one", routers, tmp_path, "old"):
                (tmp_path / "tokens.toml").write_text(_BOTH)
                await restart(routers, client)
            async with steady("two", routers, tmp_path, "new"):
                (tmp_path / "tokens.toml").write_text(_NEW)
                await restart(routers, client)
            for router in routers:
                for token, status in {"old": 401, "new": 200}.items():
                    headers = {"Authorization": f"Bearer {token}"}
                    answer = await client.get(f"{router.url}/api/v1/admin/services", headers=headers)
                    assert (token, answer.status_code) == (token, status)


# httpx leaves the generator behind that it reads a body by, when a request fails half way; our own client has another.
@pytest.mark.filterwarnings("ignore:Async generator 'httpx._content.ByteStream:ResourceWarning")
async def test_clients_of_a_balancer_lose_no_call_to_an_upgrade(
    routers: tuple[RouterProcess, ...], tmp_path: Path
) -> None:
    """They name their calls, and repeat what was not answered; each is answered well."""
    said: Counter[int] = Counter()
    stop = trio.Event()
    with trio.fail_after(3 * PATIENCE):
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(steady("one", routers, tmp_path, "old"))
            url = await stack.enter_async_context(open_balancer(*(router.url for router in routers)))
            headers = {"Authorization": "Bearer old"}

            async def call_on() -> None:
                async with httpx.AsyncClient(base_url=url, headers=headers, timeout=PATIENCE) as client:
                    while not stop.is_set():
                        asked = {"service_name": "seats", "method": "take", "message_id": secrets.token_hex(16)}
                        answer = None
                        while answer is None:
                            try:
                                answer = await client.post(_CALLS, json=asked)
                            except httpx.TransportError:
                                await trio.sleep(0.05)
                        said[answer.status_code] += 1

            async with httpx.AsyncClient(timeout=PATIENCE) as client, trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(call_on)
                await restart(routers, client)
                stop.set()
    gc.collect()  # here, and not in somebody else's test
    assert said.keys() == {200}


def test_balancer_of_the_page_outlives_the_longest_call() -> None:
    """Its time-outs are longer than 300 seconds, and it asks what the routers answer."""
    (configured,) = re.findall(r"(?ms)^# haproxy.cfg\n(.*?)^```$", _TEXT)
    assert all(int(minutes) * 60 > 300 for minutes in re.findall(r"timeout (?:client|server) (\d+)m", configured))
    assert "httpchk GET /health/ready" in configured
