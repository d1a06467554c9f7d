"""What is wrong with a backend's URL is told with who gives it."""

from __future__ import annotations

from pathlib import Path

import pytest

from aegis_core.errors import ConfigError
from aegis_core.node.node import open_node


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("memory://x?ttl=long", "ttl: expected a number of seconds, more than 0, got 'long'"),
        ("memory://x?ttl", "backend: expected ?name=value&..."),
        ("memory://x?a=1&a=2", "a: it is given twice"),
        ("memory://x?buckt=1", "buckt: there is no such parameter"),
    ],
)
async def test_wrong_url_is_told_with_who_gives_it(
    url: str, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As other settings are: the variable, or the file; what the program gives itself, its traceback shows."""
    with pytest.raises(ConfigError) as by_code:
        async with open_node(url):
            pass
    assert str(by_code.value).startswith(f"backend URL: {told}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AEGIS_BACKEND", raising=False)
    (tmp_path / "aegis.toml").write_text(f'backend = "{url}"\n')
    with pytest.raises(ConfigError) as by_file:
        async with open_node():
            pass
    assert str(by_file.value).startswith(f"backend URL of aegis.toml: {told}")
    monkeypatch.setenv("AEGIS_BACKEND", url)
    with pytest.raises(ConfigError) as by_variable:
        async with open_node():
            pass
    assert str(by_variable.value).startswith(f"backend URL of AEGIS_BACKEND: {told}")
