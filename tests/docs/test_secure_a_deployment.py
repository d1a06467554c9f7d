"""The deployment of the page on security: made by its commands, and tried by its programs."""

from __future__ import annotations

import json
import os
import re
import shlex
import ssl
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx  # noqa: ASYNC127 - the fork has its interface, and may be put in its place
import pytest
import trio
import trustme

from tests.cli.running import PROGRAM
from tests.docs.test_pages import SECURE, programs
from tests.router.processes import PATIENCE, open_router

_TEXT = SECURE.read_text(encoding="utf-8")
_BASE = "/api/v1/admin"


def shown(command: str) -> str:
    """What stands on the page under the command that ends so."""
    (output,) = re.findall(rf"(?ms)^\$ [^\n]*{re.escape(command)}\n(.*?)^```$", _TEXT)
    return str(output)


def save_programs(folder: Path) -> None:
    """Save them, and run the one that makes the files of tokens."""
    for program in programs(SECURE):
        (folder / program.name).write_text(program.source, encoding="utf-8")
    subprocess.run([sys.executable, "make_tokens.py"], cwd=folder, check=True, timeout=PATIENCE)


@asynccontextmanager
async def running(program: str, environment: dict[str, str]) -> AsyncIterator[trio.Process]:
    """Run *program* while the block does."""
    process = await trio.lowlevel.open_process([sys.executable, program], env=environment, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        with trio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
                await process.wait()


def test_files_with_tokens_are_for_their_user_alone(tmp_path: Path) -> None:
    """And no two tokens are the same."""
    save_programs(tmp_path)
    files = [*tmp_path.glob("*.token"), tmp_path / "tokens.toml"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert len({file.read_text(encoding="utf-8") for file in files}) == len(files) == 5


async def test_tokens_are_held_to_their_services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each program may do what the page says, is refused the rest, and prints what stands there."""
    save_programs(tmp_path)
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(tmp_path / "client.pem")
    issued.private_key_pem.write_to_path(tmp_path / "server.key")
    for pem in issued.cert_chain_pems:
        pem.write_to_path(tmp_path / "server.pem", append=True)
    (trust,) = re.findall(r"export TRUST='(\S+)'", _TEXT)
    (start,) = re.findall(r"(?m)^\$ (PYTHONPATH=\. .* aegis serve .*)$", _TEXT)
    *settings, _, _ = shlex.split(start.partition("--backend")[0])
    arguments = shlex.split(start.partition("aegis serve ")[2].replace(":8700", ":0"))
    monkeypatch.chdir(tmp_path)
    theirs = dict(os.environ)
    for name, _, value in (setting.partition("=") for setting in settings):
        paths = [value, os.environ.get(name, "")] if name == "PYTHONPATH" else [value]
        monkeypatch.setenv(name, os.pathsep.join(filter(None, paths)))
    with trio.fail_after(2 * PATIENCE):
        async with open_router(*arguments) as router:
            url = router.url.replace("127.0.0.1", "localhost")

            def token(name: str) -> str:
                return (tmp_path / f"{name}.token").read_text(encoding="ascii") if name else "guessed"

            def environment(name: str) -> dict[str, str]:
                return {**theirs, "AEGIS_BACKEND": f"{url}?token_file={name}.token&{trust}"}

            async with running("accounts.py", environment("account-service")) as accounts:
                assert accounts.stdout is not None
                said = b""
                while not said.endswith(b"\n"):
                    said += await accounts.stdout.receive_some()
                assert said.decode() == shown("python accounts.py")
                tried = await trio.run_process(
                    [sys.executable, "reports.py"], env=environment("report-service"), capture_stdout=True
                )
                assert tried.stdout.decode() == shown("python reports.py")
                (tmp_path / ".token").write_text("guessed")
                for name, checks in {"report-service": ["ok", "ok"], "": ["skipped", "skipped"]}.items():
                    doctor = await trio.run_process(
                        [*PROGRAM, "doctor", "--json"], env=environment(name), capture_stdout=True, check=False
                    )
                    found = {check["check"]: check["verdict"] for check in json.loads(doctor.stdout)["checks"]}
                    assert [found["registry"], found["calls"]] == checks
                trusting = ssl.create_default_context(cafile="client.pem")
                async with httpx.AsyncClient(base_url=url + _BASE, verify=trusting, timeout=PATIENCE) as client:
                    for name, status in {"operators": 200, "report-service": 200, "": 401}.items():
                        headers = {"Authorization": f"Bearer {token(name)}"}
                        assert (name, (await client.get("/services", headers=headers)).status_code) == (name, status)
                    called = {"service_name": "account-service", "method": "balance", "params": {"currency": "EUR"}}
                    for name, status in {"account-service": 403, "report-service": 200}.items():
                        headers = {"Authorization": f"Bearer {token(name)}"}
                        answer = await client.post("/calls", json=called, headers=headers)
                        assert (name, answer.status_code) == (name, status)
                accounts.terminate()
                assert await accounts.wait() == 0
