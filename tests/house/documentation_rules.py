"""What the documentation must hold: each hook, each public name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping

from tests.house.export_rules import offered
from tests.house.source import Module

Function = ast.FunctionDef | ast.AsyncFunctionDef


def hooks(hookspecs: Module) -> list[ast.FunctionDef]:
    """The hooks that a hookspecs module specifies: its functions named ``aegis_*``."""
    return [
        node
        for node in ast.walk(hookspecs.tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("aegis_")
    ]


def untested_hooks(hookspecs: Module, tests: Iterable[Module]) -> list[str]:
    """Hooks that no test function carries in its name: ``test_hook_register_backends_...``."""
    tested = {
        node.name
        for module in tests
        for node in ast.walk(module.tree)
        if isinstance(node, Function) and node.name.startswith("test_")
    }
    return [
        hook.name
        for hook in hooks(hookspecs)
        if not any(re.match(rf"test_(hook_)?(aegis_)?{hook.name.removeprefix('aegis_')}", name) for name in tested)
    ]


def undocumented_hooks(hookspecs: Module, page: str) -> list[str]:
    """Hooks without a heading, or a directive of their own, on the page *page*, or without a docstring."""
    return [
        hook.name
        for hook in hooks(hookspecs)
        if not ast.get_docstring(hook)
        or not re.search(rf"(?m)^(#+ .*`{hook.name}\b|.*autofunction::? .*{hook.name}$)", page)
    ]


def documented(pages: Iterable[str]) -> dict[str, bool]:
    """The modules that the pages document by directive, and whether with all their members."""
    directive = re.compile(r"(?m)^[^\S\n]*(?:```\{|\.\. )automodule(?:::|\}) ([\w.]+)((?:\n[^\S\n]*:.*)*)")
    return {
        name: re.search(r"(?m)^\s*:members:\s*$", options) is not None
        for page in pages
        for name, options in directive.findall(page)
    }


def undocumented_names(modules: Mapping[str, Module], pages: Iterable[str]) -> list[str]:
    """Public names of *modules* that no page of the reference shows or mentions as code."""
    pages = tuple(pages)
    text = "\n".join(pages)
    wholly = {name for name, all_members in documented(pages).items() if all_members}
    wrong = []
    for name, module in modules.items():
        if name in wholly:
            continue
        mentioned = set(re.findall(r"(?:auto\w+(?:::|\}) |`)(?:[\w.]*\.)?(\w+)", text))
        shown = mentioned | taken_over(module, wholly)
        wrong += [f"{name}.{public}" for public in offered(module.tree) or () if public not in shown]
    return wrong


def taken_over(module: Module, sources: set[str]) -> set[str]:
    """The names that *module* imports from one of *sources*."""
    return {
        alias.asname or alias.name
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ImportFrom) and node.module in sources
        for alias in node.names
    }


def names_without_docstring(modules: Iterable[Module]) -> list[str]:
    """Public classes and functions, and public methods of those classes, that explain nothing."""
    wrong = []
    for module in modules:
        public = set(offered(module.tree) or ())
        for node in module.tree.body:
            if not isinstance(node, ast.ClassDef | Function) or node.name not in public:
                continue
            if not ast.get_docstring(node):
                wrong.append(f"{module.name}.{node.name}")
            wrong += [
                f"{module.name}.{node.name}.{method.name}"
                for method in node.body
                if isinstance(node, ast.ClassDef)
                and isinstance(method, Function)
                and not method.name.startswith("_")
                and not ast.get_docstring(method)
                and not _repeats(method)
            ]
    return wrong


def _repeats(method: Function) -> bool:
    """Whether *method* is an overload or an override, whose words stand elsewhere."""
    return any(
        ast.unparse(decorator).rpartition(".")[2] in {"overload", "override"} for decorator in method.decorator_list
    )
