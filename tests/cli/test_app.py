"""The program as a whole: help, version, wrong command lines, missing packages."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from cyclopts import App

from aegis_core import __version__
from aegis_core.cli import app as program
from aegis_core.errors import ConfigError


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """``aegis --help`` says what there is, and so does ``aegis`` alone."""
    assert program.run(["--help"]) == 0
    wanted = capsys.readouterr().out
    assert "demo" in wanted
    assert program.run([]) == 0
    assert capsys.readouterr().out == wanted


def test_version_is_the_distribution_s(capsys: pytest.CaptureFixture[str]) -> None:
    """``aegis --version`` names the installed version."""
    assert program.run(["--version"]) == 0
    assert capsys.readouterr().out == f"aegis-ipc {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "named"), [(["dance"], "dance"), (["demo", "--loud"], "--loud"), (["demo", "--seed", "x"], "x")]
)
def test_a_wrong_command_line_is_explained(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2, and the message names what was not understood."""
    assert program.run(arguments) == 2
    assert named in "".join(capsys.readouterr())


def test_the_demo_explains_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    """``aegis demo --help`` names each option and the exit statuses."""
    assert program.run(["demo", "--help"]) == 0
    shown = capsys.readouterr().out
    for option in ("--orders", "--seed", "--backend", "--journal", "--plain", "--save-svg"):
        assert option in shown
    assert "Exit status" in shown


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of a plug-in that the configuration enables."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("AEGIS_PLUGINS_ENABLED", "audit_plugin")
    yield tmp_path / "audit_plugin.py"
    sys.modules.pop("audit_plugin", None)


PLUGIN = """
from aegis_core.hookspecs import hookimpl

@hookimpl
def aegis_register_cli(register):
    async def audit(*, depth: int = 1) -> int:
        "Look at everything."
        return 40 + depth

    register({name!r}, audit)
"""


def test_a_plug_in_adds_a_command(plugin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A function handed over by aegis_register_cli is a command like any other."""
    plugin.write_text(PLUGIN.format(name="audit"))
    assert program.run(["audit", "--depth", "2"]) == 42
    assert program.run(["--help"]) == 0
    assert "Look at everything." in capsys.readouterr().out


def test_a_plug_in_cannot_replace_a_command(plugin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that is taken is an error of the configuration, and is named."""
    plugin.write_text(PLUGIN.format(name="demo"))
    assert program.run(["audit"]) == 2
    assert "the command 'demo' is taken" in capsys.readouterr().err


@pytest.mark.parametrize("result", [None, 0, 3])
def test_a_command_s_result_is_the_exit_status(result: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """An int is the status and None is success, for plain and for async commands."""

    def plain() -> int | None:
        return result

    async def asynchronous() -> int | None:
        return result

    def build(asked: str = "") -> App:
        app = App()
        app.command(plain)
        app.command(asynchronous)
        return app

    monkeypatch.setattr(program, "build_app", build)
    assert program.run(["plain"]) == (result or 0)
    assert program.run(["asynchronous"]) == (result or 0)


def test_an_error_of_the_library_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No traceback for what the user can mend; an exit status that says what kind of thing it is."""

    def fail() -> None:
        raise ConfigError(source="aegis.toml", key="backend", problem="say which")

    def build(asked: str = "") -> App:
        app = App()
        app.command(fail)
        return app

    monkeypatch.setattr(program, "build_app", build)
    assert program.run(["fail"]) == 2
    assert capsys.readouterr().err == "aegis: aegis.toml: backend: say which\n"


@pytest.mark.parametrize("missing", ["cyclopts", "rich"])
def test_without_its_packages_the_program_says_what_to_install(missing: str) -> None:
    """The library works without them; the command line names the extra that brings them."""
    code = f"import sys; sys.modules[{missing!r}] = None; from aegis_core.cli import main; sys.exit(main(['--help']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        f"aegis: the package {missing!r} is missing. "
        "The command line needs the extra 'cli': pip install 'aegis-ipc[cli]'\n"
    )


def test_another_missing_package_is_not_disguised(tmp_path: Path) -> None:
    """Only the extra's packages are named so; a damaged one shows what it lacks."""
    (tmp_path / "cyclopts.py").write_text("import no_such_module")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from aegis_core.cli import main; main([])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "ModuleNotFoundError: No module named 'no_such_module'" in done.stderr


def test_only_what_is_asked_for_is_imported() -> None:
    """One command does not pay for another."""
    code = (
        "import sys; from aegis_core.cli.app import build_app; build_app('services').parse_args(['services']); "
        "print(*(name for name in sys.modules if name.startswith(('aegis_core.cli.', 'aegis_core.router', 'rich.live'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    imported = {name.removeprefix("aegis_core.cli.") for name in done.stdout.split()}
    assert "services" in imported
    assert imported.isdisjoint({"bench", "claim", "demo", "doctor", "serve", "top", "transfer", "watch", "rich.live"})
    assert not any(name.startswith("aegis_core.router") for name in imported)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_and_options(shell: Literal["bash", "zsh", "fish"]) -> None:
    """Of all commands."""
    script = program.build_app().generate_completion(shell=shell)
    for command in program.COMMANDS:
        assert command in script
    assert "wait-at-most" in script


def test_an_error_out_of_a_group_is_explained_like_any_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A plug-in's command may have a nursery; what is no error of the library stays what it is."""
    expected, bug = ConfigError(problem="say which"), ValueError("a bug")
    for group, raised in (
        (ExceptionGroup("x", [ExceptionGroup("y", [expected])]), False),
        (ExceptionGroup("x", [expected, bug]), True),
    ):

        def fail() -> None:
            raise group  # noqa: B023 - it is called within this round

        app = App()
        app.command(fail)
        monkeypatch.setattr(program, "build_app", lambda _asked="", app=app: app)
        if raised:
            with pytest.RaisesGroup(ConfigError, ValueError):
                program.run(["fail"])
        else:
            assert program.run(["fail"]) == 2
            assert capsys.readouterr().err == "aegis: say which\n"
