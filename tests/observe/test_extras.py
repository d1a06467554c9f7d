"""Libraries that only some nodes need: they are imported with the first of those, and asked for by name."""

from __future__ import annotations

import builtins
import subprocess
import sys

import pytest
import trio.testing

from aegis_core import open_node
from aegis_core.errors import ConfigError


@pytest.mark.parametrize(
    "module", ["prometheus_client", "aegis_core.observe.metrics", "opentelemetry", "aegis_core.observe.tracing"]
)
def test_library_is_imported_only_where_it_is_used(module: str) -> None:
    """A node that neither counts nor traces does not load what does."""
    program = (
        "import sys, trio, aegis_core\n"
        "async def main():\n"
        "    async with aegis_core.open_node('memory://'): pass\n"
        "trio.run(main)\n"
        f"assert {module!r} not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize(
    ("section", "library", "extra"), [("metrics", "prometheus_client", "metrics"), ("tracing", "opentelemetry", "otel")]
)
async def test_missing_library_is_an_error_that_says_what_to_install(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, section: str, library: str, extra: str
) -> None:
    """Where it is not installed, a node that needs it does not open, and names the extra."""
    importing = builtins.__import__

    def refuse(name: str, *args: object) -> object:
        if name == f"aegis_core.observe.{section}":
            raise ModuleNotFoundError(f"No module named '{library}'")
        return importing(name, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ConfigError, match=rf"aegis-ipc\[{extra}\]"):
        async with open_node("memory://", config={section: {"enabled": True}}):
            raise AssertionError("it opened")
