"""Who may import whom.

1. The engine is pure: names, values, errors and events, nothing that waits or does I/O.
2. The node does not know the router or the command line; only the command line knows itself.
3. The core never names a backend or the pytest plugin; backends know the core's public modules.
4. Each third party has one doorway.
5. A module is named for what it holds.
6. Nothing is mocked: the memory backend is real.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Mapping

from tests.house.source import PACKAGES, Module, within

ENGINE_KNOWS = (
    "aegis_core.engine",
    "aegis_core.errors",
    "aegis_core.events",
    "aegis_core.models",
    "aegis_core.names",
)
# Standard modules that wait, read a clock, do I/O, or make a decision unrepeatable.
IMPURE = frozenset({
    "asyncio", "concurrent", "io", "logging", "multiprocessing", "os", "pathlib", "queue", "random",
    "secrets", "select", "selectors", "signal", "socket", "ssl", "subprocess", "tempfile",
    "threading", "time", "uuid",
})  # fmt: skip

CORE_PUBLIC = frozenset({
    "backend", "codec", "config", "errors", "events", "hookspecs", "models", "names", "served",
    "validation",
})  # fmt: skip

# The standard library's, in versions newer than the oldest that we support.
NEWER = frozenset({"annotationlib"})

# Free for all: the language's own extensions, so to speak.
EVERYWHERE = frozenset({"attr", "attrs", "trio"})
DOORWAYS: Mapping[str, tuple[str, ...]] = {
    "cattrs": ("aegis_core.structuring",),
    "msgpack": ("aegis_core.codec",),
    "pluggy": ("aegis_core.hookspecs", "aegis_core.plugins"),
    "cyclopts": ("aegis_core.cli",),
    "rich": ("aegis_core.cli",),
    "typed_settings": ("aegis_core.config",),
    "opentelemetry": ("aegis_core.observe",),
    "prometheus_client": ("aegis_core.observe",),
    "structlog": ("aegis_core.observe",),
    "nkeys": ("aegis_backends.nats",),
    "httptools": ("aegis_backends.http",),
    "httpx": ("aegis_backends.http",),
    "hypothesis": ("aegis_pytest",),
    "pytest": ("aegis_pytest",),
    "pytest_trio": ("aegis_pytest",),
}

NAMELESS = frozenset({
    "base", "common", "handler", "handlers", "helper", "helpers", "impl", "manager", "managers",
    "util", "utils",
})  # fmt: skip


def impure_engine(modules: Iterable[Module]) -> list[str]:
    """Rule 1: what the engine imports beyond values, names, errors and events."""
    return [
        f"{module.path}:{found.line}: the engine imports {found.target}"
        for module in modules
        if within(module.name, "aegis_core.engine")
        for found in module.imports
        if (within(found.target, *PACKAGES) and not within(found.target, *ENGINE_KNOWS))
        or found.target.split(".")[0] in IMPURE | {"trio"} | set(DOORWAYS)
    ]


def upward_imports(modules: Iterable[Module]) -> list[str]:
    """Rule 2: who reaches up to the router or to the command line."""
    may_reach = {
        "aegis_core.router": ("aegis_core.router", "aegis_core.cli"),
        "aegis_core.cli": ("aegis_core.cli",),
    }
    return [
        f"{module.path}:{found.line}: imports {found.target}"
        for module in modules
        if within(module.name, "aegis_core")
        for found in module.imports
        for part, allowed in may_reach.items()
        if within(found.target, part) and not within(module.name, *allowed)
    ]


def backends_by_name(modules: Iterable[Module]) -> list[str]:
    """Rule 3: where the core names what plugs into it, or a backend looks into the core."""
    wrong = []
    for module in modules:
        for found in module.imports:
            where = f"{module.path}:{found.line}"
            if within(module.name, "aegis_core"):
                if within(found.target, "aegis_backends", "aegis_pytest"):
                    wrong.append(f"{where}: the core imports {found.target}")
            elif within(module.name, "aegis_backends"):
                first, *rest = found.target.split(".")
                private = first == "aegis_core" and not (rest and rest[0] in CORE_PUBLIC)
                if private or first == "aegis_pytest":
                    wrong.append(f"{where}: a backend imports {found.target}")
    return wrong


def outside_doorways(modules: Iterable[Module]) -> list[str]:
    """Rule 4: third parties imported elsewhere than in their doorway, or without one."""
    wrong = []
    for module in modules:
        for found in module.imports:
            first = found.target.split(".")[0]
            if first in sys.stdlib_module_names | NEWER | EVERYWHERE | set(PACKAGES):
                continue
            if not within(module.name, *DOORWAYS.get(first, ())):
                wrong.append(f"{module.path}:{found.line}: {first} has its doorway elsewhere")
    return wrong


def nameless_modules(modules: Iterable[Module]) -> list[str]:
    """Rule 5: modules whose name says how they are used instead of what they hold."""
    wrong = []
    for module in modules:
        words = module.name.rpartition(".")[2].strip("_").removeprefix("test_").split("_")
        if NAMELESS.intersection(words) or (len(words) > 1 and words[0] in {"service", "services"}):
            wrong.append(f"{module.path}: name it for what it holds")
    return wrong


def mocks(modules: Iterable[Module]) -> list[str]:
    """Rule 6: imports of a mock library, and tests that ask for its fixture."""
    imported = [
        f"{module.path}:{found.line}: imports {found.target}"
        for module in modules
        for found in module.imports
        if within(found.target, "unittest.mock", "mock", "pytest_mock")
    ]
    asked = [
        f"{module.path}:{node.lineno}: asks for {node.arg}"
        for module in modules
        if "mocker" in module.text  # parsing is what takes time
        for node in ast.walk(module.tree)
        if isinstance(node, ast.arg) and node.arg in {"mocker", "module_mocker", "session_mocker"}
    ]
    return imported + asked
