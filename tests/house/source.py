"""The project's source as data: files, modules, and what they import.

Every rule of the house is a function from these values to a list of violations, so that it can be
shown to fail on a small synthetic source before it is trusted on the real one.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import attrs

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGES = ("aegis_core", "aegis_backends", "aegis_pytest")


@attrs.frozen
class Import:
    """One name that a module imports: ``from a.b import c`` is ``a.b.c``."""

    target: str
    line: int


@attrs.frozen
class Module:
    """One Python file: its dotted name, its path from the checkout on, and its text."""

    name: str
    path: str
    text: str

    @property
    def tree(self) -> ast.Module:
        """The parsed source."""
        return ast.parse(self.text)

    @property
    def is_package(self) -> bool:
        """Whether this is a package's ``__init__.py``."""
        return self.path.endswith("__init__.py")

    @property
    def imports(self) -> tuple[Import, ...]:
        """Everything imported, at the top, inside functions, and for the type checker alone."""
        return _imports(self.text)


@cache  # each rule asks every module anew; what is imported is little, the trees would be much
def _imports(text: str) -> tuple[Import, ...]:
    return tuple(_imported(ast.parse(text)))


def _imported(tree: ast.Module) -> Iterator[Import]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            for alias in node.names:
                yield Import(source if alias.name == "*" else f"{source}.{alias.name}", node.lineno)


def within(name: str, *packages: str) -> bool:
    """Whether the dotted *name* is one of *packages* or lies in one."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def module(name: str, text: str, *, package: bool = False) -> Module:
    """Make a synthetic module to try a rule on."""
    return Module(name, name.replace(".", "/") + ("/__init__.py" if package else ".py"), text)


def read_module(path: Path) -> Module:
    """Read the module at *path* of the checkout."""
    relative = path.relative_to(CHECKOUT)
    parts = relative.with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return Module(name, relative.as_posix(), path.read_text(encoding="utf-8"))


def _python_files(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((CHECKOUT / folder).rglob("*.py"))


@cache
def product() -> tuple[Module, ...]:
    """Every module of the three packages."""
    return tuple(read_module(path) for path in _python_files(*PACKAGES))


@cache
def tests() -> tuple[Module, ...]:
    """Every module under ``tests``."""
    return tuple(read_module(path) for path in _python_files("tests"))


@cache
def everything() -> tuple[Module, ...]:
    """Every Python file of the project: packages, tests, examples, build scripts."""
    scripts = (read_module(CHECKOUT / "noxfile.py"),)
    docs = tuple(read_module(path) for path in _python_files("docs") if "_build" not in path.parts)
    return product() + tests() + docs + scripts


@cache
def pyproject() -> dict[str, dict[str, object]]:
    """The project's metadata and settings."""
    return tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
