"""The REST interface of a router keeps to its OpenAPI document, over a real socket, as Schemathesis sees it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import trio

from aegis_backends.http.rest import ADMIN
from aegis_backends.http.tokens import Tokens
from aegis_core import Call, Service
from aegis_core.hookspecs import Principal
from tests.backends.http.managed import open_managed

HERE = Path(__file__).parent
TOKENS = Tokens({"secret": Principal("token", "tester", is_admin=True)})
SERVICE = Service("books", version="1.0.0")


@SERVICE.method
async def depth(_call: Call, side: str = "bid") -> dict[str, str]:
    """Say what was asked."""
    return {"side": side}


@pytest.mark.thorough
async def test_schemathesis_finds_nothing_wrong(tmp_path: Path) -> None:
    """With every check that it has: what the document allows is taken, what it does not is refused, as it says."""
    async with open_managed(TOKENS) as router, router.node.serve(SERVICE, instance_id="served") as instance:
        for name in ("one", "two"):
            await router.node.registry.register("books", name, ttl=3600)
        await router.node.registry.claim("books", "one", "a:1", "b/2", "ü")
        await instance.claim("c")
        finished = await trio.run_process(
            [
                *(sys.executable, str(HERE / "run_schemathesis.py")),
                *("--config-file", str(HERE / "schemathesis.toml")),
                *("run", f"http://127.0.0.1:{router.port}/openapi.json"),
                *("--header", "Authorization: Bearer secret"),
                *("--checks", "all", "--phases", "coverage,fuzzing", "--max-examples", "60"),
                *("--seed", "1", "--generation-database", "none", "--no-color"),
                *("--exclude-path", f"{ADMIN}/events"),  # it does not end
            ],
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            check=False,
            cwd=tmp_path,
        )
        assert finished.returncode == 0, finished.stdout.decode()
        assert b"passed" in finished.stdout
