"""What a module says it offers, against what it defines."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator

from tests.house.source import PACKAGES, Module, within

# Where users, test authors, backend authors and plugin authors import from: what the reference shows as a module.
PUBLIC_MODULES = (
    "aegis_core",
    "aegis_core.backend",
    "aegis_core.errors",
    "aegis_core.events",
    "aegis_core.hookspecs",
    "aegis_core.models",
    "aegis_core.names",
    "aegis_core.served",
    "aegis_core.validation",
    "aegis_backends.memory",
    "aegis_backends.nats",
    "aegis_backends.nats.server",
    "aegis_pytest.backends",
    "aegis_pytest.cluster",
    "aegis_pytest.conformance",
    "aegis_pytest.call_log",
    "aegis_pytest.event_log",
    "aegis_pytest.faults",
    "aegis_pytest.history",
    "aegis_pytest.leftovers",
    "aegis_pytest.logs",
    "aegis_pytest.recording",
    "aegis_pytest.nats",
    "aegis_pytest.simulation",
    "aegis_pytest.virtual_time",
)


def offered(tree: ast.Module) -> list[str] | None:
    """The module's ``__all__``, or None where it has none."""
    for node in tree.body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id="__all__")], value=value)
                | ast.AnnAssign(target=ast.Name(id="__all__"), value=value)
            ) if value is not None:
                return list(ast.literal_eval(value))
    return None


def _bound(node: ast.stmt) -> Iterator[str]:
    match node:
        case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
            yield node.name
        case ast.Assign(value=ast.Call(func=ast.Name(id="TypeVar" | "ParamSpec" | "TypeVarTuple"))):
            return
        case ast.Assign():
            for target in node.targets:
                yield from (name.id for name in ast.walk(target) if isinstance(name, ast.Name))
        case ast.AnnAssign(target=ast.Name(id=name)):
            yield name


def _imported(module: Module, *sources: str) -> set[str]:
    return {
        alias.asname or alias.name
        for node in module.tree.body
        if isinstance(node, ast.ImportFrom) and within(node.module or "", *sources)
        for alias in node.names
    }


def defined(module: Module) -> set[str]:
    """The public names that a module defines, or that a package takes over from its modules."""
    names = {name for node in module.tree.body for name in _bound(node)}
    if module.is_package:
        names |= _imported(module, module.name)
    return {name for name in names if not name.startswith("_") or name == "__version__"}


def lint_order(name: str) -> tuple[int, list[tuple[int, str]]]:
    """The sort key of ruff's RUF022: constants, classes, the rest; numbers by value."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2
    parts = re.findall(r"\d+|\D+", name)
    return kind, [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def wrong_exports(modules: Iterable[Module]) -> list[str]:
    """Modules whose ``__all__`` is unsorted or untrue, and public ones where it is not complete.

    A module may offer what it imports from ours, so that its reader needs no other: a backend's author finds
    the errors of the ports beside them.
    """
    wrong = []
    for module in modules:
        names = offered(module.tree)
        if names is None:
            if module.name in PUBLIC_MODULES:
                wrong.append(f"{module.path}: a public module says what it offers in __all__")
            continue
        if names != sorted(set(names), key=lint_order):
            wrong.append(f"{module.path}: __all__ is not sorted, or repeats a name")
        here = defined(module)
        wrong += [
            f"{module.path}: {name} is in __all__ only" for name in set(names) - here - _imported(module, *PACKAGES)
        ]
        if module.name in PUBLIC_MODULES:
            wrong += [f"{module.path}: {name} is not in __all__" for name in here - set(names)]
    return sorted(wrong)
