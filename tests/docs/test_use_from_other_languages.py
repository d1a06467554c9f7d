"""The client of the page on other languages: a program that uses nothing of ours, on a real server, through a real router."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import trio

from aegis_backends.nats.server import NatsServers
from tests.conformance.test_nats import one_server
from tests.docs.test_pages import OTHER_LANGUAGES, programs
from tests.router.processes import PATIENCE, open_router

__all__ = ["one_server"]


def test_the_client_uses_nothing_of_ours() -> None:
    """Sixty lines or so on the NATS client and MessagePack alone."""
    (program,) = programs(OTHER_LANGUAGES)
    imported = {
        name
        for node in ast.walk(ast.parse(program.source))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported == {"asyncio", "secrets", "sys", "msgpack", "nats", "nats.errors"}
    assert len([line for line in program.source.splitlines() if line.strip()]) <= 65


async def test_the_client_registers_claims_serves_and_calls(one_server: NatsServers, tmp_path: Path) -> None:
    """It prints what the page shows, and renews its lease for as long as it serves."""
    (program,) = programs(OTHER_LANGUAGES)
    (tmp_path / program.name).write_text(program.source, encoding="utf-8")
    (output,) = re.findall(r"(?ms)^```text\n(registered.*?)^```$", OTHER_LANGUAGES.read_text(encoding="utf-8"))
    backend = f"nats://{one_server.location}?bucket=languages&storage=memory&replicas=1"
    async with open_router("--backend", backend):
        process = await trio.lowlevel.open_process(
            [sys.executable, str(tmp_path / program.name), one_server.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        said = b""
        with trio.fail_after(PATIENCE):
            while b"has room:1\n" not in said:
                said += await process.stdout.receive_some()
            await trio.sleep(7)  # longer than its lease
            await process.stdin.aclose()
            async for part in process.stdout:
                said += part
            assert await process.wait() == 0
        assert said.decode() == output
